"""Exports the metrics of a rank, by HTTP or into files, and tells Prometheus where they are.

Nothing here stops a training: what cannot be served or written is a warning.
"""

import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from prometheus_client import CollectorRegistry

from ..config.exporting import MetricsConfig
from ..errors import UmlError
from ..launch import World
from ..telemetry.access import read_access
from ..telemetry.health import Health
from ..telemetry.process import Process, file_name
from ..telemetry.server import MetricsServer, host_and_port, reachable_host, serve_metrics
from ..telemetry.table import label_value
from ..telemetry.targets import Target, TargetsFile, targets_folder
from ..telemetry.textfile import LAST_VALUES_SECONDS, SUFFIX, TextFile, sweep_textfiles

FOLDER = "metrics"
"""Folder of a run folder in which each rank leaves its last values, `rank-N.prom`."""


def check_export(settings: MetricsConfig) -> tuple[str, ...]:
    """Check the files and folders that `[metrics]` names, before any rank starts; return lines for the user.

    Raises:
        UmlError: one cannot be used.
    """
    if not settings.enabled:
        return ()
    if settings.textfile_dir is not None:
        folder = Path(settings.textfile_dir)
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise UmlError(
                f"metrics.textfile_dir {folder} is not a folder that you can write to: create it, and name it to "
                "node_exporter by --collector.textfile.directory"
            )
        return ()
    folder = targets_folder(settings.targets_dir)
    if folder is not None and folder.exists() and not folder.is_dir():
        raise UmlError(f"metrics.targets_dir {folder} is not a folder: name one, or leave it empty for none")
    return read_access(settings.certificate, settings.key, settings.token_file).notes


class Exporter:
    """Exports the metrics of this rank from `begin` to `stop`, and serves them from the start.

    Args:
        settings: `[metrics]`.
        registry: the metrics.
        world: the position of this rank.
        run: the run folder.
        attempt: number of this start of the run, 1 for the first.
        began: when the run was first started, seconds since 1970 (UTC), the same on all ranks.

    Attributes:
        health: what `/health` answers.
        notes: lines for the user.
        target: where this rank serves its metrics; None if it does not.
    """

    def __init__(
        self,
        settings: MetricsConfig,
        registry: CollectorRegistry,
        world: World,
        run: Path,
        *,
        attempt: int,
        began: float,
    ) -> None:
        self.health = Health()
        self.notes: list[str] = []
        self._settings = settings
        self._registry = registry
        self._world = world
        self._run = run.absolute()
        # Other machines may have other runs at the same path.
        self._key = f"{self._run} {began:.3f}"
        self._files: list[TextFile] = []
        self._targets: TargetsFile | None = None
        self._place = Target(
            address="",
            run=label_value(run.absolute().name),
            node=label_value(socket.gethostname()),
            rank=world.rank,
            attempt=attempt,
            folder=str(self._run),
        )
        self._server = self._serve() if settings.enabled and settings.textfile_dir is None else None
        self.target = self._as_target(self._server) if self._server else None

    def begin(self, targets: Sequence[Target | None]) -> None:
        """Write what is read from files, now that the run has begun.

        Args:
            targets: `target` of all ranks.
        """
        if not self._settings.enabled:
            return
        labels = self._place.labels
        if self._settings.textfile_dir is not None:
            folder = Path(self._settings.textfile_dir)
            if self._world.local_rank == 0:
                sweep_textfiles(folder)
            name = file_name(f"{self._place.run}.rank{self._world.rank}", f"{self._key} {Process.current()}", SUFFIX)
            self._files.append(TextFile(folder / name, self._registry, labels))
        self._forget_ranks()
        path = self._run / FOLDER / f"rank-{self._world.rank}{SUFFIX}"
        self._files.append(TextFile(path, self._registry, labels, seconds=LAST_VALUES_SECONDS, keep=True))
        self._publish([target for target in targets if target is not None])

    def stop(self) -> None:
        """Write the last values, and stop everything else; a second call does nothing. Signal handlers may call it."""
        if self._targets:
            self._targets.remove()
        for file in self._files:
            file.stop()

    def close(self) -> None:
        """Stop the server as well, which takes up to half a second."""
        self.stop()
        if self._server:
            self._server.stop()

    def _serve(self) -> MetricsServer | None:
        settings = self._settings
        try:
            access = read_access(settings.certificate, settings.key, settings.token_file)
        except UmlError as error:  # since the start of the command; never serve without the protection
            self.notes.append(f"metrics are not served: {error}")
            return None
        server = serve_metrics(
            self._registry,
            settings.port,
            self._world.local_rank,
            host=settings.host,
            access=access,
            health=self.health,
            stride=max(16, self._world.local_size),
        )
        if server and not server.is_local and access.token is None:
            self.notes.append("metrics are open to the network without a password: set metrics.token_file")
        return server

    def _as_target(self, server: MetricsServer) -> Target:
        # Other machines know the first node by this address.
        host = reachable_host(server.host, os.environ.get("MASTER_ADDR") or server.host)
        return replace(
            self._place,
            address=host_and_port(host, server.port),
            scheme=server.address.partition(":")[0],
            id=server.id,
            loopback=server.is_local,
        )

    def _publish(self, targets: Sequence[Target]) -> None:
        """Write the targets: rank 0 all of them, or each node those that only itself reaches."""
        local = [target for target in targets if target.loopback and target.node == self._place.node]
        others = [target for target in targets if not target.loopback]
        mine = [*(others if self._world.rank == 0 else []), *(local if self._world.local_rank == 0 else [])]
        folder = targets_folder(self._settings.targets_dir)
        if mine and folder is not None:
            key = f"{self._key} {self._place.node if self._world.rank else ''}"
            self._targets = TargetsFile(folder, sorted(mine, key=lambda target: target.rank), key)

    def _forget_ranks(self) -> None:
        """Remove the last values of ranks that an earlier start of the run had, and this one does not have."""
        if self._world.rank == 0:
            for path in (self._run / FOLDER).glob(f"rank-*{SUFFIX}"):
                number = path.stem.removeprefix("rank-")
                if number.isdecimal() and int(number) >= self._world.size:
                    with suppress(OSError):
                        path.unlink()
