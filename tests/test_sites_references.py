"""Published and stored values: coal disasters, Van der Pol and Lorenz spikes, point-process factor analysis."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sciinfer.gp.approximate import ApproximateMarkovGP
from sciinfer.gp.kernels import Matern32, Matern52
from sciinfer.gp.kernels.multi import Coregionalised
from sciinfer.gp.point_process_elbo import Inducing, Trial, point_process_elbo
from sciinfer.likelihoods import Poisson

F64 = torch.float64
ROOT = Path(os.environ.get("SCIINFER_DATA", "")) / "gpvae"
pytestmark = pytest.mark.skipif(
    "SCIINFER_DATA" not in os.environ or not (ROOT / "references_dev.json").exists(),
    reason="set SCIINFER_DATA to the folder of reference data (area gpvae)",
)


def _stored(name):
    return json.loads((ROOT / "references_dev.json").read_text())[name]


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "which", ["M32_1_4", "M52_1_20", pytest.param("M32_1_20", marks=SLOW), pytest.param("M52_1_4", marks=SLOW)]
)
def test_coal_disasters(which):
    """333 bins: bound and Laplace evidence to 1e-4; EP lies above the bound and near importance sampling."""
    bins = np.loadtxt(ROOT / "bayesnewton" / "coal_binned.csv")
    build = {"M32": Matern32, "M52": Matern52}[which[:3]]
    width, stored = float(np.ptp(bins[:, 0])) / 333, _stored("coal")
    values = {}
    for method in ("cvi", "laplace", "ep"):
        kernel = build(lengthscale=float(which.rsplit("_", 1)[1]), variance=1.0)
        gp = ApproximateMarkovGP(kernel, Poisson(1, exposure=width), method=method)
        with torch.no_grad():
            values[method] = float(gp.elbo(bins[:, 0], bins[:, 1]))
    assert values["cvi"] == pytest.approx(stored["VI_ELBO"][which], abs=1e-4)
    assert values["laplace"] == pytest.approx(stored["Laplace_logZ"][which], abs=1e-4)
    assert values["cvi"] < values["ep"] < stored["IS_logZ"][which] + 0.02


def _spikes(counts, loading, offset, lengthscale, step):
    """The bound without ``log y!`` and the posterior means of the latents, trials ``[R, T, N]``."""
    trials, bins, neurons = counts.shape
    latents = loading.shape[1]
    kernel = Coregionalised([Matern32(lengthscale=lengthscale) for _ in range(latents)], loading)
    gp = ApproximateMarkovGP(kernel, Poisson(neurons))
    with torch.no_grad():
        gp.level.copy_(torch.as_tensor(offset))
    time = step * np.arange(bins)
    post = gp.condition([time] * trials, list(counts))
    assert post.converged
    factorials = torch.lgamma(torch.as_tensor(counts, dtype=F64) + 1).sum()
    return float(post.fit.objective.sum() + factorials), post.fit.marginals.latent_mean.numpy().reshape(-1, latents)


def _r2(truth, found):
    design = np.column_stack([found, np.ones(len(found))])
    return 1 - (truth - design @ np.linalg.lstsq(design, truth, rcond=None)[0]).var(0) / truth.var(0)


@pytest.mark.slow
def test_van_der_pol_spikes():
    data = np.load(ROOT / "vdp" / "vdp_poisson.npz")
    bound, latents = _spikes(data["counts"], data["C"], data["d"], 1.0, float(data["dt"]))
    stored = _stored("vdp")
    assert bound == pytest.approx(stored["ELBO_no_logfact"]["1.0"], abs=0.01)
    assert _r2(data["latents"].reshape(-1, 2), latents).mean() == pytest.approx(stored["R2"]["1.0"], abs=1e-3)


@pytest.mark.slow
def test_lorenz_spikes_with_the_true_readout():
    h5py = pytest.importorskip("h5py", reason="the simulated recordings are HDF5 files")
    with h5py.File(ROOT / "vlgp_sim" / "lorenz1.h5") as file:
        y, x, alpha = (file[name][:] for name in ("y", "x", "alpha"))
    counts, x = y.reshape(10, 200, 5, 50).sum(2), x.reshape(10, 200, 5, 3).mean(2).reshape(-1, 3)
    loading = alpha.T * x.std(0)
    offset = np.log(counts.reshape(-1, 50).mean(0) + 1e-3) - 0.5 * (loading**2).sum(1)
    bound, latents = _spikes(counts, loading, offset, 20.0, 1.0)
    stored = _stored("lorenz1")
    assert bound == pytest.approx(stored["ELBO_no_logfact"], abs=1e-3)
    np.testing.assert_allclose(_r2(x, latents), stored["R2"][1:], atol=1e-4)


def _covariance(name: str, parameters: np.ndarray):
    values = [float(v) for v in parameters.ravel()]
    if "rbf" in name:
        return lambda lag: torch.exp(-0.5 * (lag / values[0]) ** 2)
    return lambda lag: torch.exp(-2 * torch.sin(math.pi * lag / values[1]) ** 2 / values[0] ** 2)


def test_point_process_factor_analysis():
    """Two periodic latents and one smooth one, 50 neurons, 5 trials: the stored bound to 3e-4."""
    from scipy.io import loadmat

    file = loadmat(ROOT / "svgpfa_ref" / "Estep_Objective_PointProcess_svGPFA.mat")
    tensor = lambda value: torch.as_tensor(value.astype(np.float64))  # noqa: E731
    names = [str(entry[0]) for entry in file["kernelNames"].ravel()]
    total: Tensor = torch.zeros((), dtype=F64)
    for r in range(5):
        latents = []
        for k in range(3):
            root, extra = tensor(file["q_sqrt"][0, k])[:, :, r], tensor(file["q_diag"][0, k])[:, 0, r]
            cov = root @ root.mT + torch.diag(extra.square())
            times, mean = (tensor(file[name][place])[:, 0, r] for name, place in (("Z", (k, 0)), ("q_mu", (0, k))))
            latents.append(Inducing(_covariance(names[k], file["hprs"][k, 0]), times, mean, cov))
        nodes, weights = (tensor(file[name])[:, 0, r] for name in ("ttQuad", "wwQuad"))
        channel = tensor(file["index"][r, 0]).ravel().long() - 1
        trial = Trial(tensor(file["Y"][r, 0]).ravel(), channel, nodes, weights)
        total = total + point_process_elbo(trial, latents, tensor(file["C"]), tensor(file["b"]).ravel())
    assert float(total) == pytest.approx(_stored("svgpfa")["ELBO_pointprocess"], abs=3e-4)


@pytest.mark.slow
def test_point_process_factor_analysis_after_an_e_step():
    """The best posterior at the inducing points, from the prior on: at least as high a bound as the stored one."""
    from scipy.io import loadmat
    from scipy.optimize import minimize

    file = loadmat(ROOT / "svgpfa_ref" / "Estep_Update_all_PointProcess_svGPFA.mat")
    tensor = lambda value: torch.as_tensor(value.astype(np.float64))  # noqa: E731
    names = [str(entry[0]) for entry in file["kernelNames"].ravel()]
    kernels = [_covariance(name, file["hprs"][k, 0]) for k, name in enumerate(names)]
    C, b = tensor(file["C"]), tensor(file["b"]).ravel()
    total = 0.0
    for r in range(5):
        nodes, weights = (tensor(file[name])[:, 0, r] for name in ("ttQuad", "wwQuad"))
        trial = Trial(tensor(file["Y"][r, 0]).ravel(), tensor(file["index"][r, 0]).ravel().long() - 1, nodes, weights)
        places = [tensor(file["Z"][k, 0])[:, 0, r] for k in range(3)]
        grams = [k(z[:, None] - z) + 1e-5 * torch.eye(len(z), dtype=F64) for k, z in zip(kernels, places, strict=True)]
        roots = [torch.linalg.cholesky(gram) for gram in grams]

        def bound(flat, trial=trial, places=places, roots=roots):
            latents, at = [], 0
            for kernel, z, root in zip(kernels, places, roots, strict=True):
                n = len(z)
                white, lower = flat[at : at + n], flat[at + n : at + n + n * n].reshape(n, n).tril()
                scale = root @ lower
                cov = scale @ scale.mT + 1e-12 * torch.eye(n, dtype=F64)
                latents.append(Inducing(kernel, z, root @ white, cov))
                at += n + n * n
            return point_process_elbo(trial, latents, C, b)

        def objective(x, bound=bound):
            flat = torch.as_tensor(x).requires_grad_()
            value = bound(flat)
            (slope,) = torch.autograd.grad(value, flat)
            return -float(value.detach()), -slope.numpy()

        start = np.concatenate([np.concatenate([np.zeros(len(z)), np.eye(len(z)).ravel()]) for z in places])
        total -= minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 400}).fun
    assert total >= _stored("svgpfa")["after_Estep_100"] - 1e-3
