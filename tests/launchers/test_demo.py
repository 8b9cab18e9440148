"""The demo's table: figures and ceiling under one rule for empty masks, which it states."""

import json
from pathlib import Path

import pytest

from commands import load_script
from uml_shards import open_split
from uml_shards.importers import Options
from uml_shards.importers.phantom import PhantomImporter
from uml_shards.truth import ceiling
from uml_shards.writer import write_split

SCRIPT = Path(__file__).parents[2] / "launchers" / "demo.py"


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """40 small phantoms, some of them without a lesion."""
    folder = tmp_path_factory.mktemp("demo")
    importer = PhantomImporter(options=Options(size=16, counts={"val": 40}))
    write_split(importer, "val", importer.splits()["val"], folder / "val", quiet=True)
    return folder


@pytest.mark.parametrize("rule", ["one", "leave-out"])
def test_the_ceiling_follows_the_rule_of_the_record_and_the_table_states_it(
    shards, rule, tmp_path, monkeypatch, capsys
):
    demo = load_script(SCRIPT)
    record = {
        "step": 900,
        "metrics": {"dice": 0.5},
        "intervals": {"dice": [0.4, 0.6]},
        "counts": {"cases": 40, "pixels": 10240},
        "empty_masks": rule,
        "empty_masks_rule": f"the rule {rule}",
    }

    def call(script, *arguments, **words):
        if script == "evaluate.py":
            folder = tmp_path / "evaluation" / "val"
            folder.mkdir(parents=True)
            (folder / "metrics.json").write_text(json.dumps(record))

    monkeypatch.setattr(demo, "SHARDS", shards)
    monkeypatch.setattr(demo, "call", call)
    monkeypatch.setattr("sys.argv", ["demo.py", "--run", str(tmp_path)])
    assert demo.main() == 0
    lines = capsys.readouterr().out.splitlines()
    split = open_split(shards / "val")
    one, left_out = ceiling(split, "one").dice, ceiling(split, "leave-out").dice
    assert f"{one:.3f}" != f"{left_out:.3f}"
    (dice,) = [line for line in lines if line.startswith("Dice of the lesion")]
    assert dice.split()[-1] == f"{one if rule == 'one' else left_out:.3f}"
    assert f"Empty masks, for figures and ceiling alike: the rule {rule}." in lines
