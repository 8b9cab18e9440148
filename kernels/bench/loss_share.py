"""Measures the share of the loss in a UML training step: the library's loss and a composition of torch's operations.

Both losses take turns on the same output of the same network, forward and backward down to the network's outputs, and
the complete step is timed too. Started by gpu_check.py.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils import _pytree

from naive_loss import naive_loss
from report import measured, write_rows
from step_variants import FRACTION, Setting, make_network, make_optimizer
from timing import in_turns
from uml_dist.distributed.global_batch import GlobalBatch
from uml_dist.nn.keyed_dropout import use_rng_key
from uml_dist.recipes.uml.objective import UmlObjective, counts, uml_terms


def functions(setting: Setting, device: torch.device) -> dict[str, Callable[[], object]]:
    """Return the training step and the two losses with their gradients."""
    network, batch, objective = make_network(setting, "group").to(device), setting.data().to(device), UmlObjective()
    optimizer = make_optimizer(network)

    def fused(output: Any) -> torch.Tensor:
        return uml_terms(output, batch, GlobalBatch([counts(batch)]), objective, FRACTION)["loss"]

    def eager(output: Any) -> torch.Tensor:
        return naive_loss(output, batch.mask, batch.label, objective.kl_weight(FRACTION))

    def forward() -> Any:
        with torch.autocast(device.type, torch.bfloat16), use_rng_key(batch.rng_key):
            return network(batch.image)

    def step() -> None:
        fused(forward()).backward()
        optimizer.step()
        optimizer.zero_grad()

    with torch.no_grad():
        there = forward()
    fixed = _pytree.tree_map(lambda one: one.detach().clone().requires_grad_(), there)

    def alone(loss: Callable[[Any], torch.Tensor]) -> Callable[[], object]:
        leaves = [one for one in _pytree.tree_leaves(fixed) if isinstance(one, torch.Tensor)]
        return lambda: torch.autograd.grad(loss(fixed), leaves, allow_unused=True)

    return {"step": step, "loss, ours": alone(fused), "loss, eager": alone(eager)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="paper", choices=("paper", "compact"))
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, required=True, help="CSV file")
    chosen = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    setting = Setting(chosen.profile, chosen.width, chosen.size, chosen.batch)
    times = in_turns(functions(setting, device), chosen.rounds, min(3, chosen.rounds), device)
    rows = [
        measured(
            device, values, kernel="uml step", provider=name, mode="full", classes=3, dtype="bfloat16 autocast",
            layout="last", batch=chosen.batch, height=chosen.size, width=chosen.size, metric="time", unit="ms",
        )
        for name, values in times.items()
    ]  # fmt: skip
    write_rows(chosen.out, rows)
    step, ours, eager = (median(times[name]) for name in ("step", "loss, ours", "loss, eager"))
    eager_step = step - ours + eager
    print(f"step: {step:.2f} ms with our loss, which takes {ours:.3f} ms or {ours / step:.1%}")
    print(f"step: {eager_step:.2f} ms with the eager loss, which takes {eager:.3f} ms or {eager / eager_step:.1%}")
    print(f"our loss makes the step {eager_step / step:.2f} times as fast")


if __name__ == "__main__":
    main()
