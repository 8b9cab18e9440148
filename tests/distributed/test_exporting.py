"""Trainings that are scraped, killed, resumed and stopped: what Prometheus finds of them, and when."""

import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import pytest

from runs import uml_tree
from trainings import Training, wait_until
from uml_dist.recipes import Progress
from uml_dist.telemetry.targets import Target, current_targets
from uml_dist.train.hooks import Hook
from worlds import free_port

pytestmark = pytest.mark.distributed

ENDLESS = 100_000


def get(target: Target, path: str) -> tuple[int, str]:
    try:
        with urlopen(target.url.removesuffix("/metrics") + path, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


def value(text: str, name: str) -> float:
    (found,) = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
    return float(found)


def steps(target: Target) -> float:
    return value(get(target, f"/metrics?id={target.id}")[1], "uml_steps_total")


def tree(shards: Path, targets: Path, port: int = 0, **words: Any) -> dict[str, Any]:
    settings = {"enabled": True, "port": port, "targets_dir": str(targets)} | words.pop("metrics", {})
    return uml_tree(shards, **{f"metrics__{name}": value for name, value in settings.items()}, **words)


def port_of(target: Target) -> int:
    return int(target.address.rpartition(":")[2])


class Killed:
    """Two trainings at once, one of which is killed and resumed while a stranger has its port.

    Attributes:
        targets: what was listed while both trained.
        texts: what was scraped from each.
        misdirected: the answer of the first to a scrape of the third.
        paused: the answer of `/health` in a checkpoint, and the status of a scrape right after it.
        last: the last values of the killed ranks.
        resumed: what was listed after the resume.
        left: what was left in the folder of targets when both had been stopped.
        codes: exit codes of the ranks that were stopped.
    """

    def __init__(self, shards: Path, folder: Path) -> None:
        self.folder, found = folder, folder / "targets"
        port = free_port()
        first = tree(shards, found, port, train__steps=ENDLESS, checkpoint__every=1, data__workers=1)
        second = tree(shards, found, port, train__steps=ENDLESS)
        trainings = [Training(first, folder / "runs" / "a b", 2), Training(second, folder / "runs" / "other")]
        try:
            self.targets = wait_until(lambda: len(listed := current_targets(found)) == 3 and listed)
            wait_until(lambda: all(steps(target) >= 2 for target in self.targets))
            self.texts = [get(target, "/metrics")[1] for target in self.targets]
            self.misdirected = get(self.targets[0], f"/metrics?id={self.targets[2].id}")
            self.paused = wait_until(lambda: self.in_a_checkpoint(self.targets[0]))
            trainings[0].kill()
            self.last = [path.read_text() for path in sorted((folder / "runs" / "a b" / "metrics").glob("*.prom"))]
            with closing(socket.create_server(("127.0.0.1", port_of(self.targets[0])))):
                trainings.append(Training(first, folder / "runs" / "a b", 2))
                self.resumed = wait_until(lambda: self.of_attempt(found, 2))
                wait_until(lambda: all(steps(target) >= 1 for target in self.resumed))
                for process in (*trainings[1].processes, *trainings[2].processes):
                    process.terminate()
                self.codes = [*trainings[1].wait(), *trainings[2].wait()]
            self.left = list(found.iterdir())
        finally:
            for training in trainings:
                training.kill()

    @staticmethod
    def in_a_checkpoint(target: Target) -> tuple[tuple[int, str], int] | None:
        health = get(target, "/health")
        return (health, get(target, "/metrics")[0]) if health[1].startswith("checkpoint") else None

    @staticmethod
    def of_attempt(found: Path, attempt: int) -> list[Target]:
        return [target for target in current_targets(found) if target.attempt == attempt]


@pytest.fixture(scope="module")
def killed(partly_known, tmp_path_factory) -> Killed:
    return Killed(partly_known, tmp_path_factory.mktemp("killed"))


def test_two_runs_are_told_apart(killed):
    assert [(target.run, target.rank, target.attempt) for target in killed.targets] == [
        ("a b", 0, 1),
        ("a b", 1, 1),
        ("other", 0, 1),
    ]
    assert len({target.address for target in killed.targets}) == 3
    for target, text in zip(killed.targets, killed.texts, strict=True):
        assert f'rank="{target.rank}",recipe="uml",run="{target.run}"' in text
    assert killed.misdirected == (421, "another run listens here\n")


def test_a_checkpoint_is_no_stall_and_can_be_scraped(killed):
    (status, line), scrape = killed.paused
    assert (status, scrape) == (200, 200)
    assert re.fullmatch(r"checkpoint: step \d+ ended \d+\.\d s ago\n", line)


def test_killed_ranks_leave_their_last_values(killed):
    assert len(killed.last) == 2
    for rank, text in enumerate(killed.last):
        assert f'uml_attempt{{attempt="1",node="{socket.gethostname()}",rank="{rank}",run="a b"}} 1.0\n' in text


def test_a_resumed_run_whose_port_is_taken_replaces_its_targets(killed):
    assert [(target.run, target.rank) for target in killed.resumed] == [("a b", 0), ("a b", 1)]
    assert port_of(killed.targets[0]) not in map(port_of, killed.resumed)
    assert {target.id for target in killed.resumed}.isdisjoint(target.id for target in killed.targets)


def test_stopped_runs_leave_no_targets_but_their_last_values(killed):
    assert killed.codes == [75, 75, 75]
    assert killed.left == []
    for run, ranks in (("a b", 2), ("other", 1)):
        folder = killed.folder / "runs" / run / "metrics"
        assert sorted(path.name for path in folder.iterdir()) == [f"rank-{rank}.prom" for rank in range(ranks)]
        text = (folder / "rank-0.prom").read_text()
        assert value(text, "uml_attempt") == ranks
        assert value(text, "uml_steps_total") >= 1


class ClockSetBack(Hook):
    """Sets the clock of its process back by two hours after the third step."""

    def after_step(self, progress: Progress, norms: Any) -> None:
        if progress.step == 3:
            real = time.time
            time.time = lambda: real() - 7200


class WaitForFile(Hook):
    """Waits for a file after the eleventh step."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def after_step(self, progress: Progress, norms: Any) -> None:
        while progress.step == 11 and not self.path.exists():
            time.sleep(0.01)


def clock_set_back(scraped: Path) -> list[Hook]:
    return [ClockSetBack(), WaitForFile(scraped)]


def counters(text: str) -> dict[str, float]:
    lines = re.findall(r"^(uml_\w+_(?:total|sum|count|bucket)(?:{.*})?) (\S+)$", text, re.MULTILINE)
    return {name: float(value) for name, value in lines}


Answers = list[tuple[int, dict[str, float]]]
"""Status of `/health`, and counters, of each scrape."""


def scrape_to_the_end(target: Target, answers: Answers) -> None:
    """Scrape as fast as possible while a training serves."""
    with suppress(ConnectionError, URLError):  # the training has ended
        while True:
            health, text = get(target, "/health"), get(target, "/metrics")
            answers.append((health[0], counters(text[1])))


def test_hundreds_of_scrapes_and_a_clock_set_back_change_neither_weights_nor_counters(partly_known, tmp_path):
    file = tmp_path / "scraped-enough"
    trainings = [
        Training(tree(partly_known, tmp_path / f"{name}-targets", train__steps=12), tmp_path / name, hooks=hooks)
        for name, hooks in (("quiet", tuple), ("scraped", partial(clock_set_back, file)))
    ]
    (target,) = wait_until(lambda: current_targets(tmp_path / "scraped-targets"))
    answers: list[Answers] = [[] for _ in range(4)]
    with ThreadPoolExecutor(len(answers)) as threads:
        clients = [threads.submit(scrape_to_the_end, target, own) for own in answers]
        # A client that is refused while the training goes on would end before.
        wait_until(lambda: all(len(own) >= 50 for own in answers))
        file.touch()
    assert [training.wait() for training in trainings] == [[0], [0]]
    for client, own in zip(clients, answers, strict=True):
        client.result()
        assert {status for status, _ in own} == {200}
        assert own[-1][1]["uml_steps_total"] > own[0][1]["uml_steps_total"]
        for (_, before), (_, after) in pairwise(own):
            assert all(after[name] >= value for name, value in before.items())
    quiet, scraped = (
        sorted((tmp_path / name / "checkpoints" / "step-000012").iterdir()) for name in ("quiet", "scraped")
    )
    files = [path.name for path in quiet if path.suffix == ".safetensors"]
    assert len(files) == 2
    for name in files:
        assert (quiet[0].parent / name).read_bytes() == (scraped[0].parent / name).read_bytes()
