"""Structure learning: closed forms against sampling, graphs that come back, the linear baseline beside them."""

from __future__ import annotations

import numpy as np
import pytest
import sciinfer.datasets as datasets
import torch
from support.model_walk import F64, SCHEMA, check_model, move, sample_batch, stream

import sciinfer as si
from sciinfer.errors import ConfigError
from sciinfer.models.scotch import scotch
from sciinfer.processes.graph import FEATURES, DriftMoments, GraphSDE, features, parent_posterior
from sciinfer.random import generator


def test_every_check_of_a_model():
    check_model(lambda seed=0: scotch(SCHEMA, seed=seed, width=6, nodes=4), sample_batch())


def test_features_are_orthonormal_where_the_data_are():
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    z = torch.tensor(nodes * 0.05)
    one = np.stack([np.ones_like(nodes), *features(z).numpy().T[:1] / 0.05])
    gram = (one * weights / weights.sum()) @ one.T
    np.testing.assert_allclose(gram, np.eye(2), atol=0.01)
    s = 3 * torch.tanh(torch.tensor(1.3, dtype=F64) / 3)
    expected = (s**4 - 6 * s**2 + 3) / 24**0.5
    torch.testing.assert_close(features(torch.tensor(1.3, dtype=F64))[3], expected)
    assert float(features(torch.tensor(1e6, dtype=F64)).abs().max()) < 30


def _moved(dim=3):
    prior = GraphSDE(dim, generator=generator(0, "p"))
    g = generator(1, "move")
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=g, dtype=F64))
    return prior


def test_mean_and_variance_of_the_drift_are_those_of_sampled_graphs():
    prior, n = _moved(), 40_000
    z = torch.tensor([0.4, -1.2, 0.9], dtype=F64)
    g = generator(2, "graphs")
    with torch.no_grad():
        p = prior.edge_probabilities()
        G = (torch.rand((n, 3, 3), generator=g, dtype=F64) < p).to(F64)
        noise = torch.randn((n, *prior.weight.shape), generator=g, dtype=F64)
        w = prior.weight + prior.log_width.exp() * noise
        h = torch.einsum("nij,ib,nijb->nj", G, features(z), w) + prior.bias - prior.confinement(z)
        mean, variance = prior.drift(z[0], z), prior.drift_variance(z)
    assert bool(((h.mean(0) - mean).abs() < 4 * h.std(0) / n**0.5).all())
    spread = (h - h.mean(0)).square()
    assert bool(((spread.mean(0) - variance).abs() < 4 * spread.std(0) / n**0.5).all())


def test_divergence_of_graph_and_weights_against_sampling():
    prior, n = _moved(2), 200_000
    g = generator(3, "kl")
    with torch.no_grad():
        p = prior.edge_probabilities()
        q, r = p[0, 1], torch.tensor(prior.prior_logit).sigmoid()
        G = torch.rand(n, generator=g, dtype=F64) < q
        own = torch.distributions.Normal(prior.weight[0, 1], prior.log_width[0, 1].exp())
        slab = torch.distributions.Normal(torch.zeros(FEATURES, dtype=F64), prior.log_slab.exp())
        w = own.loc + own.scale * torch.randn((n, FEATURES), generator=g, dtype=F64)
        inside = torch.where(G, (q / r).log() + (own.log_prob(w) - slab.log_prob(w)).sum(-1), ((1 - q) / (1 - r)).log())
        whole = prior.divergence()
        prior.weight[0, 1] = 0.0
        prior.log_width[0, 1] = prior.log_slab
        prior.logits[0, 1] = prior.prior_logit / 10.0
        without = prior.divergence()
    assert abs(inside.mean() - (whole - without)) < 4 * inside.std() / n**0.5


def test_parents_by_enumeration_find_a_regression_and_weigh_it_as_bayes_does():
    """``f_1`` depends on ``z_0``: the odds of the edge are the ratio of two evidences by dense algebra."""
    prior = GraphSDE(2, edge=0.3, generator=generator(0, "p"))
    g = generator(4, "paths")
    z = torch.randn((40, 2), generator=g, dtype=F64)
    with torch.no_grad():
        Phi = torch.cat([torch.ones(40, 1, dtype=F64), features(z).flatten(1)], 1)
        s2 = prior.linear.spread
        # unit weights: f is seen with variance g^2, as if each point stood for one unit of time
        f = torch.stack([-z[:, 0], -z[:, 1] + 0.6 * features(z[:, 0])[:, 1]], 1)
        f = f + s2.sqrt() * torch.randn((40, 2), generator=g, dtype=F64)
        found = parent_posterior(prior, DriftMoments(Phi.mT @ Phi, Phi.mT @ f)).edges
        slab = torch.cat([torch.full((1,), 100.0, dtype=F64), torch.ones(2 * FEATURES, dtype=F64)])

        def evidence(columns):
            cov = Phi[:, columns] @ torch.diag(slab[columns]) @ Phi[:, columns].mT + s2[1] * torch.eye(40, dtype=F64)
            return torch.distributions.MultivariateNormal(torch.zeros(40, dtype=F64), cov).log_prob(f[:, 1])

        own = [0, *range(1 + FEATURES, 1 + 2 * FEATURES)]
        odds = evidence(list(range(1 + 2 * FEATURES))) - evidence(own) + prior.prior_logit
    torch.testing.assert_close(found[0, 1], odds.sigmoid(), rtol=1e-7, atol=0)
    assert 0.05 < found[0, 1] < 0.9999
    assert float(found[1, 0]) < 0.3
    with pytest.raises(ConfigError, match="at most"):
        parent_posterior(GraphSDE(13, generator=stream("many")), DriftMoments(Phi.mT @ Phi, Phi.mT @ f))


