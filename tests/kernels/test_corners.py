"""Tests of dtypes, strides and arguments at their limits: a correct value, or a one-line error with the remedy."""

import pytest
import torch

from uml_kernels import evidential_loss, evidential_sums, gated, level_sums, opinion, predictive_maps, resized


def drawn(device, shape=(2, 3, 8, 8), seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(shape, generator=generator)
    target = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=generator, dtype=torch.uint8)
    return logits.to(device), target.to(device)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_loss_scale_prevents_underflow_of_float16_gradients(device, reduction):
    """Gradients of a mean over millions of pixels underflow in float16; a loss scale restores them."""
    logits, target = drawn(device)
    weight = torch.ones(target.shape, device=device)
    weight[0, 0, 0] = millions = 2.0**22  # one pixel stands for millions
    halves = logits.half().requires_grad_()
    exact = halves.detach().float().requires_grad_()
    for leaf in (halves, exact):
        loss = evidential_loss(leaf, target, 0.3, weight=weight, reduction=reduction)
        (loss * 2.0**16 if reduction == "mean" else loss.sum() * 2.0**16 / millions).backward()
    found, wanted = halves.grad[1].float(), exact.grad[1]
    assert (found - wanted).norm() < 1e-3 * wanted.norm()
    assert ((found == 0) == (wanted == 0)).all()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(2,), (1,), (8, 8)])
def test_kl_weight_with_dimensions_is_rejected(device, reduction, shape):
    logits, target = drawn(device)
    with pytest.raises(
        ValueError, match=r"kl_weight has shape .*; it must be a number or a 0-dimensional tensor"
    ) as error:
        evidential_loss(logits, target, torch.ones(shape, device=device), reduction=reduction)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("dtype", "ignored"),
    [(torch.uint8, -100), (torch.uint8, 256), (torch.int8, 255), (torch.int16, 2**15), (torch.int32, 2**31)],
)
def test_ignore_index_outside_the_range_of_the_target_dtype_is_rejected(device, dtype, ignored):
    """For example -100, torch's own default, which is 156 as uint8."""
    logits, target = drawn(device)
    for call in (evidential_loss, evidential_sums, level_sums):
        given = {"kl_weight": 0.3} if call is evidential_loss else {}
        if call is level_sums and dtype not in (torch.uint8, torch.int64):
            continue
        first = [logits] if call is level_sums else logits
        with pytest.raises(ValueError, match=f"ignore_index is {ignored}, which a target of {dtype} cannot hold"):
            call(first, target.to(dtype), ignore_index=ignored, **given)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_all_integer_dtypes_of_targets_give_the_same_sums(device, dtype):
    logits, target = drawn(device)
    target[0, :2] = 120
    expected = evidential_sums(logits, target, ignore_index=120).columns
    assert torch.equal(evidential_sums(logits, target.to(dtype), ignore_index=120).columns, expected)


def test_unsupported_integer_dtypes_are_rejected(device):
    logits, target = drawn(device)
    with pytest.raises(ValueError, match=r"target has dtype torch.uint16; class indices must be uint8, int8"):
        evidential_loss(logits, target.to(torch.uint16), 0.3)


@pytest.mark.parametrize("evidence", [-0.5, -2.0, -1e-3])
def test_negative_given_evidence_becomes_nan(device, evidence):
    given = torch.full((1, 3, 4), 1.0, device=device)
    given[0, 1, 2] = evidence
    given.requires_grad_()
    target = torch.zeros(1, 4, dtype=torch.uint8, device=device)
    loss = evidential_loss(given, target, 1.0, kind="given", reduction="none")
    assert loss.isnan().tolist() == [[False, False, True, False]]
    assert opinion(given, "given").vacuity.isnan().tolist() == [[False, False, True, False]]
    maps = predictive_maps(given, "given", classes=True)
    assert maps.vacuity.isnan().tolist() == [[False, False, True, False]]
    assert maps.label.tolist() == [[0, 0, 255, 0]]


@pytest.mark.parametrize("name", ["weight", "class_weight"])
def test_weights_on_another_device_are_rejected(device, name):
    logits, target = drawn(device)
    weight = torch.ones(3 if name == "class_weight" else target.shape, device="meta")
    for call in (
        lambda **given: evidential_loss(logits, target, 0.3, **given),
        lambda **given: evidential_sums(logits, target, **given),
    ):
        with pytest.raises(ValueError, match=f"^{name} is on meta and the logits on {device}: move it there") as error:
            call(**{name: weight})
        assert "\n" not in str(error.value)


@pytest.fixture
def far_apart(tmp_path):
    """Logits (600, 3), a bfloat16 slice of a matrix with 4.3 million columns, stored in a sparse file."""
    rows, columns = 600, 4_300_000
    with (tmp_path / "logits").open("wb") as file:
        file.truncate(2 * rows * columns)
    storage = torch.UntypedStorage.from_file(str(tmp_path / "logits"), True, 2 * rows * columns)
    matrix = torch.tensor([], dtype=torch.bfloat16).set_(storage, 0, (rows, columns))
    logits = matrix[:, :3]
    logits.copy_(torch.randn(rows, 3, generator=torch.Generator().manual_seed(0)))
    return logits


