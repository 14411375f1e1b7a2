"""Derivatives, differences and averages of a process of time, against dense algebra."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sciinfer.errors import ConfigError, DataError, ShapeError
from sciinfer.gp import (
    Cosine,
    MarkovGP,
    Matern12,
    Matern32,
    Matern52,
    Separable,
    averages,
    derivatives,
    differences,
    join,
    points,
)

F64 = torch.float64
TIME = np.array([3.0, 0.2, 1.7, 1.7, 9.5, 4.1, 1.7, 6.6, 0.9])
Y = np.array([0.3, -1.1, 0.8, np.nan, 0.1, -0.4, 1.2, 0.9, 0.0])
AT = [5.0, 1.7, -1.0, 12.0, 3.0, 5.0]


def dense(K: np.ndarray, noise, y: np.ndarray, cross: np.ndarray, prior: np.ndarray):
    """Log-likelihood, posterior mean and covariance by plain matrices."""
    S = K + np.diag(np.broadcast_to(noise, len(y)))
    mean, cov = cross @ np.linalg.solve(S, y), prior - cross @ np.linalg.solve(S, cross.T)
    value = -0.5 * (y @ np.linalg.solve(S, y) + np.linalg.slogdet(S)[1] + len(y) * math.log(2 * math.pi))
    return value, mean, cov


def gram(kernel, a, b) -> np.ndarray:
    with torch.no_grad():
        return kernel.covariance(torch.as_tensor(np.subtract.outer(np.array(a), np.array(b)))).numpy()


def weights(items, kernel_of):
    """Every functional as a cosine and sine amplitude: exact for a Cosine kernel of angular frequency ``w``."""
    w = kernel_of
    rows = []
    for kind, a, b in zip(items.kind.tolist(), items.start.tolist(), items.end.tolist(), strict=True):
        c, s = np.cos(w * b), np.sin(w * b)
        rows.append(
            [
                (c, s),
                (-w * s, w * c),
                ((s - np.sin(w * a)) / w / (b - a or 1), (np.cos(w * a) - c) / w / (b - a or 1)),
                (c - np.cos(w * a), s - np.sin(w * a)),
            ][kind]
        )
    return np.array(rows)


def test_every_functional_of_an_oscillation():
    """A sum of cosines is finitely many random amplitudes: all functionals are then plain linear algebra."""
    kernel = Cosine(4.0, 1.5) + Cosine(7.0, 0.8)
    seen = join(
        points([0.3, 6.0]),
        derivatives([1.0, 8.5]),
        averages([0.0, 0.5, 5.0, 2.0], [2.0, 4.0, 9.0, 2.0]),
        differences([1.0, 1.5], [3.0, 9.0]),
    )
    asked = join(averages([1.0, -3.0], [6.0, 0.0]), differences([0.0], [12.0]), derivatives([2.0]), points([2.0]))
    y = np.random.default_rng(3).normal(size=10)
    sd = [math.sqrt(1.5), math.sqrt(1.5), math.sqrt(0.8), math.sqrt(0.8)]
    W, V = (np.hstack([weights(i, 2 * math.pi / p) for p in (4.0, 7.0)]) * sd for i in (seen, asked))
    value, mean, cov = dense(W @ W.T, 0.1, y, V @ W.T, V @ V.T)
    gp = MarkovGP(kernel, noise=0.1)
    assert gp.log_likelihood(seen, y).item() == pytest.approx(value, rel=1e-9)
    post = gp.condition(seen, y)
    np.testing.assert_allclose(post.mean(asked), mean, rtol=0, atol=1e-8)
    np.testing.assert_allclose(post.covariance(asked), cov, rtol=0, atol=1e-8)
    level = MarkovGP(kernel, noise=0.1, mean=2.0).condition(points([]), [])
    assert level.mean(asked).tolist() == pytest.approx([2.0, 2.0, 0.0, 0.0, 2.0])


def test_derivatives_and_differences_of_a_rough_process():
    """Matérn-5/2: ``Cov(f', f) = k'``, ``Cov(f', f') = -k''``."""
    kernel, a, b = Matern52(1.3), np.array([0.0, 1.0, 2.5]), np.array([0.4, 3.0])
    lag = torch.as_tensor(np.subtract.outer(b, a)).requires_grad_()
    (first,) = torch.autograd.grad(kernel.covariance(lag).sum(), lag)
    within = torch.as_tensor(np.subtract.outer(b, b)).requires_grad_()
    rate = math.sqrt(5) / 1.3
    r = np.abs(np.subtract.outer(b, b))
    second = rate**2 / 3 * (1 + rate * r - (rate * r) ** 2) * np.exp(-rate * r)
    K = np.block([[gram(kernel, a, a), first.numpy().T], [first.numpy(), second]])
    assert within.shape == (2, 2)
    y = np.array([0.3, -0.4, 1.0, 0.2, -0.9])
    value, *_ = dense(K, 0.1, y, K[:1], K[:1, :1])
    found = MarkovGP(kernel, noise=0.1).log_likelihood(join(points(a), derivatives(b)), y)
    assert found.item() == pytest.approx(value, rel=1e-9)
    C = np.array([[-1.0, 1.0, 0.0], [0.0, -1.0, 1.0], [-1.0, 0.0, 1.0]])
    value, *_ = dense(C @ K[:3, :3] @ C.T, 0.1, y[:3], K[:1, :3], K[:1, :1])
    found = MarkovGP(kernel, noise=0.1).log_likelihood(differences([0.0, 1.0, 0.0], [1.0, 2.5, 2.5]), y[:3])
    assert found.item() == pytest.approx(value, rel=1e-9)


def test_an_exposure_is_the_mean_of_many_points():
    """The posterior of an average agrees with averaging the joint posterior of a fine grid."""
    gp = MarkovGP(Matern32(2.0), noise=0.2)
    post = gp.condition(join(points(TIME), averages([0.0, 1.0], [3.0, 2.0])), [*Y, 0.4, -0.2])
    nodes, w = np.polynomial.legendre.leggauss(60)
    at = 1.5 + 2.5 * nodes
    mean, cov = post.mean(at).numpy() @ w / 2, w @ post.covariance(at).numpy() @ w / 4
    asked = averages([-1.0], [4.0])
    assert post.mean(asked).item() == pytest.approx(mean, abs=1e-5)
    assert post.variance(asked).item() == pytest.approx(cov, rel=1e-4)
    draws = post.sample(join(asked, points([1.0])), 4000, seed=0)
    assert float(draws[:, 0].var()) == pytest.approx(cov, rel=0.1)


def test_functionals_that_make_no_sense():
    with pytest.raises(ConfigError, match="Matern12 has no derivative"):
        MarkovGP(Matern12(), noise=0.1).log_likelihood(derivatives([0.0]), [1.0])
    with pytest.raises(DataError, match="ends before"):
        averages([1.0], [0.0])
    with pytest.raises(DataError, match="two times"):
        differences([1.0], [1.0])
    with pytest.raises(ShapeError, match="1 starts and 2 ends"):
        averages([1.0], [1.0, 2.0])
    with pytest.raises(ConfigError, match="one output"):
        MarkovGP(Separable(Matern32(2.0), [[1.0, 0.6], [0.6, 2.0]]), noise=0.1).log_likelihood(
            averages([0.0], [1.0]), [[1.0, 2.0]]
        )
    with pytest.raises(ConfigError, match="one output at times"):
        MarkovGP(Matern32()).condition([0.0], [1.0]).components(averages([0.0], [1.0]))
    found = averages([1.0, 1.0], [1.0, 2.0])
    assert found.kind.tolist() == [0, 2]
