"""Tests of the table from keys back to raw files."""

import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands import load_script
from uml_shards import ShardError, open_split
from uml_shards.write.key_table import find_key

main = load_script(Path(__file__).parents[3] / "launchers" / "shards.py").main


@pytest.fixture
def made(tmp_path):
    """Shards of two images with hashed keys, made by the command."""
    (tmp_path / "raw" / "images").mkdir(parents=True)
    for number in range(2):
        image = Image.fromarray(np.full((8, 8, 3), number, np.uint8))
        image.save(tmp_path / "raw" / "images" / f"Doe, Jane {number}.png")
    words = ["--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "out"), "--size", "0", "--quiet"]
    assert main(["make", "--dataset", "folder", *words, "--set", "val=0", "test=0", "salt=x"]) == 0
    return tmp_path / "out"


def test_every_key_leads_back_to_its_file(made, capsys):
    split = open_split(made / "train")
    for key in split.keys():
        assert main(["info", str(made), "--key", key]) == 0
        line = capsys.readouterr().out.splitlines()[-1]
        file = Path(line.removeprefix(f"{key} (train): "))
        with Image.open(file) as image:
            sample = next(found for number in range(2) if (found := split.read(number)).key == key)
            np.testing.assert_array_equal(np.asarray(image), sample.image)
    assert find_key(made / "train", key) == ("train", str(file))


def test_the_table_is_private_and_not_part_of_a_split(made):
    assert stat.S_IMODE((made / "keys.csv").stat().st_mode) == 0o600
    stored = b"".join(path.read_bytes() for path in (made / "train").iterdir())
    assert b"Jane" not in stored


def test_unknown_keys_and_missing_tables_are_reported(made, capsys):
    assert main(["info", str(made), "--key", "nobody"]) == 2
    assert "keys.csv does not contain the key 'nobody'" in capsys.readouterr().err
    (made / "keys.csv").unlink()
    with pytest.raises(ShardError, match=r"has no keys\.csv: only the importers folder and nnunet write it"):
        find_key(made, "nobody")
