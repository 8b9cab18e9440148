"""Names of written files: safe, and never the same for two cases."""

from pathlib import Path

import pytest

from uml_dist.inference.names import LONGEST, assign_names, safe_name, safe_part
from uml_dist.inference.sources import Source

HOSTILE = [
    "..", "../../etc/passwd", "/absolute", "a/../b", "new\nline", "tab\t", "\x1b[31mred", "a\u202eb", "\udcff\ud800",
    "x" * 300, "é" * 200, "=1+1", "-rf", "", ".", " ", "con:aux*?", "C:\\windows\\x", "a/b.png/c", ".hidden", "name.",
]  # fmt: skip


def source(path, title=None):
    return Source("image", Path(path), title or Path(path).stem)


@pytest.mark.parametrize("title", HOSTILE)
def test_hostile_title_becomes_a_relative_path_that_can_be_written(title, tmp_path):
    name = safe_name(title)
    assert name.isprintable()
    path = tmp_path / f"{name}.nii.gz"
    assert path.resolve().is_relative_to(tmp_path.resolve())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    for part in name.split("/"):
        assert part not in ("", ".", "..")
        assert not set('<>:"|?*\\') & set(part)
        assert len(part.encode()) <= LONGEST + 9
        assert part == part.strip(" .")
        assert not part.startswith("-")


def test_hostile_titles_stay_different():
    names = [safe_name(title) for title in ("a:b", "a?b", "a_b", "x" * 300, "x" * 301, "new\nline", "new\tline")]
    assert len(set(names)) == len(names)


def test_class_is_one_folder_whatever_its_name():
    assert safe_part("left atrium") == "left atrium"
    names = [safe_part(name) for name in ("a/b", "a_b", "a\\b", "..", "map.png")]
    assert len(set(names)) == len(names)
    assert not any("/" in name or name == ".." for name in names)


def test_plain_title_is_kept_with_its_folders():
    assert safe_name("site 1/patient-2/scan (3).v1") == "site 1/patient-2/scan (3).v1"


def test_equal_names_of_different_inputs_differ_however_they_are_written():
    cases = [source("x/a.png"), source("x/a.jpg"), source("y/a.png"), source("x/A.png"), source("x/é.png", "e\u0301")]
    cases.append(source("y/é.png", "é"))
    names = assign_names(cases, {})
    assert names[cases[0].identity] == "a"
    assert len({name.casefold() for name in names.values()}) == len(cases)


def test_names_of_an_earlier_call_are_kept_whatever_is_added():
    first, second = source("x/a.png"), source("y/a.png")
    known = assign_names([second], {})
    names = assign_names([first, second], known)
    assert names[second.identity] == "a"
    assert names[first.identity] != "a"


def test_name_of_a_case_does_not_depend_on_the_order_of_others():
    odd = source("x/b.png", "b\n")
    assert assign_names([odd], {})[odd.identity] == assign_names([source("x/a.png"), odd], {})[odd.identity]
