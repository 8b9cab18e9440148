"""The sums of Dice: against one-hot sums in float64, ignored pixels, bad input."""

import pytest
import torch

from uml_kernels import DiceTarget, dice_sums


@pytest.mark.parametrize("shape", [(2, 3, 7, 5), (1, 2, 4, 3, 2), (3, 4)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_sums_are_those_of_the_one_hot_target(shape, dtype):
    generator = torch.Generator().manual_seed(0)
    probability = torch.rand(shape, generator=generator)
    target = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=generator)
    target[0].view(-1)[:3] = 255
    counted = (target != 255).double()
    hot = torch.nn.functional.one_hot(target.clamp(max=shape[1] - 1), shape[1]).movedim(-1, 1) * counted.unsqueeze(1)
    places = tuple(range(2, len(shape)))
    exact = probability.double()
    if places:
        expected = ((exact * hot).sum(places), (exact * counted.unsqueeze(1)).sum(places), hot.sum(places))
    else:
        expected = (exact * hot, exact * counted.unsqueeze(1), hot)
    for got, want in zip(dice_sums(probability, target.to(dtype)), expected, strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, want.float())


def test_ignored_pixels_give_no_gradient():
    probability = torch.rand(1, 2, 4, requires_grad=True)
    sums = dice_sums(probability, torch.tensor([[0, 255, 1, 255]]))
    (sums.intersection + sums.predicted).sum().backward()
    assert (probability.grad[..., [1, 3]] == 0).all()
    assert (probability.grad[..., [0, 2]] > 0).all()


def test_one_target_serves_several_maps():
    target = torch.tensor([[0, 2, 255, 1]])
    masks = DiceTarget(target, 3, dtype=torch.float64)
    for probability in torch.rand(2, 1, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64):
        sums = masks.sums(probability)
        q = probability[0]
        assert sums.intersection.tolist() == [[q[0, 0], q[1, 3], q[2, 1]]]
        torch.testing.assert_close(sums.predicted, q[:, [0, 1, 3]].sum(1)[None])
        assert sums.target.tolist() == [[1, 1, 1]]


def test_a_target_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="target has shape"):
        dice_sums(torch.rand(2, 3, 4, 4), torch.zeros(2, 1, 4, 4, dtype=torch.uint8))
