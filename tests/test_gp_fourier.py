"""Gaussian processes as Fourier coefficients on a padded circle."""

from __future__ import annotations

import pytest
import torch

from sciinfer.errors import ConfigError, TimeError
from sciinfer.gp.fourier import circulant_size, condition_fourier, even_step, fourier_prior
from sciinfer.gp.kernels import RBF, SHO, Matern12, Matern32, Matern52
from sciinfer.processes import LatentGPs, condition_potentials
from sciinfer.random import generator
from sciinfer.statespace.sites import Sites

F64 = torch.float64
MATERN = {"matern12": Matern12, "matern32": Matern32, "matern52": Matern52}


def _times(count=60, series=1):
    return torch.arange(count, dtype=F64).expand(series, count)


def _rbf(lag, lengthscale, variance=1.0):
    return variance * (-0.5 * (lag / lengthscale).square()).exp()


def _potentials(S, T, K, seed=0):
    g = generator(seed, "potentials")
    precision = torch.rand(S, T, K, generator=g, dtype=F64) * (torch.rand(S, T, K, generator=g) > 0.3)
    return Sites(precision, precision * torch.randn(S, T, K, generator=g, dtype=F64))


def _dense(K, potentials):
    """Mean, variance, log Z and KL of N(0, K) times one latent's potentials, from the dense matrices alone."""
    J, j = torch.diag(potentials.precision[:, 0]), potentials.shift[:, 0]
    cov = torch.linalg.solve(torch.eye(len(K), dtype=F64) + K @ J, K)
    mean, log_det = cov @ j, torch.linalg.slogdet(torch.eye(len(K), dtype=F64) + K @ J)[1]
    log_z = 0.5 * (j @ mean - log_det)
    log_t = j @ mean - 0.5 * (J.diagonal() * (mean.square() + cov.diagonal())).sum()
    return mean, cov, log_z, log_t - log_z


@pytest.mark.parametrize(("padding", "low", "high"), [(8.0, 0.0, 1e-8), (4.0, 2.15e-4, 2.25e-4)])
def test_reconstructed_covariance_of_the_guide(padding, low, high):
    """T = 60, l = 10: the ends of the window see each other unless the padding is long (T + 4 l: 2.2e-4)."""
    prior = fourier_prior([RBF(lengthscale=10.0)], 59.0, 1.0, padding=padding, condition=1e8)
    time = _times()[0]
    error = (prior.covariance(time)[0] - _rbf(time[:, None] - time, 10.0)).abs().max()
    assert prior.size == 60 + 10 * padding
    assert low <= float(error.detach()) < high


@pytest.mark.parametrize("kernel", [RBF(3.0, 0.7), Matern12(4.0, 0.7), Matern32(4.0, 0.7), Matern52(4.0, 0.7)])
def test_covariance_and_whiteness_of_the_basis(kernel):
    time = _times(25)[0] * 0.5
    prior = fourier_prior([kernel], 12.0, 0.5)
    lag = time[:, None] - time
    expected = _rbf(lag, 3.0, 0.7) if isinstance(kernel, RBF) else kernel.covariance(lag)
    torch.testing.assert_close(prior.covariance(time)[0], expected, rtol=0, atol=1e-12)
    B = prior.basis(torch.arange(prior.size, dtype=F64) * 0.5)
    torch.testing.assert_close(B.mT @ B, torch.eye(B.shape[1], dtype=F64), rtol=0, atol=1e-11)


def test_rbf_holds_off_the_grid_and_for_short_lengthscales():
    time = torch.tensor([0.0, 0.31, 2.7, 5.0], dtype=F64)
    for scale in (0.4, 2.0):
        prior = fourier_prior([RBF(lengthscale=scale)], 5.0, 1.0)
        expected = _rbf(time[:, None] - time, scale)
        torch.testing.assert_close(prior.covariance(time)[0], expected, rtol=0, atol=1e-12)


