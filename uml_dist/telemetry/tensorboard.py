"""Writes the records of a run as events for TensorBoard, where `metrics.tensorboard` asks for it.

    tensorboard --logdir runs

The events lie in the folder `tensorboard` of the run. A resumed run writes another file into it, whose first event lets
TensorBoard forget the steps that the run repeats. Whatever goes wrong here is a warning, and training continues.
"""

import logging
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from ..errors import UmlError

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter

logger = logging.getLogger(__name__)

FOLDER = "tensorboard"
"""Folder of the events in a run folder."""

GROUPS = {
    "validation_": "validation",
    "vacuity_": "vacuity",
    "learning_rate_": "learning_rate",
    "gradient_norm_": "gradient_norm",
    "seconds_": "seconds",
}
"""Groups of TensorBoard's page by the prefix of the keys of metrics.jsonl; all others are of the training."""

SPEED = ("images_per_second", "data_wait", "epoch", "productive_seconds")

FLUSH_SECONDS = 10
"""How much of the end a killed run may lack."""


def check_tensorboard() -> None:
    """Check that the package that writes events is installed.

    Raises:
        UmlError: it is not.
    """
    if find_spec("tensorboard") is None:
        raise UmlError(
            "metrics.tensorboard needs the package tensorboard: pip install 'uml-dist[tensorboard]', or leave it out"
        )


class TensorBoardWriter:
    """Writes events until `close`.

    Args:
        run: the run folder.
        step: steps of the run so far; later ones that an earlier start has written are forgotten.
    """

    def __init__(self, run: Path, step: int) -> None:
        self._writer: SummaryWriter | None = None
        self._attempt(lambda: self._open(run / FOLDER, step))

    def record(self, record: Mapping[str, Any]) -> None:
        """Write the numbers of a record of metrics.jsonl."""
        self._attempt(lambda: self._write(record))

    def picture(self, name: str, path: Path, step: int) -> None:
        """Write a PNG.

        Args:
            name: name of the validation's folder, such as "val".
            path: the PNG.
            step: steps of the run.
        """
        self._attempt(lambda: self._write_picture(name, path, step))

    def close(self) -> None:
        """Write what is left; a second call does nothing."""
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                writer.close()
            except Exception as error:
                logger.warning("the last events for TensorBoard are not written: %s", error)

    def _attempt(self, action: Callable[[], None]) -> None:
        """Do something; give up TensorBoard, with a warning, if it fails."""
        try:
            action()
        except Exception as error:
            logger.warning("events for TensorBoard are no longer written: %s", error)
            self._writer = None

    def _open(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=step + 1, flush_secs=FLUSH_SECONDS)

    def _write(self, record: Mapping[str, Any]) -> None:
        if self._writer is None:
            return
        for key, value in record.items():
            if key != "step" and isinstance(value, int | float) and not isinstance(value, bool):
                self._writer.add_scalar(tag_of(key), value, record["step"])

    def _write_picture(self, name: str, path: Path, step: int) -> None:
        if self._writer is None or self._writer.file_writer is None:
            return
        from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

        # The file as it is: `add_image` would decode and encode it again, in a second.
        with Image.open(path) as image:
            picture = Summary.Image(
                width=image.width, height=image.height, colorspace=3, encoded_image_string=path.read_bytes()
            )
        self._writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=f"cases/{name}", image=picture)]), step)


def tag_of(key: str) -> str:
    """Return the tag of a key of metrics.jsonl, such as train/loss, validation/dice or learning_rate/uml."""
    for prefix, group in GROUPS.items():
        if key.startswith(prefix):
            return f"{group}/{key.removeprefix(prefix)}"
    return f"speed/{key}" if key in SPEED else f"train/{key}"
