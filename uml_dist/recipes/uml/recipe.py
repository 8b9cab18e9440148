"""The recipe `uml`: one network, one stream, one phase."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from torch import Tensor, nn

from uml_kernels import opinion
from uml_shards.format.manifest import Manifest

from ...batch import Batch, Prediction
from ...distributed.global_batch import GlobalBatch
from ...nn.keyed_dropout import use_rng_key
from ..recipe import MicroBatchResult, Opinions, Progress, Recipe, StreamContract, Trained
from .config import UmlConfig
from .model import TASKS
from .network import STRIDE, UmlNetwork
from .objective import counts, uml_terms

ADDED = re.compile(r"mixer\.levels\.\d\.(place_query\.bias|place_value_bias)")
"""Biases of the mixer's place attention, which the first checkpoints lack."""

UNNAMED = 2
"""Number of classes of a task that the training data have none for: the network has both heads, one is not trained."""


class UmlRecipe(Recipe[UmlConfig]):
    """Uncertainty-informed mutual learning (Ren et al., MICCAI 2023)."""

    name = "uml"
    streams: ClassVar[Mapping[str, StreamContract]] = {
        "train": StreamContract(labels=True, masks="exclusive", either=True)
    }
    Config = UmlConfig

    def __init__(self, config: UmlConfig, manifests: Mapping[str, Manifest]) -> None:
        super().__init__(config, manifests)
        self.model, self.objective = config.model, config.objective
        self.manifest = manifests["train"]
        self.class_weights = self.objective.weights_of_classes(self.manifest.classes, self.manifest.class_counts)

    @property
    def networks(self) -> Mapping[str, Trained]:
        """The only network."""
        return {"uml": Trained(self._build, self._start, added=ADDED)}

    @property
    def notes(self) -> Sequence[str]:
        """The task that is not trained, if nothing in the training data is known of it."""
        if not self.manifest.labelled:
            return ["no image of the training data has a label: only the segmentation is trained"]
        if not self.manifest.masked:
            return ["no image of the training data has a mask: only the classification is trained"]
        return []

    def check_start(self) -> None:
        """Compare the encoders' weight files with the encoders."""
        self.model.check_weights(self.manifest.channels)

    @property
    def why_no_accumulation(self) -> str | None:
        """A Dice term over the global batch is a ratio of sums, and batch norm would see only a part of the batch."""
        if self.model.has_batch_norm:
            return (
                "batch norm would take the statistics of a part of the batch: set model.head = "
                '"adapted" and model.decoder_norm = "group"'
            )
        if self.objective.dice_scope == "sample":
            return None
        return 'a Dice term over the global batch cannot be accumulated: set objective.dice_scope = "sample"'

    @property
    def side_multiple(self) -> int:
        """The network pads to it; a graph has no padding, whose amount would depend on the size."""
        return STRIDE * self.model.resolved("space_to_depth")

    def counts(self, batches: Mapping[str, Batch], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Count labelled images by their weights, images with a mask, and pixels of masks."""
        return counts(batches["train"], self.class_weights)

    def step(
        self,
        batches: Mapping[str, Batch],
        targets: Mapping[str, Tensor],
        networks: Mapping[str, nn.Module],
        progress: Progress,
        whole: GlobalBatch,
    ) -> MicroBatchResult:
        """Compute the weighted sum of classification, segmentation and mutual loss."""
        batch = batches["train"]
        with use_rng_key(batch.rng_key):
            output = networks["uml"](batch.image)
        terms = uml_terms(output, batch, whole, self.objective, progress.fraction, self.class_weights)
        image = opinion(output.class_logits.detach())
        opinions = {
            "image": Opinions(image.vacuity, output.class_logits.shape[1]),
            "pixel": Opinions(output.mutual_vacuity.detach(), output.mutual_logits.shape[1]),
        }
        return MicroBatchResult({"uml": terms["loss"]}, terms, opinions)

    def predict(self, batch: Batch, networks: Mapping[str, nn.Module]) -> Prediction:
        """Predict opinions on image and pixels, and the probability of pixels by `model.pixel_probability`.

        Where the training data state no image classes, or no pixel classes, there is no prediction of them.
        """
        prediction = networks["uml"](batch.image).prediction(self.model.resolved("pixel_probability"))
        if not self.manifest.classes:
            prediction = replace(prediction, image_probability=None, image_vacuity=None)
        if not self.manifest.mask_classes:
            prediction = replace(prediction, pixel_probability=None, pixel_vacuity=None, maps={})
        return prediction

    def _build(self) -> UmlNetwork:
        manifest = self.manifest
        return UmlNetwork(
            self.model,
            manifest.channels,
            pixel_classes=len(manifest.mask_classes) or self.model.mask_classes or UNNAMED,
            image_classes=len(manifest.classes) or self.model.classes or UNNAMED,
            detach_uncertainty=self.objective.detach_uncertainty,
        )

    def _start(self, network: nn.Module) -> list[str]:
        assert isinstance(network, UmlNetwork)
        lines = network.load_encoders()
        for task in TASKS:
            if self.model.starts_as_identity(task):
                lines.append(
                    f"model.profile = release freezes the {task} encoder's batch norm, which without weights is the "
                    f"identity, so activations grow: give model.encoder.{task}_weights"
                )
        return lines
