"""Intervals by patient: patients are drawn with all their cases, and the files state it."""

import csv
import json

import numpy as np
import pytest

from case_rows import cases_of
from manifests import manifest_of
from plain_recipe import evaluate
from uml_dist.evaluate import Evaluation, summarise
from uml_dist.evaluate.results import metrics_record, printed_table, write_cases
from uml_dist.metrics.cases import Cases, draw_weights, number_units
from uml_dist.metrics.families import STANDARD
from uml_dist.metrics.summary import intervals
from uml_shards.importers import Options
from uml_shards.importers.phantom import PhantomImporter
from uml_shards.read.split import Split, open_split
from uml_shards.write.writer import write_split

SAMPLES = 14


def patient_of(number):
    """Return the patient of a sample: two of three images, one of two, and six samples without any."""
    return {0: "=1+1", 1: 7}.get(number // 3, "P9" if number in (6, 7) else None if number % 2 else "")


class OfPatients(PhantomImporter):
    """The phantom with a patient in the json of some images."""

    def encode(self, item):
        key, components = super().encode(item)
        meta = json.loads(components["json"]) | {"patient": patient_of(item[1])}
        return key, components | {"json": json.dumps(meta).encode()}


@pytest.fixture(scope="module")
def split(tmp_path_factory) -> Split:
    importer = OfPatients(options=Options(size=16, counts={"val": SAMPLES}, lossless=True))
    folder = tmp_path_factory.mktemp("patients") / "val"
    write_split(importer, "val", importer.splits()["val"], folder, samples_per_shard=4, quiet=True)
    return open_split(folder)


@pytest.fixture(scope="module")
def cases(split) -> Cases:
    return evaluate(str(split.path), 4, draws=200)[0]


def result_of(cases, manifest):
    return Evaluation(manifest, "one", STANDARD, summarise(cases, manifest), cases, ())


def stated(split):
    return {key: str(patient_of(int(key.rpartition("-")[2])) or "") for key in split.keys()}


def test_a_split_states_the_patients_of_its_samples_without_reading_images(split, monkeypatch):
    monkeypatch.setattr("uml_shards.read.split.decode_sample", None)
    assert dict(zip(split.keys(), split.patients(), strict=True)) == stated(split)
    assert sorted(filter(None, split.patients())) == sorted(["=1+1", "7"] * 3 + ["P9"] * 2)
    assert set(split.without_truth().patients()) == {""}


def test_patients_are_drawn_with_all_their_cases_and_others_by_themselves(split, cases):
    assert dict(zip(cases.keys, cases.patients, strict=True)) == stated(split)
    assert cases.units == 3 + 6
    units = number_units(cases.patients)
    for unit in range(cases.units):
        drawn = cases.draws[:, units == unit]
        assert (drawn == drawn[:, :1]).all()
    first = [np.flatnonzero(units == unit)[0] for unit in range(cases.units)]
    assert (cases.draws[:, first].sum(1) == cases.units).all()
    assert cases.sums["pixel_calibration"][1:, :, 0].sum(1) == pytest.approx(cases.draws @ cases.columns["pixels"])


def test_draws_of_patients_with_one_case_each_are_those_of_the_cases():
    alone = draw_weights(50, 20, 3)
    assert (draw_weights(50, 20, 3, [str(n) for n in range(50)]) == alone).all()
    assert (draw_weights(50, 20, 3, [""] * 50) == alone).all()
    assert (alone.sum(1) == 50).all()


def accurate(patients, draws=400):
    """The interval of the accuracy where all eight images of a patient are right, or all are wrong."""
    rows = [
        {"key": f"{n:04d}", "label": 1.0, "probability_0": p, "probability_1": 1 - p, "image_nll": 0.1}
        for n, p in enumerate(np.repeat(np.tile([0.9, 0.1], 10), 8))
    ]
    of_cases, manifest = cases_of(rows), manifest_of(masked=0)
    drawn = draw_weights(len(rows), draws, 0, patients)
    cases = Cases(of_cases.keys, of_cases.columns, draws=drawn, patients=tuple(patients))
    low, high = intervals(cases, manifest)["accuracy"]
    return high - low


def test_intervals_of_alike_cases_are_as_wide_as_those_of_the_patients():
    # The accuracy of 20 patients has a deviation of 0.11, that of 160 cases of 0.04.
    assert accurate(np.repeat([f"P{n}" for n in range(20)], 8).tolist()) == pytest.approx(4 * 0.112, rel=0.2)
    assert accurate([]) == pytest.approx(4 * 0.0395, rel=0.2)


def test_a_single_patient_has_no_interval():
    rows = [
        {"key": str(n), "label": 1.0, "probability_0": 0.4, "probability_1": 0.6, "image_nll": 0.5} for n in range(9)
    ]
    cases = cases_of(rows)
    one = Cases(cases.keys, cases.columns, draws=draw_weights(9, 50, 0, ["P"] * 9), patients=("P",) * 9)
    assert one.units == 1
    assert intervals(one, manifest_of(masked=0)) == {}


def test_the_files_and_the_table_state_patients(split, cases, tmp_path):
    result = result_of(cases, split.manifest)
    record = metrics_record(result)
    assert record["interval"]["kind"] == "bootstrap percentile over patients"
    assert (record["counts"]["patients"], record["counts"]["cases"]) == (9, SAMPLES)
    assert "intervals: of 9 patients, drawn with all their cases" in printed_table(record).splitlines()
    write_cases(tmp_path / "cases.csv", result)
    with (tmp_path / "cases.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["key"]: row["patient"].removeprefix("'") for row in rows} == stated(split)
    assert {row["patient"] for row in rows} == {"'=1+1", "7", "P9", ""}


def test_without_patients_the_draws_are_of_cases_and_no_file_names_patients(tmp_path):
    importer = PhantomImporter(options=Options(size=16, counts={"val": 5}, lossless=True))
    write_split(importer, "val", importer.splits()["val"], tmp_path / "val", quiet=True)
    plain = evaluate(str(tmp_path / "val"), 4, draws=20)[0]
    assert (plain.patients, plain.units) == ((), 5)
    record = metrics_record(result_of(plain, open_split(tmp_path / "val").manifest))
    assert record["interval"]["kind"] == "bootstrap percentile over cases"
    assert "patients" not in record["counts"]


@pytest.mark.parametrize("text", [b"{", b"[]", b"7"])
def test_a_json_that_cannot_be_parsed_states_no_patient(split, monkeypatch, text):
    monkeypatch.setattr("uml_shards.read.split.parse_json", lambda _: json.loads(text))
    assert set(split.patients()) == {""}
