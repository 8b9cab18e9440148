"""Recipes of UG-MCL for tests that need no shards."""

from typing import Any

from manifests import manifest_of
from naive_ugmcl import LABELLED, UNLABELLED
from uml_dist.config.loading import validate
from uml_dist.recipes.ugmcl.recipe import UgmclRecipe
from uml_shards.format.manifest import Statistics


def recipe_of(
    model: dict[str, Any] | None = None,
    classes: int = 2,
    size: tuple[int, int, int] = (16, 16, 16),
    counts: tuple[int, int] | None = None,
    **objective: Any,
) -> UgmclRecipe:
    """Return the recipe for volumes of one channel, with as many samples in a batch as `naive_ugmcl` makes."""
    manifest = manifest_of(
        channels=1,
        size=None,
        classes=(),
        mask_classes=("background", "atrium", "aorta")[:classes],
        components=("json", "mask.npy", "npy"),
        labelled=0,
        statistics=Statistics(mean=(0.0,), std=(1.0,)),
    )
    pastes = objective.get("copy_paste") or objective.get("method") == "copy_paste"
    labelled, unlabelled = counts or (LABELLED, LABELLED if pastes else UNLABELLED)
    tree = {
        "recipe": "ugmcl",
        "streams": {
            "labelled": {"shards": "none", "count": labelled},
            "unlabelled": {"shards": "none", "count": unlabelled},
        },
        "data": {"size": list(size)},
        "train": {"steps": 100},
        "model": model or {},
        "objective": objective,
    }
    config = validate(tree, "test")
    return UgmclRecipe(config, dict.fromkeys(config.streams, manifest))
