"""Checkpoints: saved state is restored, damage is reported, and an incomplete checkpoint is never the latest."""

import json
import os
import struct
from pathlib import Path
from random import Random

import pytest
import torch

from checkpoints import networks_of, one_line, save, state_of
from damage import damaged
from uml_dist.errors import UmlError
from uml_dist.run import checkpoint as checkpoint_module
from uml_dist.run import checkpoint_files
from uml_dist.run.checkpoint import load_tensors, read_networks, read_state, verify
from uml_dist.run.checkpoint_folder import find_checkpoint, point, prune
from uml_dist.run.tensor_file import tensor_file


def test_what_was_saved_comes_back(tmp_path):
    saved = save(tmp_path)
    verify(saved)
    assert read_state(saved) == state_of()
    found, expected = read_networks(saved), networks_of()
    assert set(found) == {"student", "teacher"}
    for name, state in expected.items():
        assert found[name].steps == state.steps
        assert found[name].weights.keys() == state.weights.keys()
        assert found[name].moments.keys() == state.moments.keys()
        for key, tensor in state.weights.items():
            assert torch.equal(found[name].weights[key], tensor)
            assert found[name].weights[key].dtype == tensor.dtype
        for moment, tensors in state.moments.items():
            assert found[name].moments[moment].keys() == tensors.keys()
            assert all(torch.equal(found[name].moments[moment][key], tensor) for key, tensor in tensors.items())


def test_weights_may_be_read_without_the_optimizer(tmp_path):
    found = read_networks(save(tmp_path), optimizer=False)
    assert set(found) == {"student", "teacher"}
    assert found["student"].moments == {}


def test_nothing_is_pickled(tmp_path):
    save(tmp_path)
    files = [path for path in (tmp_path / "checkpoints").rglob("*") if path.is_file()]
    assert {path.name for path in files} == {
        *("latest", "MANIFEST.json", "state.json"),
        *("student.safetensors", "student.optimizer.safetensors", "teacher.safetensors"),
    }
    for path in files:
        data = path.read_bytes()
        if path.suffix == ".json":
            json.loads(data)
        elif path.suffix == ".safetensors":
            (length,) = struct.unpack("<Q", data[:8])
            header = json.loads(data[8 : 8 + length])
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            assert max(ends) == len(data) - 8 - length


@pytest.mark.parametrize(
    "name", ["state.json", "student.safetensors", "student.optimizer.safetensors", "teacher.safetensors"]
)
def test_a_flipped_byte_a_cut_and_a_missing_file_are_one_line(tmp_path, name):
    saved = save(tmp_path)
    path = saved / name
    data = path.read_bytes()
    message = rf"step-000005: {name} is missing or damaged"
    for at in (0, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(UmlError, match=message) as raised:
            verify(saved)
        one_line(raised)
    path.write_bytes(data[:-1])
    with pytest.raises(UmlError, match=message):
        verify(saved)
    path.unlink()
    with pytest.raises(UmlError, match=message):
        verify(saved)


def test_no_byte_of_the_list_of_digests_can_change_unnoticed(tmp_path):
    saved = save(tmp_path)
    path = saved / "MANIFEST.json"
    data = path.read_bytes()
    for at in range(len(data) - 1):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(UmlError, match="step-000005") as raised:
            verify(saved)
        one_line(raised)


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", '"state.json"'])
def test_a_list_of_digests_that_is_none_is_one_line(tmp_path, content):
    saved = save(tmp_path)
    (saved / "MANIFEST.json").unlink()
    if content is not None:
        (saved / "MANIFEST.json").write_text(content)
    with pytest.raises(UmlError, match=r"has no readable MANIFEST\.json: .+: use another checkpoint") as raised:
        verify(saved)
    one_line(raised)


@pytest.mark.parametrize("content", [None, "", "{", "[]", "7", '{"step": 3}', '{"format": 1, "steps": 3}'])
def test_a_state_that_is_none_is_one_line(tmp_path, content):
    saved = save(tmp_path)
    (saved / "state.json").unlink()
    if content is not None:
        (saved / "state.json").write_text(content)
    with pytest.raises(UmlError, match=r"has no readable state\.json: .+: use another checkpoint") as raised:
        read_state(saved)
    one_line(raised)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"step": "5"}, "step: Input should be a valid integer"),
        ({"step": True}, "step: Input should be a valid integer"),
        ({"step": 5.5}, "step: Input should be a valid integer"),
        ({"step": -1}, "step: Input should be greater than or equal to 0"),
        ({"step": 10**30}, "step: Input should be less than 9223372036854775808"),
        ({"phase": None}, "phase: Input should be a valid integer"),
        ({"positions": [1]}, "positions: Input should be a valid dictionary"),
        ({"positions": {"train": -4}}, "positions.train: Input should be greater than or equal to 0"),
        ({"best": "0.5"}, "best: Input should be a valid number"),
        ({"best": float("nan")}, "best: Input should be a finite number"),
        ({"until_best": float("inf")}, "until_best: Input should be a finite number"),
        ({"config": 3}, "config: Input should be a valid dictionary"),
        ({"data": {"train": 3}}, "data.train: Input should be a valid string"),
        ({"recipe": ["uml"]}, "recipe: Input should be a valid string"),
        ({"more": 1}, "more: Unexpected keyword argument"),
    ],
)
def test_a_state_of_other_types_or_out_of_range_is_one_line(tmp_path, changes, reason):
    saved = save(tmp_path)
    tree = json.loads((saved / "state.json").read_text())
    (saved / "state.json").write_text(json.dumps({**tree, **changes}))
    with pytest.raises(UmlError, match=r"step-000005 has no readable state\.json: ") as raised:
        read_state(saved)
    assert reason in one_line(raised)


