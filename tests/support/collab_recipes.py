"""Recipes of collaborative learning and random batches for tests that need no shards."""

from typing import Any

import torch
from torch import Tensor, nn

from manifests import manifest_of
from uml_dist.batch import Batch
from uml_dist.config.loading import validate
from uml_dist.nn.keyed_dropout import name_layers
from uml_dist.recipes import Frozen, Progress
from uml_dist.recipes.collab.recipe import CollabRecipe

SIDE = 32
LESIONS = ("dots", "patches", "lines")
GRADES = ("none", "mild", "severe")


def recipe_of(model: dict[str, Any] | None = None, size: int = SIDE, counts=(3, 3, 2), **objective: Any):
    """Return the recipe with narrow networks, for three lesions and three grades."""
    manifest = manifest_of(
        size=None, classes=GRADES, class_counts=counts, mask_classes=(), mask_names=LESIONS, labelled=sum(counts)
    )
    tree = {
        "recipe": "collab",
        "streams": {"pixel": {"shards": "none", "count": 2}, "image": {"shards": "none", "count": 3}},
        "data": {"size": size},
        "train": {"steps": 100},
        "model": {"width": 0.125, **(model or {})},
        "objective": objective,
    }
    config = validate(tree, "test")
    return CollabRecipe(config, dict.fromkeys(config.streams, manifest))


def progress_of(phase: str, phase_step: int = 50) -> Progress:
    """Return the middle of a run in a phase of 100 steps."""
    return Progress(step=150, steps=300, phase=phase, phase_step=phase_step, phase_steps=100)


def batch_of(label: list[int], seed: int = 0) -> Batch:
    """Return random images with masks; in the first, a corner of the second lesion is not known."""
    generator = torch.Generator().manual_seed(seed)
    samples = len(label)
    mask = torch.randint(0, 2, (samples, len(LESIONS), SIDE, SIDE), generator=generator, dtype=torch.uint8)
    mask[0, 1, :5, :7] = 255
    return Batch(
        image=torch.randn(samples, 3, SIDE, SIDE, generator=generator),
        mask=mask,
        label=torch.tensor(label),
        weight=torch.ones(samples),
        rng_key=torch.arange(samples),
        position=torch.arange(samples),
        keys=tuple(map(str, range(samples))),
    )


def batches_of() -> dict[str, Batch]:
    """Return a batch of each stream; one graded image is healthy, one has no grade."""
    return {"pixel": batch_of([0, 2]), "image": batch_of([0, 2, -1], seed=1)}


def networks_of(recipe: CollabRecipe) -> dict[str, nn.Module]:
    """Return all networks as plain modules in training mode."""
    torch.manual_seed(0)
    roles = recipe.networks
    networks = {name: name_layers(role.build()) for name, role in roles.items() if not isinstance(role, Frozen)}
    copies = {name: name_layers(recipe._grader()) for name, role in roles.items() if isinstance(role, Frozen)}
    return networks | {name: copy.requires_grad_(False) for name, copy in copies.items()}


class Given(nn.Module):
    """A network that returns a given output, whatever it is called with."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, *_: Tensor) -> Tensor:
        return self.output
