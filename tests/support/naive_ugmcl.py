"""The loss of UG-MCL in float64, voxel by voxel from the specification, and a network that returns given tensors."""

import math

import torch
from torch import Tensor, nn

from uml_dist.batch import Batch
from uml_dist.recipes.ugmcl.network import VolumeOutput

SIZE = (5, 4, 3)
LABELLED, UNLABELLED = 2, 3


class Given(nn.Module):
    """A network that returns given outputs, one for each call, whatever it is called with."""

    def __init__(self, *outputs: VolumeOutput) -> None:
        super().__init__()
        self.outputs = list(outputs)
        self.images: list[Tensor] = []

    def forward(self, image: Tensor) -> VolumeOutput:
        self.images.append(image)
        return self.outputs.pop(0)


def batch_of(samples: int, masked: bool, first_key: int = 0, classes: int = 2) -> Batch:
    """Return random volumes; the first masked one has a corner of which nothing is known."""
    generator = torch.Generator().manual_seed(first_key + samples)
    mask = torch.randint(0, classes, (samples, *SIZE), generator=generator, dtype=torch.uint8)
    mask[0, :2, :1] = 255
    return Batch(
        image=torch.randn(samples, 1, *SIZE, generator=generator),
        mask=mask if masked else torch.full_like(mask, 255),
        label=torch.full((samples,), -1),
        weight=torch.ones(samples),
        rng_key=torch.arange(samples) + first_key,
        position=torch.arange(samples),
        keys=tuple(f"{first_key + number}" for number in range(samples)),
    )


def output_of(samples: int, classes: int = 2, distances: int | None = 1, seed: int = 0, scale: float = 1.0):
    """Return a random output of the network with leaves that require gradient."""
    generator = torch.Generator().manual_seed(seed)
    logits = (scale * torch.randn(samples, classes, *SIZE, generator=generator)).requires_grad_()
    if distances is None:
        return VolumeOutput(logits, None)
    # Around 0, where a mask by distance has a gradient.
    distance = 0.003 * torch.randn(samples, distances, *SIZE, generator=generator)
    return VolumeOutput(logits, distance.requires_grad_())


def probability_of(output: VolumeOutput, row: int, voxel: tuple[int, ...]) -> list[float]:
    scores = [math.exp(value) for value in output.logits.detach().double()[(row, slice(None), *voxel)].tolist()]
    return [score / sum(scores) for score in scores]


def distance_of(output: VolumeOutput, row: int, voxel: tuple[int, ...]) -> float:
    return float(output.distance.detach().double()[(row, 0, *voxel)])


def naive_terms(
    batch: Batch, student: VolumeOutput, teacher: VolumeOutput, gate: Tensor, distance_map: Tensor, slope: float
) -> dict[str, float]:
    """Return the terms of two classes and one distance; rows of the outputs are labelled and then unlabelled samples.

    Args:
        batch: the labelled samples.
        student: its output for all rows.
        teacher: its output for all rows.
        gate: (rows, *S) bool.
        distance_map: (labelled, *S), the true distances.
        slope: k.
    """
    voxels = [(x, y, z) for x in range(SIZE[0]) for y in range(SIZE[1]) for z in range(SIZE[2])]
    errors, both, squares, distances, by_distance, by_squares = [], 0.0, 0.0, [], 0.0, 0.0
    for row in range(len(batch)):
        for voxel in voxels:
            truth = int(batch.mask[(row, *voxel)])
            if truth == 255:
                continue
            p, z = probability_of(student, row, voxel), distance_of(student, row, voxel)
            errors.append(-math.log(p[truth]))
            both += p[1] * truth
            squares += p[1] ** 2 + truth**2
            distances.append((z - float(distance_map[(row, *voxel)])) ** 2)
            share = 1 / (1 + math.exp(slope * z))
            by_distance += share * truth
            by_squares += share**2 + truth**2
    agreed, agreed_distances, crossed = [], [], []
    for row in range(len(student.logits)):
        for voxel in voxels:
            p, z = probability_of(student, row, voxel)[1], distance_of(student, row, voxel)
            crossed.append((1 / (1 + math.exp(slope * z)) - p) ** 2)
            if gate[(row, *voxel)]:
                agreed.append((p - probability_of(teacher, row, voxel)[1]) ** 2)
                agreed_distances.append((z - distance_of(teacher, row, voxel)) ** 2)
    smooth = 1e-5
    return {
        "cross_entropy": sum(errors) / len(errors),
        "dice": 1 - (2 * both + smooth) / (squares + smooth),
        "distance": sum(distances) / len(distances),
        "distance_dice": 1 - (2 * by_distance + smooth) / (by_squares + smooth),
        "intra_segmentation": sum(agreed) / len(agreed),
        "intra_distance": sum(agreed_distances) / len(agreed_distances),
        "cross": sum(crossed) / len(crossed),
    }
