"""launchers/shards.py: what it prints and how it ends."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from uml_shards import ShardError, open_split
from uml_shards.read.part import part_of
from uml_shards.read.samples import Samples

SCRIPT = Path(__file__).parents[2] / "launchers" / "shards.py"


@pytest.fixture(scope="module")
def main():
    specification = importlib.util.spec_from_file_location("shards_command", SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.main


def make(main, out: Path, *more: str) -> int:
    counts = ["--count", "train=4", "val=2", "test=2"]
    return main(["make", "--out", str(out), "--size", "16", "--workers", "1", "--quiet", *counts, *more])


def one_line(captured: str) -> str:
    lines = captured.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_make_writes_every_split_and_prints_a_table(main, tmp_path, capsys):
    assert make(main, tmp_path) == 0
    assert [len(open_split(tmp_path / split)) for split in ("train", "val", "test")] == [4, 2, 2]
    printed = capsys.readouterr().out
    assert "train" in printed
    assert "Apache-2.0" in printed


def test_options_reach_the_importer(main, tmp_path):
    assert make(main, tmp_path, "--seed", "7", "--lossless") == 0
    manifest = open_split(tmp_path / "train").manifest
    assert manifest.options == {"size": 16, "seed": 7, "lossless": True}
    assert "png" in manifest.components


def test_finished_splits_are_refused_then_overwritten(main, tmp_path, capsys):
    assert make(main, tmp_path) == 0
    capsys.readouterr()
    assert make(main, tmp_path) == 2
    assert "pass --overwrite" in one_line(capsys.readouterr().err)
    assert make(main, tmp_path, "--overwrite") == 0


def test_missing_raw_prints_what_the_list_of_data_sets_says(main, tmp_path, capsys):
    assert main(["make", "--dataset", "isic2017", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "error: isic2017: no raw folder given" in error
    assert main(["datasets"]) == 0
    listed = capsys.readouterr().out
    assert error.partition("error:")[0].strip() in listed
    assert "RAW/ISIC-2017_Training_Data/" in listed
    assert not (tmp_path / "out").exists()


def test_unknown_data_set_exits_with_two(main, capsys):
    assert main(["make", "--dataset", "phantm"]) == 2
    assert "did you mean phantom?" in one_line(capsys.readouterr().err)


def test_verify_accepts_sound_and_names_damaged_shards(main, tmp_path, capsys):
    make(main, tmp_path)
    capsys.readouterr()
    assert main(["verify", str(tmp_path), "--quiet"]) == 0
    assert "no problems found" in capsys.readouterr().out
    (tmp_path / "val" / "shard-000001.tar").unlink()
    assert main(["verify", str(tmp_path), "--quiet"]) == 2
    assert "shard-000001.tar cannot be read" in one_line(capsys.readouterr().err)


def test_info_of_a_split_and_of_nothing(main, tmp_path, capsys):
    make(main, tmp_path)
    assert main(["info", str(tmp_path / "val")]) == 0
    capsys.readouterr()
    assert main(["info", str(tmp_path / "absent")]) == 2
    assert "make shards first" in one_line(capsys.readouterr().err)


def test_draw_writes_a_list_once(main, tmp_path, capsys):
    make(main, tmp_path)
    words = ["draw", str(tmp_path / "train"), "--labelled", "0.5", "--quiet", "--out", str(tmp_path / "labelled.txt")]
    capsys.readouterr()
    assert main(words) == 0
    assert "2 of the 4 samples of " in one_line(capsys.readouterr().out)
    part = part_of(Samples([open_split(tmp_path / "train")]), "labelled", tmp_path / "labelled.txt")
    assert len(part) == 2
    before = (tmp_path / "labelled.txt").read_bytes()
    assert main([*words, "--seed", "3"]) == 2
    assert "labelled.txt already exists" in one_line(capsys.readouterr().err)
    assert (tmp_path / "labelled.txt").read_bytes() == before


def test_debug_shows_the_traceback(main, tmp_path):
    with pytest.raises(ShardError):
        main(["info", str(tmp_path), "--debug"])


@pytest.mark.parametrize("wrong", [["--workers", "0"], ["--count", "train"], ["--size", "x"]])
def test_wrong_argument_exits_with_two(main, wrong):
    with pytest.raises(SystemExit) as caught:
        main(["make", *wrong])
    assert caught.value.code == 2


def test_script_passes_its_exit_code_on_without_a_traceback(tmp_path):
    command = [sys.executable, str(SCRIPT), "verify", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "make shards first" in one_line(done.stderr)


def test_help_has_an_example(main, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert "example: python launchers/shards.py make" in capsys.readouterr().out


def test_script_needs_the_shards_package_only():
    block = "import runpy, sys; sys.modules['uml_dist'] = sys.modules['torch'] = None; sys.argv[1:] = ['datasets']"
    program = f"{block}; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "isic2017" in done.stdout
