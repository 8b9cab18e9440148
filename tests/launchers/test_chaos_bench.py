"""The random kills: the table and the plot of them, and that a difference is found."""

import csv
import json
import shutil
from pathlib import Path

import pytest

import chaos
from chaotic import Chaos, Kill, differences
from checkpoints import save

KILLS = [Kill("rank", "step", 4, 12.0, 1.5), Kill("writer", "save", 9, 31.0, 2.5)]


@pytest.mark.parametrize(("wrong", "code"), [([], 0), (["loss of step 3"], 1)])
def test_the_table_has_every_kill_and_a_difference_is_the_exit_code(wrong, code, tmp_path, monkeypatch, capsys):
    found = Chaos(tmp_path / "run", KILLS, [(0.5, 0), (12.0, 4), (40.0, 20)])
    monkeypatch.setattr(chaos, "train", lambda *_: (found, wrong))
    assert chaos.main(["--recipes", "uml", "collab", "--kills", "2", "--out", str(tmp_path)]) == code
    printed = capsys.readouterr().out
    assert "uml: 2 kills (rank 1, writer 1) in 20 steps; all others gone within 2 s\n" in printed
    assert ("equals the training without kills" in printed) == (code == 0)
    with (tmp_path / "chaos.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["recipe"], row["process"], row["step"]) for row in rows] == [
        (recipe, kill.kind, str(kill.step)) for recipe in ("uml", "collab") for kill in KILLS
    ]
    assert (tmp_path / "chaos.png").read_bytes().startswith(b"\x89PNG")


def make_run(folder: Path) -> Path:
    """A run of two steps on four samples, and the keys of its two ranks beside it."""
    save(folder / "run", step=2)
    records = [{"step": step, "loss": 0.5 / step} for step in (1, 2)]
    (folder / "run" / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    for rank in range(2):
        keys = [{"step": step, "keys": [{"train": [f"case-{rank}-{step}"]}]} for step in (1, 2)]
        (folder / f"keys-{rank}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in keys))
    return folder / "run"


def test_what_differs_from_a_training_without_kills_is_found(tmp_path):
    plain = make_run(tmp_path / "plain")
    sizes = {"train": 4}

    def changed(path: str, text: str, other: str) -> list[str]:
        shutil.rmtree(tmp_path / "killed", ignore_errors=True)
        run = make_run(tmp_path / "killed")
        file = tmp_path / "killed" / path
        file.write_text(file.read_text().replace(text, other))
        return differences(plain, Chaos(run), sizes)

    assert changed("run/metrics.jsonl", "", "") == []
    assert changed("run/metrics.jsonl", "0.25", "0.2500001") == ["loss of step 2"]
    assert changed("run/metrics.jsonl", '"step": 2', '"step": 1') == ["loss of step 1", "loss of step 2"]
    wrong = changed("keys-1.jsonl", "case-1-2", "case-1-1")
    assert wrong == ["keys of step 2", "epoch 1 of train"]
    shutil.rmtree(tmp_path / "killed" / "run" / "checkpoints")
    save(tmp_path / "killed" / "run", step=2, seed=1)
    chaos_run = Chaos(tmp_path / "killed" / "run", left=["torch_1_2"])
    found = differences(plain, chaos_run, {})
    assert found[0] == "left behind: torch_1_2"
    assert any(line.startswith("weights of ") for line in found)
