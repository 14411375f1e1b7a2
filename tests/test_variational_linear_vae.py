"""A linear VAE is probabilistic PCA: decoder, likelihood and divergence, trained, reach its closed form."""

import math

import numpy as np
import torch
from scipy.optimize import minimize
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from sciinfer.likelihoods import Gaussian
from sciinfer.nets import LinearDecoder
from sciinfer.nets.mlp import linear
from sciinfer.processes import gaussian_divergence
from sciinfer.random import generator, numpy_generator

N, C = 300, 6


def data(eigenvalues):
    """``[N, C]`` with exactly this sample covariance (divisor N) and mean zero."""
    raw = numpy_generator(0, "linear-vae").normal(size=(N, C))
    raw -= raw.mean(0)
    white = raw @ np.linalg.inv(np.linalg.cholesky(raw.T @ raw / N)).T
    basis = np.linalg.qr(numpy_generator(1, "linear-vae").normal(size=(C, C)))[0]
    return torch.as_tensor(white * np.sqrt(eigenvalues) @ basis.T)


class LinearVAE(torch.nn.Module):
    def __init__(self, dim, noise=None):
        super().__init__()
        g = generator(0, "linear-vae")
        self.decoder, self.encoder = LinearDecoder(dim, C, generator=g), linear(C, dim, generator=g)
        self.likelihood = Gaussian(1, noise=noise or 1.0)  # one standard deviation for all channels
        self.likelihood.log_noise.requires_grad_(noise is None)
        self.log_sd = torch.nn.Parameter(torch.zeros(dim, dtype=torch.float64))

    def elbo(self, x):
        mean, cov = self.encoder(x), torch.diag((2 * self.log_sd).exp()).expand(len(x), -1, -1)
        eye = torch.eye(mean.shape[1], dtype=x.dtype)
        fit = self.likelihood.expected_log_prob(
            x, *self.decoder.moments(mean, cov), torch.ones_like(x, dtype=torch.bool)
        )
        return (fit - gaussian_divergence(mean, cov, torch.zeros_like(mean[0]), eye)).mean()

    def train_on(self, x):
        free = [p for p in self.parameters() if p.requires_grad]

        def objective(v):
            vector_to_parameters(torch.as_tensor(v), free)
            loss = -self.elbo(x)
            slope = torch.autograd.grad(loss, free)
            return float(loss.detach()), torch.cat([s.reshape(-1) for s in slope]).numpy()

        start = parameters_to_vector(free).detach().numpy()
        found = minimize(
            objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 3000, "ftol": 1e-15, "gtol": 1e-9}
        )
        objective(found.x)
        return -found.fun


def ppca(eigenvalues, dim, variance=None):
    """Largest mean log-likelihood of probabilistic PCA (Tipping, Bishop 1999)."""
    variance = variance or eigenvalues[dim:].mean()
    model = np.concatenate([np.maximum(eigenvalues[:dim], variance), np.full(C - dim, variance)])
    return -0.5 * (C * math.log(2 * math.pi) + np.log(model).sum() + (eigenvalues / model).sum())


def test_the_best_bound_is_the_likelihood_of_ppca():
    eigenvalues = np.array([5.0, 3.0, 1.5, 0.5, 0.4, 0.3])
    vae = LinearVAE(3)
    assert abs(vae.train_on(data(eigenvalues)) - ppca(eigenvalues, 3)) < 1e-3
    assert abs(float(vae.likelihood.noise.detach().square()) - 0.4) < 1e-3


def test_an_axis_no_stronger_than_the_noise_collapses_and_the_others_do_not():
    eigenvalues = np.array([5.0, 3.0, 0.8, 0.5, 0.4, 0.3])
    vae = LinearVAE(3, noise=1.0 - 1e-4)  # the likelihood adds its floor of 1e-4
    assert abs(vae.train_on(data(eigenvalues)) - ppca(eigenvalues, 3, 1.0)) < 1e-3
    strength = torch.linalg.svdvals(vae.decoder.weight.detach())
    assert torch.allclose(strength[:2].square(), torch.tensor([4.0, 2.0], dtype=torch.float64), atol=1e-2)
    assert float(strength[2]) < 0.05
