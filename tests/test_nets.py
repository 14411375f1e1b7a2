"""Encoders, decoders and perceptrons."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sciinfer.errors import ConfigError
from sciinfer.labelled.series import Padded, SeriesBatch
from sciinfer.nets import ENCODERS, MLP, LinearDecoder, MLPDecoder, linear
from sciinfer.random import generator

F64 = torch.float64
NAMES = list(ENCODERS)


def _encoder(name, channels=2):
    return ENCODERS[name](channels, 8, generator=generator(0, "encoder"))


def _batch(lengths, seed=0, channels=2):
    g = generator(seed, "batch")
    times = [torch.rand(n, generator=g, dtype=F64).mul(5).sort().values for n in lengths]
    values = [torch.randn((n, channels), generator=g, dtype=F64) for n in lengths]
    for t, v in zip(times, values, strict=True):
        if len(t) > 2:
            t[2], v[1, 0] = t[1], float("nan")  # a time twice, a value missing
    return SeriesBatch.of(times, values)


def _longer(padded, extra):
    """The same data with more padding, whose hidden values are rubbish."""
    S, _, C = padded.values.shape
    last = padded.time[:, -1:].expand(S, extra)
    blank = torch.zeros(S, extra, C, dtype=torch.bool)
    return Padded(
        torch.cat([padded.time, last], 1),
        torch.cat([padded.values, torch.full((S, extra, C), 7.0, dtype=F64)], 1),
        torch.cat([padded.mask, blank], 1),
        torch.cat([padded.rows, blank[..., 0]], 1),
    )


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=4), extra=st.integers(1, 5), seed=st.integers(0, 99))
def test_padding_and_company_do_not_matter(name, lengths, extra, seed):
    if not sum(lengths):
        return
    encoder, batch = _encoder(name), _batch(lengths, seed)
    padded = batch.padded()
    with torch.no_grad():
        whole, longer = encoder(padded), encoder(_longer(padded, extra))
        width = padded.time.shape[1]
        torch.testing.assert_close(longer[:, :width], whole, rtol=1e-10, atol=1e-10)
        assert not longer[:, width:].any()
        assert not whole[~padded.rows].any()
        for s, n in enumerate(lengths):
            if n:
                alone = encoder(batch.select([s]).padded())
                torch.testing.assert_close(whole[s : s + 1, :n], alone[:, :n], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_finite_gradient(name):
    encoder = _encoder(name)
    encoder(_batch([4, 7, 0]).padded()).square().sum().backward()
    for label, parameter in encoder.named_parameters():
        assert parameter.grad is not None, label
        assert bool(torch.isfinite(parameter.grad).all()), label
        assert bool(parameter.grad.any()), label


@pytest.mark.parametrize("name", NAMES)
def test_context_sees_both_directions_and_the_spacing(name):
    encoder, padded = _encoder(name), _batch([6]).padded()
    with torch.no_grad():
        base = encoder(padded)
        early, late = padded.values.clone(), padded.values.clone()
        early[0, 0, 1] += 1.0
        late[0, 5, 1] += 1.0
        assert float((encoder(padded._replace(values=early)) - base)[0, 5].abs().max()) > 1e-6
        assert float((encoder(padded._replace(values=late)) - base)[0, 0].abs().max()) > 1e-6
        assert float((encoder(padded._replace(time=2 * padded.time)) - base).abs().max()) > 1e-6
        # only differences of times matter
        shifted = encoder(padded._replace(time=padded.time + 100.0))
        torch.testing.assert_close(shifted, base, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("gap", [1e-9, 1e9])
def test_extreme_gaps_stay_finite(name, gap):
    encoder, padded = _encoder(name), _batch([5]).padded()
    stretched = padded._replace(time=torch.arange(5, dtype=F64)[None] * gap)
    out = encoder(stretched)
    out.sum().backward()
    assert bool(torch.isfinite(out).all())
    assert all(bool(torch.isfinite(p.grad).all()) for p in encoder.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_single_precision_works(name):
    encoder, padded = _encoder(name), _batch([5, 3]).padded()
    double = encoder(padded).detach()
    single = encoder.float()(Padded(padded.time.float(), padded.values.float(), padded.mask, padded.rows)).detach()
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-4)


def test_attention_needs_heads_that_fit():
    with pytest.raises(ConfigError, match="heads"):
        ENCODERS["attention"](1, 30, generator=generator(0, "encoder"))


def test_starting_weights_follow_the_generator_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    a, b, c = (linear(4, 3, generator=generator(s, "w")) for s in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(a.weight, b.weight)
    assert not torch.equal(a.weight, c.weight)
    assert a.weight.abs().max().item() <= 0.5


def test_a_net_of_zero_start_is_zero_and_can_learn():
    net = MLP(3, 2, (5,), generator=generator(0, "net"), zero=True)
    x = torch.randn((4, 3), generator=generator(0, "x"), dtype=F64)
    assert not net(x).any()
    (net(x) - 1).square().sum().backward()
    assert bool(net.layers[-1].weight.grad.any())


def test_linear_decoder_moves_moments_exactly():
    decoder = LinearDecoder(3, 2, generator=generator(0, "decoder"))
    root = torch.randn((3, 3), generator=generator(0, "root"), dtype=F64)
    mean = torch.tensor([0.3, -1.0, 2.0], dtype=F64)
    found_mean, found_variance = decoder.moments(mean, root @ root.mT)
    W = decoder.weight
    torch.testing.assert_close(found_mean, W @ mean + decoder.bias)
    torch.testing.assert_close(found_variance, (W @ root @ root.mT @ W.mT).diagonal())


def test_perceptron_decoder_starts_linear():
    decoder = MLPDecoder(3, 2, (5,), generator=generator(0, "decoder"))
    z = torch.randn((4, 3), generator=generator(0, "z"), dtype=F64)
    assert torch.equal(decoder(z), decoder.linear(z))
