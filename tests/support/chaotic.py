"""Trainings in which processes are killed at random: what is killed when, and what must hold at the end."""

import json
import random
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import tomli_w
import torch

from uml_dist.run.checkpoint import latest_valid, read_networks
from worlds import free_port

SCRIPT = Path(__file__).with_name("recorded_training.py")
DEEPSPEED = ("-m", "deepspeed.launcher.runner")
KINDS = ("launcher", "launch.py", "node", "rank", "loader", "writer")
"""Processes of a training: DeepSpeed's front end and its launcher, ours that it becomes, and what ranks start."""

MOMENTS = ("step", "save", "step", "save", "start")
"""Kinds of moments of a kill, by turns: a while after a step, while a checkpoint is written, before the first step."""

GONE_SECONDS = 180
"""How long the other processes may take to end; a minute on a busy machine."""


@dataclass
class Kill:
    """A process that was killed.

    Attributes:
        kind: one of `KINDS`.
        moment: one of `MOMENTS`.
        step: steps of the run until then, as logged.
        seconds: since the first start of the run.
        gone: seconds until all other processes of the training had ended.
    """

    kind: str
    moment: str
    step: int
    seconds: float
    gone: float


@dataclass
class Chaos:
    """A training whose processes were killed.

    Attributes:
        run: its folder.
        kills: what was killed.
        progress: seconds since the first start, and steps that were logged by then.
        left: what the processes have left behind after a kill; must be empty.
    """

    run: Path
    kills: list[Kill] = field(default_factory=list)
    progress: list[tuple[float, int]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


class Tree:
    """The processes of a started training, also those whose parents have died."""

    def __init__(self, command: Sequence[str], run: Path, log: Path) -> None:
        self._run = str(run)
        self._seen: dict[int, psutil.Process] = {}
        with log.open("ab") as stream:
            self.front = subprocess.Popen(command, stdout=stream, stderr=stream)

    def look(self) -> dict[str, list[psutil.Process]]:
        """The living processes by kind, the oldest first."""
        found: dict[str, list[psutil.Process]] = defaultdict(list)
        for process in psutil.process_iter(["cmdline", "status", "create_time"]):
            words = process.info["cmdline"] or []
            if process.info["status"] != psutil.STATUS_ZOMBIE and any(self._run in word for word in words):
                self._seen[process.pid] = process
                with suppress(psutil.NoSuchProcess):
                    found[_kind(process, words)].append(process)
        return found

    def left(self) -> list[str]:
        """Files in shared memory that its processes have made and not removed."""
        shared = Path("/dev/shm")
        names = [path.name for path in shared.iterdir()] if shared.is_dir() else []
        return [name for name in names if any(f"_{process}_" in name for process in self._seen)]


def _kind(process: psutil.Process, words: Sequence[str]) -> str:
    if "uml_dist.run.writer" in words:
        return "writer"
    if "uml_dist.launch.node" in words:
        return "node"
    if "deepspeed.launcher.runner" in words:
        return "launcher"
    if "deepspeed.launcher.launch" in words:
        return "launch.py"
    if not any(word.startswith("--local_rank") for word in words):
        return "launcher"
    # Loader workers are forks of their rank.
    return "loader" if psutil.Process(process.ppid()).cmdline() == list(words) else "rank"


def command(tree: Mapping[str, Any], run: Path, launcher: Iterable[str] = ()) -> list[str]:
    """The command that trains a configuration on two CPU processes, or resumes that, by a launcher or by ours."""
    config = run.with_name(f"{run.name}.toml")
    config.write_text(tomli_w.dumps(dict(tree)))
    launcher = (*launcher, "--master_port", str(free_port())) if launcher else ()
    words = ["--num_gpus", "2", "--cpu", "--config", str(config), "--run", str(run)]
    return [sys.executable, *launcher, str(SCRIPT), *words]


def train_undisturbed(tree: Mapping[str, Any], run: Path) -> None:
    """Train to the end."""
    run.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(command(tree, run), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def train_disturbed(
    tree: Mapping[str, Any], run: Path, kills: int, seed: int, launcher: Sequence[str] = DEEPSPEED
) -> Chaos:
    """Train to the end with kills, repeating the same command after each."""
    run.parent.mkdir(parents=True, exist_ok=True)
    log = run.with_name("log")
    draw, chaos, start = random.Random(seed), Chaos(run), time.monotonic()
    victims = _victims(draw, launcher)
    for number in range(kills + 1):
        training = Tree(command(tree, run, launcher), run, log)
        try:
            if number == kills:
                while training.front.poll() is None:
                    training.look()
                    chaos.progress.append((time.monotonic() - start, last_step(run)))
                    time.sleep(0.1)
                assert training.front.returncode == 0, log.read_text()
                _wait_until_gone(training)
            else:
                moment = MOMENTS[number % len(MOMENTS)]
                kill = _kill(training, chaos, next(victims), moment, draw, start)
                killed = time.monotonic()
                training.front.wait(GONE_SECONDS)
                _wait_until_gone(training)
                kill.gone = time.monotonic() - killed
                chaos.progress.append((time.monotonic() - start, last_step(run)))
            chaos.left += training.left()
        finally:
            for processes in training.look().values():
                for process in processes:
                    process.kill()
            training.front.wait()
    return chaos


def _victims(draw: random.Random, launcher: Sequence[str]) -> Iterator[str]:
    """Kinds of processes, each once before one of them comes again; the first are those that checkpoints need most."""
    kinds = [kind for kind in KINDS if launcher or kind not in ("launcher", "launch.py")]
    yield from (first := draw.sample(["rank", "writer"], 2))
    yield from draw.sample([kind for kind in kinds if kind not in first], len(kinds) - 2)
    while True:
        yield from draw.sample(kinds, len(kinds))


def _kill(training: Tree, chaos: Chaos, kind: str, moment: str, draw: random.Random, start: float) -> Kill:
    """Wait for the moment and kill a process of a kind, or of another that there is by then."""
    moment = "save" if kind == "writer" else moment
    begun, first, steps = time.monotonic(), last_step(chaos.run), draw.randint(1, 6)
    delay = draw.uniform(1, 10) if moment == "start" else draw.uniform(0, 0.3)
    deadline = begun + 600
    while True:
        assert training.front.poll() is None, chaos.run.with_name("log").read_text()
        assert time.monotonic() < deadline
        now, found = last_step(chaos.run), training.look()
        chaos.progress.append((time.monotonic() - start, now))
        if moment == "start":
            due = time.monotonic() >= begun + delay
        else:
            due = now >= first + steps and (moment == "step" or "writer" in found)
        if due:
            break
        time.sleep(0.05)
    if moment == "step":
        time.sleep(delay)
        found = training.look()
    kind = kind if kind in found else draw.choice(sorted(found))
    victim = draw.choice(found[kind])
    with suppress(psutil.NoSuchProcess):
        victim.kill()
    chaos.kills.append(Kill(kind, moment, last_step(chaos.run), time.monotonic() - start, 0.0))
    return chaos.kills[-1]


def _wait_until_gone(training: Tree) -> None:
    deadline = time.monotonic() + GONE_SECONDS
    while found := training.look():
        assert time.monotonic() < deadline, f"{sorted(found)} have not ended"
        time.sleep(0.05)


def records_of(run: Path) -> list[dict[str, Any]]:
    """The records of steps in a run's metrics.jsonl."""
    lines = (run / "metrics.jsonl").read_text().splitlines() if (run / "metrics.jsonl").is_file() else []
    records = []
    for line in lines:
        with suppress(ValueError):  # the last line, which is being written
            records.append(json.loads(line))
    return [record for record in records if "loss" in record]


def last_step(run: Path) -> int:
    """The last step that was logged; 0 without one."""
    records = records_of(run)
    return records[-1]["step"] if records else 0


def losses_of(run: Path) -> dict[int, float]:
    """Loss of every step."""
    return {record["step"]: record["loss"] for record in records_of(run)}


def keys_of(folder: Path) -> dict[int, list[dict[str, list[str]]]]:
    """Keys of every step by stream, of all micro batches of all ranks; a step that was repeated must have had the same.

    Args:
        folder: where the keys of the ranks are.
    """
    steps: dict[int, list[dict[str, list[str]]]] = defaultdict(list)
    for path in sorted(folder.glob("keys-*.jsonl")):
        own: dict[int, list[dict[str, list[str]]]] = {}
        for line in path.read_text().splitlines():
            record = json.loads(line)
            assert own.setdefault(record["step"], record["keys"]) == record["keys"]
        for step, keys in own.items():
            steps[step] += keys
    return steps


def epochs_of(steps: Mapping[int, Sequence[Mapping[str, Sequence[str]]]], stream: str, size: int) -> list[list[str]]:
    """Keys of the whole epochs of a stream that has so many samples."""
    keys = [key for step in sorted(steps) for streams in steps[step] for key in streams.get(stream, ())]
    return [keys[start : start + size] for start in range(0, len(keys) - size + 1, size)]


def differences(plain: Path, chaos: Chaos, sizes: Mapping[str, int]) -> list[str]:
    """How a training that was killed differs from one in another folder that was not; empty if it does not.

    Args:
        plain: run folder of the training that was not killed.
        chaos: the one that was.
        sizes: number of samples of each stream.
    """
    found = [f"left behind: {name}" for name in chaos.left]
    losses, expected = losses_of(chaos.run), losses_of(plain)
    found += [f"loss of step {step}" for step in expected if losses.get(step) != expected[step]]
    found += [] if len(records_of(chaos.run)) == len(expected) else ["steps that were logged twice or never"]
    checkpoints = [latest_valid(run / "checkpoints") for run in (chaos.run, plain)]
    weights, others = (read_networks(one[0]) for one in checkpoints if one is not None)
    for name, state in others.items():
        same = [torch.equal(value, weights[name].weights[key]) for key, value in state.weights.items()]
        found += [] if all(same) else [f"weights of {name}"]
    keys, given = keys_of(chaos.run.parent), keys_of(plain.parent)
    found += [f"keys of step {step}" for step in given if keys.get(step) != given[step]]
    for stream, size in sizes.items():
        epochs = epochs_of(keys, stream, size)
        found += [f"epoch {number} of {stream}" for number, epoch in enumerate(epochs, 1) if len(set(epoch)) != size]
    return found