@pytest.mark.parametrize("content", ["[" * 99999, '{"format": ' * 99999, '{"format": 1, "step": ' + "9" * 5000 + "}"])
@pytest.mark.parametrize("name", ["state.json", "MANIFEST.json"])
def test_json_that_would_overwhelm_the_parser_is_one_line(tmp_path, name, content):
    saved = save(tmp_path)
    (saved / name).write_text(content)
    with pytest.raises(UmlError, match=rf"has no readable {name}: ") as raised:
        (read_state if name == "state.json" else verify)(saved)
    one_line(raised)


def test_a_damaged_file_of_a_checkpoint_is_never_read_as_another_one(tmp_path):
    saved, random = save(tmp_path), Random(0)
    files = {path: path.read_bytes() for path in sorted(saved.iterdir())}
    for path, data in files.items():
        for _ in range(60):
            path.write_bytes(damaged(data, random))
            message = refusal_of(saved)
            assert message is None or "\n" not in message
            assert message or path.read_bytes() == data or path.name == "MANIFEST.json"
        path.write_bytes(data)
    assert refusal_of(saved) is None


@pytest.mark.parametrize("name", ["state.json", "student.safetensors"])
def test_a_damaged_file_that_nobody_has_verified_is_read_or_refused_in_one_line(tmp_path, name):
    saved, random = save(tmp_path), Random(1)
    data = (saved / name).read_bytes()
    for _ in range(200):
        (saved / name).write_bytes(damaged(data, random))
        try:
            read_networks(saved)
        except UmlError as error:
            message = str(error)
        else:
            continue
        assert "\n" not in message


def refusal_of(checkpoint: Path) -> str | None:
    """Return the error of a checkpoint; None if it is valid."""
    try:
        verify(checkpoint)
        read_state(checkpoint)
    except UmlError as error:
        return str(error)
    return None


def test_a_checkpoint_of_another_format_says_so(tmp_path):
    saved = save(tmp_path)
    tree = json.loads((saved / "state.json").read_text())
    (saved / "state.json").write_text(json.dumps({**tree, "format": 99}))
    with pytest.raises(UmlError, match="does not have format 1: read it with the version that wrote it"):
        read_state(saved)


def test_a_file_that_is_no_safetensors_is_one_line(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"no tensors")
    for name in ("a.safetensors", "absent.safetensors"):
        with pytest.raises(UmlError, match=rf"{name} cannot be read as safetensors: ") as raised:
            load_tensors(tmp_path / name)
        one_line(raised)


def fail_on(call):
    """Pieces of a file that fail as a full disk does, in a certain file."""
    calls = []

    def pieces(*arguments):
        calls.append(arguments)
        for number, piece in enumerate(tensor_file(*arguments)):
            if number == 1 and len(calls) == call:
                raise OSError(28, "No space left on device")
            yield piece

    return pieces


