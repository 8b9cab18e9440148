"""Tests of exported models: torch.export, ONNX and traces contain only ATen operators and give the same results."""

import io
import warnings

import pytest
import torch
from torch.export import Dim
from torch.utils import _pytree as pytree

from uml_kernels import Opinion, PredictiveMaps, gated, opinion, plain, predictive_maps, resized
from uml_kernels.operation import INTERPRETED

pytestmark = pytest.mark.skipif(INTERPRETED, reason="exported graphs contain no kernels")

NAMES = (
    *("evidence", "probability", "vacuity", "gate", "expected", "map_vacuity", "entropy", "label", "label_entropy"),
    *("features", "sum", "full_size", "one_size"),
)
SIZES = {0: Dim("samples", max=64), 2: Dim("height", min=4, max=512), 3: Dim("width", min=4, max=512)}
EXAMPLE = torch.randn(2, 3, 12, 16, generator=torch.Generator().manual_seed(0))
OTHERS = [
    torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 3 for shape in ((1, 3, 20, 8), (3, 3, 9, 33))
]


class Network(torch.nn.Module):
    """A model that calls every exportable function on convolutions of its image."""

    def __init__(self, kind: str = "softplus") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.logits, self.features = torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Conv2d(3, 5, 3, padding=1, stride=2)

    def forward(self, image):
        logits = self.logits(image)
        if self.kind == "given":
            logits = logits.abs()
        formed, maps = opinion(logits, self.kind), predictive_maps(logits, self.kind)
        labels = predictive_maps(logits, self.kind, classes=True)
        features = resized(self.features(image), image.shape[2:])
        return (
            *(formed.evidence, formed.probability, formed.vacuity, formed.gate),
            *(maps.probability, maps.vacuity, maps.entropy, labels.label, labels.entropy),
            *(
                gated(features, formed.gate),
                gated(features, formed.gate, features * 2),
                features,
                resized(logits, (7, 5)),
            ),
        )


class Structures(torch.nn.Module):
    """A model that returns the library's result types, for vectors with the classes last."""

    def forward(self, logits):
        return {"opinion": opinion(logits, dim=-1), "maps": predictive_maps(logits, dim=-1)}


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of the tracer and of the deprecated exporters
        yield


def assert_same(got, expected):
    for name, one, other in zip(NAMES, got, expected, strict=True):
        one = torch.as_tensor(one)
        assert one.dtype == other.dtype, name
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}")


def operators(program):
    return {str(node.target).partition(".")[0] for node in program.graph.nodes if node.op == "call_function"}


@pytest.mark.parametrize(("kind", "strict"), [("softplus", False), ("softplus", True), ("exp", False), ("given", True)])
def test_exported_program_has_aten_operators_and_dynamic_sizes(kind, strict):
    network = Network(kind).eval()
    program = torch.export.export(network, (EXAMPLE,), dynamic_shapes=(SIZES,), strict=strict)
    for each in (program, program.run_decompositions()):
        assert operators(each) <= {"aten", "<built-in function mul>", "<built-in function floordiv>"}
        for image in OTHERS:
            assert_same(each.module()(image), network(image))


