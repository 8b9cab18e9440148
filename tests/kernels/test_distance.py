"""Tests of the distance maps: brute force and SciPy, masks of one class, thin objects, spacing, borders, arguments."""

import numpy as np
import pytest
import torch
from torch.library import opcheck

from uml_kernels import distance, signed_distance
from uml_kernels.cpu import distance as cpu
from uml_kernels.operation import INTERPRETED


def drawn(shape, share, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share


def spacings(batch, axes, seed=1):
    return 0.3 + 3 * torch.rand(batch, axes, generator=torch.Generator().manual_seed(seed))


def nearest(mask, spacing):
    """Return the distance of each voxel of one mask to the nearest true voxel, by trying all of them in float64."""
    size = np.ones(mask.ndim) if spacing is None else spacing.double().numpy()
    voxels = np.indices(mask.shape).reshape(mask.ndim, -1).T * size
    sites = voxels[mask.ravel()]
    squares = ((voxels[:, None] - sites[None]) ** 2).sum(-1)
    return np.sqrt(squares.min(1)).reshape(mask.shape)


def inner_boundary(mask):
    """Return the true voxels of one mask that share a face with a false one."""
    touching = np.zeros_like(mask)
    for axis in range(mask.ndim):
        for by in (-1, 1):
            moved = np.roll(mask, by, axis)
            edge = [slice(None)] * mask.ndim
            edge[axis] = 0 if by == 1 else -1
            moved[tuple(edge)] = True
            touching |= ~moved
    return touching & mask


def expected_map(mask, spacing):
    """Return the signed map of one mask with both classes, in the form with minima and maxima."""
    outside, inside = nearest(mask, spacing), nearest(~mask, spacing)
    result = np.zeros(mask.shape)
    for sign, each in ((1, outside), (-1, inside)):
        result += sign * (each - each.min()) / (each.max() - each.min())
    result[inner_boundary(mask)] = 0
    return result


SHAPES = [(1, 7), (9, 1), (6, 11), (1, 1, 5), (5, 4, 7), (3, 8, 2)]


@pytest.mark.parametrize("spaced", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.05, 0.3, 0.9])
def test_maps_equal_brute_force(device, shape, share, spaced):
    masks = drawn((2, *shape), share, seed=len(shape))
    masks.flatten(1)[:, 0], masks.flatten(1)[:, -1] = True, False  # both classes
    spacing = spacings(2, len(shape)) if spaced else None
    given = None if spacing is None else spacing.to(device)
    lengths, maps = distance(masks.to(device), given).cpu(), signed_distance(masks.to(device), given).cpu()
    for sample, mask in enumerate(masks.numpy()):
        size = None if spacing is None else spacing[sample]
        expected = torch.from_numpy(nearest(mask, size))
        torch.testing.assert_close(lengths[sample].double(), expected, rtol=5e-7 if spaced else 1.2e-7, atol=0)
        torch.testing.assert_close(maps[sample].double(), torch.from_numpy(expected_map(mask, size)), rtol=0, atol=5e-7)


def test_maps_equal_scipy_for_any_mask_and_spacing(device):
    pytest.importorskip("hypothesis")
    scipy = pytest.importorskip("scipy.ndimage")
    from hypothesis import given, settings
    from hypothesis import strategies as draw

    @settings(max_examples=15 if INTERPRETED else 60, deadline=None, derandomize=True, database=None)
    @given(
        draw.lists(draw.integers(1, 10 if INTERPRETED else 30), min_size=2, max_size=3),
        draw.floats(0, 1),
        draw.integers(0, 2**30),
        draw.lists(draw.floats(0.125, 8, width=32), min_size=3, max_size=3),
    )
    def check(shape, share, seed, size):
        mask, size = drawn((1, *shape), share, seed), size[: len(shape)]
        spacing = torch.tensor([size], device=device)
        found = distance(mask.to(device), spacing)[0].double().cpu()
        if mask.any():
            expected = scipy.distance_transform_edt(~mask[0].numpy(), sampling=size)
            torch.testing.assert_close(found, torch.from_numpy(expected), rtol=5e-7, atol=0)
        else:
            assert (found == torch.inf).all()
        found = signed_distance(mask.to(device), spacing)[0].cpu()
        assert found.isfinite().all()
        assert torch.equal(found <= 0, mask[0])

    check()


@pytest.mark.parametrize("shape", [(6, 8), (5, 6, 7)])
def test_map_is_negative_inside_zero_at_the_inner_boundary_and_positive_outside(device, shape):
    mask = torch.zeros(1, *shape, dtype=torch.bool)
    mask[0][tuple(slice(1, side - 1) for side in shape)] = True
    found = signed_distance(mask.to(device)).cpu()
    boundary = torch.from_numpy(inner_boundary(mask[0].numpy())).unsqueeze(0)
    assert (found[~mask] > 0).all()
    assert (found[boundary] == 0).all()
    assert (found[mask & ~boundary] < 0).all()
    assert (found.min().item(), found.max().item()) == (-1.0, 1.0)


def test_masks_of_one_class_give_the_ends_of_the_range(device):
    masks = torch.stack([torch.zeros(3, 4, 5), torch.ones(3, 4, 5)]).bool().to(device)
    for spacing in (None, spacings(2, 3).to(device)):
        found = signed_distance(masks, spacing)
        assert (found[0] == 1).all()
        assert (found[1] == -1).all()
        assert (distance(masks, spacing)[0] == torch.inf).all()
        assert (distance(masks, spacing)[1] == 0).all()


