"""One rank of a run, from the process group to the last checkpoint."""

import os
import socket
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import deepspeed
import torch
import torch.distributed as distributed

from uml_shards.errors import STOPPED, ShardError, print_error
from uml_shards.read.loader import worker_error

from ..config.faults import check_injection
from ..distributed.ranks import all_gather, broadcast, device_of
from ..errors import CORRUPT, CorruptionError, UmlError
from ..launch import Devices, World, enter_world, exit_with_error
from ..launch.precision import computes_in_bf16, describe_bf16
from ..run.background import SaveError
from ..run.checkpoint import RunState
from ..run.checkpoint_folder import checkpoints_in
from ..run.folder import RunFolder, versions
from ..run.history import History, read_history
from ..telemetry import Metrics
from ..telemetry.tensorboard import TensorBoardWriter
from .canary import Canary
from .device_metrics import collect_devices
from .ending import OTHERS_SECONDS, Ending
from .engine import zero_stage
from .exporter import Exporter
from .faults import Injector
from .hooks import Hook
from .loading import loader_workers, of_training
from .progress_line import ProgressPrinter
from .report import Reporter, peak_memory
from .setup import Setup
from .trainer import Trainer
from .watchdog import Place, Watchdog

GRACE_SECONDS = 20.0
"""How long a rank that lost another one waits for the launcher to end it, so that the other's exit code is kept."""


SIGNAL_SECONDS = 1.0
"""How long a rank whose loader worker has ended waits for a signal: launchers stop the workers first, then the rank."""


@dataclass(frozen=True)
class Start:
    """How a run starts.

    Attributes:
        run: the run's folder.
        resume: path and state of the checkpoint to resume from; None to start at step 0.
        left: lines for the user about damaged checkpoints that are not used.
        found: names of the run's checkpoints when `resume` was chosen; None if unknown.
    """

    run: Path
    resume: tuple[Path, RunState] | None = None
    left: tuple[str, ...] = ()
    found: tuple[str, ...] | None = None


def default_run_name(setup: Setup) -> str:
    """Return a name made of recipe, data set and current time."""
    dataset = setup.splits[setup.first_stream].manifest.dataset
    return f"{setup.recipe.name}-{dataset}-{time.strftime('%Y%m%d-%H%M%S')}"


def train_rank(setup: Setup, start: Start, devices: Devices, hooks: Sequence[Hook] = ()) -> int:
    """Train on this rank, in the world that the launcher has created.

    Args:
        setup: the run's checked settings.
        start: how the run starts.
        devices: the kind of devices.
        hooks: called around each step.

    Returns:
        The exit code: 0 if the training is done, 75 if it has stopped and can be resumed.
    """
    # DeepSpeed uses names of collectives that torch has deprecated; users cannot change that.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    world = enter_world()
    ending = Ending(world, start.run)
    try:
        return _train(setup, start, devices, hooks, world, ending)
    finally:
        ending.release()


def _train(setup: Setup, start: Start, devices: Devices, hooks: Sequence[Hook], world: World, ending: Ending) -> int:
    device = device_of(devices.kind, world.local_rank)
    deepspeed.init_distributed("nccl" if device.type == "cuda" else "gloo", auto_mpi_discovery=False, verbose=False)
    # Rank 0's folder, as the default name contains the time, which may differ between ranks.
    folder = RunFolder(broadcast(start.run), writes=world.rank == 0)
    try:
        ending.own(folder.path)
        _check_found(start)
    except UmlError as error:  # the same on all ranks
        exit_with_error(error)
    history = broadcast(read_history(folder.path, start.resume[1].step if start.resume else 0, folder.started))
    metrics = _metrics(setup, world, device, folder, history)
    used, counting = collect_devices(metrics.registry, setup.config, device, devices, world.local_rank, folder.path)
    metrics.record_build(versions(), used.driver if used else "")
    reporter = Reporter(folder, metrics, ProgressPrinter() if world.rank == 0 else None, history, used)
    try:
        workers, fewer = _loader_workers(setup, world, device)
        faults = setup.config.faults
        check_injection(faults.inject, world.size, os.environ)
        injected = [Injector(faults.inject, folder.path)] if faults.inject.kind != "none" else []
        guards = (*injected, Canary(faults.canary_every, reporter.say))
        trainer = Trainer(setup, device, folder, reporter, workers, (*counting, *guards, *hooks))
        _check_same_start(start)
        load_start(trainer, start)
    except UmlError as error:  # the same on all ranks
        exit_with_error(error)
    ending.watch(trainer)
    exporter = Exporter(
        setup.config.metrics, metrics.registry, world, folder.path, attempt=history.attempt, began=history.began
    )
    exporter.health.watch(lambda: trainer.spans.open)
    reporter.health = exporter.health
    targets, places = all_gather(exporter.target), all_gather(Place.here())
    reports = folder.path / "faults" / f"attempt-{history.attempt}"
    watchdog = Watchdog(
        setup.config.faults, exporter.health, lambda: trainer.spans.open, world.rank, places, reports, ending.hang
    )
    for line in (*start.left, *([fewer] if fewer else []), *exporter.notes):
        reporter.say(line)
    if injected:
        reporter.say(f"FAULTS ARE INJECTED (faults.inject): {faults.inject}")
    _say_hello(setup, world, trainer, [target.url for target in targets if target is not None])
    try:
        folder.begin(setup.config, trainer.state.step)
        ending.stopping(exporter.stop)
        exporter.begin(targets)
        watchdog.begin()
        if setup.config.metrics.tensorboard and folder.writes:
            reporter.events = TensorBoardWriter(folder.path, trainer.state.step)
        stopped = trainer.run()
    except Exception as error:
        _fail(error, world, ending)
        raise
    watchdog.stop()
    if stopped is None:
        _say_done(trainer)
        ending.done()
    else:
        ending.stopped(stopped)
    if reporter.events:
        reporter.events.close()
    exporter.close()
    if used:
        used.stop()
    distributed.destroy_process_group()
    return 0 if stopped is None else STOPPED