def test_the_circle_grows_with_the_lengthscale():
    kernel = RBF(lengthscale=2.0)
    time, potentials = _times(20), _potentials(1, 20, 1)
    sizes = []
    for scale in (2.0, 10.0, 40.0):
        with torch.no_grad():
            kernel.log_lengthscale.fill_(torch.tensor(scale, dtype=F64).log())
        prior = fourier_prior([kernel], 19.0, 1.0)
        sizes.append(prior.size)
        mean = condition_fourier(prior, time, potentials).moments(time)[0][0, :, 0]
        expected = _dense(_rbf(time[0, :, None] - time[0], scale), Sites(*(p[0] for p in potentials)))[0]
        torch.testing.assert_close(mean, expected, rtol=0, atol=1e-9)
    assert sizes == [36, 100, 340] == [circulant_size(20, scale) for scale in (2.0, 10.0, 40.0)]


def test_pruning_leaves_few_coefficients():
    kernel = [RBF(lengthscale=10.0)]
    counts = [fourier_prior(kernel, 59.0, 1.0, condition=c).number.numel() for c in (1e4, 1e8, 1e16)]
    assert counts == [19, 27, 39]


def test_posterior_is_the_dense_one():
    """Moments, log Z, and a divergence that is E log t - log Z."""
    scales = (3.0, 6.0)
    prior = fourier_prior([RBF(s) for s in scales], 24.0, 1.0)
    time, potentials = _times(25, 2), _potentials(2, 25, 2)
    found = condition_fourier(prior, time, potentials)
    mean, variance = found.moments(time)
    for s in range(2):
        log_z, divergence = 0.0, 0.0
        for k, scale in enumerate(scales):
            one = Sites(*(p[s, :, k : k + 1] for p in potentials))
            m, C, z, kl = _dense(_rbf(time[0, :, None] - time[0], scale), one)
            torch.testing.assert_close(mean[s, :, k], m, rtol=0, atol=1e-10)
            torch.testing.assert_close(variance[s, :, k], C.diagonal(), rtol=0, atol=1e-10)
            log_z, divergence = log_z + z, divergence + kl
        torch.testing.assert_close(found.log_normaliser[s], log_z, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(found.divergence[s], divergence, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", MATERN)
def test_matern_is_the_state_space_posterior(name):
    kernels = [MATERN[name](3.0), MATERN[name](7.0)]
    time, potentials = _times(30, 3), _potentials(3, 30, 2)
    process = LatentGPs(kernels)
    path = condition_potentials(process, process.readout(), time.contiguous(), potentials, time[:, :0])
    found = condition_fourier(fourier_prior(kernels, 29.0, 1.0), time, potentials)
    mean, variance = found.moments(time)
    at = path.bridge.at_data
    torch.testing.assert_close(mean, path.mean(at), rtol=0, atol=1e-8)
    torch.testing.assert_close(variance, path.cov(at).diagonal(dim1=-2, dim2=-1), rtol=0, atol=1e-8)
    torch.testing.assert_close(found.divergence, path.divergence, rtol=0, atol=1e-8)
    torch.testing.assert_close(found.log_normaliser, path.log_normaliser, rtol=0, atol=1e-8)


@pytest.mark.parametrize("order", [4, 8, 12])
def test_rbf_is_the_state_space_posterior_up_to_its_truncation(order):
    kernel = RBF(5.0, order=order)
    time, potentials = _times(30, 2), _potentials(2, 30, 1)
    process = LatentGPs([kernel])
    path = condition_potentials(process, process.readout(), time.contiguous(), potentials, time[:, :0])
    found = condition_fourier(fourier_prior([kernel], 29.0, 1.0), time, potentials)
    lag, at, e = time[0, :, None] - time[0], path.bridge.at_data, kernel.truncation()
    for s in range(2):
        one = Sites(*(p[s] for p in potentials))
        J, eye = torch.diag(one.precision[:, 0]), torch.eye(30, dtype=F64)
        C, near = (_dense(K, one)[1] for K in (_rbf(lag, 5.0), kernel.covariance(lag)))
        weight = one.shift[:, 0] - J @ path.mean(at)[s, :, 0]
        # C' - C = (I - C J) dK (I - C' J)^T and m' - m = (I - C J) dK (j - J m'), with |dK| <= truncation
        left, right = ((eye - c @ J).abs().sum(1) for c in (C, near))
        mean, variance = (m[s, :, 0] for m in found.moments(time))
        assert bool(((mean - path.mean(at)[s, :, 0]).abs() <= e * left * weight.abs().sum()).all())
        assert bool(((variance - path.cov(at)[s, :, 0, 0]).abs() <= e * left * right).all())
    assert e < {4: 0.1, 8: 1e-3, 12: 1e-4}[order]


def test_draws_have_the_posteriors_moments():
    prior = fourier_prior([RBF(4.0), RBF(8.0)], 14.0, 1.0)
    time, potentials = _times(15), _potentials(1, 15, 2)
    found = condition_fourier(prior, time, potentials)
    with torch.no_grad():
        draws = found.sample(8_000, generator(0, "draws"), time)
        mean, variance = found.moments(time)
    sd = variance.sqrt()
    assert float(((draws.mean(0) - mean) / sd).abs().max()) < 4.5 / 8_000**0.5
    assert float((draws.var(0) / variance - 1).abs().max()) < 4.5 * (2 / 8_000) ** 0.5
    # joint: neighbouring times move together
    K = _dense(_rbf(time[0, :, None] - time[0], 4.0), Sites(*(p[0, :, :1] for p in potentials)))[1]
    found_cov = torch.cov(draws[:, 0, :, 0].mT)
    assert float((found_cov - K).abs().max()) < 5 * float(K.max()) / 8_000**0.5


def test_no_potentials_no_divergence_and_gradients():
    kernel, time = RBF(4.0), _times(12)
    none = condition_fourier(fourier_prior([kernel], 11.0, 1.0), time, Sites(*[torch.zeros(1, 12, 1, dtype=F64)] * 2))
    assert float(none.divergence.abs().max().detach()) < 1e-12 and float(none.log_normaliser.abs().max().detach()) == 0
    torch.testing.assert_close(none.moments(time)[1], torch.ones(1, 12, 1, dtype=F64), rtol=0, atol=1e-12)
    potentials = _potentials(1, 12, 1)

    def divergence(log_scale, precision):
        kernel.log_lengthscale = torch.nn.Parameter(log_scale.detach())
        del kernel._parameters["log_lengthscale"]
        kernel.log_lengthscale = log_scale
        return condition_fourier(_keep(kernel), time, Sites(precision, potentials.shift)).divergence

    def _keep(one):
        one.get_parameter = lambda _: log_scale_fixed
        return fourier_prior([one], 11.0, 1.0)

    log_scale_fixed = torch.tensor(4.0, dtype=F64).log()
    at = (log_scale_fixed.clone().requires_grad_(), (potentials.precision + 0.1).requires_grad_())
    assert torch.autograd.gradcheck(divergence, at)


def test_the_step_of_a_grid_with_gaps():
    def step(*series):
        width = max(map(len, series))
        rows = torch.tensor([[i < len(s) for i in range(width)] for s in series])
        time = torch.tensor([list(s) + [s[-1]] * (width - len(s)) for s in series], dtype=F64)
        return even_step(time, rows)

    assert step([0, 1, 2]) == 1 and step([0, 2, 5]) == 1 and step([3.0]) == 1
    assert step([0, 0.2, 0.2, 0.6], [0.1, 0.7]) == pytest.approx(0.2)
    far = 1e5 + torch.arange(5, dtype=F64) * 0.1
    assert step(far.tolist()) == pytest.approx(0.1, rel=1e-6)
    with pytest.raises(TimeError, match="even grid"):
        step([0, 1, 2.718281828459045, 3.2])


def test_kernels_without_a_fourier_form_are_named():
    with pytest.raises(ConfigError, match="SHO"):
        fourier_prior([SHO()], 10.0, 1.0)
    with pytest.raises(ConfigError, match="Matern32 beside RBF"):
        fourier_prior([RBF(), Matern32()], 10.0, 1.0)
