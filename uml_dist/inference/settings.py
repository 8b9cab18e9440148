"""What a caller decides about predictions."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from ..errors import UmlError

Output = Literal["masks", "probabilities", "vacuity", "maps", "overlays"]
OUTPUTS: tuple[Output, ...] = get_args(Output)


@dataclass(frozen=True)
class PredictSettings:
    """What a caller decides about predictions.

    Attributes:
        batch_size: images per forward pass; those that are predicted in their own size come one by one.
        flips: whether predictions are means over all flips of the image: 4 of an image, 8 of a volume.
        outputs: the kinds of files that are written for a case.
        dicom_seg: whether the masks of DICOM series are also written as DICOM Segmentation objects.
        coverage: share of the cases whose predictions are accepted, the least uncertain ones; None: no decision.
        prepare: settings of the preparation that replace those of the training's importer, such as
            `{"intensity": "volume"}`.
    """

    batch_size: int = 16
    flips: bool = False
    outputs: tuple[Output, ...] = OUTPUTS
    dicom_seg: bool = False
    coverage: float | None = None
    prepare: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UmlError(f"the batch size is {self.batch_size}, but must be at least 1")
        if self.coverage is not None and not 0 < self.coverage <= 1:
            raise UmlError(f"the coverage is {self.coverage:g}, but must be a share above 0 and up to 1, such as 0.9")
        if unknown := [name for name in self.outputs if name not in OUTPUTS]:
            raise UmlError(f"{unknown[0]!r} is not an output: use {', '.join(OUTPUTS)}")

    @property
    def record(self) -> dict[str, Any]:
        """What decides the files of a case, for comparison with an earlier call."""
        return {
            "flips": self.flips,
            "outputs": sorted(self.outputs),
            "dicom_seg": self.dicom_seg,
            "prepare": dict(sorted(self.prepare.items())),
        }