def _say_done(trainer: Trainer) -> None:
    largest, total = peak_memory()
    memory = f"peak memory {largest:.2f} GB on the largest rank, {total:.2f} GB on all"
    if trainer.device.type == "cuda":
        memory += f", {torch.cuda.max_memory_allocated(trainer.device) / 1e9:.2f} GB of GPU memory on rank 0"
    trainer.reporter.say(f"done: {trainer.folder.path}, {memory}")


def _fail(error: Exception, world: World, ending: Ending) -> None:
    """Record why a run ends on this rank; return only if the error is not one that users can fix."""
    if isinstance(error, RuntimeError) and (known := worker_error(error)):
        time.sleep(SIGNAL_SECONDS)
        error = known
    if isinstance(error, SaveError) and world.rank != 0:
        time.sleep(OTHERS_SECONDS)  # rank 0 reports it
        os._exit(2)
    if isinstance(error, UmlError | ShardError | OSError):
        if ending.fail(str(error)):  # and not another rank, which may have the same error
            print_error(f"rank {world.rank}: {error}")
        # Without destroying the process group: the others would wait for this rank.
        os._exit(CORRUPT if isinstance(error, CorruptionError) else 2)
    reason = str(error).partition("\n")[0] or type(error).__name__
    lost = world.size > 1 and isinstance(error, RuntimeError) and "Connection" in str(error)
    first = ending.fail(f"rank {world.rank} has lost another rank: {reason}" if lost else reason)
    if lost and first:
        print(f"rank {world.rank} has lost another rank", file=sys.stderr, flush=True)
    if lost and not ending.is_asked:
        time.sleep(GRACE_SECONDS)


def _metrics(setup: Setup, world: World, device: torch.device, folder: RunFolder, history: History) -> Metrics:
    return Metrics(
        run=folder.path.absolute().name,
        recipe=setup.config.recipe,
        stage=zero_stage(setup.config),
        world_size=world.size,
        rank=world.rank,
        device=device.type,
        node=socket.gethostname(),
        attempt=history.attempt,
        dataset=setup.splits[setup.first_stream].manifest.dataset,
    )


def load_start(trainer: Trainer, start: Start) -> None:
    """Load the checkpoint to resume from, or else the initial weights.

    Raises:
        UmlError: see `Trainer.start_from` and `Networks.start`.
    """
    init = trainer.config.model.init
    if start.resume:
        trainer.resume(*start.resume)
    elif init:
        trainer.start_from(Path(init))
    else:
        for line in trainer.networks.start():
            trainer.reporter.say(line)


def _check_same_start(start: Start) -> None:
    """Check that all ranks resume from the same checkpoint, even if some cannot read the latest.

    Raises:
        UmlError: they do not; raised on all ranks.
    """
    names = all_gather(start.resume[0].name if start.resume else "none")
    if len(set(names)) > 1:
        listed = ", ".join(f"rank {rank} {name}" for rank, name in enumerate(names))
        raise UmlError(
            f"ranks would resume from different checkpoints ({listed}): let all nodes read the same run folder"
        )


def _loader_workers(setup: Setup, world: World, device: torch.device) -> tuple[int, str | None]:
    """Return the number of loader workers of this rank, and a line for the user if they are fewer than usual.

    Raises:
        UmlError: there is no room for as many as `data.workers` states; raised on all ranks.
    """
    workers, fewer, problem = 0, None, None
    try:
        in_flight = of_training(setup, world.size)
        workers, fewer = loader_workers(setup.config, device.type == "cuda", world.local_size, in_flight)
    except UmlError as error:
        problem = str(error)
    # Ranks may measure different room, while others already use it.
    for found in all_gather(problem):
        if found:
            raise UmlError(found)
    return workers, fewer


def _check_found(start: Start) -> None:
    """Check, once the folder is owned, that no other training has changed it since the checkpoint was chosen.

    Raises:
        UmlError: one has; raised on all ranks.
    """
    now = tuple(path.name for path in checkpoints_in(start.run / "checkpoints"))
    if any(all_gather(start.found is not None and start.found != now)):
        raise UmlError(f"run {start.run} was trained by another process meanwhile: repeat the command to resume it")


def _say_hello(setup: Setup, world: World, trainer: Trainer, metrics: list[str]) -> None:
    parameters = trainer.networks.trained_parameters
    words = [
        f"run {trainer.folder.path}: recipe {setup.config.recipe}, {parameters / 1e6:.2f} M parameters",
        f"{world.size} {'GPUs' if trainer.device.type == 'cuda' else 'CPU processes'}, ZeRO {setup.config.zero.stage}",
        "bf16" if computes_in_bf16(setup.config.train.precision, trainer.device) else "fp32",
    ]
    if trainer.state.step:
        words.append(f"resumed at step {trainer.state.step}")
    trainer.reporter.say(", ".join(words))
    if world.rank == 0 and (slower := describe_bf16(setup.config.train.precision, trainer.device)):
        trainer.reporter.say(slower)
    if metrics:
        trainer.reporter.say(
            f"metrics of {len(metrics)} ranks: {metrics[0]}" + (f" to {metrics[-1]}" if metrics[1:] else "")
        )
