"""Metrics in files: complete at any moment, labelled, and no danger to the training when they cannot be written."""

import logging
import os
import resource
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from forked import forked
from uml_dist.telemetry import Metrics
from uml_dist.telemetry.textfile import TextFile, sweep_textfiles

LABELS = {"run": 'a"\\b', "node": "n", "rank": "3", "attempt": "2"}


@pytest.fixture
def metrics() -> Metrics:
    metrics = Metrics(run="inner", recipe="uml", stage=1, world_size=4, rank=3, device="cpu")
    metrics.record_step(step=1, epoch=0.5, images=4, seconds=0.2, data_wait_seconds=0.1)
    return metrics


def wait_for(path: Path, text: str) -> None:
    deadline = time.monotonic() + 30
    while not path.exists() or text not in path.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_every_series_has_the_labels_and_its_own_come_first(metrics, tmp_path):
    file = TextFile(tmp_path / "new" / "a.prom", metrics.registry, LABELS, keep=True)
    file.stop()
    families = list(text_string_to_metric_families(file.path.read_text()))
    samples = [sample for family in families for sample in family.samples]
    assert len(samples) > 20
    assert all({*sample.labels} >= {*LABELS} for sample in samples)
    assert {sample.labels["run"] for sample in samples} == {'a"\\b', "inner"}
    assert {sample.labels["run"] for sample in samples if sample.name == "uml_run_info"} == {"inner"}
    kinds = {family.name: family.type for family in families}
    assert (kinds["uml_step_seconds"], kinds["uml_steps"], kinds["uml_epoch"]) == ("histogram", "counter", "gauge")


def test_the_file_is_replaced_and_removed_at_the_end(metrics, tmp_path):
    file = TextFile(tmp_path / "a.prom", metrics.registry, LABELS, seconds=0.01)
    wait_for(file.path, "uml_global_step")
    metrics.record_step(step=17, epoch=1.0, images=4, seconds=0.2, data_wait_seconds=0.1)
    wait_for(file.path, "} 17.0\n")
    file.stop()
    file.stop()
    assert list(tmp_path.iterdir()) == []


def test_the_last_values_stay(metrics, tmp_path):
    file = TextFile(tmp_path / "a.prom", metrics.registry, LABELS, seconds=1000.0, keep=True)
    wait_for(file.path, "uml_global_step")
    metrics.record_step(step=17, epoch=1.0, images=4, seconds=0.2, data_wait_seconds=0.1)
    file.stop()
    assert "} 17.0\n" in file.path.read_text()
    assert list(tmp_path.iterdir()) == [file.path]


def test_a_reader_never_sees_a_part_of_a_file(metrics, tmp_path):
    file = TextFile(tmp_path / "a.prom", metrics.registry, LABELS, seconds=0.0)
    wait_for(file.path, "uml_global_step")
    texts = [file.path.read_text() for _ in range(500)]
    file.stop()
    assert {text.count("\n") for text in texts} == {texts[0].count("\n")}


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 64 kB; skips the test where this user cannot mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_warning_until_there_is_room_again(metrics, small_disk, caplog):
    (small_disk / "other").write_bytes(bytes(63 << 10))
    with caplog.at_level(logging.WARNING):
        file = TextFile(small_disk / "a.prom", metrics.registry, LABELS, seconds=0.01)
        time.sleep(0.2)  # many writes
        assert not file.path.exists()
        (small_disk / "other").unlink()
        wait_for(file.path, "uml_global_step")
        file.stop()
    (entry,) = caplog.records
    assert entry.getMessage() == f"metrics are not written to {file.path}: No space left on device"


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_limit_of_the_file_size_keeps_the_former_file(metrics, tmp_path):
    def limited() -> str:
        path = tmp_path / "a.prom"
        path.write_text("former")
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        file = TextFile(path, metrics.registry, LABELS, seconds=0.01, keep=True)
        time.sleep(0.1)
        file.stop()
        return path.read_text() + str(sorted(one.name for one in tmp_path.iterdir()))

    with forked(limited) as (_, answer):
        assert answer == "former['a.prom']"


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_files_of_killed_ranks_are_removed_and_those_of_others_kept(metrics, tmp_path):
    def write(name: str) -> Path:
        file = TextFile(tmp_path / name, metrics.registry, LABELS, seconds=1000.0)
        wait_for(file.path, "uml_global_step")
        return file.path

    for name in ("node.prom", "other-0123456789ab.prom", "notes.tmp"):
        (tmp_path / name).write_text("x 1\n")
        os.utime(tmp_path / name, (0, 0))
    mine = write("mine-0123456789ab.prom")
    with forked(lambda: str(write("killed-0123456789ab.prom"))) as (_, path):
        assert sweep_textfiles(tmp_path) == []
    assert sweep_textfiles(tmp_path) == [Path(path)]
    assert (mine.exists(), len(list(tmp_path.iterdir()))) == (True, 4)
    assert sweep_textfiles(tmp_path / "missing") == []
