"""The metadata of a model card, as YAML: what the Hugging Face Hub shows and searches."""

import json
import re
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from uml_shards.text import printable

from .card_figures import first_of
from .inputs import Inputs

TAGS = ("medical-imaging", "uncertainty", "evidential-deep-learning")


def front_matter(name: str, recipe: str, inputs: Inputs | None, evaluations: Sequence[Mapping[str, Any]]) -> str:
    """Return the metadata with one result of `model-index` for each recorded evaluation that has figures.

    Args:
        name: name of the model.
        recipe: name of the recipe.
        inputs: what the networks take; None where it is not known.
        evaluations: records that `evaluate.py` wrote.
    """
    segments = inputs is None or bool(inputs.pixel_classes)
    task = "image-segmentation" if segments else "image-classification"
    lines = ["---", "library_name: uml-dist", f"pipeline_tag: {task}", f"tags: {_flow([*TAGS, recipe])}"]
    results = [(record, found) for record in evaluations if (found := _metrics(record))]
    if results:
        lines += ["model-index:", f"- name: {_flow(name)}", "  results:"]
    for record, metrics in results:
        lines += [f"  - task: {_flow({'type': task})}", f"    dataset: {_flow(_dataset(record))}", "    metrics:"]
        lines += [f"    - {_flow(metric)}" for metric in metrics]
    return "\n".join([*lines, "---"])


def _dataset(record: Mapping[str, Any]) -> dict[str, str]:
    name = str(record.get("shards") or record.get("dataset"))
    kind = re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip("-").lower() or "unnamed"
    return {"type": kind, "name": name, "split": str(record.get("split"))}


def _metrics(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the headline figures of an evaluation that are numbers."""
    figures = ((name, record["metrics"][name]) for name in first_of(record))
    return [
        {"type": name, "name": name, "value": value}
        for name, value in figures
        if isinstance(value, int | float) and isfinite(value)
    ]


def _flow(value: Any) -> str:
    """Return a value as JSON, which is YAML too, on one line and without HTML."""

    def clean(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {clean(key): clean(one) for key, one in value.items()}
        if isinstance(value, list):
            return [clean(one) for one in value]
        return printable(value) if isinstance(value, str) else value

    text = json.dumps(clean(value), ensure_ascii=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
