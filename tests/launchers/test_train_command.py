"""launchers/train.py up to the start of ranks: its output, its exit code, and that it leaves nothing behind."""

import os
import re
import runpy
import sys
from pathlib import Path

import pytest
import tomli_w

from broken_shards import VGG_WEIGHTS, WRONG_SETTINGS, WRONG_SHARDS
from commands import command_of, leave_world, load_script
from runs import uml_tree
from uml_dist.config.loading import read_config
from uml_dist.errors import UmlError
from uml_dist.launch.resources import Space
from uml_dist.run.checkpoint import RunState, save_checkpoint
from uml_dist.run.owner import owned

SCRIPT = Path(__file__).parents[2] / "launchers" / "train.py"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory, without the variables of a launcher."""
    leave_world(monkeypatch)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


@pytest.fixture
def command(folder, monkeypatch, capsys):
    """Return a function that runs the command in this process and returns exit code, stdout and stderr."""
    module = load_script(SCRIPT)

    def no_world(*arguments, **named):
        raise AssertionError("ranks would start")

    monkeypatch.setattr("uml_dist.commands.train.ensure_world", no_world)
    return command_of(module, monkeypatch, capsys)


@pytest.fixture
def write(folder):
    """Return a function that writes a configuration."""

    def write(tree):
        path = folder / "run.toml"
        path.write_text(tomli_w.dumps(tree))
        return path

    return write


def assert_refused(done, folder, message):
    """Expect exit code 2, one line with the reason, and no files."""
    code, printed, error = done
    assert code == 2
    assert printed == ""
    assert re.fullmatch(r"error: [^\n]+\n", error), error
    assert re.search(message, error), error
    assert list((folder / "here").iterdir()) == []


def test_help_has_an_example(command):
    code, printed, _ = command("--help")
    assert code == 0
    assert "example: deepspeed launchers/train.py --num_gpus 8 " in printed


def test_printed_configuration_reads_back(command, write, folder, partly_known):
    path = write(uml_tree(partly_known))
    code, printed, _ = command("--config", path, "--print-config", "train.seed=3", "zero.stage=2")
    assert code == 0
    (folder / "again.toml").write_text(printed)
    again = read_config(folder / "again.toml")
    assert again == read_config(path, ["train.seed=3", "zero.stage=2"])
    assert (again.train.seed, again.zero.stage) == (3, 2)


def test_default_configuration_is_the_phantom(command):
    code, printed, _ = command("--print-config")
    assert code == 0
    assert 'recipe = "uml"' in printed
    assert 'shards = "data/shards/phantom"' in printed


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_files_of_the_exporter_that_cannot_be_used_are_refused(command, write, folder, partly_known, more):
    path = write(uml_tree(partly_known, metrics__enabled=True, metrics__token_file="none"))
    assert_refused(command("--config", path, *more), folder, "metrics.token_file none cannot be read: No such file")


def test_dry_run_prints_the_needs_of_the_run(command, write, folder, partly_known):
    path = write(uml_tree(partly_known))
    code, printed, error = command("--config", path, "--num_gpus", "4", "--dry-run", "--run", "run")
    assert (code, error) == (0, "")
    assert "phase train: 5 steps; a global batch holds 8 of train; 2 at once on each of 4 ranks" in printed
    assert "96 samples of 32 x 32, 12.00 steps per epoch" in printed
    assert re.search(r"^uml +[\d,]+ +[\d.]+ MB \| [\d.]+ MB \| [\d.]+ MB \| [\d.]+ MB$", printed, re.MULTILINE)
    assert "ZeRO 0 | 1 | 2 | 3" in printed
    assert list((folder / "here").iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ("--run", "a/" * 2500),
        ("streams.train.split=" + "a" * 5000,),
        ("streams.train.shards=" + "a" * 5000,),
        ("model.init=" + "a" * 5000,),
    ],
    ids=["run", "split", "shards", "init"],
)
def test_names_that_are_too_long_are_refused_in_one_line(command, write, folder, partly_known, words):
    path = write(uml_tree(partly_known))
    assert_refused(command("--config", path, "--dry-run", *words), folder, "File name too long")


@pytest.mark.parametrize("wrong", WRONG_SHARDS, ids=lambda wrong: wrong.__name__)
def test_wrong_shards_are_refused_in_one_line(command, write, folder, partly_known, wrong):
    shards = wrong(partly_known, folder / "shards")
    done = command("--config", write(uml_tree(shards)), "--num_gpus", "2", "--run", "run")
    assert_refused(done, folder, WRONG_SHARDS[wrong])


@pytest.mark.parametrize("words", WRONG_SETTINGS, ids=" ".join)
def test_wrong_settings_are_refused_in_one_line(command, write, folder, partly_known, words):
    done = command("--config", write(uml_tree(partly_known)), "--num_gpus", "2", "--run", "run", *words)
    assert_refused(done, folder, WRONG_SETTINGS[words])


def test_error_for_missing_shards_names_the_command_that_makes_them(command, folder):
    assert_refused(command(), folder, r"data/shards/phantom/train does not exist: make shards first \(`make shards`\)")


def test_error_for_indivisible_batch_lists_the_valid_numbers_of_ranks(command, write, folder, partly_known):
    done = command("--config", write(uml_tree(partly_known)), "--num_gpus", "3")
    assert_refused(done, folder, r"count = 8 cannot be shared by 3 ranks: use 1, 2, 4, 8 ranks")


@pytest.mark.parametrize("asked", [0, -2])
def test_fewer_than_one_worker_is_refused_by_the_dry_run_too(command, write, folder, partly_known, asked):
    done = command("--config", write(uml_tree(partly_known)), f"--num_gpus={asked}", "--dry-run")
    assert_refused(done, folder, rf"--num_gpus {asked}: at least 1 worker is needed")


@pytest.mark.parametrize("name", ["absent.toml", "broken.toml"])
def test_unreadable_configuration_is_one_line(command, folder, name):
    (folder / "broken.toml").write_text("recipe = \n\n")
    assert_refused(command("--config", folder / name), folder, rf"configuration .*{name} (cannot be read|is not valid)")


def saved(folder, **changes):
    """Create a run folder with a checkpoint at step 3."""
    save_checkpoint(folder / "run" / "checkpoints", {}, RunState(**{"recipe": "uml", "step": 3, **changes}))
    return folder / "run"


@pytest.mark.parametrize(
    ("resume", "changes", "message"),
    [
        ("auto", {"recipe": "toy"}, r"has recipe toy, but the configuration has recipe uml: choose another --run"),
        ("auto", {}, r"was started with another configuration \(.*train\.seed"),
        (None, {}, r"was started with another configuration \(.*train\.seed"),
        ("never", {}, r"already contains a run: resume it with --resume auto"),
    ],
)
def test_run_that_cannot_be_resumed_is_one_line(command, write, folder, partly_known, resume, changes, message):
    tree = uml_tree(partly_known)
    config = read_config(write(tree), ["train.seed=9"]).model_dump(mode="json", exclude_none=True)
    run = saved(folder, config=config, **changes)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    done = command("--config", write(tree), "--run", run, *(["--resume", resume] if resume else []))
    assert_refused(done, folder, message)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


@pytest.mark.parametrize("words", [VGG_WEIGHTS, ("model.init=absent",)], ids=["published", "init"])
def test_initial_weights_are_only_needed_by_a_new_run(command, write, folder, partly_known, words):
    path = write(uml_tree(partly_known))
    for more in (), ("--dry-run",):
        done = command("--config", path, "--run", "run", "--resume", "auto", *more, *words)
        assert_refused(done, folder, WRONG_SETTINGS[words])
    config = read_config(path, words).model_dump(mode="json", exclude_none=True)
    with pytest.raises(AssertionError, match="ranks would start"):
        command("--config", path, "--run", saved(folder, config=config), "--resume", "auto", *words)


def test_too_little_shared_memory_is_one_line(command, write, folder, partly_known, monkeypatch):
    monkeypatch.setattr("uml_dist.train.loading.read_space", lambda: Space(4 * 2**20, 0))
    done = command("--config", write(uml_tree(partly_known)), "--run", "run", "data.workers=2")
    assert_refused(done, folder, r"data\.workers = 2: .* MB are free in /dev/shm: set data\.workers=0, or enlarge it")


def test_run_that_another_training_writes_is_one_line(command, write, folder, partly_known, monkeypatch):
    monkeypatch.setattr("uml_dist.run.owner.LOCK_SECONDS", 0.0)
    with owned(folder / "run"):
        done = command("--config", write(uml_tree(partly_known)), "--run", folder / "run")
    assert_refused(done, folder, rf"run folder .*run is in use by process {os.getpid()} on ")


def test_ctrl_c_is_one_line_and_exit_code_75(command, write, folder, partly_known, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("uml_dist.commands.train.prepare", interrupted)
    monkeypatch.setattr("uml_dist.launch.world.end_process", sys.exit)
    done = command("--config", write(uml_tree(partly_known)))
    assert done == (75, "", "stopped: repeat the command to continue\n")


def test_resume_auto_needs_a_run_folder(command, write, folder, partly_known):
    done = command("--config", write(uml_tree(partly_known)), "--resume", "auto")
    assert_refused(done, folder, "--resume auto needs the run to resume: add --run runs/NAME")


def test_debug_shows_the_traceback(command, folder):
    with pytest.raises(UmlError, match="unknown key"):
        command("--debug", "train.stepz=3")


def test_unknown_argument_exits_with_two(command, folder):
    code, _, error = command("--nmu_gpus", "8")
    assert code == 2
    assert "unrecognized arguments: --nmu_gpus" in error


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--restarts", "2"], "--restarts needs a number from 0 on, and --run runs/NAME"),
        (["--restarts", "-1", "--run", "run"], "--restarts needs a number from 0 on"),
        (["--restarts", "2", "--run", "run", "--resume", "never"], "--restarts resumes the run: leave out"),
        (["--replay", "nothing"], "nothing has no readable MANIFEST.json"),
        (["--replay", "nothing", "train.steps=3"], "--replay uses the configuration of its run"),
        (
            ["faults.inject.kind=kill", "faults.inject.steps=[3]"],
            "faults.inject would harm this training (kill on a rank ",
        ),
    ],
)
def test_restarts_replays_and_faults_that_make_no_sense_are_refused(words, problem, command, folder):
    code, _, error = command(*words)
    assert (code, problem in error) == (2, True), error


def test_valid_run_reaches_the_start_of_ranks_without_writing_files(command, write, folder, partly_known):
    with pytest.raises(AssertionError, match="ranks would start"):
        command("--config", write(uml_tree(partly_known)), "--num_gpus", "2", "--run", "run")
    assert list((folder / "here").iterdir()) == []


def test_script_ends_with_its_exit_code(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--cpu", "train.stepz=3"])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    captured = capsys.readouterr()
    assert_refused((left.value.code, captured.out, captured.err), folder, "did you mean train.steps")
