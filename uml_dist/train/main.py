"""One rank of a run, from the process group to the last checkpoint."""

import os
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import deepspeed
import torch
import torch.distributed as distributed

from uml_shards.errors import ShardError

from ..errors import UmlError
from ..launch import Devices, World, enter_world
from ..telemetry import Metrics, serve_metrics
from .checkpoint import RunState, find_checkpoint, load_tensors, verify
from .progress_line import ProgressPrinter
from .report import Reporter, peak_memory
from .run_folder import RunFolder
from .setup import Setup
from .trainer import Trainer

GRACE_SECONDS = 20.0
"""How long a rank that lost another one waits for the launcher to end it, so that the other's exit code counts."""


@dataclass(frozen=True)
class Start:
    """How a run starts.

    Attributes:
        run: its folder.
        resume: the checkpoint it goes on from, and where that one is; None to start at step 0.
    """

    run: Path
    resume: tuple[Path, RunState] | None = None


def default_run_name(setup: Setup) -> str:
    """Recipe, data and start time."""
    dataset = setup.splits[setup.first_stream].manifest.dataset
    return f"{setup.config.recipe}-{dataset}-{time.strftime('%Y%m%d-%H%M%S')}"


def train_rank(setup: Setup, start: Start, devices: Devices) -> int:
    """Train on this rank, in the world that the launcher has made.

    Returns:
        The exit code: 0 done, 2 the user must change something.
    """
    # DeepSpeed calls collectives by names that torch has begun to rename: nothing that a user can mend.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    world = enter_world()
    device = _device(world, devices)
    deepspeed.init_distributed("nccl" if device.type == "cuda" else "gloo", auto_mpi_discovery=False, verbose=False)
    folder = RunFolder(_agree(start.run), writes=world.rank == 0)
    config = setup.config
    metrics = Metrics(
        run=folder.path.name,
        recipe=config.recipe,
        stage=config.zero.stage,
        world_size=world.size,
        rank=world.rank,
        device=device.type,
    )
    reporter = Reporter(folder, metrics, ProgressPrinter() if world.rank == 0 else None)
    step = 0
    try:
        trainer = Trainer(setup, device, folder, reporter, world.local_size)
        if start.resume:
            trainer.resume(*start.resume)
        elif config.model.init:
            _start_from(trainer, Path(config.model.init), reporter)
        folder.write_config(config)
        folder.forget_after(trainer.state.step)
        folder.write_status("running", trainer.state.step)
        server = None
        if config.metrics.enabled:
            server = serve_metrics(metrics.registry, config.metrics.port, world.local_rank, host=config.metrics.host)
        _say_hello(setup, world, trainer, reporter, _gather(server.address if server else None))
        trainer.run()
        step = trainer.state.step
        largest, total = peak_memory()
        reporter.say(f"done: {folder.path}  peak memory {largest:.2f} GB on the largest rank, {total:.2f} GB on all")
        folder.write_status("done", step)
        if server:
            server.stop()
        return 0
    except (UmlError, ShardError) as error:
        print(f"error: rank {world.rank}: {error}", file=sys.stderr, flush=True)
        RunFolder(folder.path, writes=True).write_status("failed", step, str(error))
        # Without a farewell: a rank that failed cannot take part in one, and the others must not wait for it.
        os._exit(2)
    except RuntimeError as error:
        if world.size > 1 and "Connection" in str(error):
            print(f"rank {world.rank}: lost another rank", file=sys.stderr, flush=True)
            time.sleep(GRACE_SECONDS)
        folder.write_status("failed", step, str(error).splitlines()[0])
        raise
    finally:
        if distributed.is_initialized() and sys.exc_info()[0] is None:
            distributed.destroy_process_group()


def _device(world: World, devices: Devices) -> torch.device:
    if devices.kind == "cpu":
        return torch.device("cpu")
    torch.cuda.set_device(world.local_rank)
    return torch.device("cuda", world.local_rank)


def _agree(run: Path) -> Path:
    """Rank 0's run folder: its name holds the time, on which ranks may differ."""
    names = [str(run)]
    if distributed.get_world_size() > 1:
        distributed.broadcast_object_list(names, src=0)
    return Path(names[0])


def _gather(own: str | None) -> list[str]:
    """The addresses of all ranks' metrics that are served."""
    everyone: list[str | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(everyone, own)
    return [address for address in everyone if address is not None]


def _start_from(trainer: Trainer, path: Path, reporter: Reporter) -> None:
    """Fine-tuning: weights of a checkpoint, a run folder's best one, or a safetensors file of the one network."""
    if path.suffix == ".safetensors":
        weights = {next(iter(trainer.networks)): load_tensors(path)}
    else:
        checkpoint = find_checkpoint(path, "best") or find_checkpoint(path)
        if checkpoint is None:
            raise UmlError(f"model.init = {str(path)!r} is neither a checkpoint, a run folder nor a safetensors file")
        verify(checkpoint)
        names = [name for name in trainer.networks if (checkpoint / f"{name}.safetensors").is_file()]
        weights = {name: load_tensors(checkpoint / f"{name}.safetensors") for name in names}
    afresh = trainer.networks.start_from(weights, str(path))
    others = f"; of other shapes, so they start afresh: {', '.join(afresh)}" if afresh else ""
    reporter.say(f"weights from {path}{others}")


def _say_hello(setup: Setup, world: World, trainer: Trainer, reporter: Reporter, metrics: list[str]) -> None:
    parameters = sum(parameter.numel() for module in trainer.networks.modules() for parameter in module.parameters())
    words = [
        f"run {trainer.folder.path}: recipe {setup.config.recipe}, {parameters / 1e6:.2f} M parameters",
        f"{world.size} {'GPUs' if trainer.device.type == 'cuda' else 'CPU processes'}, ZeRO {setup.config.zero.stage}",
        setup.config.train.precision,
    ]
    if trainer.state.step:
        words.append(f"resumed at step {trainer.state.step}")
    reporter.say(", ".join(words))
    if metrics:
        reporter.say(f"metrics of {len(metrics)} ranks: {metrics[0]}" + (f" to {metrics[-1]}" if metrics[1:] else ""))