def test_pixel_strides_beyond_32_bits_are_supported(device, far_apart):
    if device.type != "cpu":
        pytest.skip("the matrix is a file of this machine")
    near = far_apart.contiguous()
    assert (len(far_apart) - 1) * far_apart.stride(0) > 2**31
    target = torch.arange(len(near)) % 3
    assert torch.equal(opinion(far_apart).vacuity, opinion(near).vacuity)
    assert torch.equal(predictive_maps(far_apart).entropy, predictive_maps(near).entropy)
    gradients = []
    for logits in (near, far_apart):
        leaf = logits.detach().requires_grad_()
        loss = evidential_loss(leaf, target, 0.3)
        pixels = leaf.T.unsqueeze(0)  # (1, 3, 600)
        sums = evidential_sums(pixels, target.unsqueeze(0))
        formed = opinion(leaf)
        parts = [loss, sums.columns[:, 1:3].sum(), sums.dice.predicted.sum(), formed.evidence.sum()]
        (gradient,) = torch.autograd.grad(
            [*parts, gated(pixels, formed.vacuity.unsqueeze(0)).sum()], leaf, [torch.ones(())] * 5
        )
        gradients.append((loss, gradient.contiguous()))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-2, atol=1e-6)


def test_maps_with_column_strides_beyond_32_bits_are_resized(device, tmp_path):
    if device.type != "cpu":
        pytest.skip("the matrix is a file of this machine")
    side, columns = 40, 80_000_000
    with (tmp_path / "maps").open("wb") as file:
        file.truncate(4 * (side * columns + 8))
    storage = torch.UntypedStorage.from_file(str(tmp_path / "maps"), True, 4 * (side * columns + 8))
    wide = torch.tensor([]).set_(storage, 0, (1, 1, 4, side), (4, 4, 1, columns))
    wide.copy_(torch.randn(1, 1, 4, side, generator=torch.Generator().manual_seed(0)))
    assert (side - 1) * columns > 2**31
    torch.testing.assert_close(resized(wide, (8, 80)), resized(wide.contiguous(), (8, 80)))


def sliced(logits):
    """Return a channels-last tensor of 5 channels, of which the first 3 are the logits."""
    head = torch.zeros(len(logits), 5, *logits.shape[2:], device=logits.device)
    head = head.contiguous(memory_format=torch.channels_last)
    head[:, :3] = logits
    return head


def scalar_of_all_functions(head, target):
    """Combine all differentiable functions of logits that are a slice of channels last into a scalar."""
    logits = head[:, :3]
    sums, levels, formed = evidential_sums(logits, target), level_sums([logits], target), opinion(logits)
    parts = [evidential_loss(logits, target, 0.3, reduction=each).sum() for each in ("none", "mean", "sum")]
    parts += [sums.columns[:, 1].sum(), sums.dice.predicted.sum(), levels.columns[..., 1].sum()]
    parts += [gated(formed.evidence, formed.gate, logits).square().sum(), resized(logits, (5, 12)).square().sum()]
    return torch.stack(parts).sum()


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_gradients_of_sliced_channels_last_logits_match_eager(device, backend):
    logits, target = drawn(device)
    eager, traced = (sliced(logits).requires_grad_() for _ in range(2))
    scalar_of_all_functions(eager, target).backward()
    torch.compile(scalar_of_all_functions, fullgraph=True, backend=backend)(traced, target).backward()
    torch.testing.assert_close(traced.grad, eager.grad, rtol=1e-4, atol=1e-5)


def test_fake_results_have_the_strides_of_real_ones(device):
    logits, target = drawn(device)
    operations, scalar = torch.ops.uml_kernels, torch.tensor(0.3, device=device)
    pixels, number, gate = sliced(logits)[:, :3].flatten(2), target.flatten(1), torch.rand(2, 64, device=device)
    maps, setting = (pixels, None, None, None, number, None, None), ("softplus", "softmax", 255)
    of_pixel = (pixels, number, scalar, None, None, "softplus", 255)
    checks = [
        (operations.evidential_sums, (*maps, *setting, True)),
        (operations.evidential_sums_backward, (torch.randn(1, 2, 13, device=device), *maps, *setting)),
        (operations.evidential_map, (*of_pixel, True)),
        (operations.evidential_map_backward, (gate, *of_pixel)),
        (operations.opinion, (pixels, "softplus")),
        (operations.opinion_backward, (pixels, pixels.clone(), None, None, "softplus")),
        (operations.predictive_maps, (pixels, "softplus", False)),
        (operations.gated, (pixels, gate, None)),
        (operations.gated_backward, (pixels.contiguous(), pixels, gate, None, False)),
    ]
    for operation, arguments in checks:
        torch.library.opcheck(operation.default, arguments, test_utils=("test_faketensor",))
