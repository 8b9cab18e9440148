"""Compare the training step of the published UML network with ours: `make bench-step`.

The published network is the reference of the tests (tests/support/naive_uml.py), a plain implementation with the layers
and norms of the authors' code. Ours is timed with frozen batch norm in the encoders, as in the published network, and
with group norm, as used when training from scratch. All variants run alternately in one process, so that other load on
the machine affects them equally. The peak memory of each is measured in a separate process (step_memory.py). The steps
do not load data, whose cost is measured separately (step_loading.py). A second table shows the cost of each part.

    PYTHONPATH=tests/support python launchers/bench/step.py --steps 10 --width 1 --size 128 --batch 4
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import perf_counter

import torch

from step_costs import costs
from step_loading import loading
from step_memory import peak_memory
from step_report import print_costs, print_steps, write_costs, write_plot, write_steps
from step_variants import (
    Setting,
    Step,
    Variant,
    kinds_of,
    make_network,
    make_optimizer,
    make_step,
    variants_of,
)
from uml_dist.launch.precision import bf16_factor, instruction_set


def make_steps(setting: Setting) -> dict[Variant, Step]:
    """Create a step for each variant; variants of one kind share their parameters to save memory."""
    batch, steps = setting.data(), {}
    for kind in kinds_of(setting):
        network = make_network(setting, kind)
        optimizer = make_optimizer(network)
        for variant in variants_of(setting):
            if variant.kind == kind:
                own = network
                if variant.checkpointing:
                    own = make_network(setting, kind, checkpointing=True)
                    own.load_state_dict(dict(network.named_parameters()), strict=False, assign=True)
                steps[variant] = make_step(own, optimizer, batch, variant.bf16)
    return {variant: steps[variant] for variant in variants_of(setting)}


def in_turns(steps: dict[Variant, Step], rounds: int, warm_up: int) -> dict[Variant, float]:
    """Run the variants alternately, and return the median seconds per step of each."""
    seconds: dict[Variant, list[float]] = {variant: [] for variant in steps}
    for turn in range(warm_up + rounds):
        for variant, step in steps.items():
            start = perf_counter()
            step()
            if turn >= warm_up:
                seconds[variant].append(perf_counter() - start)
        print(f"round {turn + 1}/{warm_up + rounds}", end="\r", flush=True)
    return {variant: median(values) for variant, values in seconds.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Time the steps, print the tables and write CSV and PNG."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="paper", choices=("paper", "compact"), help="profile of the model")
    parser.add_argument("--width", type=float, default=1.0, help="width factor of all channels")
    parser.add_argument("--size", type=int, default=128, help="height and width, a multiple of 8")
    parser.add_argument("--batch", type=int, default=4, help="samples per step")
    parser.add_argument("--steps", type=int, default=10, help="timed steps per variant; the median is reported")
    parser.add_argument("--warm-up", type=int, default=2, help="untimed steps per variant before these")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder for step.csv, step.png, costs.csv")
    chosen = parser.parse_args(arguments)
    setting = Setting(chosen.profile, chosen.width, chosen.size, chosen.batch)
    torch.set_num_threads(chosen.threads)

    variants = variants_of(setting)
    if not any(variant.bf16 for variant in variants):
        factor = f"{bf16_factor():.1f} times as long as float32"
        print(f"bf16 is left out: {instruction_set()} has no instructions for it, so that it takes {factor}")
    memory = {variant: peak_memory(variant, setting, chosen.threads) for variant in variants}
    parts = costs(setting, kinds_of(setting))
    batch_seconds = loading(setting, 5 * chosen.steps)
    seconds = in_turns(make_steps(setting), chosen.steps, chosen.warm_up)

    chosen.out.mkdir(parents=True, exist_ok=True)
    print_steps(setting, seconds, memory, batch_seconds)
    print_costs(parts)
    write_steps(chosen.out / "step.csv", setting, chosen.steps, seconds, memory, batch_seconds)
    write_costs(chosen.out / "costs.csv", setting, parts)
    write_plot(chosen.out / "step.png", setting, seconds, memory)
    print(f"written to {chosen.out}/step.csv, step.png and costs.csv")


if __name__ == "__main__":
    main()
