"""Package versions against the project's ranges and pins, extras, and the origin of our packages."""

from pathlib import Path

import pytest

from uml_dist.doctor.packages import (
    EXTRAS,
    Wanted,
    check_extras,
    check_origin,
    check_packages,
    check_python,
    find_package,
    installed_version,
    read_wanted,
)

ROOT = Path(__file__).parents[3]
WANTED = Wanted(
    ">=3.11",
    ("torch>=2.9", "numpy>=1.26", "nowhere>=1; platform_system == 'Plan 9'"),
    {"jpeg": ("simplejpeg>=1.8",), "volumes": ("h5py>=3.10", "nibabel>=5.2")},
    {"torch": "2.13.0", "numpy": "2.4.6"},
)
GOOD = {"torch": "2.13.0+cpu", "numpy": "2.4.6", "simplejpeg": "1.9.0", "h5py": "3.16.0", "nibabel": "5.4.2"}


def test_requirements_are_read_from_the_checkout():
    wanted = read_wanted(ROOT)
    assert any(one.startswith("torch>=") for one in wanted.packages)
    assert set(wanted.extras) == set(EXTRAS)
    assert wanted.pins["torch"] == installed_version("torch").partition("+")[0]


def test_requirements_of_an_installation_are_read_from_its_metadata():
    installed, checkout = read_wanted(None), read_wanted(ROOT)
    assert any(one.startswith("torch>=") for one in installed.packages)
    assert set(installed.extras) == set(EXTRAS)
    assert installed.extras["volumes"] == checkout.extras["volumes"]
    assert installed.python == checkout.python
    found = check_packages(installed)
    assert found.state == "ok"
    assert "tested" not in found.message


def test_origin_of_an_installation_is_wherever_its_first_package_is(checkout):
    assert check_origin(None, {}, checkout, checkout.get).state == "note"
    same = dict.fromkeys(checkout, next(iter(checkout.values())))
    assert check_origin(None, {}, same, same.get).state == "ok"


@pytest.mark.parametrize(("number", "state"), [("3.11.0", "ok"), ("3.14.0rc1", "ok"), ("3.10.14", "problem")])
def test_python_version_is_compared_with_the_range(number, state):
    found = check_python(WANTED, number, "/usr/bin/python3")
    assert found.state == state
    assert f"{number} (/usr/bin/python3)" in found.message


def test_tested_versions_and_their_local_builds_are_ok():
    found = check_packages(WANTED, GOOD.get)
    assert (found.state, found.message.split()[0]) == ("ok", "2")


@pytest.mark.parametrize(
    ("change", "message"),
    [({"torch": "2.4.1"}, "torch is 2.4.1, >=2.9 is needed"), ({"numpy": None}, "numpy is missing")],
)
def test_missing_and_old_packages_are_problems(change, message):
    found = check_packages(WANTED, (GOOD | change).get)
    assert (found.state, found.message) == ("problem", message)
    assert "make install" in found.remedy


def test_allowed_but_untested_versions_are_a_note():
    found = check_packages(WANTED, (GOOD | {"torch": "2.14.0"}).get)
    assert found.state == "note"
    assert "torch 2.14.0 (tested: 2.13.0)" in found.message


def test_missing_extras_are_a_note_with_their_purpose():
    assert check_extras(WANTED, GOOD.get).state == "ok"
    found = check_extras(WANTED, (GOOD | {"nibabel": "5.0"}).get)
    assert found.state == "note"
    assert "volumes (NIfTI" in found.message
    assert found.remedy.endswith("'.[volumes]'")


@pytest.fixture
def checkout(tmp_path) -> dict[str, Path]:
    """Our packages in a checkout and in another folder."""
    folders = {"own": tmp_path / "own" / "uml_dist", "shards": tmp_path / "own" / "shards" / "uml_shards"}
    folders |= {"other": tmp_path / "other" / "uml_dist", "site": tmp_path / "own" / ".venv" / "uml_dist"}
    for folder in folders.values():
        folder.mkdir(parents=True)
    return folders


def origin(checkout, places, **environment):
    return check_origin(checkout["own"].parent, environment, places, lambda name: checkout.get(places[name]))


def test_packages_of_the_checkout_are_ok_even_through_pythonpath(checkout):
    places = {"uml_dist": "own", "uml_shards": "shards"}
    assert origin(checkout, places).state == "ok"
    assert origin(checkout, places, PYTHONPATH=str(checkout["shards"].parent)).state == "ok"


def test_package_shadowed_by_pythonpath_is_a_problem(checkout):
    found = origin(checkout, {"uml_dist": "other"}, PYTHONPATH=f"/nowhere:{checkout['other'].parent}")
    assert found.state == "problem"
    assert "PYTHONPATH puts uml_dist" in found.message
    assert "unset PYTHONPATH" in found.remedy


@pytest.mark.parametrize("place", ["other", "site"])
def test_package_from_another_folder_is_a_note(place, checkout):
    found = origin(checkout, {"uml_dist": place})
    assert found.state == "note"
    assert str(checkout[place].parent) in found.message


def test_missing_package_of_ours_is_a_problem(checkout):
    assert origin(checkout, {"uml_kernels": "none"}).state == "problem"


def test_packages_are_found_without_importing_them():
    assert find_package("uml_shards") == ROOT / "shards" / "uml_shards"
    assert find_package("uml_nowhere") is None
