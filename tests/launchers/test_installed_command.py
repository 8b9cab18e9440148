"""`uml-dist`, the command of an installation: it finds its subcommands, and starts workers from its own script."""

import json
import subprocess
import sys

import pytest
import tomli_w

from runs import uml_tree
from uml_dist.commands.main import COMMANDS, main


def test_help_lists_the_commands(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name}" in shown for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_describes_itself(name, capsys):
    with pytest.raises(SystemExit) as left:
        main([name, "--help"])
    assert left.value.code == 0
    assert "usage:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "problem"), [([], "a command is missing"), (["trial"], "there is no command 'trial'")]
)
def test_unknown_or_missing_command_is_one_line(words, problem, capsys):
    assert main(words) == 2
    names = "train, evaluate, report, predict, checkpoint, shards, doctor, watch"
    assert capsys.readouterr().err == f"error: {problem}: use {names}\n"


def test_training_without_a_configuration_is_refused_in_one_line(monkeypatch, capsys):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit) as left:
        main(["train", "train.steps=3"])
    assert (left.value.code, capsys.readouterr().err) == (2, "error: name a configuration: --config FILE.toml\n")


@pytest.fixture
def script(tmp_path):
    """The console script as pip writes it, in a folder without a checkout."""
    path = tmp_path / "bin" / "uml-dist"
    path.parent.mkdir()
    path.write_text(
        f"#!{sys.executable}\nfrom uml_dist.commands.main import script\n\nif __name__ == '__main__':\n    script()\n"
    )
    return path


@pytest.mark.launch
def test_two_workers_train_and_the_run_is_evaluated(script, partly_known, tmp_path):
    config = tmp_path / "run.toml"
    config.write_text(tomli_w.dumps(uml_tree(partly_known, train__steps=2, train__validate_every=2)))

    def run(*words):
        command = [sys.executable, str(script), *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    done = run("train", "--config", str(config), "--num_gpus", "2", "--cpu", "--run", "first")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "first" / "status.json").read_text())["status"] == "done"
    assert "2 CPU processes" in done.stdout
    done = run("evaluate", "--run", "first", "--cpu")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "first" / "evaluation" / "val" / "metrics.json").is_file()
    done = run("checkpoint", "verify", "--run", "first")
    assert done.returncode == 0, done.stderr
