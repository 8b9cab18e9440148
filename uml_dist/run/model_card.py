"""Writes the model card of an export, in the words of the checklists CLAIM 2024 and STARD-AI.

CLAIM: Tejani et al., "Checklist for Artificial Intelligence in Medical Imaging (CLAIM): 2024 Update". It speaks of the
reference standard, and of internal and external testing. The part of the data that chooses a model is for tuning.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tomli_w

from uml_shards.format.manifest import Manifest
from uml_shards.text import markdown, markdown_code, printable

from ..config.schema import Weights
from ..metrics.selection import parse_selection
from ..recipes import recipe_class
from .card_figures import data_of, failures, is_external, others, table, tested, tuned
from .checkpoint import RunState
from .inputs import Inputs
from .model_index import front_matter

CAUTION = """\
This is not a medical device, and nothing here is validated for use on patients. Vacuity measures how little evidence
the network found for its prediction; it is not a probability of an error."""

LIMITS = """\
- Figures hold for images like those of the tests above. Other devices, sites, populations and preparations need a
  test of their own: external testing.
- Vacuity is relative: it ranks images and pixels of one model. It does not vanish with more training data, and it does
  not tell ambiguous images from unknown ones. Compare its ranking of errors with that of the entropy, and both with the
  calibration errors, before anything is referred by it.
- The intervals are of the cases of one test set and one training; another seed can give other figures."""

MODES = {1: "L", 3: "RGB"}
"""Number of channels -> Pillow's mode of such images."""

FOLD = "fold"
"""Name of the split that a run with folds is validated on, unless another one is named."""


def model_card(
    state: RunState,
    networks: Mapping[str, int],
    inputs: Inputs | None,
    manifests: Mapping[str, Manifest | None],
    validation: Mapping[str, Any],
    evaluations: Sequence[Mapping[str, Any]],
    weights: Weights,
    name: str = "model",
    graph: str | None = None,
) -> str:
    """Return the model card as Markdown, with metadata for the Hugging Face Hub.

    Args:
        state: the checkpoint's run state.
        networks: name of each network -> number of values in its weights and buffers.
        inputs: what the networks take; None where it is not known.
        manifests: every stream's manifest; None where its shards are not available.
        validation: step, metrics and rule for empty masks of the last validation; may be empty.
        evaluations: records that `evaluate.py` wrote.
        weights: weights of the trained networks with which the run predicts.
        name: name of the model.
        graph: name of the file of the graph; None for weights.
    """
    selection = parse_selection(state.config["train"]["best"])
    best = selection.name
    internal = [record for record in evaluations if not is_external(record)]
    external = [record for record in evaluations if is_external(record)]
    training = [] if graph else ["## Train from these weights", _loading(networks)]
    further = others(evaluations)
    parts = [
        front_matter(name, state.recipe, inputs, evaluations),
        f"# {markdown(state.recipe)}, step {state.step}",
        CAUTION,
        "## Intended use",
        _use(inputs),
        "## Model",
        _model(state, networks, f"{'smallest' if selection.lower_is_better else 'largest'} {best}", graph),
        "## Inputs",
        _inputs(inputs),
        "## Predict",
        _predicting(inputs, weights) if graph is None else _running(inputs, graph),
        *training,
        "## Data",
        *(_data(stream, state.data.get(stream), manifest) for stream, manifest in manifests.items()),
        _partitions(state, evaluations, best),
        "Whether you may share these weights also depends on the licence of the data.",
        "## Reference standard",
        _standard(manifests),
        "## Internal testing",
        *tested(internal, "None: evaluate.py was not run on this checkpoint."),
        "## External testing",
        *tested(external, "None: the model was not evaluated on another data set (`evaluate.py --shards OTHER`)."),
        "## Tuning",
        tuned(validation, best, selection.metrics),
        "## Failure analysis",
        *failures(evaluations),
        "## Limitations",
        LIMITS,
        *(["## Further figures", *further] if further else []),
        "## Configuration",
        f"Paths and URLs are shortened to their last part.\n\n```toml\n{_toml(state.config)}\n```",
        "## Versions",
        table(("package", "version"), list(state.versions.items())),
    ]
    return "\n\n".join(parts) + "\n"


def _use(inputs: Inputs | None) -> str:
    lines = ["Research on images like those under Data, by people who know how they were acquired and annotated."]
    if inputs is not None and inputs.classes:
        lines.append(f"The index test gives each image a probability of: {markdown(', '.join(inputs.classes))}.")
    if inputs is not None and inputs.pixel_classes:
        lines.append(f"It gives each pixel a probability of: {markdown(', '.join(inputs.pixel_classes))}.")
    return " ".join([*lines, "Out of scope: diagnosis, screening, and any decision on the care of a person."])


def _model(state: RunState, networks: Mapping[str, int], best: str, graph: str | None) -> str:
    kind, train = recipe_class(state.recipe), state.config["train"]
    init = state.config.get("model", {}).get("init")
    rows = [
        ("method", (kind.__doc__ or kind.name).strip().split("\n")[0]),
        ("initialisation", f"from {init}" if init else "random, or the published weights that the configuration names"),
        ("training", f"{state.step} optimiser steps of {sum(_counts(state))} samples, random seed {train.get('seed')}"),
        ("selection of the model", f"the {best} on the tuning split, unless another checkpoint was exported"),
        ("ensemble", "none"),
    ]
    files = [(f"{name}.safetensors", f"{count:,}") for name, count in networks.items()]
    if graph is not None:
        files = [(graph, f"{sum(networks.values()):,} in all networks of the run")]
    text = f"{table(('item', 'value'), rows)}\n\n{table(('file', 'values'), files)}"
    return f"{text}\n\nValues are float32. `MANIFEST.json` contains the sha256 of every file except this page."


