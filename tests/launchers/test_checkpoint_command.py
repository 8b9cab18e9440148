"""launchers/checkpoint.py verifies, prunes and reshards checkpoints, and exports weights that load again."""

import json
import re
import shlex
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

import toy_recipe
from commands import load_script
from runs import uml_tree
from uml_dist import load_run
from uml_dist.commands import checkpoint, train
from uml_dist.config.loading import read_config, validate
from uml_dist.errors import UmlError
from uml_dist.run.checkpoint import RunState, load_tensors, read_state, read_weights_file, save_checkpoint, verify
from uml_dist.run.checkpoint_folder import point
from uml_dist.run.export import without_places
from uml_dist.run.folder import RunFolder, versions
from uml_dist.run.maintenance import valid_ranks
from uml_dist.train.networks import Networks
from uml_dist.train.setup import check_start, find_resume, prepare

assert toy_recipe
SCRIPT = Path(__file__).parents[2] / "launchers" / "checkpoint.py"
CPU = torch.device("cpu")


@pytest.fixture
def command(capsys):
    """Return a function that runs the command in this process and returns exit code, stdout and stderr."""
    module = load_script(SCRIPT)

    def run(*arguments):
        try:
            code = module.main([str(argument) for argument in arguments])
        except SystemExit as left:
            code = left.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def make_run(run: Path, tree: dict, steps=(2, 4, 6), best: int = 4) -> Path:
    """Create a run folder with checkpoints of untrained networks."""
    setup = prepare(validate(tree, "test"), 1)
    folder = RunFolder(run, writes=True)
    folder.write_config(setup.config)
    networks = Networks(setup.recipe, setup.config, CPU).state()
    for step in steps:
        state = RunState(
            setup.config.recipe,
            step=step,
            data=setup.digests,
            config=setup.config.model_dump(mode="json", exclude_none=True),
            versions=versions(),
        )
        save_checkpoint(folder.checkpoints, networks, state)
        folder.append_metrics({"step": step, "loss": 1.0})
        folder.append_metrics({"step": step, "validation_dice": step / 10, "validation_loss": 1.5})
    point(folder.checkpoints / "best", f"step-{best:06d}")
    return run


@pytest.fixture(scope="module")
def made(partly_known, tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("run") / "run", uml_tree(partly_known, zero__stage=1))