def _auroc(score, truth):
    """Area under the curve over ordered pairs of different variables."""
    off = ~np.eye(len(truth), dtype=bool)
    yes, no = score[off & truth], score[off & ~truth]
    return (yes[:, None] > no).mean() + 0.5 * (yes[:, None] == no).mean()


def _truth(ds):
    out = np.zeros((5, 5), dtype=bool)
    for edge in ds.attrs["edges"]:
        a, b = (int(name[1]) for name in edge.split("->"))
        out[a, b] = True
    return out


def _granger(ds):
    """Linear baseline: how much worse an autoregression of order two gets without a variable; regular grid, gaps
    filled by interpolation."""
    grid = np.arange(float(ds["time"].min()), float(ds["time"].max()), 0.2)
    y = ds["y"].interpolate_na("time", fill_value="extrapolate").interp(time=grid).values
    X = np.concatenate([y[:, 1:-1], y[:, :-2]], -1).reshape(-1, 10)
    target = y[:, 2:].reshape(-1, 5)
    X, target = X - X.mean(0), target - target.mean(0)

    def rest(columns):
        fit = np.linalg.lstsq(X[:, columns], target, rcond=None)[0]
        return ((target - X[:, columns] @ fit) ** 2).sum(0)

    full = rest(list(range(10)))
    return np.stack([rest([k for k in range(10) if k % 5 != i]) / full for i in range(5)])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_the_graph_of_a_sparse_network_comes_back(seed):
    ds = datasets.open_dataset("sparse_sde", seed=seed, missing=0.3, n_series=30)
    fitted = si.fit(ds, "scotch", seed=seed, training={"steps": 60}, progress="silent")
    truth, model = _truth(ds), fitted.model
    fast = _auroc(model.edge_probabilities().numpy(), truth)
    full = _auroc(model.edge_probabilities(fitted._conditioning().batch).numpy(), truth)
    linear = _auroc(_granger(ds), truth)
    print(f"\nAUROC seed {seed}: independent edges {fast:.3f}, sum over parents {full:.3f}, Granger {linear:.3f}")
    assert min(fast, full) >= 0.95
    assert linear < min(fast, full)


def _small(**options):
    return datasets.open_dataset("sparse_sde", n_series=2, n_times=15, duration=4.0, missing=0.2, **options)


def test_fit_save_load_predict_and_names(tmp_path):
    ds = _small()
    fitted = si.fit(ds, "scotch", options={"width": 4, "nodes": 4}, training={"steps": 2}, progress="silent")
    fitted.save(tmp_path / "run")
    one, two = (f.predict(time=[-1.0, 1.1, 5.0], draws=4) for f in (fitted, si.load(tmp_path / "run")))
    assert (one["posterior_predictive"]["y"] == two["posterior_predictive"]["y"]).all()
    table = fitted.model.edge_table()
    assert list(table) == list(fitted.model.names) and len(set(table)) == 5
    first = next(iter(table))
    assert first not in table[first] and all(0 <= p <= 1 for row in table.values() for p in row.values())
    assert f"edge[{first}->{fitted.model.names[1]}]" in fitted.model.summary()


def test_the_graph_is_paid_for_once():
    """The divergence of the graph is shared by all entries of the training data, whatever the batch."""
    model, batch = move(scotch(SCHEMA, width=4, nodes=4)), sample_batch()
    model.get_buffer("entries").fill_(100.0)
    whole = model.loss(batch, generator=stream("w")).terms["graph"]
    part = model.loss(batch.select([0]), generator=stream("w")).terms["graph"]
    assert whole.item() == part.item() == pytest.approx(model.process.divergence().item() / 100, rel=1e-12)


def test_it_starts_in_single_precision():
    model, batch = scotch(SCHEMA, width=4, nodes=4).float(), sample_batch(lengths=(12, 9)).to(dtype=torch.float32)
    model.initialise(batch)
    assert bool(torch.isfinite(model.loss(batch, generator=stream("f")).value))
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "says"),
    [({"edge": 0.0}, "edge"), ({"width": 0}, "width"), ({"encoder": "lstm"}, "scan"), ({"noise": 0.0}, "noise")],
)
def test_options_that_make_no_sense_are_refused(options, says):
    with pytest.raises(ConfigError, match=says):
        scotch(SCHEMA, **options)
