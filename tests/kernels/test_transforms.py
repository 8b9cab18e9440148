"""Tests of the operators under torch.func, forward mode, second derivatives, checkpoints, modes and dynamic shapes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from uml_kernels import (
    TermWeights,
    combined_loss,
    consistency_sums,
    evidential_loss,
    evidential_sums,
    gated,
    level_sums,
    opinion,
    predictive_maps,
    resized,
)
from uml_kernels.operation import INTERPRETED, Operation, needs_dispatcher

KERNELS = Path(__file__).parents[2] / "kernels"


def target_of(logits):
    return torch.arange(logits.shape[0] * 4 * 6, device=logits.device).reshape(-1, 4, 6) % 3


def consistent(logits, distance):
    teacher = torch.zeros_like(logits), torch.zeros_like(distance)
    return consistency_sums(logits, distance, *teacher, target_of(logits) > 0, 3.0)


# Each returns a scalar with a nonzero second derivative with respect to the logits.
SCALARS = {
    "loss, mean": lambda logits: evidential_loss(logits, target_of(logits), 0.3),
    "loss, sum": lambda logits: evidential_loss(logits, target_of(logits), 0.3, reduction="sum"),
    "loss, none": lambda logits: evidential_loss(logits, target_of(logits), 0.3, reduction="none").square().sum(),
    "sums": lambda logits: evidential_sums(logits, target_of(logits)).kl.sum(),
    "dice": lambda logits: evidential_sums(logits, target_of(logits)).dice.intersection.sum(),
    "combined": lambda logits: (
        combined_loss(
            evidential_sums([logits, 2 * logits], target_of(logits)), term_weights=[TermWeights(1.0, 1.0, 1.0)] * 2
        ).loss
    ),
    "opinion": lambda logits: opinion(logits).probability.square().sum(),
    "gated": lambda logits: gated(logits, logits.sum(1), logits * 2).sum(),
    "resized": lambda logits: resized(logits, (5, 3)).square().sum(),
    "levels": lambda logits: level_sums([logits, logits.sum(2, True)], target_of(logits)).cross_entropy.sum(),
    "consistency": lambda logits: consistent(logits, logits.sin()).cross.sum(),
}
# The others exercise the same code and take seconds each in the interpreter
TRIED = ("loss, mean", "loss, none", "opinion", "gated") if INTERPRETED else tuple(SCALARS)
each_scalar = pytest.mark.parametrize("scalar", [SCALARS[name] for name in TRIED], ids=TRIED)


@pytest.fixture
def logits(device):
    return torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0)).to(device)


def gradient(scalar, logits, **options):
    logits = logits.detach().requires_grad_()
    return torch.autograd.grad(scalar(logits), logits, **options)[0]


@each_scalar
def test_torch_func_gradients_match_autograd(logits, scalar):
    expected = gradient(scalar, logits)
    assert expected.abs().max() > 0
    torch.testing.assert_close(torch.func.grad(scalar)(logits), expected)
    torch.testing.assert_close(torch.func.vjp(scalar, logits)[1](torch.ones_like(scalar(logits)))[0], expected)
    torch.testing.assert_close(torch.func.jacrev(scalar)(logits), expected)


@each_scalar
def test_nested_gradients_keep_the_outer_gradient(logits, scalar):
    """The inner transform forwards the operator to the outer one and must not lose its gradient."""
    one = torch.ones((), device=logits.device)

    def outer(logits):
        return torch.func.grad(lambda factor: factor * scalar(logits))(one)

    torch.testing.assert_close(torch.func.grad(outer)(logits), gradient(scalar, logits))
    torch.testing.assert_close(gradient(outer, logits), gradient(scalar, logits))

    def inner_without(logits):
        with torch.no_grad():
            factor = scalar(logits)
        return torch.func.grad(lambda x: (factor * x).sum())(logits).sum() + logits.sum()

    torch.testing.assert_close(torch.func.grad(inner_without)(logits), torch.ones_like(logits))


def test_jacobians_match_autograd(logits):
    def function(logits):
        return opinion(logits[:1, :, :1, :2]).vacuity

    expected = torch.autograd.functional.jacobian(function, logits)
    assert expected.abs().max() > 0
    torch.testing.assert_close(torch.func.jacrev(function)(logits), expected)


@each_scalar
def test_vmap_over_samples_gives_per_sample_gradients(logits, scalar):
    samples = logits.unsqueeze(1)
    expected = torch.stack([gradient(scalar, sample) for sample in samples])
    torch.testing.assert_close(torch.vmap(torch.func.grad(scalar))(samples), expected)
    values = torch.vmap(scalar)(samples)
    torch.testing.assert_close(values, torch.stack([scalar(sample) for sample in samples]))
    torch.testing.assert_close(torch.func.grad(lambda x: torch.vmap(scalar)(x).sum())(samples), expected)


def test_vmap_supports_functions_with_several_results_and_no_gradient(logits):
    maps = torch.vmap(lambda sample: predictive_maps(sample, classes=True)[1:], in_dims=3, out_dims=2)(logits)
    for got, expected in zip(maps, predictive_maps(logits, classes=True)[1:], strict=True):
        torch.testing.assert_close(got, expected)


def test_vmap_over_zero_samples_raises_a_one_line_error(logits):
    with pytest.raises(ValueError, match=r"uml_kernels.opinion .* size 0"):
        torch.vmap(lambda sample: opinion(sample).vacuity)(logits[:0].unsqueeze(1))


def of_dual(scalar, logits):
    with forward_ad.dual_level():
        scalar(forward_ad.make_dual(logits, torch.ones_like(logits)))


FORWARD_MODES = {
    "jvp": lambda scalar, logits: torch.func.jvp(scalar, (logits,), (torch.ones_like(logits),)),
    "jacfwd": lambda scalar, logits: torch.func.jacfwd(scalar)(logits),
    "dual numbers": of_dual,
    "dual numbers with a graph": lambda scalar, logits: of_dual(scalar, logits.clone().requires_grad_()),
}


@each_scalar
@pytest.mark.parametrize("mode", FORWARD_MODES.values(), ids=FORWARD_MODES)
def test_forward_mode_raises_a_one_line_error(logits, scalar, mode):
    with pytest.raises(NotImplementedError, match=r"^uml_kernels\.\w+ has no forward-mode derivative: use reverse.*$"):
        mode(scalar, logits)


SECOND_DERIVATIVES = {
    "grad of grad": lambda scalar: torch.func.grad(lambda x: torch.func.grad(scalar)(x).square().sum()),
    "hessian": torch.func.hessian,
    "jacrev of jacrev": lambda scalar: torch.func.jacrev(torch.func.jacrev(scalar)),
    "jacfwd of grad": lambda scalar: torch.func.jacfwd(torch.func.grad(scalar)),
}


@each_scalar
@pytest.mark.parametrize("second", SECOND_DERIVATIVES.values(), ids=SECOND_DERIVATIVES)
def test_second_derivatives_of_torch_func_raise_a_one_line_error(logits, scalar, second):
    with pytest.raises(
        NotImplementedError, match=r"^uml_kernels\.\w+ (can be differentiated only once|has no forward).*$"
    ):
        second(scalar)(logits)


@each_scalar
def test_gradient_penalty_raises_an_error_and_is_not_silently_dropped(logits, scalar):
    logits = logits.requires_grad_()
    loss = scalar(logits)
    (first,) = torch.autograd.grad(loss, logits, create_graph=True)
    torch.testing.assert_close(first.detach(), gradient(scalar, logits))
    with pytest.raises(NotImplementedError, match=r"^uml_kernels\.\w+ can be differentiated only once.*$"):
        (loss + 10 * first.square().sum()).backward()


def test_unused_graph_of_the_gradient_is_not_an_error(logits):
    got = gradient(SCALARS["opinion"], logits, create_graph=True)
    torch.testing.assert_close(got.detach(), gradient(SCALARS["opinion"], logits))


def test_functions_without_gradient_raise_a_one_line_error(logits):
    maps = torch.ops.uml_kernels.predictive_maps(logits.flatten(2).requires_grad_(), "softplus", False)
    with pytest.raises(NotImplementedError, match=r"^uml_kernels.predictive_maps has no derivative: detach its input$"):
        maps[2].sum().backward()


@each_scalar
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_gives_the_same_gradient(logits, scalar, reentrant):
    leaf = logits.clone().requires_grad_()
    checkpoint(lambda x: scalar(x * 2), leaf, use_reentrant=reentrant).backward()
    torch.testing.assert_close(leaf.grad, gradient(lambda x: scalar(x * 2), logits))


@each_scalar
def test_checkpoint_is_unpacked_once_for_a_gradient_with_a_graph(logits, scalar):
    got = gradient(lambda leaf: checkpoint(scalar, leaf, use_reentrant=False), logits, create_graph=True)
    torch.testing.assert_close(got.detach(), gradient(scalar, logits))


@pytest.mark.skipif(INTERPRETED, reason="the interpreter cannot be compiled")
@each_scalar
def test_compiled_transforms_match_eager(logits, scalar):
    torch._dynamo.reset()
    compiled = torch.compile(torch.func.grad(scalar), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(logits), gradient(scalar, logits))


class Subclass(torch.Tensor):
    pass


class Seen(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.name())
        return function(*args, **(kwargs or {}))


def test_only_plain_tensors_outside_modes_and_transforms_bypass_the_dispatcher(logits):
    others = (None, "softplus", 255)
    assert not needs_dispatcher((logits, *others))
    assert not needs_dispatcher((logits.clone().requires_grad_() * 2, *others))
    assert not needs_dispatcher((torch.nn.Parameter(logits), *others))
    assert needs_dispatcher((logits, *others, logits.as_subclass(Subclass)))
    with FakeTensorMode() as fake:
        assert needs_dispatcher((logits, *others))
    assert needs_dispatcher((fake.from_tensor(logits), *others))
    with Seen():
        assert needs_dispatcher((logits, *others))
    with torch.overrides.BaseTorchFunctionMode():
        assert needs_dispatcher((logits, *others))
    for transform in (torch.vmap, torch.func.grad):
        found = []
        transform(lambda x, found=found: (found.append(needs_dispatcher((logits, *others))), x.sum())[1])(logits)
        assert found == [True]
    traced = []
    torch.jit.trace(lambda x: (traced.append(needs_dispatcher((logits, *others))), x * 2)[1], logits, check_trace=False)
    assert traced == [True]


@each_scalar
def test_fake_gpu_tensors_give_fake_results(monkeypatch, scalar):
    """No gradient is computed, because torch itself would need a GPU for it."""

    def launched(self, *arguments):
        raise AssertionError(f"{self.name} was launched on a fake tensor")

    monkeypatch.setattr(Operation, "_run_on_gpu", launched)
    with FakeTensorMode(), Seen() as seen:
        value = scalar(torch.empty(2, 3, 4, 6, device="cuda"))
    assert value.device.type == "cuda"
    assert any(name.startswith("uml_kernels::") for name in seen.names)


def sizes(side):
    generator = torch.Generator().manual_seed(side)
    logits = torch.randn(side // 8, 3, side, side + 4, generator=generator)
    return logits, torch.randint(0, 3, (side // 8, side, side + 4), generator=generator, dtype=torch.uint8)


DYNAMIC = {
    **{
        name: lambda x, y, reduction=name: evidential_loss(x, y, 0.3, reduction=reduction).sum()
        for name in ("none", "mean")
    },
    "sums": lambda x, y: evidential_sums(x, y).kl,
    "opinion": lambda x, y: opinion(x).probability,
    "maps": lambda x, y: predictive_maps(x).entropy,
    "labels": lambda x, y: predictive_maps(x, classes=True).label,
    "gated": lambda x, y: gated(x, x[:, 0], x),
    "enlarged": lambda x, y: resized(x, (x.shape[2] * 2, x.shape[3] * 2)),
    "of one size": lambda x, y: resized(x, (7, 5)),
    "levels": lambda x, y: level_sums([x, x[:, :, ::2, ::2]], y).cross_entropy,
    "cropped": lambda x, y: level_sums([x], y, size=(x.shape[2] + 3, x.shape[3] + 1)).cross_entropy,
}


@pytest.mark.skipif(INTERPRETED, reason="the interpreter cannot be compiled")
@pytest.mark.parametrize("function", DYNAMIC.values(), ids=DYNAMIC)
def test_dynamic_sizes_compile_once(function):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    compiled = torch.compile(function, backend=backend, dynamic=True, fullgraph=True)
    for side in (16, 24, 32, 40, 48):
        torch.testing.assert_close(compiled(*sizes(side)), function(*sizes(side)))
    assert len(graphs) == 1


def test_missing_triton_error_contains_the_install_command():
    program = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch\n"
        "from uml_kernels.opinion import _opinion\n"
        "_opinion._run_on_gpu(torch.zeros(1, 2, 3), 'softplus')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env={"PYTHONPATH": str(KERNELS)}
    )
    assert done.stderr.splitlines()[-1] == (
        "RuntimeError: uml_kernels.opinion needs Triton on a GPU: install it with pip install 'uml-kernels[triton]'"
    )
