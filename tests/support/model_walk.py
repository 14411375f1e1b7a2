"""One set of checks that every model of series passes.

``check_model(build, batch)`` builds the model afresh (``build(seed=0)``) and looks at gradients, ragged batches, masks,
predictions in any order, draws from the prior, saved weights, single precision and, where there is one, a CUDA device.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from sciinfer.labelled.schema import Channel, Schema, TimeAxis, Variable
from sciinfer.labelled.series import SeriesBatch
from sciinfer.models.base import Model
from sciinfer.random import generator
from support.two_devices import TwoDevices, left_behind

F64 = torch.float64
Build = Callable[..., Model]
SCHEMA = Schema(
    time=TimeAxis("t", "number", 0.0, 1.0),
    series="series",
    variables=(Variable("a"), Variable("b")),
    channels=(Channel("a"), Channel("b")),
)


def sample_batch(likelihood: str = "gaussian", lengths: tuple[int, ...] = (5, 1, 8)) -> SeriesBatch:
    """Ragged series of two channels; the longer ones have a time twice and a missing entry."""
    g = generator(0, "data")
    times, values = [], []
    for n in lengths:
        t = torch.rand(n, generator=g, dtype=F64).mul(4).sort().values
        v = torch.randn((n, 2), generator=g, dtype=F64)
        v = {"poisson": v.abs().mul(2).round(), "bernoulli": (v > 0).to(F64)}.get(likelihood, v)
        if n > 3:
            t[2], v[1, 0] = t[1], float("nan")
        times.append(t)
        values.append(v)
    return SeriesBatch.of(times, values)


def terms_of(model: Model, batch: SeriesBatch) -> Tensor:
    """What the loss is made of, ``[S, parts]``, without randomness."""
    bound = getattr(model, "elbo_terms", None)
    if bound is not None:
        return torch.stack(bound(batch, generator=None), -1)
    found = model.log_likelihood(batch)  # type: ignore[operator]
    return found if found.ndim == 2 else found[:, None]


def stream(*names: str) -> torch.Generator:
    """A fixed random stream."""
    return generator(0, *names)


def move(model: Model, scale: float = 0.1, seed: int = 0) -> Model:
    """Away from the starting weights, where some gradients vanish and many mistakes cancel."""
    g = generator(seed, "move")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=g, dtype=F64))
    return model


def check_model(build: Build, batch: SeriesBatch, *, moved: float = 0.1, single: float = 1e-2) -> None:
    """All checks. ``moved``: how far from its start the weights are pushed; ``single``: tolerance in float32."""

    def moved_build(seed: int = 0) -> Model:
        return move(build(seed=seed), moved, seed) if moved else build(seed=seed)

    model = moved_build()
    check_loss_and_gradients(model, batch)
    with torch.no_grad():
        check_ragged(model, batch)
        check_masks(model, batch)
        check_predictions(model, batch)
        check_without_data(model, batch)
        check_generate(model, batch.n_channels)
        check_round_trip(moved_build, model, batch)
        check_single_precision(moved_build, batch, single)
    check_devices(moved_build, batch)
    if torch.cuda.is_available():
        check_cuda(moved_build, batch)


def check_loss_and_gradients(model: Model, batch: SeriesBatch) -> None:
    """The same stream gives the same loss; every parameter is trained."""
    first, again = (model.loss(batch, generator=stream("loss")) for _ in range(2))
    assert torch.equal(first.value, again.value)
    first.value.backward()
    assert bool(torch.isfinite(first.value))
    assert all(bool(torch.isfinite(term)) for term in first.terms.values())
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        assert parameter.grad is not None, f"{name} is not trained"
        assert bool(torch.isfinite(parameter.grad).all()), name
        assert bool(parameter.grad.any()), f"{name} has no influence"


def check_ragged(model: Model, batch: SeriesBatch) -> None:
    """A series alone equals the series in a batch."""
    whole = terms_of(model, batch)
    for s in range(batch.n_series):
        alone = terms_of(model, batch.select([s]))
        torch.testing.assert_close(whole[s], alone[0], rtol=1e-10, atol=1e-10)


def check_masks(model: Model, batch: SeriesBatch) -> None:
    """What lies under a mask is not read, and a row without data equals no row."""
    expected = terms_of(model, batch)
    rubbish = batch._replace(values=torch.where(batch.mask, batch.values, torch.full_like(batch.values, 5.0)))
    torch.testing.assert_close(terms_of(model, rubbish), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(terms_of(model, with_empty_rows(batch)), expected, rtol=1e-10, atol=1e-10)


def with_empty_rows(batch: SeriesBatch) -> SeriesBatch:
    """The same data with two rows more in each series in which nothing was observed, one inside and one after."""
    rows = [slice(int(a), int(b)) for a, b in itertools.pairwise(batch.offsets.tolist())]
    nan = torch.full((1, batch.n_channels), float("nan"), dtype=F64)
    times, values = [], []
    for row in rows:
        t, v = batch.time[row], torch.where(batch.mask[row], batch.values[row], nan)
        middle = 0.5 * (t[:1] + t[-1:])
        at = int(torch.searchsorted(t, middle, right=True))
        times.append(torch.cat([t[:at], middle, t[at:], t[-1:] + 3]))
        values.append(torch.cat([v[:at], nan, v[at:], nan]))
    return SeriesBatch.of(times, values)


def check_predictions(model: Model, batch: SeriesBatch) -> None:
    """Before, between, at and after the data; any order of the times gives the same path."""
    S, C = batch.n_series, batch.n_channels
    ends = batch.time[batch.offsets[1:] - 1][:, None]
    times = torch.cat([ends + 1.5, ends * 0 - 0.5, ends * 0.5, ends, ends + 0.2], 1)
    order = torch.tensor([3, 1, 4, 0, 2])
    answer = model.predict(batch, times, draws=4, generator=stream("predict"))
    turned = model.predict(batch, times[:, order], draws=4, generator=stream("predict"))
    assert answer.signal.shape == answer.observation.shape == (4, S, 5, C)
    assert bool(torch.isfinite(answer.signal).all())
    assert bool(torch.isfinite(answer.observation).all())
    torch.testing.assert_close(turned.signal, answer.signal[:, :, order], rtol=1e-10, atol=1e-10)
    if answer.latent is not None:
        torch.testing.assert_close(turned.latent, answer.latent[:, :, order], rtol=1e-10, atol=1e-10)
    if answer.mean is not None:
        assert answer.variance is not None
        torch.testing.assert_close(turned.mean, answer.mean[:, order], rtol=1e-10, atol=1e-10)
        assert float(answer.variance.min()) > 0


def check_without_data(model: Model, batch: SeriesBatch) -> None:
    """A series in which nothing was observed still gets an answer."""
    blank = batch._replace(values=torch.zeros_like(batch.values), mask=torch.zeros_like(batch.mask))
    times = torch.tensor([[0.5, 2.0]], dtype=F64).expand(batch.n_series, 2)
    answer = model.predict(blank, times, draws=3, generator=stream("blank"))
    assert bool(torch.isfinite(answer.observation).all())
    assert bool(torch.isfinite(terms_of(model, blank)).all())


def check_generate(model: Model, channels: int) -> None:
    """Draws from the prior repeat with the stream; a step of zero length moves nothing."""
    times = torch.tensor([0.0, 0.5, 0.5, 2.0], dtype=F64)
    answer = model.generate(times, draws=3, generator=stream("generate"))
    again = model.generate(times, draws=3, generator=stream("generate"))
    assert answer.signal.shape == answer.observation.shape == (3, 1, 4, channels)
    assert bool(torch.isfinite(answer.observation).all())
    assert torch.equal(answer.observation, again.observation)
    # roots by eigenvectors leave round-off in a step of zero length
    torch.testing.assert_close(answer.signal[:, :, 1], answer.signal[:, :, 2], rtol=1e-9, atol=1e-9)


def check_round_trip(build: Build, model: Model, batch: SeriesBatch) -> None:
    """Building touches no global random state; loaded weights give the same bits."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    other, twin = build(seed=1), build(seed=0)
    assert torch.equal(before, torch.get_rng_state())
    other.load_state_dict(model.state_dict())
    for copy in (other, twin):
        assert torch.equal(terms_of(copy, batch), terms_of(model, batch))


