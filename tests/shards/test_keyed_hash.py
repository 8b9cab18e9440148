"""Tests of the keyed hash: SplitMix64's finalizer, chained over the words of a key."""

import numpy as np
import pytest

from uml_shards.keyed import keyed_bits, keyed_permutation, keyed_uniform, word

MASK = (1 << 64) - 1


def reference(*words: int) -> int:
    """Compute the hash in plain integers, with the published constants."""
    state = 0
    for one in words:
        state = ((state ^ one) + 0x9E3779B97F4A7C15) & MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
        state ^= state >> 31
    return state


def test_first_output_is_that_of_the_published_generator():
    # First output of SplitMix64 with seed 0: test vector of the authors' reference implementation.
    assert int(keyed_bits(0)) == 0xE220A8397B1DCDAF


@pytest.mark.parametrize("key", [(0,), (1, 2, 3), (2**63, 5), (7, 0, 0, 1)])
def test_bits_follow_the_reference_in_plain_integers(key):
    assert int(keyed_bits(*key)) == reference(*key)


def test_negative_integers_are_their_twos_complement():
    assert int(keyed_bits(-1)) == reference(MASK)


def test_arrays_broadcast_and_equal_scalar_calls():
    grid = keyed_bits("name", np.arange(3)[:, None], np.arange(4))
    assert grid.shape == (3, 4)
    assert int(grid[2, 1]) == reference(word("name"), 2, 1)


def test_uniform_numbers_have_the_moments_of_a_uniform_law():
    numbers = keyed_uniform("moments", np.arange(200_000))
    assert numbers.min() >= 0.0
    assert numbers.max() < 1.0
    # Five standard errors: 1/sqrt(12 n) of the mean; 1/sqrt(180 n) of the variance.
    assert abs(numbers.mean() - 1 / 2) < 5 / np.sqrt(12 * 200_000)
    assert abs(numbers.var() - 1 / 12) < 5 / np.sqrt(180 * 200_000)


def test_neighbouring_addresses_are_uncorrelated():
    one, other = keyed_uniform(1, np.arange(100_000)), keyed_uniform(2, np.arange(100_000))
    assert abs(np.corrcoef(one, other)[0, 1]) < 5 / np.sqrt(100_000)
    assert abs(np.corrcoef(one[1:], one[:-1])[0, 1]) < 5 / np.sqrt(100_000)


@pytest.mark.parametrize("length", [0, 1, 2, 1000])
def test_permutation_holds_every_number_once(length):
    assert sorted(keyed_permutation(length, "p", 3).tolist()) == list(range(length))


def test_permutation_changes_with_its_address():
    assert keyed_permutation(100, "p", 3).tolist() != keyed_permutation(100, "p", 4).tolist()
