"""A small network that classifies images and states a vacuity for each."""

from pydantic import Field
from torch import nn

from uml_dist.batch import Prediction
from uml_dist.config.schema import ModelConfig, RunConfig
from uml_dist.recipes import MicroBatchResult, Recipe, StreamContract, Trained
from uml_kernels import evidential_loss, opinion


class LesionModel(ModelConfig):
    """The table `[model]`."""

    width: int = Field(default=16, gt=0, description="channels of the first convolution")


class LesionConfig(RunConfig):
    """The tables that all recipes share, with a `[model]` of its own."""

    model: LesionModel = LesionModel()


class LesionNet(Recipe[LesionConfig]):
    """Learns the class of an image with the evidential loss."""

    name = "lesion_net"
    Config = LesionConfig
    streams = {"train": StreamContract(labels=True)}

    @property
    def networks(self):
        return {"classifier": Trained(self._build)}

    def _build(self):
        width, manifest = self.config.model.width, self.manifests["train"]
        return nn.Sequential(
            *(nn.Conv2d(manifest.channels, width, 3, stride=2), nn.GroupNorm(1, width), nn.ReLU()),
            *(nn.Conv2d(width, width, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            nn.Linear(width, len(manifest.classes)),
        )

    def counts(self, batches, targets):
        return {"labelled": batches["train"].labelled.sum()}

    def step(self, batches, targets, networks, progress, whole):
        batch = batches["train"]
        logits = networks["classifier"](batch.image)
        each = evidential_loss(logits, batch.label, progress.fraction, ignore_index=-1, reduction="none")
        loss = whole.mean((each * batch.labelled).sum(), "labelled")  # over the labelled images of all ranks
        return MicroBatchResult({"classifier": loss}, {"loss": loss})

    def predict(self, batch, networks):
        result = opinion(networks["classifier"](batch.image))
        return Prediction(image_probability=result.probability, image_vacuity=result.vacuity)
