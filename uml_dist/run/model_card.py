"""The model card of exported weights: the page that says what they are."""

from collections.abc import Mapping, Sequence
from typing import Any

import tomli_w

from uml_shards.format.manifest import Manifest

from ..evaluate.metrics import EMPTY_RULES, is_overlap
from ..evaluate.selection import parse_selection
from .checkpoint import RunState

CAUTION = """\
This is no medical device, and nothing here is validated for use on patients. Vacuity says how little evidence the
network gave, by its own training: it is no probability of an error."""


def model_card(
    state: RunState,
    networks: Mapping[str, int],
    manifests: Mapping[str, Manifest | None],
    validation: Mapping[str, Any],
    evaluations: Sequence[Mapping[str, Any]],
) -> str:
    """A page of Markdown.

    Args:
        state: of the checkpoint.
        networks: name -> numbers in its weights and buffers.
        manifests: of every stream; None where its shards are not at hand.
        validation: step, metrics and rule for empty masks of the last validation; may be empty.
        evaluations: records of `evaluate.py`.
    """
    parts = [
        f"# {state.recipe}, step {state.step}",
        CAUTION,
        "## Networks",
        _table(("file", "numbers"), [(f"`{name}.safetensors`", f"{count:,}") for name, count in networks.items()])
        + "\n\nWeights are float32. `MANIFEST.json` holds the sha256 of every file but this page.",
        "## Load",
        _loading(networks),
        "## Data",
        *(_data(name, state.data.get(name), manifest) for name, manifest in manifests.items()),
        "Whether weights may be passed on depends on the licence of the data too.",
        "## Figures",
        *_figures(validation, evaluations, parse_selection(state.config["train"]["best"]).name),
        "## Configuration",
        "Of paths and URLs, the last part only.\n\n```toml\n" + tomli_w.dumps(state.config).strip() + "\n```",
        "## Versions",
        _table(("package", "version"), list(state.versions.items())),
    ]
    return "\n\n".join(parts) + "\n"


def _loading(networks: Mapping[str, int]) -> str:
    text = "To train from these weights, give this folder as `model.init`:\n\n"
    text += "    python launchers/train.py --num_gpus 2 model.init=FOLDER train.steps=500"
    if len(networks) == 1:
        text += f"\n\nor its one file, `model.init=FOLDER/{next(iter(networks))}.safetensors`."
    text += "\n\nThe settings of `model` must be those below; heads for other classes start afresh."
    return text


def _data(name: str, digest: str | None, manifest: Manifest | None) -> str:
    lines = [f"- stream `{name}`, digest of its manifest {f'`{digest}`' if digest else 'not recorded'}"]
    if manifest is None:
        return lines[0] + "; these shards were not at hand at the export: licence and source are not known"
    lines.append(f"  - {manifest.dataset}, split {manifest.split}, {manifest.samples} samples")
    if manifest.classes:
        lines.append(f"  - classes {', '.join(manifest.classes)}")
    if manifest.mask_classes:
        lines.append(f"  - classes of pixels {', '.join(manifest.mask_classes)}")
    lines += [f"  - licence: {_line(manifest.licence)}", f"  - source: {_line(manifest.source)}"]
    return "\n".join(lines)


def _figures(validation: Mapping[str, Any], evaluations: Sequence[Mapping[str, Any]], best: str) -> list[str]:
    parts = []
    for record in evaluations:
        intervals = record.get("intervals", {})
        rows = [(name, _number(value), _interval(intervals.get(name))) for name, value in record["metrics"].items()]
        title = f"Evaluation on {record.get('dataset')}, split {record.get('split')}, with 95 % intervals over cases:"
        parts.append(f"{title}\n\n{_table(('metric', 'value', 'interval'), rows)}{_empty_masks(record)}")
    if validation:
        rows = [(name, _number(value)) for name, value in validation["metrics"].items()]
        title = f"Validation at step {validation['step']}; the best checkpoint is chosen by `{best}`:"
        parts.append(f"{title}\n\n{_table(('metric', 'value'), rows)}{_empty_masks(validation)}")
    return parts or ["None: the run was not validated."]


def _empty_masks(record: Mapping[str, Any]) -> str:
    """The rule for empty masks that a table follows, for below it; empty where there is no Dice, or it is not known."""
    rule = record.get("empty_masks")
    if not rule or not any(map(is_overlap, record["metrics"])):
        return ""
    return f"\n\nEmpty masks: {EMPTY_RULES.get(rule, rule)}."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _interval(ends: Any) -> str:
    return " to ".join(map(_number, ends)) if ends else ""


def _line(text: str) -> str:
    return " ".join(text.split())
