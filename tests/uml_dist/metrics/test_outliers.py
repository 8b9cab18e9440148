"""Images of a second split told from those of the evaluated one by their uncertainty, against scikit-learn."""

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from case_rows import cases_of
from manifests import manifest_of
from plain_recipe import PlainRecipe
from uml_dist.batch import Prediction
from uml_dist.evaluate import Predictor, evaluate
from uml_dist.evaluate.results import metrics_record, printed_table
from uml_dist.metrics.families import Outliers
from uml_dist.metrics.families.outliers import SCORES, joined
from uml_dist.metrics.summary import definition_of, draw_metrics, intervals, metrics_of, summarise
from uml_shards.importers import Options
from uml_shards.importers.phantom import PhantomImporter
from uml_shards.read.plan import InOrder
from uml_shards.read.split import open_split
from uml_shards.read.stream import Stream
from uml_shards.write.writer import write_split

FAMILIES = (Outliers(),)
MANIFEST = manifest_of()


def rows_of(scores, name):
    return [{"key": f"{name}-{n:03d}", **dict.fromkeys(SCORES.values(), score)} for n, score in enumerate(scores)]


def both(first, second, draws=0):
    return joined(cases_of(rows_of(first, "a"), draws), cases_of(rows_of(second, "b"), draws, seed=1))


@pytest.mark.parametrize("levels", [4, 1000])
def test_area_is_scikit_learn_s_also_with_ties(levels):
    generator = np.random.default_rng(0)
    first, second = np.floor(generator.random(40) * levels), np.floor((generator.random(25) + 0.2) * levels)
    expected = roc_auc_score([0] * 40 + [1] * 25, [*first, *second])
    found = summarise(both(first, second), MANIFEST, families=FAMILIES)
    assert found == pytest.approx({f"ood_auroc_{name}": expected for name in SCORES})
    assert all(definition_of(name, FAMILIES).text for name in found)


@pytest.mark.parametrize(("first", "second", "expected"), [(0, 1, 1.0), (1, 0, 0.0), (1, 1, 0.5)])
def test_separated_and_constant_scores(first, second, expected):
    found = summarise(both([first] * 3, [second] * 2), MANIFEST, families=FAMILIES)
    assert set(found.values()) == {expected}


def test_without_images_on_either_side_there_is_no_figure():
    assert summarise(both([0.1], []), MANIFEST, families=FAMILIES) == {}
    assert summarise(cases_of(rows_of([0.1, 0.2], "a")), MANIFEST, families=FAMILIES) == {}


def test_draws_are_of_both_splits_independently():
    generator = np.random.default_rng(0)
    first, second = generator.random(30), generator.random(20) + 0.3
    cases = both(first, second, draws=100)
    assert (cases.draws[:, :30].sum(1) == 30).all()
    assert (cases.draws[:, 30:].sum(1) == 20).all()
    assert (cases.draws[:, :20] != cases.draws[:, 30:]).any()
    drawn = draw_metrics(metrics_of(cases, MANIFEST, families=FAMILIES), cases)["ood_auroc_vacuity_mean"]
    truth, scores = [0] * 30 + [1] * 20, [*first, *second]
    for number in range(5):
        assert drawn[number] == pytest.approx(roc_auc_score(truth, scores, sample_weight=cases.draws[number]))
    low, high = intervals(cases, MANIFEST, families=FAMILIES)["ood_auroc_vacuity_mean"]
    assert low < roc_auc_score(truth, scores) < high


def test_what_is_not_predicted_has_no_figure():
    batch_like = Prediction(image_probability=torch.tensor([[0.5, 0.5]]))
    columns = Outliers().columns(None, batch_like, MANIFEST)
    assert columns.keys() == {"outlier_image_entropy"}
    assert float(columns["outlier_image_entropy"]) == pytest.approx(np.log(2))


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    """Two splits of the phantom, of other seeds and numbers of images."""
    folder, found = tmp_path_factory.mktemp("outliers"), []
    for name, samples, seed in (("val", 9, 0), ("test", 7, 1)):
        importer = PhantomImporter(options=Options(size=16, counts={name: samples}, lossless=True, seed=seed))
        write_split(importer, name, importer.splits()[name], folder / name, quiet=True)
        found.append(open_split(folder / name))
    return found


def test_an_evaluation_beside_a_second_split_keeps_its_figures_and_adds_the_areas(splits):
    predictor = Predictor(PlainRecipe(), {"plain": nn.Identity()}, torch.device("cpu"))
    first, second = (Stream(one, InOrder(len(one)), (16, 16), splits[0].manifest.statistics) for one in splits)
    alone = evaluate(predictor, first, 4, draws=50, examples=False)
    beside = evaluate(predictor, first, 4, draws=50, examples=False, second=second)
    swapped = evaluate(predictor, second, 4, draws=50, examples=False, second=first)
    assert beside.metrics == alone.metrics
    record, plain = metrics_record(beside), metrics_record(alone)
    added = {name: value for name, value in record["metrics"].items() if name not in plain["metrics"]}
    assert added.keys() == {f"ood_auroc_{name}" for name in SCORES}
    others = metrics_record(swapped)["metrics"]
    for name, value in added.items():
        assert others[name] == pytest.approx(1 - value)
    assert {name: record["metrics"][name] for name in plain["metrics"]} == plain["metrics"]
    assert {name: record["intervals"][name] for name in plain["intervals"]} == plain["intervals"]
    assert record["counts"] == plain["counts"]
    assert added.keys() <= record["definitions"].keys() & record["intervals"].keys()
    facts = {"dataset": "phantom", "split": "test", "data_digest": splits[1].digest, "cases": 7}
    assert json.loads(json.dumps(record))["second_split"] == facts
    assert "ood_auroc: against 7 images of phantom test" in printed_table(record).splitlines()
    assert "second_split" not in plain