@pytest.mark.parametrize("strict", [False, True])
def test_dynamic_sizes_need_no_bounds(strict):
    """Neither the kernels' size limits nor the shortcut for equal sizes appear in the graph."""

    class Functions(torch.nn.Module):
        def forward(self, image):
            formed, maps = opinion(image), predictive_maps(image, classes=True)
            return gated(image, formed.gate), maps.label, resized(image, (16, 16))

    sizes = {0: Dim("samples"), 2: Dim("height"), 3: Dim("width")}
    program = torch.export.export(Functions(), (EXAMPLE,), dynamic_shapes=(sizes,), strict=strict)
    image = torch.randn(1, 3, 16, 16)
    for got, expected in zip(program.module()(image), Functions()(image), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("strict", [False, True])
def test_models_that_return_opinions_and_maps_can_be_stored(strict):
    logits, file = torch.randn(2, 5, 3), io.BytesIO()
    torch.export.save(torch.export.export(Structures(), (logits,), strict=strict), file)
    file.seek(0)
    got, expected = torch.export.load(file).module()(logits), Structures()(logits)
    assert isinstance(got["opinion"], Opinion)
    assert isinstance(got["maps"], PredictiveMaps)
    torch.testing.assert_close(got["opinion"].probability, expected["opinion"].probability)
    torch.testing.assert_close(got["maps"].entropy, expected["maps"].entropy)


def test_opinion_is_a_pytree_of_its_three_tensors():
    formed = opinion(torch.randn(2, 5, 3), dim=-1)
    paths = {pytree.keystr(path): leaf for path, leaf in pytree.tree_flatten_with_path(formed)[0]}
    assert paths == {".evidence": formed.evidence, ".vacuity": formed.vacuity, ".gate": formed.gate}
    halves = pytree.tree_map(lambda leaf: leaf[:1], formed)
    torch.testing.assert_close(halves.belief, formed.belief[:1])


def test_opinion_returned_by_vmap_has_the_right_class_dimension():
    logits = torch.randn(2, 3, 4, 6)
    many = torch.vmap(opinion)(logits.unsqueeze(1))
    torch.testing.assert_close(many.belief.squeeze(1), opinion(logits).belief)
    torch.testing.assert_close(many.strength.squeeze(1), opinion(logits).strength)


def test_exported_program_has_the_gradient_of_the_library():
    network = Network()
    program = torch.export.export(network, (EXAMPLE,), dynamic_shapes=(SIZES,)).module()
    slopes = []
    for each in (network, program):
        image = OTHERS[0].clone().requires_grad_()
        with torch.enable_grad():
            evidence, *_, one_size = each(image)
            slopes.append(torch.autograd.grad(evidence.square().sum() + one_size.square().sum(), image)[0])
    torch.testing.assert_close(slopes[1], slopes[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_exported_dtypes_match_the_library(dtype):
    logits = (torch.randn(2, 3, 4, 6) * 5).to(dtype)

    class Functions(torch.nn.Module):
        def forward(self, logits):
            formed = opinion(logits)
            return (
                *pytree.tree_leaves(formed),
                gated(logits, formed.gate),
                resized(logits, (5, 5)),
                resized(logits, (4, 6)),
            )

    got = torch.export.export(Functions(), (logits,)).module()(logits)
    for one, other in zip(got, Functions()(logits), strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other)


EXTREMES = torch.tensor([[-1e30, -200.0, 0.0, 15.0, 17.0, 200.0, 1e12, torch.nan, 3.0], [1.0] * 8 + [3.0]])[
    None, :, None
]


def exported_onnx(model, image, dynamo, sizes, path):
    if dynamo:
        torch.onnx.export(
            model, (image,), path, dynamo=True, dynamic_shapes=(sizes,), input_names=["image"], verbose=False
        )
    else:
        names = {axis: dim.__name__ for axis, dim in sizes.items()}
        torch.onnx.export(model, (image,), path, dynamo=False, dynamic_axes={"image": names}, input_names=["image"])


@pytest.mark.parametrize("dynamo", [True, False])
def test_onnx_gives_the_same_results_at_other_sizes(tmp_path, dynamo):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    onnx = pytest.importorskip("onnx")
    network, path = Network().eval(), str(tmp_path / "network.onnx")
    exported_onnx(network, EXAMPLE, dynamo, SIZES, path)
    assert {node.domain for node in onnx.load(path).graph.node} <= {"", "ai.onnx"}
    session = runtime.InferenceSession(path)
    for image in OTHERS:
        assert_same(session.run(None, {"image": image.numpy()}), network(image))


@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.parametrize("kind", ["softplus", "relu", "exp", "given"])
def test_onnx_preserves_extreme_values_and_nan(tmp_path, kind, dynamo):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")

    class Functions(torch.nn.Module):
        def forward(self, logits):
            maps = predictive_maps(logits, kind)
            return (
                *pytree.tree_leaves(opinion(logits, kind)),
                *maps[::2],
                maps.entropy,
                predictive_maps(logits, kind, classes=True).label,
            )

    logits, path = EXTREMES.abs() if kind == "given" else EXTREMES, str(tmp_path / "functions.onnx")
    exported_onnx(Functions(), logits, dynamo, {3: Dim("width", max=64)}, path)
    got = runtime.InferenceSession(path).run(None, {"image": logits.numpy()})
    for one, other in zip(got, pytree.tree_leaves(Functions()(logits)), strict=True):
        torch.testing.assert_close(torch.as_tensor(one), other, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_torch_compile_keeps_the_operators_of_the_library():
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    network = Network().eval()
    torch.compile(network, backend=backend, fullgraph=True)(EXAMPLE)
    ours = {f"uml_kernels.{name}.default" for name in ("opinion", "predictive_maps", "gated", "resized")}
    assert ours <= {str(node.target) for graph in graphs for node in graph.graph.nodes}
    torch.export.export(network, (EXAMPLE,), strict=True)
    assert not plain.is_exporting()


def test_trace_has_aten_operators_and_accepts_other_sizes():
    network = Network().eval()
    traced = torch.jit.trace(network, EXAMPLE)
    kinds = {node.kind().partition("::")[0] for node in traced.inlined_graph.nodes()}
    assert kinds == {"aten", "prim"}
    for image in OTHERS:
        assert_same(traced(image), network(image))
