"""Writes the model card of exported weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import tomli_w

from uml_shards.format.manifest import Manifest
from uml_shards.text import markdown, markdown_code, printable

from ..config.schema import Weights
from ..metrics.selection import parse_selection
from ..metrics.summary import EMPTY_RULES, is_overlap
from .checkpoint import RunState
from .inputs import Inputs

CAUTION = """\
This is not a medical device, and nothing here is validated for use on patients. Vacuity measures how little evidence
the network found for its prediction; it is not a probability of an error."""

MODES = {1: "L", 3: "RGB"}
"""Number of channels -> Pillow's mode of such images."""


def model_card(
    state: RunState,
    networks: Mapping[str, int],
    inputs: Inputs | None,
    manifests: Mapping[str, Manifest | None],
    validation: Mapping[str, Any],
    evaluations: Sequence[Mapping[str, Any]],
    weights: Weights,
) -> str:
    """Return the model card as Markdown.

    Args:
        state: the checkpoint's run state.
        networks: name of each network -> number of values in its weights and buffers.
        inputs: what the networks take; None where it is not known.
        manifests: every stream's manifest; None where its shards are not available.
        validation: step, metrics and rule for empty masks of the last validation; may be empty.
        evaluations: records that `evaluate.py` wrote.
        weights: weights of the trained networks with which the run predicts.
    """
    parts = [
        f"# {markdown(state.recipe)}, step {state.step}",
        CAUTION,
        "## Networks",
        _table(("file", "values"), [(f"{name}.safetensors", f"{count:,}") for name, count in networks.items()])
        + "\n\nWeights are stored in float32. `MANIFEST.json` contains the sha256 of every file except this page.",
        "## Inputs",
        _inputs(inputs),
        "## Predict",
        _predicting(inputs, weights),
        "## Train from these weights",
        _loading(networks),
        "## Data",
        *(_data(name, state.data.get(name), manifest) for name, manifest in manifests.items()),
        "Whether you may share these weights also depends on the licence of the data.",
        "## Figures",
        *_figures(validation, evaluations, parse_selection(state.config["train"]["best"]).name),
        "## Configuration",
        f"Paths and URLs are shortened to their last part.\n\n```toml\n{_toml(state.config)}\n```",
        "## Versions",
        _table(("package", "version"), list(state.versions.items())),
    ]
    return "\n\n".join(parts) + "\n"


def _loading(networks: Mapping[str, int]) -> str:
    text = "Set `model.init` to this folder:\n\n"
    text += "    python launchers/train.py --num_gpus 2 model.init=FOLDER train.steps=500"
    if len(networks) == 1:
        text += f"\n\nor to its one file, {markdown_code(f'model.init=FOLDER/{next(iter(networks))}.safetensors')}."
    text += "\n\nUse the `[model]` settings below. Heads for other classes are initialised from scratch."
    return text


def _inputs(inputs: Inputs | None) -> str:
    if inputs is None:
        return "Not stated: the checkpoint is of an earlier version, and its shards were not available at export."
    rows = [
        ("size", " x ".join(map(str, inputs.size))),
        ("channels", str(inputs.channels)),
        ("mean", ", ".join(map(str, inputs.statistics.mean))),
        ("standard deviation", ", ".join(map(str, inputs.statistics.std))),
        ("image classes", ", ".join(inputs.classes) or "none"),
        ("pixel classes", ", ".join(inputs.pixel_classes) or "none"),
    ]
    text = _table(("input", "value"), rows)
    text += (
        "\n\nUnsigned integers are scaled to [0, 1] by their largest value; then mean and standard deviation of each "
    )
    return text + "channel are applied. Classes are in the order of their numbers. `load_run` does all of this."


