"""Faults that are injected on purpose, and that none is by accident."""

import json
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from uml_dist.config.faults import ALLOW, InjectConfig, check_injection
from uml_dist.errors import UmlError
from uml_dist.recipes import Progress
from uml_dist.train.faults import RECORD, Injector

STEPS = 4000


def at(step: int) -> Progress:
    """Progress before a step, which are numbered from 1."""
    return Progress(step - 1, STEPS, "train", step - 1, STEPS)


def batch_of() -> SimpleNamespace:
    return SimpleNamespace(image=torch.zeros(2, 3))


def faults_of(injector: Injector) -> list[int]:
    """Steps in which the images of rank 0 are made not finite."""
    found = []
    for step in range(1, STEPS + 1):
        batch = batch_of()
        injector.before_step(at(step), [{"train": batch}])
        found += [step] if batch.image.isnan().all() else []
    return found


def test_steps_and_rank_are_those_of_the_configuration():
    assert faults_of(Injector(InjectConfig(kind="nan", rank=0, steps=(3, 7)))) == [3, 7]
    assert faults_of(Injector(InjectConfig(kind="nan", rank=1, steps=(3, 7)))) == []
    assert faults_of(Injector(InjectConfig())) == []


def test_faults_are_drawn_with_the_seed_and_as_far_apart_as_asked(tmp_path):
    config = InjectConfig(kind="nan", every=20, seed=5)
    first = faults_of(Injector(config))
    assert first == faults_of(Injector(config)) != faults_of(Injector(InjectConfig(kind="nan", every=20, seed=6)))
    assert STEPS / 20 == pytest.approx(len(first), rel=0.3)


def test_a_fault_that_the_run_has_had_does_not_come_again_when_its_step_is_repeated(tmp_path):
    config = InjectConfig(kind="nan", rank=0, steps=(3, 7))
    batch = batch_of()
    Injector(config, tmp_path).before_step(at(3), [{"train": batch}])
    assert batch.image.isnan().all()
    assert [json.loads(line) for line in (tmp_path / RECORD).read_text().splitlines()] == [
        {"kind": "nan", "step": 3, "rank": 0}
    ]
    assert faults_of(Injector(config, tmp_path)) == [7]


@pytest.mark.parametrize("stage", [0, 3])
def test_one_bit_of_one_weight_is_flipped(stage):
    """At ZeRO 3 of the rank's part, which a stand-in of DeepSpeed's attribute holds here."""
    module = nn.Linear(4, 3)
    for parameter in module.parameters():
        parameter.ds_tensor = parameter.detach().clone()
    engine = SimpleNamespace(module=module, zero_optimization_stage=lambda: stage)
    injector = Injector(InjectConfig(kind="bit-flip", rank=0, steps=(2,)))

    def bits() -> torch.Tensor:
        weights = [one.ds_tensor if stage == 3 else one.detach() for one in module.parameters()]
        return torch.cat([weight.flatten() for weight in weights]).view(torch.int32)

    before = bits().clone()
    for step in (1, 2, 2, 3):  # twice in a step with two networks
        injector.before_step(at(step), [{"train": batch_of()}])
        injector.before_update("net", engine, at(step))
    assert (before ^ bits()).tolist() == [1] + [0] * 14


def test_the_writer_of_the_next_checkpoint_is_killed_and_no_other_process():
    injector = Injector(InjectConfig(kind="kill-writer", steps=(2,)))
    wait = "import time; time.sleep(600)"
    other = subprocess.Popen([sys.executable, "-c", wait])
    injector.before_step(at(2), [])
    writer = subprocess.Popen([sys.executable, "-c", wait, "uml_dist.run.writer"])
    try:
        injector.after_step(at(3), {})
        assert writer.wait(60) == -signal.SIGKILL
        assert other.poll() is None
    finally:
        for process in (other, writer):
            process.kill()
            process.wait()


@pytest.mark.parametrize(("kind", "ends"), [("kill", os.WIFSIGNALED), ("stop", os.WIFSTOPPED)])
def test_the_rank_is_killed_or_stopped(kind, ends):
    child = os.fork()
    if child == 0:
        Injector(InjectConfig(kind=kind, rank=0, steps=(1,))).before_step(at(1), [])
        os._exit(0)
    _, status = os.waitpid(child, os.WUNTRACED)
    assert ends(status)
    if kind == "stop":
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize(
    ("environment", "rank", "message"),
    [
        ({}, 0, f"faults.inject would harm this training (kill on rank 0 in step 4): set {ALLOW}=1 if you want that"),
        ({ALLOW: "true"}, 0, "faults.inject would harm this training"),
        ({ALLOW: "1"}, 2, "faults.inject.rank = 2, but there are 2 ranks: name one from 0 to 1"),
    ],
)
def test_nothing_is_injected_by_accident(environment, rank, message):
    with pytest.raises(UmlError) as caught:
        check_injection(InjectConfig(kind="kill", rank=rank, steps=(4,)), 2, environment)
    assert str(caught.value).startswith(message)


def test_what_is_allowed_is_not_refused():
    check_injection(InjectConfig(), 1, {})
    check_injection(InjectConfig(kind="kill", rank=1, steps=(4,)), 2, {ALLOW: "1"})
    assert str(InjectConfig(kind="stop", every=1000)) == "stop on a rank every 1000 steps on average"
    assert str(InjectConfig(kind="kill-writer", steps=(3, 4))) == "kill-writer in step 3, 4"


@pytest.mark.parametrize(
    "words", [{"kind": "kill"}, {"steps": (3,)}, {"kind": "kill", "steps": (3,), "every": 5}, {"kind": "fire"}]
)
def test_incomplete_faults_are_refused(words):
    with pytest.raises(ValidationError):
        InjectConfig(**words)
