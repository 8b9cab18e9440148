"""checkpoint.py export --to onnx or torch-export writes a graph that other programs run, as its README.md shows."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import small_recipe
from commands import load_script
from runs import uml_tree
from uml_dist import load_run
from uml_dist.config.loading import validate
from uml_dist.errors import UmlError
from uml_dist.run.checkpoint import RunState, read_weights_file, save_checkpoint, verify
from uml_dist.run.checkpoint_folder import point
from uml_dist.run.folder import RunFolder, versions
from uml_dist.run.inputs import stored_manifests
from uml_dist.train.networks import Networks
from uml_dist.train.setup import prepare
from uml_shards import open_split

assert small_recipe
SCRIPT = Path(__file__).parents[2] / "launchers" / "checkpoint.py"
SIDE = 31
"""Side of the training images, not a multiple of what the graph requires."""


@pytest.fixture(scope="module")
def made(partly_known, tmp_path_factory) -> Path:
    """A run of the small recipe that has not learnt anything."""
    tree = uml_tree(partly_known, data__size=SIDE)
    setup = prepare(validate({**tree, "recipe": "small"}, "test"), 1)
    folder = RunFolder(tmp_path_factory.mktemp("exported") / "run", writes=True)
    folder.write_config(setup.config)
    torch.manual_seed(0)
    networks = Networks(setup.recipe, setup.config, torch.device("cpu")).state()
    state = RunState(
        "small",
        step=4,
        data=setup.digests,
        config=setup.config.model_dump(mode="json", exclude_none=True),
        versions=versions(),
        manifests=stored_manifests(setup.recipe.manifests),
    )
    save_checkpoint(folder.checkpoints, networks, state)
    point(folder.checkpoints / "best", "step-000004")
    return folder.path


@pytest.fixture
def export(made, tmp_path, monkeypatch, capsys):
    """Return a function that exports the run as `graph` in the current folder: exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    module = load_script(SCRIPT)

    def run(to):
        code = module.main(["export", "--run", str(made), "--out", "graph", "--to", to])
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize(("to", "file"), [("onnx", "model.onnx"), ("torch-export", "model.pt2")])
def test_exported_graph_runs_by_the_code_of_its_card_and_predicts_as_the_run(made, export, partly_known, to, file):
    if to == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    code, printed, error = export(to)
    assert (code, error) == (0, "")
    assert re.search(r"not captured with: steep_mask \S+, image_probability \d\.\de[+-]\d\d, ", printed)
    graph = Path("graph")
    assert {path.name for path in graph.iterdir()} == {file, "graph.json", "state.json", "MANIFEST.json", "README.md"}
    verify(graph)
    for place in (made.parent, partly_known, SCRIPT.parents[1]):
        assert not any(str(place).encode() in path.read_bytes() for path in graph.iterdir())

    described = json.loads((graph / "graph.json").read_text())
    assert described["input"]["size"] == [SIDE, SIDE]
    assert (described["input"]["size_multiple"], described["input"]["size_smallest"]) == (2, 4)
    outputs = described["outputs"]
    assert outputs["image_probability"]["classes"] == ["benign", "malignant"]
    assert outputs["pixel_probability"]["axes"] == ["batch", "class", "height", "width"]
    assert all(output["largest_difference"] <= 1e-4 for name, output in outputs.items() if name != "steep_mask")
    assert all(number != 2 for number, *_ in described["compared_with_torch"])

    (script,) = re.findall(r"```python\n(.*?)```", (graph / "README.md").read_text(), re.DOTALL)
    image = open_split(partly_known / "val").read(0).image
    Image.fromarray(image).save("picture.png")
    script = script.replace("FOLDER", "graph") + "numpy.savez('found.npz', **outputs)\n"
    script += "import sys\nassert not [name for name in sys.modules if name.startswith('uml_')]\n"
    script += "assert 'torch' not in sys.modules\n" if to == "onnx" else ""
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "image_probability ['batch', 'class'] (1, 2)" in done.stdout
    expected, found = load_run(made, device="cpu").predict_images([image]), np.load("found.npz")
    assert expected.image_probability is not None
    assert expected.pixel_probability is not None
    pixels = found["pixel_probability"][..., :SIDE, :SIDE]
    np.testing.assert_allclose(pixels, expected.pixel_probability.numpy(), rtol=0, atol=1e-4)
    np.testing.assert_allclose(found["image_probability"], expected.image_probability.numpy(), rtol=0, atol=1e-4)
    if to == "onnx":
        with pytest.raises(UmlError, match=r"graph contains a graph for other programs, see its README.md: use a run"):
            load_run("graph")
        with pytest.raises(UmlError, match="graph contains no weights: name a run folder, or an export with --to safe"):
            read_weights_file(graph, ("net",))


def test_run_on_images_that_no_graph_takes_is_refused_in_one_line(made, export, tmp_path):
    config = made / "config.toml"
    before = config.read_text()
    config.write_text(before.replace(f"size = {SIDE}", "size = 2"))
    try:
        code, _, error = export("torch-export")
    finally:
        config.write_text(before)
    problem = "predicts images of 2 x 2, and the sides of a graph's images are 4 or more: use --to safetensors"
    assert (code, error) == (2, f"error: run {made} {problem}\n")
    assert not Path("graph").exists()


def test_export_to_onnx_without_its_packages_names_the_extra(export, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    code, _, error = export("onnx")
    message = "export to ONNX needs the package onnxscript: install the extra by pip install 'uml-dist[onnx]'"
    assert (code, error) == (2, f"error: {message}\n")
    assert not Path("graph").exists()
