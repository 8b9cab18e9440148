"""Space of the file systems on which a run writes."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from prometheus_client.core import Metric

from .table import gauge_family


class DiskCollector:
    """Reads sizes and free space at each scrape.

    Args:
        folders: name of a folder for the label -> its path. One that does not exist, such as an unused cache, has no
            metrics.
    """

    names = ("uml_disk_free_bytes", "uml_disk_size_bytes")

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = dict(folders)

    def collect(self) -> Iterator[Metric]:
        """Read the space of each folder's file system."""
        free, size = [], []
        for name, path in self._folders.items():
            try:
                usage = shutil.disk_usage(path)
            except OSError:
                continue
            free.append(((name,), usage.free))
            size.append(((name,), usage.total))
        if free:
            yield gauge_family("uml_disk_free_bytes", free)
            yield gauge_family("uml_disk_size_bytes", size)
