"""The pages: complete, self-contained, and harmless whatever the names and values in a run are."""

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from uml_dist.watch import page as page_module
from uml_dist.watch import watcher as watcher_module
from uml_dist.watch.text import ago, duration, escape, figure, percent
from uml_dist.watch.watcher import UnknownRunError, Watcher
from watched import append, make_run, training_record, validation_record, write_status

HOSTILE = "<script>alert(1)</script>\"'&\u202e"
PARTS = ["head", "curves", "time", "ranks", "vacuity", "pictures", "figures", "configuration"]


class Elements(HTMLParser):
    """Collects the elements, ids, addresses and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif name in ("src", "href", "action", "xlink:href"):
                self.addresses.append(value or "")
            elif name.startswith("on") or name == "style":
                self.handlers.append(name)

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def hostile(tmp_path):
    """A run all of whose words are markup."""
    run = make_run(tmp_path / "runs" / HOSTILE.replace("/", "_"), "failed", reason=f"{HOSTILE}\nsecond line")
    config = '# </pre><script>alert(2)</script>\nrecipe = "<b>recipe</b>"\n[train]\nsteps = 300\nbest = "<i>x"\n'
    (run / "config.toml").write_text(config)
    odd = {f"validation_dice_{HOSTILE}": 0.5, f"seconds_{HOSTILE}": 1.0, f"term{HOSTILE}": 0.5, "phase": HOSTILE}
    append(run, [training_record(210, **odd, **{f"learning_rate_{HOSTILE}": 1.0, f"vacuity_{HOSTILE}": 0.5})])
    append(run, [validation_record(220, **{"validation_<u>v.loss": 1.0})])
    sheet = run / "evaluation" / '"><img src=x onerror=alert(3)>' / "sheet.png"
    sheet.parent.mkdir()
    sheet.write_bytes((run / "evaluation" / "val" / "sheet.png").read_bytes())
    return run


def test_a_run_has_all_parts(tmp_path):
    make_run(tmp_path / "run")
    page = Elements(Watcher(tmp_path).render("run"))
    assert [name for name in page.ids if name in PARTS] == PARTS
    for words in ("running", "Loss", "Parts of the loss", "Validation: scores", "Mean vacuity", "Learning rate"):
        assert words in page.text
    assert page.tags.count("img") == 1
    assert 'best = "loss"' in page.text


def test_the_list_has_the_status_of_every_run(tmp_path):
    make_run(tmp_path / "live")
    make_run(tmp_path / "bench" / "broken", "failed", reason="rank 1: out of memory")
    make_run(tmp_path / "finished", "done", steps=400)
    (tmp_path / "outside").symlink_to("/")
    text = Elements(Watcher(tmp_path).render()).text
    assert "1 running, 1 failed, 1 done" in text
    for words in ("bench/broken", "rank 1: out of memory", "200 / 400", "400 / 400", "Links to other folders"):
        assert words in text


@pytest.mark.parametrize("name", [None, "run"])
def test_words_of_others_are_only_text(hostile, name):
    watcher = Watcher(hostile.parent)
    page = watcher.render(hostile.name if name else None)
    found = Elements(page)
    assert found.tags.count("script") == 1
    assert not {"i", "u", "iframe", "object"} & set(found.tags)
    assert found.handlers == []
    assert "alert(1)" in found.text
    assert "\u202e" not in page
    assert all(one.startswith(("/", "#")) and not one.startswith("//") for one in found.addresses)


def test_charts_are_vector_graphics_in_the_colours_of_the_page(tmp_path):
    make_run(tmp_path / "run")
    page = Watcher(tmp_path).render("run")
    charts = [ElementTree.fromstring(one) for one in re.findall(r'<svg class="chart".*?</svg>', page, re.DOTALL)]
    assert len(charts) >= 9
    for chart in charts:
        values = [value for element in chart.iter() for value in element.attrib.values()]
        assert not any(value.startswith("#0000") for value in values)
        assert any(value.startswith("var(--curve-") for value in values)
        assert not any("style" in element.attrib or element.tag == "style" for element in chart.iter())
    ids = [element.get("id") for chart in charts for element in chart.iter() if element.get("id")]
    assert len(ids) == len(set(ids))


def test_values_that_are_not_finite_are_pointed_out(tmp_path):
    run = make_run(tmp_path / "run")
    append(run, [training_record(210, loss=float("nan"), gradient_norm_uml=float("inf"), vacuity_image=float("nan"))])
    text = Elements(Watcher(tmp_path).render("run")).text
    assert "not a number" in text
    assert "1 not finite, first at step 210" in text


@pytest.mark.parametrize("contents", ["", "{", '{"step": 1}\n', '{"step": 0, "loss": 0.0, "seconds_data": 0}\n'])
def test_a_run_without_figures_is_a_page(tmp_path, contents):
    run = make_run(tmp_path / "run", steps=0)
    (run / "metrics.jsonl").write_text(contents)
    page = Elements(Watcher(tmp_path).render("run"))
    assert [name for name in page.ids if name in PARTS] == PARTS


def test_a_run_of_nothing_but_a_status_is_a_page(tmp_path):
    (tmp_path / "run").mkdir()
    write_status(tmp_path / "run", "failed", 0, "no room")
    text = Elements(Watcher(tmp_path).render("run")).text
    for words in ("no room", "No step has been logged yet", "config.toml cannot be read"):
        assert words in text


def test_a_removed_run_is_unknown(tmp_path):
    run = make_run(tmp_path / "run")
    watcher = Watcher(tmp_path)
    watcher.render("run")
    for path in sorted(run.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    run.rmdir()
    with pytest.raises(UnknownRunError):
        watcher.render("run")


@pytest.mark.parametrize("name", ["", "..", "../runs/run", "/etc", "run/../run", "other"])
def test_only_runs_of_the_list_are_known(tmp_path, name):
    make_run(tmp_path / "runs" / "run")
    make_run(tmp_path / "other")
    with pytest.raises(UnknownRunError):
        Watcher(tmp_path / "runs").render(name)


def test_parts_are_drawn_again_only_when_there_are_new_records(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run")
    watcher = Watcher(tmp_path)
    drawn = []
    monkeypatch.setattr(page_module, "curves_part", lambda journal: drawn.append(journal.step) or "curves")
    monkeypatch.setattr(watcher_module, "SHARE", 1e9)
    watcher.render("run")
    watcher.render("run")
    append(run, [training_record(210)])
    watcher.render("run")
    assert drawn == [200, 210]


def test_a_page_that_costs_much_is_drawn_seldom(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run")
    watcher = Watcher(tmp_path)
    drawn = []
    monkeypatch.setattr(page_module, "curves_part", lambda journal: drawn.append(journal.step) or "curves")
    monkeypatch.setattr(watcher_module, "SHARE", 1e-9)
    for step in (210, 220, 230):
        assert f"{step - 10} <small>of 400" in watcher.render("run")  # the head is always new
        append(run, [training_record(step)])
    assert drawn == [200]


def test_a_page_written_as_a_file_needs_nothing_else(tmp_path):
    make_run(tmp_path / "run")
    page = Elements(Watcher(tmp_path / "run").render(live=False))
    assert "script" not in page.tags
    assert [one[:22] for one in page.addresses if one[0] != "#"] == ["data:image/png;base64,"]


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        (figure(0.45261), "0.4526"), (figure(12.3456), "12.35"), (figure(123456.0), "123,456"), (figure(0.0), "0"),
        (figure(-1.5), "-1.500"), (figure(3.2e-5), "3.2e-5"), (figure(2.5e9), "2.5e9"), (figure(None), "\N{EN DASH}"),
        (duration(0.0004), "0.40 ms"), (duration(0.25), "250 ms"), (duration(41.2), "41 s"), (duration(5.0), "5.00 s"),
        (duration(720.0), "12 min"), (duration(11_520.0), "3.20 h"), (duration(200_000.0), "2.3 days"),
        (percent(0.034, 1), "3.4 %"), (ago(100.0, 101.0), "just now"), (ago(0.0, 41.0), "41 s ago"),
        (escape("a" * 300, 20), "aaaaaaaaa…aaaaaaaaaa"), (escape('<&">'), "&lt;&amp;&quot;&gt;"),
    ],
)  # fmt: skip
def test_numbers_are_short(shown, wanted):
    assert shown == wanted
