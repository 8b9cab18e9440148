"""What the averaged network tells the student: probabilities, distances, and where it is certain of them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from uml_kernels import add_probability, passes_entropy

from ...nn.keyed_dropout import keyed_bits, keyed_normal, use_rng_key
from ...telemetry import span
from .network import VolumeOutput, vacuity
from .objective import UgmclObjective


class Teacher:
    """The averaged network. Its dropout and the noise on its input are keyed by sample and pass; there is no gradient.

    Args:
        network: the averaged network, in training mode.
        objective: the configuration.
    """

    def __init__(self, network: nn.Module, objective: UgmclObjective) -> None:
        self._network = network
        self._objective = objective

    def opinion(self, image: Tensor, rng_key: Tensor) -> VolumeOutput:
        """Return the output for volumes (B, channels, *S) with dropout and noise, which the student should match."""
        with span("teacher"):
            return self._pass(image, rng_key, "target")

    def labels(self, image: Tensor) -> Tensor:
        """Return the most probable class (B, *S) of each voxel of volumes (B, channels, *S), without dropout."""
        with span("teacher"), _evaluating(self._network):
            return self._network(image).logits.argmax(1)

    def certain(self, image: Tensor, rng_key: Tensor, seen: VolumeOutput, limit: float) -> tuple[Tensor, Tensor]:
        """Return the teacher's uncertainty (B, *S) in [0, 1], 1 being ignorance, and where it is below a limit.

        Args:
            image: (B, channels, *S).
            rng_key: (B,) int64.
            seen: what `opinion` returned, whose vacuity is the evidential uncertainty.
            limit: the limit, in [0, 1].
        """
        if self._objective.uncertainty == "evidential":
            uncertainty = vacuity(seen.logits)
            return uncertainty, uncertainty < limit
        passes, at_once = self._objective.passes, self._objective.passes_at_once
        with span("passes"):
            total = torch.zeros_like(seen.logits)
            for first in range(0, passes, at_once):
                numbers = range(first, min(first + at_once, passes))
                keys = torch.cat([keyed_bits(rng_key, number) for number in numbers])
                images = image.repeat(len(numbers), *(1,) * (image.dim() - 1))
                for logits in self._pass(images, keys, "pass").logits.chunk(len(numbers)):
                    add_probability(total, logits)
            return passes_entropy(total, passes, limit)

    def _pass(self, image: Tensor, rng_key: Tensor, name: str) -> VolumeOutput:
        key = keyed_bits(rng_key, "teacher", name)
        if self._objective.noise > 0:
            noise = self._objective.noise * keyed_normal(key, image.shape[1:], "noise")
            image = image + noise.clamp(-self._objective.noise_clip, self._objective.noise_clip)
        with use_rng_key(key):
            return self._network(image)


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)
