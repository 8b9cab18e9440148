"""Tests of the operators in torch: registration, torch.compile, use in a UML step, and installation without Triton."""

import os
import subprocess
import sys
import textwrap
from importlib.metadata import distribution
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from environment import link_distributions
from uml_kernels import evidential_loss, evidential_sums

KERNELS = Path(__file__).parents[2] / "kernels"
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def drawn(device, requires_grad=True):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 12, generator=generator).to(device).requires_grad_(requires_grad)
    return logits, torch.randint(0, 3, (2, 12), generator=generator, dtype=torch.uint8).to(device)


def test_operators_pass_opcheck(device):
    logits, target = drawn(device)
    weight, scalar = torch.rand(2, 12, device=device), torch.tensor(0.3, device=device)
    operations = torch.ops.uml_kernels
    maps = (logits, None, None, None, target)
    checks = [
        (operations.evidential_sums, (*maps, None, None, "softplus", "softmax", 255, False)),
        (operations.evidential_sums, (*maps, weight, torch.ones(3, device=device), "exp", "none", 255, True)),
        (operations.evidential_map, (logits, target, scalar, weight, None, "softplus", 255, True)),
    ]
    for operation, arguments in checks:
        torch.library.opcheck(operation, arguments, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_losses_compile_without_graph_breaks(device, reduction):
    def loss_of(logits, target):
        sums = evidential_sums(logits, target)
        return evidential_loss(logits, target, 0.3, reduction=reduction).sum() + sums.kl.sum() + sums.dice[0].sum()

    logits, target = drawn(device)
    expected = torch.autograd.grad(loss_of(logits, target), logits)[0]
    traced = torch.compile(loss_of, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(traced(logits, target), logits)[0]
    torch.testing.assert_close(found, expected)


class Names(TorchDispatchMode):
    """Records the operations on maps with at least `pixels` elements and at most `channels` channels."""

    def __init__(self, pixels: int, channels: int) -> None:
        super().__init__()
        self.pixels, self.channels = pixels, channels
        self.seen: set[str] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        for each in torch.utils._pytree.tree_leaves((args, kwargs)):
            if isinstance(each, torch.Tensor) and each.numel() >= self.pixels and self._few_channels(each):
                self.seen.add(function.name())
        return function(*args, **(kwargs or {}))

    def _few_channels(self, each) -> bool:
        return each.dim() < 3 or each.shape[1] <= self.channels


def test_a_uml_step_computes_losses_and_opinions_only_by_our_operators():
    pytest.importorskip("pydantic")
    from uml_dist.batch import Batch
    from uml_dist.distributed.global_batch import GlobalBatch
    from uml_dist.nn.keyed_dropout import use_rng_key
    from uml_dist.recipes.uml.model import UmlModel
    from uml_dist.recipes.uml.network import UmlNetwork
    from uml_dist.recipes.uml.objective import UmlObjective, counts, uml_terms

    network = UmlNetwork(UmlModel(width=1 / 32), channels=3, pixel_classes=3, image_classes=2)
    masks = torch.randint(0, 3, (2, 64, 64), dtype=torch.uint8)
    ones, numbers = torch.ones(2), torch.arange(2)
    batch = Batch(torch.randn(2, 3, 64, 64), masks, numbers, ones, numbers, numbers, ("a", "b"))
    objective = UmlObjective(segmentation_loss="cross_entropy_dice")
    with Names(2 * 4 * 4, 3) as names:
        with use_rng_key(batch.rng_key):
            output = network(batch.image)
        terms = uml_terms(output, batch, GlobalBatch([counts(batch)]), objective, 0.5)
        terms["loss"].backward()
    heavy = ("softplus", "gamma", "softmax", "upsample", "log1p", "nll", "interpolate")
    assert {name for name in names.seen if any(word in name for word in heavy)} == set()
    # Check that the mode sees operations at all.
    ours = {name.partition("::")[2].partition(".")[0] for name in names.seen if name.startswith("uml_kernels")}
    assert {"evidential_sums", "level_sums", "opinion", "gated", "resized"} <= ours
    assert {f"{name}_backward" for name in ("evidential_sums", "level_sums", "opinion", "gated", "resized")} <= ours


@pytest.mark.skipif(INTERPRETED, reason="the interpreter is Triton")
def test_package_works_without_triton_and_other_packages(tmp_path, monkeypatch):
    """The environment has torch and the tests' requirements, but no Triton, DeepSpeed or other project package."""
    monkeypatch.setenv("UML_KERNELS_DEVICE", "cuda")  # as on a GPU machine; without Triton the child uses only the CPU
    if distribution("torch").files is None:
        pytest.skip("torch was installed without a list of its files")
    site = tmp_path / "site"
    link_distributions(site, ("torch", "pytest", "mpmath", "numpy"), without=["triton"])
    assert not {"triton", "deepspeed", "uml_dist", "pydantic"} & {path.name for path in site.iterdir()}
    tests, support = Path(__file__).parent, Path(__file__).parents[1] / "support"
    names = ("evidential", "opinion", "gating", "resizing", "levels", "distance", "passes", "consistency")
    files = [str(tests / f"test_{name}.py") for name in names]
    program = (
        f"import sys; sys.path += {[str(site), str(KERNELS), str(support)]!r}\n"
        "import pytest, uml_kernels\n"
        f"sys.exit(pytest.main(['-qx', '-c', '/dev/null', '--confcutdir', {str(tests)!r}, '--import-mode=importlib', "
        f"'-p', 'no:cacheprovider', *{files!r}]))"
    )
    words = [sys.executable, "-I", "-S", "-c", program]
    environment = {name: value for name, value in os.environ.items() if name != "UML_KERNELS_DEVICE"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert " passed" in done.stdout


def test_invalid_class_index_raises_an_error_in_debug_mode():
    program = textwrap.dedent(
        """
        import torch
        from uml_kernels import evidential_loss
        evidential_loss(torch.zeros(1, 2, 4), torch.tensor([[0, 1, 2, 255]]), 0.3)
        """
    )
    words = [sys.executable, "-c", program]
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, env={"UML_KERNELS_DEBUG": "1", "PYTHONPATH": str(KERNELS)}
    )
    assert done.returncode != 0
    expected = "target contains 2, which is not a class index: use 0 to 1, or 255 to ignore a pixel"
    assert expected in done.stderr.splitlines()[-1]