def _counts(state: RunState) -> Iterator[int]:
    for stream in state.config["streams"].values():
        if isinstance(count := stream.get("count"), int):
            yield count


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
    text = table(("input", "value"), rows)
    text += (
        "\n\nUnsigned integers are scaled to [0, 1] by their largest value; then mean and standard deviation of each "
    )
    return text + "channel are applied. Classes are in the order of their numbers. `load_run` does all of this."


def _running(inputs: Inputs | None, graph: str) -> str:
    """Return how a graph is run, without this package."""
    text = "`graph.json` states the axes and classes of each output, and the number of which each side must be a "
    text += "multiple: other images are filled up at the end of each axis by their last row, and the outputs cut. The "
    text += "graph predicts whole images: windows over larger ones, and the largest component, are not in it.\n\n"
    onnx = graph.endswith(".onnx")
    if onnx:
        libraries, loaded = ["import onnxruntime"], 'session = onnxruntime.InferenceSession("FOLDER/model.onnx")'
        run = 'outputs = dict(zip(graph["outputs"], session.run(list(graph["outputs"]), {"image": image})))'
    else:
        libraries, loaded = ["import torch"], 'program = torch.export.load("FOLDER/model.pt2").module()'
        run = "outputs = program(torch.from_numpy(image))"
    pictures = inputs is not None and len(inputs.size) == 2 and inputs.channels in MODES
    if inputs is not None and pictures:
        libraries.append("from PIL import Image")
        opened = f'Image.open("picture.png").convert("{MODES[inputs.channels]}")'
        read = [
            'height, width = graph["input"]["size"]',
            f"picture = {opened}.resize((width, height), Image.Resampling.BILINEAR)",
            "image = numpy.asarray(picture, numpy.float32).reshape(1, height, width, -1).transpose(0, 3, 1, 2) / 255",
        ]
    else:
        read = ['image = numpy.zeros([1, graph["input"]["channels"], *graph["input"]["size"]], numpy.float32)']
    code = [
        *("import json", "", "import numpy", *libraries, ""),
        *('graph = json.load(open("FOLDER/graph.json"))', loaded, *read),
        'padding = [(0, -side % graph["input"]["size_multiple"]) for side in image.shape[2:]]',
        'image = numpy.pad(image, [(0, 0), (0, 0), *padding], "edge")',
        run,
        "for name, values in outputs.items():",
        '    print(name, graph["outputs"][name]["axes"], tuple(values.shape))',
    ]
    return text + "```python\n" + "\n".join(code) + "\n```"


def _predicting(inputs: Inputs | None, weights: Weights) -> str:
    if inputs is None:
        return '`load_run("FOLDER", shards="SHARDS")` needs the shards of the training.'
    if len(inputs.size) == 2 and inputs.channels in MODES:
        image = f'[numpy.asarray(PIL.Image.open("picture.png").convert("{MODES[inputs.channels]}"))]'
        code = f'run = uml_dist.load_run("FOLDER")\nprediction = run.predict_images({image})'
        code = f"import numpy, PIL.Image, uml_dist\n\n{code}"
    else:
        code = 'run = uml_dist.load_run("FOLDER", shards="SHARDS")\nstream = run.stream(run.open_split("test"))'
        code = f"import uml_dist\n\n{code}\nbatch, prediction = next(run.predictor.predictions(stream, range(1), 1))"
    text = "With this folder as FOLDER, where the package `uml-dist` is installed:\n\n"
    text += (
        f"    uml-dist predict --run FOLDER --out predictions pictures/\n\nor in Python:\n\n```python\n{code}\n```\n\n"
    )
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


def _partitions(state: RunState, evaluations: Sequence[Mapping[str, Any]], best: str) -> str:
    tuning = state.config["train"].get("validate_split") or "val"
    rows = [("training", "see above", "fits the weights"), ("tuning", tuning, f"chooses the step by {best}")]
    for record in evaluations:
        use = "external testing" if is_external(record) else "internal testing"
        rows.append((use, data_of(record), _use_of(record, state.config["streams"], tuning)))
    text = table(("partition", "split", "use"), rows)
    return f"{text}\n\nWhether partitions share patients was decided where the shards were made: see the source."


def _use_of(record: Mapping[str, Any], streams: Mapping[str, Any], tuning: str) -> str:
    """Return what the training has used an evaluated split for."""
    split, held_out = record.get("split"), record.get("fold") and tuning == FOLD
    if not is_external(record) and (split == tuning or held_out):
        return "chose the step, so its figures are optimistic"
    if not is_external(record) and split in [stream.get("split", "train") for stream in streams.values()]:
        return "the weights were fitted to it, so its figures are optimistic"
    return "nothing was chosen by it"


def _standard(manifests: Mapping[str, Manifest | None]) -> str:
    lines = [
        "The reference standard is the labels and masks that the data set supplies. Who annotated, by which means, and "
        "how far annotators agree is told by its source, and is not recorded here."
    ]
    for stream, manifest in manifests.items():
        if manifest is not None:
            known = f"{manifest.labelled} of {manifest.samples} samples have a label, {manifest.masked} a mask"
            counts = zip(manifest.classes, manifest.class_counts, strict=False)
            classes = ", ".join(f"{name} {count}" for name, count in counts)
            lines.append(f"- stream {markdown_code(stream)}: {known}{markdown(f': {classes}') if classes else ''}")
    return "\n".join([lines[0], *([""] if lines[1:] else []), *lines[1:]])


def _toml(config: Mapping[str, Any]) -> str:
    # No line can end the block of code, as TOML quotes every text and key with a backtick.
    return "\n".join(map(printable, tomli_w.dumps(config).strip().split("\n")))
