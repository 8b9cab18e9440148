"""Weights as they are before a training, in the folder of an export: enough to predict, in a second."""

from pathlib import Path
from typing import Any

import torch

from uml_dist.config.loading import validate
from uml_dist.recipes import recipe_class
from uml_dist.recipes.averages import networks_of
from uml_dist.recipes.recipe import trained_source
from uml_dist.run.checkpoint import RunState, write_checkpoint
from uml_dist.run.data import open_splits
from uml_dist.run.inputs import stored_manifests
from uml_dist.run.network_state import NetworkState


def write_untrained(tree: dict[str, Any], folder: Path) -> Path:
    """Write the networks of a configuration, whose shards must exist, and return the folder."""
    config = validate(tree, "test")
    manifests = {name: samples.manifest for name, samples in open_splits(config).items()}
    torch.manual_seed(0)
    roles = networks_of(recipe_class(config.recipe)(config, manifests))
    networks = {name: NetworkState(trained_source(roles, name).build().state_dict()) for name in roles}
    state = RunState(
        recipe=config.recipe,
        config=config.model_dump(mode="json", exclude_none=True),
        manifests=stored_manifests(manifests),
    )
    write_checkpoint(folder, networks, state)
    return folder
