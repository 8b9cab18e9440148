"""launchers/report.py: the page that it writes, its one-line errors, and what a browser makes of reports."""

import re
from pathlib import Path

import numpy as np
import pytest

from browsers import CHROMIUM, browse, complaints_of, needs_browser, screenshot
from commands import load_script
from reported import Page, change_record, make_split, predict_split, record_of, scale_metrics, write_run
from uml_dist.commands.report import main
from uml_dist.report.single import write_report

PROGRAM = Path(__file__).parents[2] / "launchers" / "report.py"
PARTS = ["headline", "values", "claim", "metrics", "runs", "settings"]
HOSTILE = '"><script src=x>alert(1)<'


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    return predict_split(make_split(tmp_path_factory.mktemp("command") / "test", 24))


@pytest.fixture
def seeds(evaluated, tmp_path):
    """Runs of three seeds, with the perfect model beside the first."""
    runs = [write_run(tmp_path / f"seed{number}", evaluated[0], seed=number) for number in range(3)]
    for run, factor in zip(runs, (0.9, 1.0, 1.05), strict=True):
        scale_metrics(run, factor)
    write_run(runs[0], evaluated[0], "test-ceiling", ceiling=True)
    return runs


@pytest.fixture
def folds(tmp_path):
    """Runs of two folds of different images."""
    found = []
    for number, name in enumerate(("val", "test")):
        result = predict_split(make_split(tmp_path / "shards" / name, 20))[0]
        fold, split = {"folds": 2, "fold": number, "seed": 3}, f"train-fold-{number}-of-2"
        found.append(write_run(tmp_path / f"fold{number}", result, split, split=split, fold=fold))
    return found


def test_seeds_are_joined_in_a_page_and_a_table(seeds, tmp_path, capsys):
    out = tmp_path / "joined.html"
    assert main([*map(str, seeds), "--out", str(out)]) == 0
    printed, error = capsys.readouterr()
    assert error == ""
    assert printed.endswith(f"{out}\n")
    page = Page(out.read_text())
    assert [name for name in page.ids if name in PARTS] == PARTS
    row = page.row("Dice")
    values = [float(cell) for cell in row[4:7]]
    assert values[0] / values[1] == pytest.approx(0.9, abs=2e-3)
    assert float(row[1]) == pytest.approx(np.mean(values), abs=1e-4)
    assert f"{row[1]}  {row[2]}" in re.search("^dice .*$", printed, re.MULTILINE)[0]
    assert float(row[7]) == values[1]  # of the perfect model
    assert page.row("train.seed") == ["train.seed", "0", "1", "2"]
    assert page.handlers == []
    assert set(page.tags).isdisjoint({"script", "link", "img"})


def test_folds_are_pooled_and_the_page_says_what_the_interval_misses(folds, tmp_path, capsys):
    out = tmp_path / "joined.html"
    assert main([*map(str, folds), "--split", "fold", "--out", str(out)]) == 0
    assert "the interval over folds is too narrow" in capsys.readouterr().out
    page = Page(out.read_text())
    for words in ("Any two folds share most of their training data", "2 folds, drawn by seed 3", "40", "All cases"):
        assert words in page.text
    accuracy = page.row("Accuracy")
    assert float(accuracy[3].split()[0]) == pytest.approx(float(accuracy[1]), abs=1e-4)  # folds of equal size
    assert page.row("Pixel ECE")[3] == "\N{EN DASH}"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["missing", "seed0"], "missing does not exist"),
        (["seed0"], "at least two runs"),
        (["seed0", "seed1", "--split", "val"], "has no evaluation 'val': it has test"),
        (["seed0", "seed1", "--out", "missing/joined.html"], "No such file or directory"),
        (["seed0", "other"], "differ in recipe (uml and ugmcl)"),
        ([], "required: RUN"),
    ],
)
def test_errors_are_one_line(words, problem, seeds, evaluated, tmp_path, monkeypatch, capsys):
    write_run(tmp_path / "other", evaluated[0], recipe="ugmcl")
    monkeypatch.chdir(tmp_path)
    try:
        code = main(words)
    except SystemExit as left:
        code = left.code
    assert code == 2
    error = capsys.readouterr().err
    assert problem in error.splitlines()[-1]
    assert not (tmp_path / "report.html").exists()


def test_words_of_others_are_only_text(seeds, evaluated, tmp_path, capsys):
    run = write_run(tmp_path / f"{HOSTILE} run", evaluated[0], lr=f'"{HOSTILE}"'.replace('""', '"'), seed=9)
    (run / "config.toml").write_text(f"recipe = 'uml'\n'{HOSTILE}' = '{HOSTILE}'\n[train]\nseed = 9\n")
    for one in (seeds[0], run):
        odd = {f"dice_{HOSTILE}": 0.5, "dice": 0.5}
        change_record(one, metrics=odd, dataset=HOSTILE, notes={HOSTILE: HOSTILE}, definitions={"dice": HOSTILE})
    assert main([str(seeds[0]), str(run), "--out", str(tmp_path / "joined.html")]) == 0
    page = Page((tmp_path / "joined.html").read_text())
    assert "script" not in page.tags
    assert page.handlers == []
    assert page.text.count("alert(1)") >= 6
    assert capsys.readouterr().err.count("\n") == 1  # the warning of the differing setting


def test_the_program_writes_the_page_where_people_start_it(seeds, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert load_script(PROGRAM).main([str(seeds[0]), str(seeds[2])]) == 0
    assert capsys.readouterr().out.endswith("\nreport.html\n")
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")


@pytest.fixture(scope="module")
def pages(evaluated, tmp_path_factory):
    """The reports of one run, and of two joined."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here: install the package chromium")
    folder = tmp_path_factory.mktemp("pages")
    result, predictor, stream = evaluated
    runs = [write_run(folder / f"seed{number}", result, seed=number) for number in range(2)]
    single = write_report(runs[0] / "evaluation" / "test", record_of(result), result, predictor, stream, runs[0], 8)
    assert main([*map(str, runs), "--out", str(folder / "joined.html")]) == 0
    return {"single": single, "joined": folder / "joined.html"}


@needs_browser
@pytest.mark.parametrize("kind", ["single", "joined"])
def test_a_browser_shows_the_page_without_complaint(pages, kind, tmp_path):
    assert complaints_of(tmp_path / "browser", pages[kind].as_uri()) == []


@needs_browser
def test_a_page_follows_light_and_dark(pages, tmp_path):
    backgrounds = [
        np.median(screenshot(tmp_path, pages["single"].as_uri(), name, n)) for n, name in enumerate(("dark", "light"))
    ]
    assert backgrounds[0] < 60 < 200 < backgrounds[1]


@needs_browser
def test_a_complaint_would_be_seen(tmp_path):
    page = tmp_path / "page.html"
    page.write_text("<meta http-equiv=Content-Security-Policy content=\"default-src 'none'\"><p style='color: red'>x")
    assert len(complaints_of(tmp_path / "browser", page.as_uri())) == 1
    assert "<p style" in browse(tmp_path / "browser", page.as_uri(), "--dump-dom")