THIN = {
    "one voxel": (slice(2, 3), slice(3, 4), slice(1, 2)),
    "one voxel in a corner": (slice(0, 1), slice(0, 1), slice(0, 1)),
    "a line": (slice(2, 3), slice(None), slice(1, 2)),
    "a plane": (slice(None), slice(3, 4), slice(None)),
    "all but a plane": (slice(None), slice(1, None), slice(None)),
}


@pytest.mark.parametrize("where", THIN.values(), ids=THIN)
def test_soft_mask_of_the_map_reproduces_thin_objects_exactly(device, where):
    mask = torch.zeros(1, 5, 6, 4, dtype=torch.bool, device=device)
    mask[0][where] = True
    found = signed_distance(mask)
    assert found.isfinite().all()
    assert torch.equal(torch.sigmoid(-1500 * found) >= 0.5, mask)


def test_border_of_the_image_is_not_background(device):
    mask = torch.ones(1, 4, 6, dtype=torch.bool, device=device)
    mask[..., -1] = False
    expected = torch.tensor([-1.0, -0.8, -0.6, -0.4, 0.0, 1.0], device=device)
    torch.testing.assert_close(signed_distance(mask), expected.expand(1, 4, 6))


def test_inner_boundary_is_found_by_faces_and_not_by_distance(device):
    """The voxel beside the slab's corner is nearer to the background than the face of a slab of thick voxels."""
    mask = torch.zeros(1, 3, 5, 5, dtype=torch.bool)
    mask[0, 0], mask[0, 1, 0, 0] = True, True
    spacing = torch.tensor([[10.0, 1.0, 1.0]])
    found = signed_distance(mask.to(device), spacing.to(device)).cpu()
    assert torch.equal(found[0] == 0, torch.from_numpy(inner_boundary(mask[0].numpy())))
    assert found[0, 0, 0, 0] < 0


@pytest.mark.parametrize("function", [distance, signed_distance])
def test_samples_do_not_depend_on_each_other(device, function):
    masks, spacing = drawn((3, 4, 7, 5), 0.2).to(device), spacings(3, 3).to(device)
    masks[1] = False
    together = function(masks, spacing)
    for sample in range(3):
        assert torch.equal(together[sample], function(masks[sample : sample + 1], spacing[sample : sample + 1])[0])


def test_bytes_and_strided_masks_give_the_same_map(device):
    mask = drawn((2, 5, 4, 6), 0.3).to(device)
    expected = signed_distance(mask)
    assert torch.equal(signed_distance(mask.to(torch.uint8) * 200), expected)
    assert torch.equal(signed_distance(mask.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)), expected)


@pytest.mark.skipif(INTERPRETED, reason="only the CPU implementation has tiles")
def test_tiles_do_not_change_the_map(monkeypatch):
    mask = drawn((1, 13, 19, 23), 0.01)
    expected = signed_distance(mask), distance(mask)
    monkeypatch.setattr(cpu, "TILE", 64)
    assert torch.equal(signed_distance(mask), expected[0])
    assert torch.equal(distance(mask), expected[1])


@pytest.mark.parametrize("size", [0.0, -1.0, float("nan"), float("inf")])
def test_invalid_spacing_makes_only_its_sample_nan(device, size):
    masks, spacing = drawn((2, 4, 5), 0.4).to(device), torch.ones(2, 2, device=device)
    spacing[0, 1] = size
    for function in (distance, signed_distance):
        found = function(masks, spacing)
        assert found[0].isnan().all()
        assert torch.equal(found[1], function(masks)[1])


def test_no_sample_gives_an_empty_map(device):
    mask = torch.zeros(0, 4, 5, dtype=torch.bool, device=device)
    assert signed_distance(mask).shape == distance(mask, torch.ones(0, 2, device=device)).shape == (0, 4, 5)


def test_wrong_arguments_are_rejected(device):
    mask = torch.zeros(2, 4, 5, dtype=torch.bool, device=device)
    wrong = {
        "has dtype torch.int64; it must be bool or uint8": (mask.long(), None),
        r"has shape \(4, 5\); it must be": (mask[0], None),
        "a side must be 1 to 2048": (mask[:, :0], None),
        r"needs \(2, 2\)": (mask, torch.ones(2, 3, device=device)),
        "spacing has dtype torch.int64": (mask, torch.ones(2, 2, dtype=torch.int64, device=device)),
        "spacing is on meta": (mask, torch.ones(2, 2, device="meta")),
    }
    for message, (given, spacing) in wrong.items():
        for function in (distance, signed_distance):
            with pytest.raises(ValueError, match=message) as error:
                function(given, spacing)
            assert "\n" not in str(error.value)


def test_operators_pass_opcheck(device):
    mask, spacing = drawn((2, 3, 4, 5), 0.3).to(device), spacings(2, 3).to(device)
    for operation in (torch.ops.uml_kernels.distance.default, torch.ops.uml_kernels.signed_distance.default):
        opcheck(operation, (mask, None))
        opcheck(operation, (mask, spacing))


@pytest.mark.skipif(INTERPRETED, reason="the interpreter cannot be compiled")
def test_compiled_function_matches_eager_for_dynamic_sizes(device):
    compiled = torch.compile(signed_distance, fullgraph=True, backend="aot_eager", dynamic=True)
    for shape in ((2, 6, 5), (3, 8, 9)):
        mask = drawn(shape, 0.3).to(device)
        assert torch.equal(compiled(mask), signed_distance(mask))
