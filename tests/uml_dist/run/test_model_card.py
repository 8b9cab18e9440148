"""The model card of an export: the words of CLAIM and STARD-AI, and metadata that the Hugging Face Hub reads."""

import re

import pytest
import yaml

from manifests import manifest_of
from uml_dist.config.loading import validate
from uml_dist.run.checkpoint import RunState
from uml_dist.run.inputs import Inputs
from uml_dist.run.model_card import model_card

RECORD = {
    "dataset": "phantom",
    "split": "test",
    "weights": "trained",
    "metrics": {"dice_lesion": 0.92, "dice": 0.91, "image_error_auroc_vacuity": 0.75, "auroc": float("nan")},
    "intervals": {"dice": [0.9, 0.92], "image_error_auroc_vacuity": [0.7, 0.8]},
    "interval": {"level": 0.95, "draws": 1000},
    "counts": {"cases": 20},
    "definitions": {"dice": "mean of the Dice"},
}
HOSTILE = 'x"\n---\n# <b>\u202e\x1b[2J: &a {}'


def card_of(evaluations=(), validation=None, name="mole", graph=None, train=None, **manifest):
    tree = {
        "recipe": "uml",
        "streams": {"train": {"shards": "/data/shards/phantom", "count": 8}},
        "train": {"steps": 9, **(train or {})},
    }
    config = validate(tree, "test")
    manifests = {"train": manifest_of(**manifest)}
    state = RunState("uml", step=9, config=config.model_dump(mode="json", exclude_none=True))
    return model_card(
        state,
        networks={"uml": 1234},
        inputs=Inputs.of(config, manifests),
        manifests=manifests,
        validation=validation or {},
        evaluations=list(evaluations),
        weights="trained",
        name=name,
        graph=graph,
    )


def metadata_of(card):
    """The front matter, as the Hub splits it off."""
    _, text, _ = re.split(r"^---$", card, maxsplit=2, flags=re.MULTILINE)
    return yaml.safe_load(text)


def section(card, title):
    return card.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_metadata_has_a_result_for_each_evaluation_without_what_is_no_number():
    metadata = metadata_of(card_of([RECORD, {**RECORD, "shards": "hospital", "metrics": {"dice": 0.5}}]))
    (model,) = metadata["model-index"]
    internal, external = model["results"]
    assert (model["name"], metadata["library_name"]) == ("mole", "uml-dist")
    assert internal["task"] == {"type": "image-segmentation"}
    assert internal["dataset"] == {"type": "phantom", "name": "phantom", "split": "test"}
    assert internal["metrics"] == [{"type": "dice", "name": "dice", "value": 0.91}]
    assert external["dataset"]["name"] == "hospital"
    assert [one["value"] for one in external["metrics"]] == [0.5]


def test_metadata_without_an_evaluation_has_no_index():
    metadata = metadata_of(card_of())
    assert "model-index" not in metadata
    assert metadata["pipeline_tag"] == "image-segmentation"


@pytest.mark.parametrize("place", ["name", "dataset", "metric"])
def test_names_of_others_stay_inside_their_quotes(place):
    record = {**RECORD, "dataset": HOSTILE if place == "dataset" else "phantom"}
    record["metrics"] = {HOSTILE if place == "metric" else "dice": 0.5}
    card = card_of([record], name=HOSTILE if place == "name" else "mole")
    metadata = metadata_of(card)
    (model,) = metadata["model-index"]
    (result,) = model["results"]
    found = {"name": model["name"], "dataset": result["dataset"]["name"], "metric": result["metrics"][0]["type"]}
    assert found[place] == 'x"\\n---\\n# <b>\\u202e\\x1b[2J: &a {}'
    assert card.count("\n---\n") == 1
    assert "<b>" not in card
    assert "\x1b" not in card


def test_tests_on_other_data_are_external():
    card = card_of([RECORD, {**RECORD, "shards": "hospital", "metrics": {"dice": 0.125}}])
    assert "| metric | value | 95 % interval | definition |" in section(card, "Internal testing")
    assert "| dice | 0.9100 | 0.9000 to 0.9200 | mean of the Dice |" in section(card, "Internal testing")
    assert "| dice | 0.1250 |" in section(card, "External testing")
    assert "| external testing | hospital, test | nothing was chosen by it |" in section(card, "Data")
    alone = section(card_of([RECORD]), "External testing")
    assert "None: the model was not evaluated on another data set" in alone


def test_figures_of_the_split_that_chose_the_model_count_as_optimistic():
    validation = {"step": 9, "metrics": {"dice": 0.5}}
    card = card_of([{**RECORD, "split": "val"}], validation)
    assert "| internal testing | phantom, val | chose the step, so its figures are optimistic |" in section(
        card, "Data"
    )
    assert "Validation at step 9; the best checkpoint is chosen by `dice`:" in section(card, "Tuning")