def _predicting(inputs: Inputs | None, weights: Weights) -> str:
    if inputs is None:
        return '`load_run("FOLDER", shards="SHARDS")` needs the shards of the training.'
    if len(inputs.size) == 2 and inputs.channels in MODES:
        image = f'[numpy.asarray(PIL.Image.open("picture.png").convert("{MODES[inputs.channels]}"))]'
        code = f'run = uml_dist.load_run("FOLDER")\nprediction = run.predict_images({image})'
        code = f"import numpy, PIL.Image, uml_dist\n{code}"
    else:
        code = 'run = uml_dist.load_run("FOLDER", shards="SHARDS")\nstream = run.stream(run.open_split("test"))'
        code = f"import uml_dist\n{code}\nbatch, prediction = next(run.predictor.predictions(stream, range(1), 1))"
    text = f"With this folder as FOLDER, where the package `uml-dist` is installed:\n\n```python\n{code}\n```\n\n"
    text += "`prediction` has probabilities and vacuities of the image and of each pixel."
    if weights == "averaged":
        text += (
            "\n\nTrained networks predict with the moving average of their weights (`train.evaluate_with`); "
            '`load_run(..., weights="trained")` uses the weights that training reached.'
        )
    return text


def _data(name: str, digest: str | None, manifest: Manifest | None) -> str:
    lines = [
        f"- stream {markdown_code(name)}, digest of its manifest {markdown_code(digest) if digest else 'not recorded'}"
    ]
    if manifest is None:
        return lines[0] + "; these shards were not available at export, so licence and source are not known"
    lines.append(f"  - {markdown(manifest.dataset)}, split {markdown(manifest.split)}, {manifest.samples} samples")
    if manifest.classes:
        lines.append(f"  - classes {markdown(', '.join(manifest.classes))}")
    if manifest.mask_classes:
        lines.append(f"  - pixel classes {markdown(', '.join(manifest.mask_classes))}")
    lines += [f"  - licence: {markdown(manifest.licence)}", f"  - source: {markdown(manifest.source)}"]
    return "\n".join(lines)


def _figures(validation: Mapping[str, Any], evaluations: Sequence[Mapping[str, Any]], best: str) -> list[str]:
    parts = []
    for record in evaluations:
        intervals = record.get("intervals", {})
        rows = [(name, _number(value), _interval(intervals.get(name))) for name, value in record["metrics"].items()]
        shards = f" (another data set, {record['shards']})" if "shards" in record else ""
        title = f"Evaluation on {record.get('dataset')}{shards}, split {record.get('split')}"
        title += f"{_weights(record)}, with 95 % intervals over cases:"
        notes = "".join(f"\n\n{markdown(f'{key}: {line}')}." for key, line in record.get("notes", {}).items())
        table = _table(("metric", "value", "interval"), rows)
        parts.append(f"{markdown(title)}\n\n{table}{notes}{_empty_masks(record)}")
    if validation:
        rows = [(name, _number(value)) for name, value in validation["metrics"].items()]
        title = f"Validation at step {validation['step']}{markdown(_weights(validation))}; "
        title += f"the best checkpoint is chosen by {markdown_code(best)}:"
        parts.append(f"{title}\n\n{_table(('metric', 'value'), rows)}{_empty_masks(validation)}")
    return parts or ["None: the run was not validated."]


def _weights(record: Mapping[str, Any]) -> str:
    """Return a note on the weights that were evaluated; empty where they are not known."""
    return f", {record['weights']} weights" if record.get("weights") else ""


def _empty_masks(record: Mapping[str, Any]) -> str:
    """Return a note on the rule for empty masks; empty where a table has no overlap metric or the rule is unknown."""
    rule = record.get("empty_masks")
    if not rule or not any(map(is_overlap, record["metrics"])):
        return ""
    return f"\n\nEmpty masks: {markdown(EMPTY_RULES.get(rule, str(rule)))}."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([markdown(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _interval(ends: Any) -> str:
    return " to ".join(map(_number, ends)) if ends else ""


def _toml(config: Mapping[str, Any]) -> str:
    # No line can end the block of code, as TOML quotes every text and key with a backtick.
    return "\n".join(map(printable, tomli_w.dumps(config).strip().split("\n")))
