"""An importer of an installed package is found by the name of its entry point, listed, and used in worker processes."""

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

import pytest

from packages import install, install_example, write_lesions
from uml_shards import ShardError
from uml_shards.command import main
from uml_shards.importers import find_importer, importer_names, importers
from uml_shards.importers.phantom import PhantomImporter

GROUP = "uml_shards.importers"
MINE = """
from uml_shards.importers import Importer, Source

class Mine(Importer):
    name, summary, licence, source = "mine", "a test", "none", "this test"
    where, tree, default_size = "ask the test", "RAW/*", 8

    def splits(self): ...
    def encode(self, item): ...
"""


def declare(site, name, code, package=None):
    install(site, package or f"{name}-data", {GROUP: {name: f"{name}_data:Mine"}}, {f"{name}_data": code})


@pytest.fixture
def example(site):
    """The example package, installed."""
    install_example(site)


def problem(name: str) -> str:
    """The message of the error that looking up a name raises, which is one line."""
    with pytest.raises(ShardError) as raised:
        find_importer(name)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_the_name_of_an_entry_point_and_the_import_path_give_the_class(example):
    kind = find_importer("lesion_table")
    assert kind is find_importer("lesion_example.importer:LesionTable")
    assert (kind.name, importers()["lesion_table"]) == ("lesion_table", kind)
    assert importer_names()[-1] == "lesion_table"


@pytest.mark.parametrize("name", ["lesion_table", "lesion_example.importer:LesionTable"])
def test_its_samples_are_encoded_in_worker_processes_that_inherit_nothing(name, example, tmp_path):
    importer = find_importer(name)(write_lesions(tmp_path / "raw", patients=2))
    items = [item for source in importer.splits().values() for item in source.items]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert list(pool.map(importer.encode, items)) == list(map(importer.encode, items))


def test_the_command_makes_shards_with_several_workers(example, tmp_path, capsys):
    raw, out = str(write_lesions(tmp_path / "raw", patients=8)), tmp_path / "out"
    words = ["--raw", raw, "--out", str(out), "--size", "16", "--workers", "2", "--quiet"]
    assert main(["make", "--dataset", "lesion_table", *words]) == 0
    assert "data set: lesion_table" in capsys.readouterr().out
    assert (out / "train" / "manifest.json").is_file()


def test_modules_of_other_packages_are_not_imported_until_their_name_is_looked_up(site):
    declare(site, "mine", MINE)
    assert find_importer("phantom") is PhantomImporter
    assert "mine" in importer_names()
    assert "mine (mine-data)" in problem("yours")
    assert "mine_data" not in sys.modules


def test_an_unknown_name_lists_all_names_and_suggests_the_nearest(site):
    declare(site, "mine", MINE)
    *builtin, mine = importer_names()
    assert mine == "mine"
    assert problem("mime").startswith(
        f"unknown importer 'mime': did you mean mine? built in: {', '.join(builtin)}; from installed packages: mine "
        "(mine-data); for another one, install"
    )


def test_two_packages_that_declare_one_name_are_both_named(site, capsys):
    declare(site, "mine", MINE)
    declare(site, "mine", MINE, "other-data")
    assert main(["make", "--dataset", "mine"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: importer 'mine' is declared by several packages: ")
    assert "mine-data (mine_data:Mine)" in line
    assert "other-data (mine_data:Mine)" in line


def test_broken_importers_are_one_line_each_in_the_list_and_the_others_are_described(example, site, capsys):
    declare(site, "absent", "import nothing_of_this_name")
    declare(site, "leaving", "raise SystemExit")
    declare(site, "partial", MINE.replace("def encode(self, item): ...", "licence = source").replace("mine", "partial"))
    declare(site, "odd", MINE.replace('"RAW/*"', "None").replace("mine", "odd"))
    assert main(["datasets"]) == 0
    listed = capsys.readouterr().out.split("\n\n")
    assert [text.partition(":")[0] for text in listed] == importer_names()
    one_line = {text.partition(":")[0]: text for text in listed if "\n" not in text.strip()}
    assert set(one_line) == {"absent", "leaving", "odd", "partial"}
    assert all(": not available: " in text for text in one_line.values())
    assert "of package absent-data: module absent_data cannot be imported: ModuleNotFoundError" in one_line["absent"]
    assert "of package leaving-data: module leaving_data cannot be imported: SystemExit" in one_line["leaving"]
    assert "of package partial-data: " in one_line["partial"]
    assert "lesion_table: skin lesions" in "\n".join(listed)
    assert set(importers()) >= {"phantom", "lesion_table"}
    assert "partial" not in importers()


def test_a_built_in_name_takes_precedence_and_the_list_reports_the_hidden_importer(site, capsys):
    declare(site, "phantom", MINE)
    assert find_importer("phantom") is PhantomImporter
    assert main(["datasets"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("importer 'phantom' of phantom-data (phantom_data:Mine) is hidden by the built-in one")


def test_an_importer_that_cannot_be_sent_to_worker_processes_is_refused(site):
    declare(site, "mine", f"def make():\n{MINE.replace(chr(10), chr(10) + '    ')}\n    return Mine\nMine = make()")
    assert "class Mine cannot be sent to worker processes: define it at the top level" in problem("mine")


def test_malformed_metadata_of_a_package_are_one_line(site, capsys):
    declare(site, "mine", MINE)
    (site / "mine_data-1.0.dist-info" / "entry_points.txt").write_text(f"[{GROUP}]\nmine\n")
    assert main(["make", "--dataset", "mine"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: cannot list the installed packages' entry points uml_shards.importers: ")
