"""Small checkpoints for tests."""

from pathlib import Path
from typing import Any

import torch

from uml_dist.run.checkpoint import RunState, save_checkpoint
from uml_dist.run.network_state import NetworkState


def networks_of(seed: int = 0) -> dict[str, NetworkState]:
    """Return the states of two networks, one of them with moments."""
    generator = torch.Generator().manual_seed(seed)
    weights = {
        "head.weight": torch.randn(3, 4, generator=generator).T,  # not contiguous
        "head.bias": torch.randn(4, generator=generator),
        "norm.num_batches_tracked": torch.tensor(7),
    }
    moments = {
        name: {key: torch.randn(weights[key].shape, generator=generator) for key in ("head.weight", "head.bias")}
        for name in ("exp_avg", "exp_avg_sq")
    }
    return {"student": NetworkState(weights, moments, 5), "teacher": NetworkState({"bias": torch.ones(2)})}


def state_of(step: int = 5, **changes: Any) -> RunState:
    """Return the run state after a step."""
    fields = {"recipe": "uml", "step": step, "phase": 1, "phase_step": 2, "positions": {"train": 40}}
    fields |= {"steps_of": {"student": 5}, "best": 0.75, "best_step": 4}
    fields |= {"config": {"train": {"steps": 9}, "optimizer": {"betas": [0.9, 0.999]}}, "versions": {"torch": "2"}}
    return RunState(**{**fields, **changes})


def save(run: Path, step: int = 5, seed: int = 0) -> Path:
    """Save a checkpoint of a run."""
    return save_checkpoint(run / "checkpoints", networks_of(seed), state_of(step))


def one_line(raised: Any) -> str:
    """Return the message of an error, which must be one line."""
    assert "\n" not in str(raised.value)
    return str(raised.value)
