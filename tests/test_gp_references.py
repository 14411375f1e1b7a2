"""Stored reference values: likelihoods, gradients, posteriors and optima of real and generated series."""

from __future__ import annotations

import bz2
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from sciinfer.gp import (
    RBF,
    SHO,
    HidaMatern,
    IntegratedWiener,
    MarkovGP,
    Matern12,
    Matern32,
    Matern52,
    averages,
)

DATA = Path(os.environ.get("SCIINFER_DATA", ""))
needs_data = pytest.mark.skipif("SCIINFER_DATA" not in os.environ, reason="SCIINFER_DATA names no data folder")


def refs() -> dict:
    return json.loads((DATA / "gp/refs_dev/refs.json").read_text())


KINDS = {"m12": Matern12, "m32": Matern32, "m52": Matern52}


def mcycle():
    table = np.loadtxt(DATA / "gp/bayesnewton/mcycle.csv", delimiter=",")
    return table[:, 1], table[:, 2]


@needs_data
@pytest.mark.parametrize("kind", KINDS)
def test_motorcycle_references(kind):
    ref, (time, y) = refs()["mcycle"][kind], mcycle()
    gp = MarkovGP(KINDS[kind](8.0, 2000.0), noise=500.0)
    value = gp.log_likelihood(time, y)
    assert value.item() == pytest.approx(ref["lml"], rel=1e-8)
    slopes = torch.autograd.grad(value, [gp.kernel.log_lengthscale, gp.kernel.log_variance, gp.log_noise])
    assert [s.item() for s in slopes] == pytest.approx(ref["grad_log"], rel=1e-4)
    post = gp.condition(time, y)
    np.testing.assert_allclose(post.mean(ref["t_star"]), ref["mean"], rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(post.variance(ref["t_star"]), ref["var"], rtol=1e-6)


@needs_data
@pytest.mark.parametrize("kind", KINDS)
def test_motorcycle_maximum_likelihood(kind):
    best, (time, y) = refs()["mcycle"][kind]["mlii"], mcycle()
    fitted = MarkovGP(KINDS[kind](8.0, 2000.0), noise=500.0).fit(time, y)
    assert fitted.report.converged
    assert fitted.report.objective == pytest.approx(best["lml"], abs=1e-6)
    found = [fitted.kernel.lengthscale.item(), fitted.kernel.variance.item(), fitted.noise.item()]
    assert found == pytest.approx([best["ell"], best["s2"], best["noise"]], rel=1e-3)


@needs_data
def test_motorcycle_squared_exponential_is_near():
    best, (time, y) = refs()["mcycle"]["rbf"]["mlii"], mcycle()
    fitted = MarkovGP(RBF(8.0, 2000.0, order=6), noise=500.0).fit(time, y)
    assert abs(fitted.report.objective - best["lml"]) < 0.5
    better = MarkovGP(RBF(8.0, 2000.0, order=12), noise=500.0)
    assert better.log_likelihood(time, y).item() == pytest.approx(refs()["mcycle"]["rbf"]["lml"], abs=0.05)


@needs_data
@pytest.mark.parametrize("kind", ["m12", "m32", "m52", "sho"])
@pytest.mark.parametrize("n", [500, 2000])
def test_generated_series(kind, n):
    data, ref = np.load(DATA / f"gp/refs_dev/m32_irregular_N{n}.npz"), refs()[f"gen{n}_{kind}"]
    sho = kind == "sho"
    kernel = SHO.from_power(1.2 * 0.4 / 3.0, 1 / 0.4, 3.0) if sho else KINDS[kind](*ref["params"])
    value = MarkovGP(kernel, noise=0.12).log_likelihood(data["t"], data["y"])
    assert value.item() == pytest.approx(ref["lml"], rel=1e-8)


@needs_data
@pytest.mark.parametrize(
    "name", ["gen10000_m32", "gen102400_m32", pytest.param("gen1000000_m32", marks=pytest.mark.slow)]
)
def test_long_series(name):
    ref, n = refs()[name], int(name[3:].split("_")[0])
    file = DATA / f"gp/refs_dev/m32_irregular_N{n}.npz"
    time, y = generated(n) if not file.exists() else (np.load(file)["t"], np.load(file)["y"])
    gp = MarkovGP(Matern32(*ref["params"]), noise=ref["noise"])
    value = gp.log_likelihood(time, y)
    slopes = torch.autograd.grad(value, [gp.kernel.log_lengthscale, gp.kernel.log_variance, gp.log_noise])
    assert value.item() == pytest.approx(ref["lml"], rel=1e-8)
    assert [s.item() for s in slopes] == pytest.approx(ref["grad_log"], rel=1e-4)


def generated(n: int):
    """The generator of the stored series, seed 0."""
    g = np.random.default_rng(0)
    t = np.sort(g.uniform(0, 0.05 * n, n))
    x = np.array([g.normal(), g.normal() * math.sqrt(3)])
    z, steps = g.normal(size=(n, 2)), torch.as_tensor(np.diff(t, prepend=t[0]))
    with torch.no_grad():
        A, Q = (part.numpy() for part in Matern32(1.0, 1.0).transition(steps))
    root = np.linalg.cholesky(Q + 1e-14 * np.eye(2))
    f = np.empty(n)
    f[0] = x[0]
    for k in range(1, n):
        x = A[k] @ x + root[k] @ z[k]
        f[k] = x[0]
    return t, f + 0.3 * g.normal(size=n)


@needs_data
def test_regular_series():
    data, ref = np.load(DATA / "gp/refs_dev/m32_regular_N10240.npz"), refs()["regular10240_m32"]
    gp = MarkovGP(Matern32(*ref["params"]), noise=0.12)
    assert gp.log_likelihood(data["t"], data["y"]).item() == pytest.approx(ref["lml"], rel=1e-8)


@needs_data
def test_overlapping_exposures():
    data, ref = np.load(DATA / "gp/refs_dev/integrated_ou_N200.npz"), refs()["integrated_ou_N200"]
    gp = MarkovGP(Matern12(ref["ell"], ref["s2"]), noise=ref["noise"])
    value = gp.log_likelihood(averages(data["start"], data["end"]), data["y"])
    assert value.item() == pytest.approx(ref["lml"], rel=1e-8)


def light_curve(entry: str):
    if entry.startswith("k2"):
        table = np.loadtxt(DATA / "astro/light_curves/k2_EPIC201367065.csv", delimiter=",")
        return table[:, 0], 1e3 * (table[:, 1] - 1), None
    star = entry.split("_")[1]
    lines = bz2.decompress((DATA / "astro/light_curves/s82_rrlyrae_ugriz.csv.bz2").read_bytes()).decode().splitlines()
    rows = [line.split(",") for line in lines[1:] if line.startswith(f"{star},")]
    table = np.array([[float(r[1]), float(r[2]), float(r[3])] for r in rows if r[4] == "g"])
    return table[:, 0], table[:, 1], table[:, 2]


def light_curve_kernel(kind: str, p: dict):
    if kind == "ou":
        return Matern12(p["tau"], p["var"])
    return Matern32(p["rho"], p["sigma"] ** 2) if kind == "matern32" else SHO.from_power(p["S0"], p["w0"], p["Q"])


KERNELS = ("ou_Q", "matern32_Q", "sho_Q3.0", "sho_Q0.3")
CURVES = [f"rrlyr_{star}_g_{kind}" for star in (13350, 4099, 1013184) for kind in KERNELS]
CURVES += ["k2_epic201367065_ou", "k2_epic201367065_sho"]


@needs_data
@pytest.mark.parametrize("entry", CURVES)
def test_light_curves(entry):
    """Errors are those of the table for the stars; the K2 flux is in parts per thousand with an error of 0.05."""
    ref = json.loads((DATA / "astro/light_curves/gp_reference_values.json").read_text())[entry]
    time, y, error = light_curve(entry)
    assert len(time) == ref["n"]
    noise = 0.05**2 if error is None else error**2
    gp = MarkovGP(light_curve_kernel(ref["kernel"], ref["params"]), noise=noise, mean=ref["mean"])
    assert gp.log_likelihood(time, y).item() == pytest.approx(ref["loglike_dense"], rel=1e-8)
    post = gp.condition(time, y)
    np.testing.assert_allclose(post.mean(ref["t_query"]), ref["pred_mean"], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(post.variance(ref["t_query"]), ref["pred_var"], rtol=1e-6)


def co2():
    """Monthly means, standardised on the months before 2004; time from the first month."""
    table = np.loadtxt(DATA / "gp/parallel_gps/co2_mm_mlo.txt")
    year, ppm = table[:, 2], table[:, 3]
    train = year < 2004
    mu, sd = ppm[train].mean(), ppm[train].std(ddof=1)
    return year - year[0], (ppm - mu) / sd, train, sd


def band(lengthscale: float, variance: float, period: float):
    return HidaMatern(lengthscale, period, variance, learn_period=False)


def score(gp, time, y, train, sd):
    post = gp.condition(time[train], y[train])
    mean, variance = post.mean(time[~train]).numpy(), (post.variance(time[~train]) + gp.noise).detach().numpy()
    error = y[~train] - mean
    nlpd = 0.5 * np.mean(error**2 / variance + np.log(2 * math.pi * variance)) + math.log(sd)
    return sd * math.sqrt(np.mean(error**2)), nlpd


@needs_data
def test_carbon_dioxide_references():
    ref, (time, y, train, sd) = refs()["co2_mlii"], co2()
    assert (train.sum(), (~train).sum()) == (550, 205)
    assert sd == pytest.approx(ref["sd"], rel=1e-9)
    rate, l1, s1, l2, s2, l3, s3, noise = ref["theta"]
    kernel = IntegratedWiener(rate, 10.0, 1.0) + band(l1, s1, 1.0) + band(l2, s2, 0.5) + Matern32(l3, s3)
    gp = MarkovGP(kernel, noise=noise)
    assert -gp.log_likelihood(time[train], y[train]).item() == pytest.approx(ref["nlml"], rel=1e-7)
    rmse, nlpd = score(gp, time, y, train, sd)
    assert rmse == pytest.approx(ref["rmse"], rel=1e-5)
    assert nlpd == pytest.approx(ref["nlpd"], rel=1e-5)


@needs_data
def test_carbon_dioxide_with_a_fixed_kernel():
    ref, (_, _, train, _) = refs()["co2"], co2()
    table = np.loadtxt(DATA / "gp/parallel_gps/co2_mm_mlo.txt")
    time, y = table[:, 2], table[:, 3] - ref["mean_subtracted"]
    kernel = Matern52(40.0, 900.0) + band(60.0, 4.0, 1.0) + band(60.0, 0.5, 0.5) + Matern32(1.5, 0.3)
    gp = MarkovGP(kernel, noise=ref["noise"])
    assert gp.log_likelihood(time[train], y[train]).item() == pytest.approx(ref["lml"], rel=1e-8)
    post, at = gp.condition(time[train], y[train]), time[~train][:5]
    np.testing.assert_allclose(post.mean(at) + ref["mean_subtracted"], ref["mean_first5"], rtol=1e-6)
    np.testing.assert_allclose(post.variance(at) + ref["noise"], ref["var_first5"], rtol=1e-6)
    rmse, nlpd = score(gp, time, y, train, 1.0)
    assert rmse == pytest.approx(ref["rmse"], rel=1e-6)
    assert nlpd == pytest.approx(ref["nlpd"], rel=1e-6)


@needs_data
@pytest.mark.slow
def test_carbon_dioxide_from_a_plain_start_and_better():
    """The stored optimum is found from round numbers; a smooth trend beside the straight one forecasts better."""
    ref, (time, y, train, sd) = refs()["co2_mlii"], co2()
    season = lambda: band(50.0, 0.01, 1.0) + band(50.0, 0.001, 0.5) + Matern32(1.0, 0.01)  # noqa: E731
    gp = MarkovGP(IntegratedWiener(1e-3, 10.0, 1.0) + season(), noise=1e-3).fit(time[train], y[train])
    assert gp.report.converged
    assert -gp.report.objective == pytest.approx(ref["nlml"], abs=1e-3)
    rmse, nlpd = score(gp, time, y, train, sd)
    assert rmse < 2.285
    assert nlpd < 1.95
    trend = IntegratedWiener(1e-5, 10.0, 1.0) + RBF(60.0, 1.0, order=6)
    better = MarkovGP(trend + season(), noise=1e-3).fit(time[train], y[train])
    rmse, nlpd = score(better, time, y, train, sd)
    assert rmse < 2.1
    assert nlpd < 1.92
