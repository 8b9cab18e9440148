"""Opinions: the identities of subjective logic."""

import math

import pytest
import torch

from uml_kernels import evidence, opinion


def test_beliefs_and_vacuity_share_one():
    drawn = torch.rand(4, 3, 5, 6) * 10
    formed = opinion(drawn)
    torch.testing.assert_close(formed.belief.sum(1) + formed.vacuity, torch.ones(4, 5, 6))
    torch.testing.assert_close(formed.probability, formed.belief + formed.vacuity.unsqueeze(1) / 3)
    torch.testing.assert_close(formed.strength, formed.alpha.sum(1))
    assert ((formed.vacuity > 0) & (formed.vacuity <= 1)).all()


def test_no_evidence_is_full_vacuity_and_even_probability():
    formed = opinion(torch.zeros(2, 4))
    assert torch.equal(formed.vacuity, torch.ones(2))
    assert torch.equal(formed.probability, torch.full((2, 4), 0.25))
    assert formed.gate[0].item() == pytest.approx(math.exp(-1))


def test_more_evidence_of_any_class_is_less_vacuity_and_a_wider_gate():
    base = torch.rand(3)
    for index in range(3):
        more = base + torch.eye(3)[index]
        before, after = opinion(base[None]), opinion(more[None])
        assert after.vacuity < before.vacuity
        assert math.exp(-1) <= before.gate.item() < after.gate.item() < 1


def test_bilinear_interpolation_of_alpha_is_that_of_evidence_plus_one():
    drawn = torch.rand(1, 2, 5, 5)

    def up(x):
        return torch.nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)

    torch.testing.assert_close(up(opinion(drawn).alpha), opinion(up(drawn)).alpha)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("softplus", math.log1p(math.exp(1.5))), ("relu", 1.5), ("exp", math.exp(1.5))],
)
def test_evidence_kinds(kind, expected):
    drawn = evidence(torch.tensor([1.5, -200.0, 200.0]), kind)
    assert drawn[0].item() == pytest.approx(expected)
    assert drawn[1].item() == pytest.approx(0, abs=1e-30)
    assert drawn.isfinite().all()


def test_evidence_is_float32_under_autocast_and_float64_of_float64():
    logits = torch.randn(7).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        drawn = evidence(logits)
    assert torch.equal(drawn, torch.nn.functional.softplus(logits.float()))
    assert evidence(logits.double()).dtype == torch.float64


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="choose softplus, relu or exp"):
        evidence(torch.zeros(1), "square")  # type: ignore[arg-type]
