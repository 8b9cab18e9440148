"""The tables of the configuration that decide how a network is evaluated."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from .section import Section

WindowWeights = Literal["gaussian", "uniform"]
Border = Literal["mirror", "constant"]

Stride = Annotated[int, Field(gt=0, le=1 << 16)]


class WindowsConfig(Section):
    """`[windows]`: predicts images and volumes of any size by overlapping windows, of the size of training."""

    use: Literal["volumes", "always", "never"] = Field(
        default="volumes",
        description="what is predicted by windows: volumes; also images (always), which are then read in their stored "
        "size; or nothing (never): images are resized, and volumes passed to the network whole",
    )
    stride: Stride | tuple[Stride, ...] | None = Field(
        default=None,
        description="pixels or voxels between neighbouring windows, one number or one per axis; default: half a window",
    )
    weights: WindowWeights = Field(
        default="gaussian", description="gaussian: the centre of a window weighs more than its border; uniform: not"
    )
    batch: int = Field(default=4, gt=0, le=1 << 12, description="windows per forward pass")
    border: Border = Field(
        default="mirror",
        description="how an image smaller than a window is continued: reflected, or by the constant 0 of the "
        "normalised image",
    )

    def apply_to(self, dimensions: Literal[2, 3]) -> bool:
        """Whether images (2) or volumes (3) are predicted by windows."""
        return self.use == "always" or (self.use == "volumes" and dimensions == 3)


class EvaluationConfig(Section):
    """`[evaluation]`: the predicted classes and the metrics, in validations and evaluations."""

    surfaces: Literal["none", "mm", "voxel"] | None = Field(
        default=None,
        description="distances between the surfaces of mask and prediction, in mm or in voxels, or none; default: as "
        "the recipe has it, which is none in `uml`",
    )
    missing_surfaces: Literal["leave-out", "10-pixels"] = Field(
        default="leave-out",
        description="distances of a class that is empty in the mask or in the prediction: the case is left out of "
        "them, or has 10 pixels, as in the published code of `uml`; the latter needs surfaces = voxel",
    )
    hd95: Literal["together", "larger"] = Field(
        default="together",
        description="95th percentile of the distances of both surfaces taken together, or the larger one of the "
        "percentiles of either surface, as in MONAI",
    )
    largest_component: bool = Field(
        default=False, description="keep only the largest connected component of each predicted class"
    )

    @model_validator(mode="after")
    def _in_pixels(self) -> Self:
        if self.missing_surfaces == "10-pixels" and self.surfaces != "voxel":
            raise ValueError("missing_surfaces = 10-pixels is a distance in pixels: set surfaces to voxel as well")
        return self