@pytest.fixture
def run(made, tmp_path) -> Path:
    """A run folder that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "run"))


def assert_refused(done, message):
    code, printed, error = done
    assert (code, printed) == (2, "")
    assert re.fullmatch(r"error: [^\n]+\n", error), error
    assert re.search(message, error), error


@pytest.mark.parametrize("name", ["verify", "reshard", "prune", "export"])
def test_every_help_has_a_valid_example(command, name):
    code, printed, _ = command(name, "--help")
    assert code == 0
    example = " ".join(printed.partition("example: python launchers/checkpoint.py ")[2].split())
    given = checkpoint.parse(shlex.split(example))
    assert given.run == Path("runs/isic")


@pytest.mark.parametrize(
    "words",
    [("verify",), ("reshard", "--ranks", 2), ("prune", "--keep", 1), ("export", "--out", "out")],
    ids=lambda words: words[0],
)
def test_folder_without_a_run_or_checkpoint_is_refused_in_one_line(command, tmp_path, run, words):
    assert_refused(command(*words, "--run", tmp_path / "absent"), "absent does not exist: name the folder of a run")
    assert_refused(command(*words, "--run", tmp_path), r"contains no run \(no config\.toml\)")
    shutil.rmtree(run / "checkpoints")
    assert_refused(command(*words, "--run", run), "has no checkpoint yet: train it first")
    with pytest.raises(UmlError):
        command(*words, "--run", run, "--debug")


def test_verify_reports_whether_each_checkpoint_is_valid(command, run):
    code, printed, error = command("verify", "--run", run)
    assert (code, error) == (0, "")
    lines = [line.split() for line in printed.splitlines()]
    assert [(line[0], line[1], line[4:]) for line in lines] == [
        ("step-000002", "ok", []),
        ("step-000004", "ok", ["best"]),
        ("step-000006", "ok", ["latest"]),
    ]
    (run / "checkpoints" / "step-000004" / "uml.safetensors").write_bytes(b"")
    code, printed, error = command("verify", "--run", run)
    assert code == 2
    assert [line.split()[1] for line in printed.splitlines()] == ["ok", "damaged", "ok"]
    assert re.fullmatch(r"error: checkpoint \S+step-000004: uml\.safetensors is missing or damaged: [^\n]+\n", error)


@pytest.mark.parametrize(
    ("pointer", "content", "message"),
    [
        ("latest", "step-000009", "latest names step-000009, which does not exist"),
        ("best", "../other", "best does not name a checkpoint"),
        ("latest", None, "latest cannot be read: No such file"),
    ],
)
def test_verify_finds_dangling_pointers(command, run, pointer, content, message):
    path = run / "checkpoints" / pointer
    path.unlink() if content is None else path.write_text(content)
    code, _, error = command("verify", "--run", run)
    assert code == 2
    assert message in error


def test_run_without_a_best_checkpoint_verifies(command, run):
    (run / "checkpoints" / "best").unlink()
    assert command("verify", "--run", run)[0] == 0
    assert_refused(
        command("export", "--run", run, "--out", run / "out"),
        r"has no checkpoint 'best': it has latest, step-\d+.*: choose one of them",
    )


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ({"loss": 1.0}, "there was no validation yet"),
        ({"validation_loss": 1.0}, "no validation could form train.best = dice"),
        ({"validation_dice": 1.0}, None),
    ],
)
def test_a_missing_best_checkpoint_is_explained(command, run, record, why):
    (run / "checkpoints" / "best").unlink()
    (run / "checkpoints" / "notes.txt").touch()
    (run / "metrics.jsonl").write_text(json.dumps({"step": 2, **record}) + "\n")
    assert_refused(
        command("export", "--run", run, "--out", run / "out"),
        rf"has no checkpoint 'best'{f' .{re.escape(why)}.' if why else ''}: it has latest, step-000002, step-000004, "
        r"step-000006: choose one of them",
    )


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_prune_keeps_the_newest_the_best_and_the_latest(command, run):
    size = sum(path.stat().st_size for path in (run / "checkpoints" / "step-000002").iterdir())
    code, printed, error = command("prune", "--run", run, "--keep", 1)
    assert (code, error) == (0, "")
    assert re.match(r"removed step-000002, [\d.]+ MB\n", printed)
    assert printed.endswith(f"\n{size:,} bytes in 1 checkpoints\n")
    assert names(run) == ["best", "latest", "step-000004", "step-000006"]
    assert command("prune", "--run", run, "--keep", 1)[1] == "0 bytes in 0 checkpoints\n"
    assert_refused(command("prune", "--run", run, "--keep", 0), "--keep 0: at least 1 is kept")


def test_prune_never_removes_the_last_valid_checkpoint(command, run):
    for name in ("step-000004", "step-000006"):
        (run / "checkpoints" / name / "state.json").unlink()
    command("prune", "--run", run, "--keep", 1)
    assert "step-000002" in names(run)


def test_reshard_prints_a_command_that_resumes_the_run(command, run):
    code, printed, error = command("reshard", "--run", run, "--ranks", 4, "--stage", 3)
    assert (code, error) == (0, "")
    first, second, line = printed.splitlines()
    assert first.startswith("step 6: no conversion is needed")
    assert second.endswith(": 1, 2, 4, 8")
    words = shlex.split(line)
    assert words[:2] == ["python", "launchers/train.py"]
    options = train.parse(words[2:])
    config = read_config(options.config, options.settings)
    assert (options.num_gpus, options.run, config.zero.stage) == (4, run, 3)
    found = find_resume(prepare(config, 4), options.run, "auto")
    assert found is not None
    assert found[1].step == 6


def test_reshard_lists_the_ranks_that_divide_the_global_batch(command, run, partly_known):
    message = r"streams\.train\.count = 8 cannot be shared by 3 ranks: use 1, 2, 4, 8 ranks"
    assert_refused(command("reshard", "--run", run, "--ranks", 3), message)
    assert valid_ranks(validate(toy_tree(partly_known), "test")) == [1, 2, 4]


def test_reshard_reports_the_checkpoint_that_a_resume_would_use(command, run):
    (run / "checkpoints" / "step-000006" / "uml.safetensors").unlink()
    code, printed, _ = command("reshard", "--run", run, "--ranks", 1)
    assert code == 0
    assert "step-000006: uml.safetensors is missing or damaged: resuming from step-000004" in printed
    assert "zero.stage" not in printed


def toy_tree(shards):
    stream = {"shards": str(shards), "count": 8}
    return {
        "recipe": "toy",
        "streams": {"labelled": stream, "unlabelled": {**stream, "count": 12}},
        "train": {"steps": 10, "best": "accuracy"},
        "metrics": {"enabled": False},
    }


def started_from(tree: dict, init: Path) -> Networks:
    """Return the networks of a new run that starts from exported weights."""
    setup = prepare(validate({**tree, "model": {**tree.get("model", {}), "init": str(init)}}, "test"), 1)
    check_start(setup)
    networks = Networks(setup.recipe, setup.config, CPU)
    assert networks.start_from(read_weights_file(init, tuple(networks)), str(init)) == []
    return networks


def assert_same(networks: Networks, checkpoint: Path) -> None:
    for name, state in networks.state().items():
        saved = load_tensors(checkpoint / f"{name}.safetensors")
        assert state.weights.keys() == saved.keys()
        assert all(torch.equal(tensor, saved[key]) for key, tensor in state.weights.items())


def test_exported_weights_load_from_a_folder_and_from_a_file(command, run, partly_known, tmp_path):
    out = tmp_path / "models" / "uml"
    code, printed, error = command("export", "--run", run, "--out", out)
    assert (code, error) == (0, "")
    files = ["MANIFEST.json", "README.md", "state.json", "uml.safetensors"]
    assert printed == "".join(f"{out / name}\n" for name in files)
    assert {path.name for path in out.parent.iterdir()} == {"uml"}
    assert {tensor.dtype for tensor in load_tensors(out / "uml.safetensors").values()} <= {torch.float32, torch.int64}
    assert read_state(out).step == 4  # the best
    for init in (out, out / "uml.safetensors"):
        assert_same(started_from(uml_tree(partly_known), init), run / "checkpoints" / "step-000004")
    with (out / "README.md").open("a") as card:
        card.write("Text that users add does not damage the checkpoint.\n")
    verify(out)


def test_several_networks_of_a_recipe_load_together(command, partly_known, tmp_path):
    run = make_run(tmp_path / "run", toy_tree(partly_known), steps=(1,), best=1)
    assert command("export", "--run", run, "--out", tmp_path / "out", "--checkpoint", "latest")[0] == 0
    assert_same(started_from(toy_tree(partly_known), tmp_path / "out"), run / "checkpoints" / "step-000001")
    assert "or to its one file" not in (tmp_path / "out" / "README.md").read_text()


def test_model_card_describes_the_weights(command, run, partly_known, tmp_path):
    evaluation = run / "evaluation" / "test" / "metrics.json"
    evaluation.parent.mkdir(parents=True)
    record = {"checkpoint": "step-000004", "dataset": "phantom", "split": "test", "metrics": {"dice": 0.25}}
    evaluation.write_text(json.dumps({**record, "intervals": {"dice": [0.2, 0.3]}}))
    with (run / "metrics.jsonl").open("a") as lines:
        lines.write('{"step": 7, "validation_di')  # truncated by a kill
    command("export", "--run", run, "--out", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    manifest = prepare(validate(uml_tree(partly_known), "test"), 1).splits["train"].manifest
    for words in (
        "# uml, step 4",
        "This is not a medical device",
        "it is not a probability of an error",
        f"digest of its manifest `{manifest.digest}`",
        f"licence: {manifest.licence}",
        "phantom, split train, 96 samples",
        "| dice | 0.2500 | 0.2000 to 0.3000 |",
        "Validation at step 4; the best checkpoint is chosen by `dice`:",
        "| dice | 0.4000 |",
        "dropout = 0.2",
        f"| torch | {version('torch')} |",
        "model.init=FOLDER",
    ):
        assert words in card, words
    assert str(partly_known.parent) not in card + (tmp_path / "out" / "state.json").read_text()


def test_model_card_shows_text_of_others_without_markup(command, run, tmp_path):
    evaluation = run / "evaluation" / "test" / "metrics.json"
    evaluation.parent.mkdir(parents=True)
    metrics = {"dice_<img src=x onerror=1>": 0.25, "a\n| b": "[x](javascript:1)"}
    record = {"checkpoint": "step-000004", "dataset": "<b>\x1b[2J", "split": "`x`", "metrics": metrics}
    evaluation.write_text(json.dumps({**record, "empty_masks": "<i>", "intervals": {}}))
    command("export", "--run", run, "--out", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Evaluation on &lt;b&gt;\\\\x1b\\[2J, split \\`x\\`. Bootstrap intervals over cases:" in card
    assert "| dice\\_&lt;img src=x onerror=1&gt; | 0.2500 |  |" in card
    assert "| a\\\\n\\| b | \\[x\\](javascript:1) |  |" in card
    assert not re.search("<(b|i|img)", card)


@pytest.mark.parametrize("name", ["a\x1b[2J", "a\nerror: forged", "\u202ea", "\x1b[2J/a"])
def test_a_run_folder_of_a_deceptive_name_is_refused(name, capsys):
    with pytest.raises(SystemExit, match="2"):
        checkpoint.main(["verify", "--run", name])
    assert capsys.readouterr().err.splitlines()[-1].endswith("contains characters that are not printable: rename it")


def test_model_card_names_the_mean_that_chose_the_weights_and_the_rule_for_empty_masks(command, partly_known, tmp_path):
    mean = "mean(accuracy, dice)"
    tree = uml_tree(partly_known, train__best="mean(accuracy,dice)", train__empty_masks="leave-out")
    run = make_run(tmp_path / "run", tree, steps=(4,))
    validation = {"step": 4, "empty_masks": "leave-out", "validation_dice": 0.5, f"validation_{mean}": 0.625}
    (run / "metrics.jsonl").write_text(json.dumps(validation) + "\n")
    command("export", "--run", run, "--out", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"the best checkpoint is chosen by `{mean}`:" in card
    assert f"| {mean} | 0.6250 |\n| dice | 0.5000 |\n\nEmpty masks: cases where a class is neither in the mask" in card


def test_export_contains_the_average_and_states_that_it_predicts(command, partly_known, tmp_path):
    tree = uml_tree(partly_known, train__ema=0.9)
    run = make_run(tmp_path / "run", tree, steps=(4,))
    command("export", "--run", run, "--out", tmp_path / "out")
    assert {"uml.safetensors", "uml.ema.safetensors"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert "predict with the moving average of their weights" in (tmp_path / "out" / "README.md").read_text()
    assert load_run(tmp_path / "out", device="cpu").weights == "averaged"
    assert load_run(tmp_path / "out", device="cpu", weights="trained").weights == "trained"


def test_export_without_the_shards_states_that_the_licence_is_unknown(command, run, partly_known, tmp_path):
    config = run / "config.toml"
    config.write_text(config.read_text().replace(str(partly_known), str(tmp_path / "absent")))
    assert command("export", "--run", run, "--out", tmp_path / "out")[0] == 0
    assert "licence and source are not known" in (tmp_path / "out" / "README.md").read_text()


def test_export_never_overwrites_and_leaves_no_partial_files(command, run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    assert_refused(command("export", "--run", run, "--out", out), "out already exists: choose another --out")
    assert list(out.iterdir()) == []
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "below"
    assert_refused(command("export", "--run", run, "--out", below), "below cannot be written: ")
    (run / "checkpoints" / "step-000004" / "uml.safetensors").write_bytes(b"")
    assert_refused(command("export", "--run", run, "--out", tmp_path / "new"), "uml.safetensors is missing or damaged")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "out", "run"]


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("/data/me/shards/isic/", "isic"),
        ("~/shards/isic", "isic"),
        ("https://user:secret@host/shards/isic?token=secret", "isic"),
        ("data/shards/isic", "data/shards/isic"),
        (["/a/b", {"c": "s3://bucket/c"}, 3], ["b", {"c": "c"}, 3]),
    ],
)
def test_absolute_paths_and_urls_are_reduced_to_their_last_part(value, kept):
    assert without_places(value) == kept
