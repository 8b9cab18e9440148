"""Only run folders are found and only their files are read, whatever lies in the way."""

import os

import pytest

from uml_dist.watch import files
from uml_dist.watch.files import find_runs, modified, opened, read_bytes, subfolders
from watched import make_run


def test_runs_are_found_on_several_levels_and_not_inside_runs(tmp_path):
    for name in ("a", "bench/uml/seed0", "bench/uml/seed1"):
        make_run(tmp_path / name)
    make_run(tmp_path / "a" / "evaluation" / "nested")
    make_run(tmp_path / ".hidden" / "run")
    (tmp_path / "empty").mkdir()
    runs, links = find_runs(tmp_path)
    assert (sorted(runs), links) == (["a", "bench/uml/seed0", "bench/uml/seed1"], 0)


def test_links_out_of_the_folder_are_counted_and_not_followed(tmp_path):
    make_run(tmp_path / "elsewhere" / "secret")
    root = tmp_path / "runs"
    make_run(root / "run")
    (root / "link").symlink_to(tmp_path / "elsewhere" / "secret")
    (root / "loop").symlink_to(root)
    runs, links = find_runs(root)
    assert (list(runs), links) == (["run"], 2)


def test_the_number_of_runs_is_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_RUNS", 3)
    for number in range(5):
        make_run(tmp_path / str(number), steps=0)
    assert len(find_runs(tmp_path)[0]) == 3


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "/etc/passwd", "evaluation\0", "../run"])
def test_names_that_lead_elsewhere_are_refused(tmp_path, name):
    run = make_run(tmp_path / "run")
    with pytest.raises(OSError, match="not the name of a file"), opened(run, name, "passwd"):
        pass
    assert read_bytes(run, "evaluation", name, "sheet.png", limit=1000) is None


def test_links_pipes_and_folders_are_not_read(tmp_path):
    run = make_run(tmp_path / "run")
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (run / "link").symlink_to(secret)
    (run / "evaluation" / "out").symlink_to(tmp_path)
    os.mkfifo(run / "pipe")
    for names in (("link",), ("evaluation", "out", "secret"), ("pipe",), ("evaluation",), ("missing",)):
        assert read_bytes(run, *names, limit=1000) is None
        assert modified(run, *names) is None
    assert subfolders(run, "evaluation") == ["val"]


def test_files_over_the_limit_are_not_read(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "config.toml").write_text("x" * 1001)
    assert read_bytes(run, "config.toml", limit=1000) is None
    assert read_bytes(run, "config.toml", limit=1001) == b"x" * 1001