def test_reference_standard_counts_what_is_known_of_the_training_data():
    card = card_of(labelled=7, masked=5)
    text = section(card, "Reference standard")
    assert "7 of 8 samples have a label, 5 a mask" in text
    assert re.search(r": benign 4, malignant 3$", text, re.MULTILINE)


def test_figures_of_training_data_count_as_optimistic():
    text = section(card_of([{**RECORD, "split": "train"}]), "Data")
    assert "| phantom, train | the weights were fitted to it, so its figures are optimistic |" in text


def test_the_held_out_fold_that_a_run_was_validated_on_chose_its_step():
    fold = {**RECORD, "split": "train-fold-0-of-3", "fold": {"folds": 3, "fold": 0, "seed": 0}}
    chose = "phantom, train-fold-0-of-3 | chose the step, so its figures are optimistic |"
    assert chose in section(card_of([fold], train={"validate_split": "fold"}), "Data")
    assert chose not in section(card_of([fold], train={"validate_split": "val"}), "Data")


def test_failure_analysis_has_the_detection_of_errors_with_intervals():
    text = section(card_of([RECORD]), "Failure analysis")
    assert "How errors are found by uncertainty on phantom, test:\n\n| metric |" in text
    assert "| image_error_auroc_vacuity | 0.7500 | 0.7000 to 0.8000 |" in text
    assert "| dice |" not in text
    assert "No figure was recorded" in section(card_of(), "Failure analysis")


def test_images_of_a_second_split_are_named_in_the_failure_analysis():
    record = {**RECORD, "metrics": {"dice": 0.5, "ood_auroc_image_vacuity": 0.625}}
    record["second_split"] = {"dataset": "x-rays", "split": "val"}
    text = section(card_of([record]), "Failure analysis")
    assert "on phantom, test; the outliers are x-rays, val:\n\n| metric |" in text
    assert "| ood_auroc_image_vacuity | 0.6250 |" in text


def test_every_metric_of_a_test_stands_in_one_table():
    card = card_of([RECORD])
    found = re.findall(r"^\| (\w+) \| (?:nan|0\.\d+) \|", card, re.MULTILINE)
    assert sorted(found) == sorted(RECORD["metrics"])
    assert "| dice_lesion | 0.9200 |" in section(card, "Further figures")


def test_tuning_has_the_metric_that_chose_the_step_and_the_headline():
    validation = {"step": 9, "metrics": {"dice": 0.5, "loss": 1.5, "dice_lesion": 0.25}}
    text = section(card_of(validation=validation, train={"best": "loss"}), "Tuning")
    assert text.endswith("| metric | value |\n| --- | --- |\n| loss | 1.5000 |\n| dice | 0.5000 |\n")


def test_intervals_over_patients_are_stated():
    assert "20 cases. Bootstrap intervals (1000 draws) over cases:" in section(card_of([RECORD]), "Internal testing")
    card = card_of([{**RECORD, "counts": {"cases": 20, "patients": 7}}])
    stated = "20 cases of 7 patients. Bootstrap intervals (1000 draws) over patients, each with all cases:"
    assert stated in section(card, "Internal testing")


def test_confusion_matrix_is_shown_where_it_is_small():
    counted = {"text": "cases by label", "rows": ["be|nign", "malignant"], "columns": ["be|nign", "malignant"]}
    counted["values"] = [[5, 1], [2, 4]]
    text = section(card_of([{**RECORD, "tables": {"confusion_matrix": counted}}]), "Internal testing")
    assert "Confusion matrix: cases by label.\n\n|  | be\\|nign | malignant |" in text
    assert "| be\\|nign | 5 | 1 |\n| malignant | 2 | 4 |" in text
    large = {**counted, "rows": ["a"] * 13, "values": [[1, 2]] * 13}
    assert "Confusion" not in card_of([{**RECORD, "tables": {"confusion_matrix": large}}])


def test_metrics_that_are_all_of_another_recipe_stand_first_as_they_are():
    card = card_of([{**RECORD, "metrics": {"confidence": 0.5}, "intervals": {}}])
    assert "| confidence | 0.5000 |" in section(card, "Internal testing")
    (model,) = metadata_of(card)["model-index"]
    assert model["results"][0]["metrics"] == [{"type": "confidence", "name": "confidence", "value": 0.5}]
    assert "Further figures" not in card


@pytest.mark.parametrize(("graph", "library"), [("model.onnx", "onnxruntime"), ("model.pt2", "torch.export.load")])
def test_card_of_a_graph_shows_how_it_runs_and_not_how_it_trains(graph, library):
    card = card_of(graph=graph)
    assert library in section(card, "Predict")
    assert f"| {graph} | 1,234 in all networks of the run |" in section(card, "Model")
    assert "Train from these weights" not in card
    assert "safetensors" not in card
