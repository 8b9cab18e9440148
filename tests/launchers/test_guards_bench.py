"""The benchmark of what watching a training costs: its parts, and the shares in its table."""

import csv

import pytest

import guards


def test_the_table_has_the_share_of_every_part(partly_known, tmp_path, monkeypatch, capsys):
    def step_seconds(folder, options, words):
        return 2.5 if words[-1] == "faults.canary_every=1" else 2.0

    monkeypatch.setattr(guards, "step_seconds", step_seconds)
    words = [f"streams.train.shards={partly_known}", "model.width=0.0625", "faults.canary_every=50"]
    assert guards.main([*words, "--repeats", "3", "--out", str(tmp_path)]) == 0
    with (tmp_path / "guards.csv").open(newline="") as file:
        rows = {row["part"]: row for row in csv.DictReader(file)}
    assert [row["how_often"] for row in rows.values()] == [
        "every step", "every second", "every step, ZeRO 0", "every 50 steps", "every 50 steps",
    ]  # fmt: skip
    canary, look = rows["canary: sum of the weights"], rows["watchdog: look at the rank"]
    assert float(canary["share_of_a_step"]) == pytest.approx(float(canary["processor_seconds"]) / 50 / 2, rel=1e-2)
    assert float(look["share_of_a_step"]) == pytest.approx(float(look["processor_seconds"]), rel=1e-2)
    assert float(rows["canary: repeated forward pass"]["share_of_a_step"]) == pytest.approx(0.5 / 50 / 2)
    assert all(float(row["processor_seconds"]) > 0 for row in rows.values())
    assert "together" in capsys.readouterr().out


def test_without_the_canary_its_row_is_missing(partly_known, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(guards, "step_seconds", lambda *_: 1.0)
    words = [f"streams.train.shards={partly_known}", "model.width=0.0625", "faults.canary_every=0"]
    assert guards.main([*words, "--repeats", "1", "--out", str(tmp_path)]) == 0
    assert "canary: " not in capsys.readouterr().out


def test_a_wrong_setting_is_refused_in_one_line(capsys):
    assert guards.main(["--steps", "0"]) == 2
    assert capsys.readouterr().err == "error: --steps and --repeats must be at least 1\n"
