"""What is written into a run folder, also when the disk is full."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from runs import uml_tree
from uml_dist.config.loading import read_config, validate
from uml_dist.errors import UmlError
from uml_dist.run.folder import RunFolder


@pytest.fixture
def full_disk(tmp_path):
    """Return a function that fills the file system, of 64 KiB, of a run folder."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")

    def fill() -> None:
        descriptor = os.open(folder / "filler", os.O_WRONLY | os.O_CREAT)
        try:
            while os.write(descriptor, bytes(4096)):
                pass
        except OSError:
            os.close(descriptor)

    yield folder, fill
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def config(partly_known):
    return validate(uml_tree(partly_known), "test")


def test_a_full_disk_is_named_with_its_file_and_the_status_is_the_truth(full_disk, config):
    path, fill = full_disk
    folder = RunFolder(path, writes=True)
    folder.begin(config, 0)
    folder.append_metrics({"step": 1, "loss": 1.0})
    before = {path.name: path.read_bytes() for path in path.iterdir()}
    fill()
    long = {"step": 2, "loss": "1" * 4096}
    with pytest.raises(
        UmlError, match=r"metrics\.jsonl cannot be written: No space left on device: make room"
    ) as error:
        folder.append_metrics(long)
    assert f"resume with --run {path}" in str(error.value)
    with pytest.raises(UmlError, match=r"config\.toml cannot be written"):
        folder.write_config(config)
    with pytest.raises(UmlError, match=r"status\.json cannot be written"):
        folder.write_status("running", 5)
    assert (path / "config.toml").read_bytes() == before["config.toml"]
    folder.write_end("failed", 5, str(error.value))
    status = json.loads((path / "status.json").read_text())
    assert (status["status"], status["step"], status["reason"]) == ("failed", 5, str(error.value))
    assert {one.name for one in path.iterdir()} == {*before, "filler"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_log_on_a_full_device_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(UmlError, match=r"metrics\.jsonl cannot be written: No space left on device"):
        RunFolder(tmp_path, writes=True).append_metrics({"step": 1})


def test_a_shorter_status_leaves_nothing_of_the_longer_one_on_a_full_disk(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path, writes=True)
    folder.write_end("failed", 5, "long " * 50)

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("uml_dist.run.folder.replace_text", fail)
    folder.write_end("failed", 6, "short")
    assert json.loads((tmp_path / "status.json").read_text())["reason"] == "short"


def test_a_command_line_of_any_characters_stays_a_comment(tmp_path, config, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--run", "a\nrecipe = 'b'", "\udcff", "Köln 1"])
    RunFolder(tmp_path, writes=True).write_config(config)
    assert read_config(tmp_path / "config.toml") == config
    first = (tmp_path / "config.toml").read_text(encoding="utf-8").splitlines()[0]
    assert first == r"""# train.py --run 'a\nrecipe = '"'"'b'"'"'' '\udcff' 'Köln 1'"""


def test_beginning_removes_what_killed_processes_were_writing(tmp_path, config):
    (tmp_path / ".status.json.0123.tmp").write_text("half")
    RunFolder(tmp_path, writes=True).begin(config, 0)
    assert {path.name for path in tmp_path.iterdir()} == {"config.toml", "starts.jsonl", "status.json"}
