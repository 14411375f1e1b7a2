"""Joint posterior covariance of processes with Gaussian sites."""

from __future__ import annotations

import numpy as np
import torch

from sciinfer.gp import ApproximateMarkovGP, Coregionalised, IntegratedWiener, MarkovGP, Matern12, Matern32
from sciinfer.likelihoods import Gaussian, Poisson
from sciinfer.likelihoods.gaussian import FLOOR

TIME = [3.0, 0.2, 1.7, 1.7, 9.5]
Y = [0.3, -1.1, np.nan, 0.8, 0.1]
AT = [5.0, 1.7, -1.0, 12.0, 5.0]


def test_gaussian_sites_have_the_exact_covariance():
    """Any order, a point asked for twice, on a datum, before and after the data."""
    likelihood = Gaussian(1, noise=0.4 - FLOOR)
    for kernel, at in ((Matern32(2.0), AT), (IntegratedWiener(0.3, 2.0, 1.0), [5.0, 1.7, 12.0])):
        found = ApproximateMarkovGP(kernel, likelihood, tolerance=1e-14).condition(TIME, Y)
        exact = MarkovGP(kernel, noise=0.16).condition(TIME, Y).covariance(at)
        torch.testing.assert_close(found.covariance(at), exact, rtol=0, atol=1e-7)
        torch.testing.assert_close(found.covariance(at).diagonal(), found.variance(at), rtol=1e-9, atol=0)
    assert found.covariance([]).shape == (0, 0)


def test_counts_in_several_channels_and_series():
    kernel = Coregionalised([Matern12(2.0), Matern32(1.0)], [[1.0, 0.5], [-0.3, 0.8], [0.2, 0.2]])
    g = np.random.default_rng(0)
    times, counts = [np.arange(6.0), np.arange(4.0)], [g.poisson(2.0, (6, 3)), g.poisson(2.0, (4, 3))]
    post = ApproximateMarkovGP(kernel, Poisson(3), mean=0.5).condition(times, counts)
    found = post.covariance(AT)
    assert found.shape == (2, 5, 3, 5, 3)
    flat = found.reshape(2, 15, 15)
    torch.testing.assert_close(flat, flat.mT, rtol=0, atol=1e-12)
    torch.testing.assert_close(flat.diagonal(dim1=1, dim2=2).reshape(2, 5, 3), post.variance(AT), rtol=1e-9, atol=0)
    draws = post.sample(AT, 8000, seed=0).reshape(8000, 2, 15)
    for s in range(2):
        sd = flat[s].diagonal().sqrt()
        error = (torch.cov(draws[:, s].mT) - flat[s]) / sd[:, None] / sd
        assert float(error.abs().max()) < 5 * (2 / 8000) ** 0.5
