"""Keyed randomness on tensors: the numpy hash's numbers, and nothing but the key decides."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import uml_shards.keyed as reference
from uml_dist.nn.keyed_dropout import (
    KeyedDropout,
    current_rng_key,
    keyed_bits,
    keyed_normal,
    keyed_uniform,
    name_layers,
    use_rng_key,
)


def test_the_bits_are_those_of_the_numpy_hash():
    base = reference.keyed_bits(7, "train", np.arange(50))
    rng_key = torch.from_numpy(base.view(np.int64))
    channel = torch.arange(3)
    ours = keyed_bits(rng_key[:, None], "mutual.third.3", -5, 2**63 + 11, channel)

    state = base[:, None]
    with np.errstate(over="ignore"):
        for word in (reference.word("mutual.third.3"), reference.word(-5), 2**63 + 11, np.arange(3, dtype=np.uint64)):
            state = reference._mix((state ^ np.asarray(word, dtype=np.uint64)) + reference.GOLDEN)
    assert np.array_equal(ours.numpy().view(np.uint64), state)


def test_a_whole_address_gives_the_same_as_one_extended_step_by_step():
    whole = reference.keyed_bits(3, "train", np.arange(20), "dropout")
    start = torch.from_numpy(reference.keyed_bits(3, "train", np.arange(20)).view(np.int64))
    assert np.array_equal(keyed_bits(start, "dropout").numpy().view(np.uint64), whole)


def test_uniform_numbers_are_the_upper_bits_and_even():
    rng_key = torch.arange(20000)
    uniform = keyed_uniform(rng_key, "layer")
    bits = keyed_bits(rng_key, "layer").numpy().view(np.uint64)
    assert np.array_equal(uniform.numpy(), ((bits >> np.uint64(40)) * 2.0**-24).astype(np.float32))
    shares = torch.histc(uniform, 10, 0, 1) / len(uniform)
    assert (shares - 0.1).abs().max() < 0.01  # five standard deviations


def network() -> nn.Module:
    return name_layers(nn.Sequential(KeyedDropout(0.5), nn.Identity(), KeyedDropout(0.5)))


def test_dropout_of_a_sample_does_not_depend_on_the_batch_it_is_in():
    layers, feature = network(), torch.ones(6, 40, 2, 2)
    rng_key = torch.arange(100, 106)
    with use_rng_key(rng_key):
        whole = layers(feature)
    order = torch.tensor([4, 0, 5])
    with use_rng_key(rng_key[order]):
        part = layers(feature[order])
    assert torch.equal(part, whole[order])
    assert not torch.equal(whole[0], whole[1])


def test_dropout_takes_whole_channels_at_its_rate_and_keeps_the_mean():
    layer = name_layers(nn.Sequential(KeyedDropout(0.25)))
    with use_rng_key(torch.arange(400)):
        dropped = layer(torch.ones(400, 100, 2, 2))
    assert torch.equal(dropped.amax((2, 3)), dropped.amin((2, 3)))
    assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert dropped.mean().item() == pytest.approx(1, abs=0.015)  # five standard deviations


def test_two_layers_drop_different_channels():
    first, _, second = network()
    feature = torch.ones(1, 64, 1, 1)
    with use_rng_key(torch.tensor([1])):
        assert not torch.equal(first(feature), second(feature))


def test_dropout_needs_an_address_in_training_only():
    layers, feature = network(), torch.ones(2, 4)
    with pytest.raises(RuntimeError, match="use_rng_key"):
        layers(feature)
    assert torch.equal(layers.eval()(feature), feature)


def test_addresses_nest_and_end():
    outer, inner = torch.tensor([1]), torch.tensor([2])
    with use_rng_key(outer):
        with use_rng_key(inner):
            assert current_rng_key() is inner
        assert current_rng_key() is outer
    assert current_rng_key() is None


def test_normal_values_are_of_the_sample_and_the_operation_alone():
    key = torch.arange(7, 13)
    values = keyed_normal(key, (2, 5, 3), "noise")
    assert (values.shape, values.dtype) == ((6, 2, 5, 3), torch.float32)
    order = torch.tensor([4, 0, 3])
    assert torch.equal(keyed_normal(key[order], (2, 5, 3), "noise"), values[order])
    assert not torch.equal(keyed_normal(key, (2, 5, 3), "other"), values)


def test_normal_values_follow_the_normal_distribution():
    values = keyed_normal(torch.arange(64), (4096,), "noise").double().numpy()
    assert np.isfinite(values).all()
    assert stats.kstest(values.ravel(), "norm").pvalue > 1e-3
    # Neither neighbours within a sample nor the same places of two samples are correlated.
    for one, other in ((values[:, :-1], values[:, 1:]), (values[:-1], values[1:])):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 5 / np.sqrt(one.size)
