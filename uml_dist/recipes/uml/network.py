"""The network of UML, its configuration and its outputs.

Source: Ren et al., "Uncertainty-informed Mutual Learning for Joint Medical Image Classification and Segmentation",
MICCAI 2023; all widths are scaled by one number.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from uml_kernels import opinion

from ...backbones import scaled
from ...batch import Prediction
from ...nn.fork import fork
from ...nn.keyed_dropout import name_layers
from ...nn.recomputation import recomputed
from .decoders import MutualDecoder, UncertaintyInstructor, UncertaintyNavigator
from .evidence import EVIDENCE_LOGITS
from .layers import block_mean, resize, to_pixels
from .mixer import FeatureMixer
from .model import PixelProbability, UmlModel

MIXED = (64, 128, 256)
MIXER_HIDDEN = 256
EVIDENCE_HIDDEN = 32
INSTRUCTOR = (1024, 512, 512, 1024)
STRIDE = 8


class UmlOutput(NamedTuple):
    """The output of the network for a batch (a tuple, because DeepSpeed's hooks find tensors in no other class).

    Attributes:
        class_logits: (B, K); evidence is their softplus.
        mutual_logits: (B, C, H, W), likewise; evidence is never stored in less than float32.
        mutual_vacuity: (B, H, W) float32.
        segmentation: logits of the four levels; the first, (B, C, H, W), is the segmentation, the others are
            (B, C, h / (2^i s), w / (2^i s)) for i = 1, 2, 3, where s is `model.space_to_depth`.
        reliable_masks: R_1 (B, C, h / s, w / s) and R_4 (B, C, h / (8 s), w / (8 s)).
        gates: exp(-vacuity) (B, h / s, w / s) and (B, h / (8 s), w / (8 s)), in [1/e, 1).
        padded_size: (h, w), H and W rounded up to multiples of 8 s, of which all levels but the first are parts.
    """

    class_logits: Tensor
    mutual_logits: Tensor
    mutual_vacuity: Tensor
    segmentation: tuple[Tensor, ...]
    reliable_masks: tuple[Tensor, ...]
    gates: tuple[Tensor, ...]
    padded_size: tuple[int, int]

    def prediction(self, source: PixelProbability = "segmentation") -> Prediction:
        """Return probability and vacuity of the image and of the pixels, whose probability is that of `source`."""
        image = opinion(self.class_logits)
        parts: list[Tensor] = []
        if source != "opinion":
            parts.append(self.segmentation[0].float().softmax(1))
        if source != "segmentation":
            parts.append(opinion(self.mutual_logits).probability)
        height, width = self.mutual_vacuity.shape[1:]
        scores = resize(self.reliable_masks[0], self.padded_size)[..., :height, :width]
        return Prediction(
            image_probability=image.probability,
            pixel_probability=torch.stack(parts).mean(0) if len(parts) > 1 else parts[0],
            image_vacuity=image.vacuity,
            pixel_vacuity=self.mutual_vacuity,
            maps={"reliable mask": 1.0 - scores.float().softmax(1)[:, 0]},
        )


class UmlNetwork(nn.Module):
    """Two encoders, a mixer, and three heads that inform one another.

    In training, call it inside `uml_dist.nn.keyed_dropout.use_rng_key`, which its dropout needs. Encoders start with
    random weights; `load_encoders` loads published ones.

    Args:
        model: the configuration.
        channels: channels of the image.
        pixel_classes: number of pixel classes, C.
        image_classes: number of image classes, K.
        detach_uncertainty: whether gradients stop at the gates.
    """

    def __init__(
        self,
        model: UmlModel,
        channels: int,
        pixel_classes: int,
        image_classes: int,
        detach_uncertainty: bool = False,
    ) -> None:
        super().__init__()
        width = model.scale
        self.model = model
        self.block = model.resolved("space_to_depth")
        self.evidence_logits = EVIDENCE_LOGITS[model.resolved("evidence")]
        channels *= self.block**2
        self.classification_encoder = model.encoder_of("classification").build(channels)
        self.segmentation_encoder = model.encoder_of("segmentation").build(channels)
        classified, segmented = self.classification_encoder.widths, self.segmentation_encoder.widths
        (hidden,) = scaled((MIXER_HIDDEN,), width)
        first, second, third = scaled(MIXED, width)
        self.mixer = FeatureMixer(classified, segmented, hidden, (first, second, third))
        mixed = self.mixer.widths
        self.mutual = MutualDecoder(mixed, scaled((EVIDENCE_HIDDEN,), width)[0], pixel_classes, model)
        self.navigator = UncertaintyNavigator(segmented, mixed[3], pixel_classes, model, detach_uncertainty)
        self.instructor = UncertaintyInstructor(
            classified[3] + mixed[3], scaled(INSTRUCTOR, width), self.navigator.widths[0], image_classes, model
        )
        self._initialise()
        name_layers(self)

    def load_encoders(self) -> list[str]:
        """Load the published weights that the configuration names; encoders without a file stay as they are.

        Returns:
            For each file, a line on its unused parts.
        """
        return [
            *self.model.encoder_of("classification").load(self.classification_encoder),
            *self.model.encoder_of("segmentation").load(self.segmentation_encoder),
        ]

    def _initialise(self) -> None:
        """Initialise the convolutions outside the encoders and the instructor's head by Kaiming's method.

        Unless all are by fan-out, as published, the maps to scores keep the variance of their inputs. By fan-out the
        variance would grow by the ratio of the channels, and the softmax would start saturated.
        """
        by_fan_out = self.model.resolved("initialisation") == "fan_out"
        to_scores = {self.mutual.head[-1], *self.navigator.scores, self.navigator.fused_scores}
        for part in (self.mutual, self.navigator, self.instructor.instruct):
            for module in part.modules():
                if isinstance(module, nn.Conv2d):
                    keeps = module in to_scores and not by_fan_out
                    mode, gain = ("fan_in", "linear") if keeps else ("fan_out", "relu")
                    nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity=gain)
        for parameter in self.mixer.parameters() if by_fan_out else ():
            if parameter.dim() == 2:
                nn.init.kaiming_normal_(parameter, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> UmlOutput:
        """Run the network on images (B, channels, H, W) of any size, padded inside to multiples of 8 s."""
        height, width = image.shape[2:]
        padding = (0, -width % (STRIDE * self.block), 0, -height % (STRIDE * self.block))
        image = functional.pad(image, padding, mode="replicate") if any(padding) else image
        padded_size = image.shape[2], image.shape[3]
        image = functional.pixel_unshuffle(image, self.block) if self.block > 1 else image
        if image.device.type == "cpu":
            # All layers keep this layout, in which torch interpolates 6 to 10 times faster on a CPU.
            image = image.contiguous(memory_format=torch.channels_last)

        classified = self._stage(self.classification_encoder, image)
        segmented = self._stage(self.segmentation_encoder, image)
        *others, last = self._stage(self.mixer, classified, segmented)
        last, for_navigator, for_instructor = fork(last, 3)
        scores, guiding = fork(self._stage(self.mutual, (*others, last)), 2)
        guiding = self.evidence_logits(block_mean(guiding, self.block))
        logits, masks, gates, (vacuity, guide) = self._stage(self.navigator, segmented, for_navigator, guiding)
        # Recomputed, batch norm would count the batch twice.
        instruct = self.instructor if self.model.has_batch_norm else partial(self._stage, self.instructor)
        class_logits = instruct(classified[3], for_instructor, guide)

        mutual = self.evidence_logits(to_pixels(scores, self.block))
        if self.block > 1:
            vacuity = opinion(mutual).vacuity

        def crop(full: Tensor) -> Tensor:
            return full[..., :height, :width]

        return UmlOutput(
            class_logits=class_logits,
            mutual_logits=crop(mutual),
            mutual_vacuity=crop(vacuity),
            segmentation=(crop(to_pixels(logits[0], self.block)), *logits[1:]),
            reliable_masks=masks,
            gates=gates,
            padded_size=padded_size,
        )

    def _stage(self, module: nn.Module, *inputs: Any) -> Any:
        """Run a part of the network; with checkpointing, its activations are recomputed in backward."""
        if not (self.model.checkpointing and torch.is_grad_enabled()):
            return module(*inputs)
        return recomputed(module, *inputs)