@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_save_that_fails_leaves_the_latest_as_it_was_and_can_be_repeated(tmp_path, monkeypatch, call):
    first = save(tmp_path, step=5)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint_module, "tensor_file", fail_on(call))
        with pytest.raises(
            UmlError, match="step-000006 cannot be written: No space left on device: make room"
        ) as raised:
            save(tmp_path, step=6)
        one_line(raised)
    assert find_checkpoint(tmp_path) == first
    assert not (tmp_path / "checkpoints" / "step-000006").exists()
    verify(first)
    second = save(tmp_path, step=6)
    assert find_checkpoint(tmp_path) == second
    verify(second)
    assert not list((tmp_path / "checkpoints").glob(".*"))


@pytest.mark.parametrize(
    ("where", "function"), [(checkpoint_files, "write_text"), (Path, "rename"), (checkpoint_files, "point")]
)
def test_latest_never_names_a_folder_that_is_not_whole(tmp_path, monkeypatch, where, function):
    first = save(tmp_path, step=5)

    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(where, function, killed)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, step=6)
    assert find_checkpoint(tmp_path) == first
    verify(first)


def test_the_same_step_is_saved_anew(tmp_path):
    save(tmp_path, seed=0)
    saved = save(tmp_path, seed=1)
    verify(saved)
    assert torch.equal(
        read_networks(saved)["student"].weights["head.bias"], networks_of(1)["student"].weights["head.bias"]
    )


def test_pruning_keeps_the_newest_the_best_and_the_latest(tmp_path):
    folder = tmp_path / "checkpoints"
    for step in (1, 2, 3, 4, 5):
        save(tmp_path, step)
    point(folder / "best", "step-000002")
    prune(folder, keep=2)
    assert sorted(path.name for path in folder.glob("step-*")) == ["step-000002", "step-000004", "step-000005"]
    point(folder / "best", "step-000005")
    point(folder / "latest", "step-000004")
    prune(folder, keep=1)
    assert sorted(path.name for path in folder.glob("step-*")) == ["step-000004", "step-000005"]


def test_the_newest_is_told_by_number_also_beyond_six_digits(tmp_path):
    for step in (999_500, 1_000_000, 1_000_500):
        save(tmp_path, step)
    prune(tmp_path / "checkpoints", keep=2)
    kept = {path.name for path in (tmp_path / "checkpoints").glob("step-*")}
    assert kept == {"step-1000000", "step-1000500"}


def test_pruning_fewer_than_are_kept_removes_nothing(tmp_path):
    save(tmp_path)
    prune(tmp_path / "checkpoints", keep=3)
    assert find_checkpoint(tmp_path) is not None


def test_a_checkpoint_is_found_from_the_run_its_folder_or_itself(tmp_path):
    old, new = save(tmp_path, 5), save(tmp_path, 6)
    point(tmp_path / "checkpoints" / "best", old.name)
    for place in (tmp_path, tmp_path / "checkpoints"):
        assert find_checkpoint(place) == new
        assert find_checkpoint(place, "best") == old
    assert find_checkpoint(old) == old
    assert find_checkpoint(old, "best") == old


def test_no_checkpoint_is_none(tmp_path):
    assert find_checkpoint(tmp_path) is None
    assert find_checkpoint(tmp_path / "absent") is None
    (tmp_path / "file").write_text("")
    assert find_checkpoint(tmp_path / "file") is None
    save(tmp_path)
    assert find_checkpoint(tmp_path, "best") is None


def test_a_pointer_to_nothing_is_one_line(tmp_path):
    save(tmp_path)
    point(tmp_path / "checkpoints" / "latest", "step-000009")
    found = find_checkpoint(tmp_path)
    with pytest.raises(UmlError, match=r"step-000009 has no readable MANIFEST\.json"):
        verify(found)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o007, 0o660)])
def test_every_file_has_the_mode_that_the_umask_gives(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        saved = save(tmp_path)
    finally:
        os.umask(before)
    assert {path.name: path.stat().st_mode & 0o777 for path in saved.iterdir()} == {
        path.name: mode for path in saved.iterdir()
    }
    assert any(path.suffix == ".safetensors" for path in saved.iterdir())
