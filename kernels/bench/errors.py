"""Plots the float32 errors of the evidential loss against the evidence: `make bench-errors`.

It compares the library with a composition of torch's own operations.

    PYTHONPATH=kernels:kernels/bench:tests/support python kernels/bench/errors.py
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from eager_losses import eager_terms, shares
from report import RESULTS
from uml_kernels import evidential_sums

Terms = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
DECADES, CASES = 48, 200


def ours(evidence: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Compute expected cross-entropy and KL of rows of evidence (N, C) by the library."""
    sums = evidential_sums(evidence, target, kind="given", dice="none")
    return sums.cross_entropy, sums.kl


def composed(evidence: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Compute expected cross-entropy and KL of rows of evidence (N, C) by torch's digamma and lgamma."""
    cross_entropy, kl, _ = eager_terms(evidence, shares(target, evidence.shape[1]).to(evidence.dtype), "given")
    return cross_entropy, kl


def with_gradients(terms: Terms, evidence: Tensor, target: Tensor) -> list[Tensor]:
    """Return cross-entropy (N,), its gradient (N, C), KL (N,) and its gradient (N, C)."""
    leaf, results = evidence.clone().requires_grad_(), []
    for value in terms(leaf, target):
        results += [value.detach(), torch.autograd.grad(value.sum(), leaf, retain_graph=True)[0]]
    return results


def largest_errors(terms: Terms, evidence: Tensor, target: Tensor) -> list[float]:
    """Return the largest error of each result of `with_gradients`.

    For values it is the smaller of relative and absolute error, for gradients the error relative to the largest
    component. The reference is the library's float64, which tests compare with 60 digits.
    """
    found, exact = with_gradients(terms, evidence, target), with_gradients(ours, evidence.double(), target)
    errors = []
    for ours_or_theirs, truth in zip(found, exact, strict=True):
        error = (ours_or_theirs.double() - truth).abs()
        scale = truth.abs().clamp(min=1) if truth.dim() == 1 else truth.abs().amax(1, keepdim=True).clamp(min=1e-30)
        errors.append((error / scale).nan_to_num(torch.inf).max().item())
    return errors


def draw(path: Path, classes: Sequence[int] = (2, 3, 5)) -> None:
    """Draw four panels: values and gradients of the two terms."""
    figure = Figure(figsize=(9, 6.5), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True)
    titles = ("expected cross-entropy", "its gradient", "KL to uniform", "its gradient")
    scales = torch.logspace(-3, 8, DECADES).tolist()
    for number, colour in zip(classes, ("C0", "C1", "C2"), strict=False):
        generator = torch.Generator().manual_seed(number)
        spread = 10 ** (torch.rand(CASES, number, generator=generator) - 0.5)
        target = torch.randint(0, number, (CASES,), generator=generator)
        for terms, style in ((composed, ":"), (ours, "-")):
            rows = [largest_errors(terms, spread * scale, target) for scale in scales]
            for axis, line in zip(axes.flat, zip(*rows, strict=True), strict=True):
                axis.loglog(scales, line, style, color=colour, label=f"{number} classes, {terms.__name__}")
    for axis, title in zip(axes.flat, titles, strict=True):
        axis.set_title(title)
        axis.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=7)
    figure.supxlabel("evidence of each class, within a factor of 3")
    figure.supylabel("largest error of 200 cases, float32")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw and write the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "errors.png")
    chosen = parser.parse_args(arguments)
    draw(chosen.out)
    print(f"written to {chosen.out}")


if __name__ == "__main__":
    main()
