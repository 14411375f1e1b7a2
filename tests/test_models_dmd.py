"""The ``dmd`` model: the contract, exact evidence, exponents from irregular data, calibrated forecasts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from support.model_walk import SCHEMA, check_model, sample_batch

import sciinfer as si
from sciinfer.diagnostics import run_baselines
from sciinfer.errors import ConfigError
from sciinfer.labelled.series import SeriesBatch
from sciinfer.models.dmd import DMDModel, dmd
from sciinfer.models.grids import pad_for
from sciinfer.random import generator

F64 = torch.float64


def waves(series: int = 3, rows: int = 60, noise: float = 0.1, seed: int = 0, span: float = 40.0) -> SeriesBatch:
    """Two channels with phases of their own of two shared oscillations, one damped; a quarter of entries missing."""
    g = generator(seed, "waves")
    times, values = [], []
    for _ in range(series):
        t = torch.rand(rows, generator=g, dtype=F64).mul(span).sort().values
        t = torch.cat([t[:1] * 0, t[1:]])
        phase = 6.28 * torch.rand(4, generator=g, dtype=F64)
        slow = torch.stack([(0.6 * t + phase[0]).cos(), 0.5 * (0.6 * t + phase[0] + 1).cos()], 1)
        angle = 1.7 * t + phase[1]
        fast = (-0.02 * t).exp()[:, None] * torch.stack([0.7 * angle.cos(), angle.sin()], 1)
        y = slow + fast + noise * torch.randn(rows, 2, generator=g, dtype=F64)
        y[torch.rand(rows, 2, generator=g, dtype=F64) < 0.25] = float("nan")
        times.append(t)
        values.append(y)
    return SeriesBatch.of(times, values)


def fitted_to(batch: SeriesBatch, seed: int = 0, **options: int) -> DMDModel:
    model = dmd(SCHEMA, seed=seed, **options)
    model.initialise(batch)
    return model


def test_it_keeps_the_contract_of_a_model():
    # solved once: LAPACK's last bits depend on where in memory its arrays lie
    known = fitted_to(waves(), modes=3, bags=3).state_dict()

    def build(seed: int = 0) -> DMDModel:
        model = dmd(SCHEMA, seed=seed, modes=3, bags=3)
        model.load_state_dict(known)
        return model

    check_model(build, sample_batch())
    check_model(lambda seed=0: dmd(SCHEMA, seed=seed, modes=2, bags=0, stable=False), sample_batch(), moved=0.02)


def test_the_evidence_is_that_of_a_gaussian():
    model, batch = fitted_to(waves(), modes=3, bags=0), sample_batch()
    padded = pad_for(batch)
    basis = model._basis(padded.time - padded.time[:, :1])
    for s in range(batch.n_series):
        rows = padded.mask[s].flatten()
        m = basis[s].flatten(0, 1)[rows]
        noise = model.log_noise.exp().expand(padded.mask.shape[1], 2).flatten()[rows].square()
        law = torch.distributions.MultivariateNormal(m.new_zeros(len(m)), m @ m.mT + noise.diag())
        value = law.log_prob(padded.values[s].flatten()[rows])
        torch.testing.assert_close(model.log_likelihood(batch)[s], value, rtol=1e-7, atol=1e-7)


def test_it_finds_the_exponents_and_forecasts():
    train = waves(rows=100)
    model = fitted_to(train)
    used = model.mode.detach().square().sum((1, 2, 3)) > 0
    found = model.exponents().detach()[used]
    assert len(found) == 2
    order = found.imag.argsort()
    wanted = torch.tensor([0.6j, -0.02 + 1.7j], dtype=torch.complex128)
    assert float((found[order] - wanted).abs().max()) < 3e-3
    assert model.log_noise.exp().tolist() == pytest.approx([0.1, 0.1], rel=0.15)
    test = waves(20, seed=1)
    known, future = test.keep(test.time <= 25), test.keep(test.time > 25).drop_empty().padded()
    with torch.no_grad():
        answer = model.predict(known, future.time, draws=400, generator=generator(0, "predict"))
    assert answer.mean is not None and answer.variance is not None
    error = lambda mean: float((mean - future.values)[future.mask].square().mean())  # noqa: E731
    assert error(answer.mean) < 1.4 * 0.1**2
    assert error(answer.mean) < 0.1 * min(error(f.mean) for f in run_baselines(known, future.time).values())
    z = ((answer.mean - future.values) / answer.variance.sqrt())[future.mask]
    assert 0.85 < float((z.abs() < 1.645).double().mean()) < 0.95
    torch.testing.assert_close(answer.observation.var(0).mean(), answer.variance.mean(), rtol=0.05, atol=0)


@pytest.mark.slow
def test_bags_tell_how_well_the_frequencies_are_known():
    z = []
    for k in range(30):
        model = fitted_to(waves(1, seed=k))
        known = model.summary()
        slots = [key[len("rate") :] for key in known if key.startswith("rate[")]
        for truth in (0.6, 1.7):
            at = min(slots, key=lambda slot: abs(known["frequency" + slot] - truth))
            z.append((known["frequency" + at] - truth) / known["frequency_sd" + at])
    assert np.mean(np.abs(z) < 1.96) >= 0.88
    assert np.std(z) > 0.6, "the intervals are not merely wide"


def test_fit_save_load_predict(tmp_path):
    t = np.arange(60.0)
    y = np.stack([np.cos(0.4 * t), np.sin(0.4 * t)], 1) + 0.05 * np.random.default_rng(0).standard_normal((60, 2))
    ds = xr.Dataset({"y": (("time", "state"), y)}, coords={"time": t, "state": ["a", "b"]})
    fitted = si.fit(ds, "dmd", options={"modes": 4, "bags": 4}, progress="silent")
    again = si.load(fitted.save(tmp_path / "fit"))
    first, second = (f.predict(time=[61.0, 70.5], draws=8)["posterior_predictive"]["y"].values for f in (fitted, again))
    np.testing.assert_array_equal(first, second)
    angle = 0.4 * np.array([61.0, 70.5])
    assert np.abs(first.mean((0, 1)) - np.stack([np.cos(angle), np.sin(angle)], -1)).max() < 0.2
    assert "frequency" in fitted.summary()


def test_refused_options():
    for options in ({"modes": 0}, {"columns": 0}, {"bags": -1}, {"stable": 1}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            dmd(SCHEMA, **options)