def check_single_precision(build: Build, batch: SeriesBatch, tolerance: float) -> None:
    """float32 in, float32 out, near the double answer."""
    double, single = terms_of(build(), batch), terms_of(build().float(), batch.to(dtype=torch.float32))
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=tolerance, atol=tolerance)
    times = torch.tensor([[1.0, 9.0]]).expand(batch.n_series, 2)
    answer = build().float().predict(batch.to(dtype=torch.float32), times, draws=2, generator=stream("single"))
    assert answer.observation.dtype == torch.float32
    assert bool(torch.isfinite(answer.observation).all())


def check_devices(build: Build, batch: SeriesBatch) -> None:
    """Weights and data on one device: nothing that the model makes or keeps is left on another."""
    model = build()
    assert not (forgotten := left_behind(model)), f"not moved with the model: {forgotten}"
    times = torch.tensor([[0.5, -1.0, 9.0]], dtype=F64).repeat(batch.n_series, 1)
    given = [part for part in batch if isinstance(part, Tensor)]
    with TwoDevices(model, times, *given):
        model.loss(batch, generator=stream("loss")).value.backward()
        with torch.no_grad():
            terms_of(model, batch)
            model.predict(batch, times, draws=2, generator=stream("predict"))
            model.generate(times[0].sort().values, draws=2, generator=stream("generate"))


def check_cuda(build: Build, batch: SeriesBatch) -> None:
    """The same answer on a CUDA device as on the CPU; nothing leaves the device."""
    here, away = build(), build().to("cuda")
    moved = batch.to(device="cuda")
    with torch.no_grad():
        torch.testing.assert_close(terms_of(away, moved).cpu(), terms_of(here, batch), rtol=1e-7, atol=1e-7)
    streams = {name: generator(0, name, device=torch.device("cuda")) for name in ("loss", "predict", "generate")}
    away.loss(moved, generator=streams["loss"]).value.backward()
    for name, parameter in away.named_parameters():
        assert parameter.grad is None or parameter.grad.device.type == "cuda", name
    times = torch.tensor([[0.5, -1.0, 9.0]], dtype=F64, device="cuda").expand(batch.n_series, 3)
    with torch.no_grad():
        answer = away.predict(moved, times, draws=2, generator=streams["predict"])
        drawn = away.generate(times[0].sort().values, draws=2, generator=streams["generate"])
    for found in (answer.observation, answer.signal, drawn.observation):
        assert found.device.type == "cuda"
        assert bool(torch.isfinite(found).all())
