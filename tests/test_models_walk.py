"""Every combination of options of the latent SDE through one set of checks."""

from __future__ import annotations

import itertools

import pytest
import torch

from sciinfer.errors import ConfigError
from sciinfer.labelled.schema import Channel, Schema, TimeAxis, Variable
from sciinfer.labelled.series import SeriesBatch
from sciinfer.models.latent_sde import latent_sde
from sciinfer.models.path_model import PathModel
from sciinfer.random import generator

F64 = torch.float64
SCHEMA = Schema(
    time=TimeAxis("t", "number", 0.0, 1.0),
    series="series",
    variables=(Variable("a"), Variable("b")),
    channels=(Channel("a"), Channel("b")),
)
PARTS = {
    "decoder": ("linear", "mlp"),
    "encoder": ("scan", "attention"),
    "posterior": ("bridge", "hermite"),
    "inference": ("simulation-free", "simulated"),
    "likelihood": ("gaussian", "student-t", "poisson", "bernoulli"),
}
NEURAL = [
    dict(zip(PARTS, chosen, strict=True))
    for chosen in itertools.product(*PARTS.values())
    if not ("hermite" in chosen and "simulated" in chosen)
]
EXACT = [
    {"process": "linear"},
    {"process": "structural", "kernel": "matern32 + constant"},
    {"process": "structural", "kernel": "integrated-wiener + seasonal(period=2.5) + matern12"},
]


def _name(options):
    return "-".join(str(value).split(" ")[0] for value in options.values())


def _build(options, seed=0):
    small = {} if "process" in options else {"hidden": 6, "width": 8}
    latent = {} if options.get("process") == "structural" else {"latent": 3}
    model = latent_sde(SCHEMA, seed=seed, **latent, **small, **options)
    if isinstance(model, PathModel):
        # away from the zero start, where some gradients vanish and many mistakes cancel
        g = generator(seed, "move")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=g, dtype=F64))
    return model


def _batch(likelihood="gaussian", lengths=(5, 1, 8)):
    g = generator(0, "data")
    times, values = [], []
    for n in lengths:
        t = torch.rand(n, generator=g, dtype=F64).mul(4).sort().values
        v = torch.randn((n, 2), generator=g, dtype=F64)
        v = {"poisson": v.abs().mul(2).round(), "bernoulli": (v > 0).to(F64)}.get(likelihood, v)
        if n > 3:
            t[2], v[1, 0] = t[1], float("nan")  # a time twice, one channel missing
        times.append(t)
        values.append(v)
    return SeriesBatch.of(times, values)


def _terms(model, batch):
    """What the loss is made of, per series, without randomness."""
    if isinstance(model, PathModel):
        return torch.stack(model.elbo_terms(batch, generator=None), -1)
    found = model.log_likelihood(batch)
    return found if found.ndim == 2 else found[:, None]


def _seed(*names):
    return generator(0, *names)


@pytest.fixture(params=[*NEURAL, *EXACT], ids=_name)
def case(request):
    options = request.param
    return options, _build(options), _batch(options.get("likelihood", "gaussian"))


def test_every_combination(case):
    options, model, batch = case
    _check_loss_and_gradients(model, batch)
    with torch.no_grad():
        _check_ragged(model, batch)
        _check_masks(model, batch)
        _check_predictions(model, batch)
        _check_generate(model)
        _check_round_trip(options, model, batch)
        _check_single_precision(options, batch)


def _check_loss_and_gradients(model, batch):
    first, again = (model.loss(batch, generator=_seed("loss")) for _ in range(2))
    assert torch.equal(first.value, again.value)
    first.value.backward()
    assert bool(torch.isfinite(first.value))
    assert all(bool(torch.isfinite(term)) for term in first.terms.values())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} is not trained"
        assert bool(torch.isfinite(parameter.grad).all()), name
        assert bool(parameter.grad.any()), f"{name} has no influence"


def _check_ragged(model, batch):
    whole = _terms(model, batch)
    for s in range(batch.n_series):
        alone = _terms(model, batch.select([s]))
        torch.testing.assert_close(whole[s], alone[0], rtol=1e-10, atol=1e-10)


def _check_masks(model, batch):
    """What lies under a mask is not read, and a row without data equals no row."""
    expected = _terms(model, batch)
    rubbish = batch._replace(values=torch.where(batch.mask, batch.values, torch.full_like(batch.values, 5.0)))
    torch.testing.assert_close(_terms(model, rubbish), expected, rtol=1e-10, atol=1e-10)
    rows = [slice(int(a), int(b)) for a, b in itertools.pairwise(batch.offsets.tolist())]
    nan = torch.tensor([[float("nan")] * 2], dtype=F64)
    times, values = [], []
    for row in rows:
        t, v = batch.time[row], torch.where(batch.mask[row], batch.values[row], nan)
        times.append(torch.cat([t[:1], t[:1] * 0.5 + t[-1:] * 0.5, t[1:], t[-1:] + 3]).sort().values)
        at = int(torch.searchsorted(t, t[:1] * 0.5 + t[-1:] * 0.5)) if len(t) > 1 else 1
        values.append(torch.cat([v[:at], nan, v[at:], nan]))
    torch.testing.assert_close(_terms(model, SeriesBatch.of(times, values)), expected, rtol=1e-10, atol=1e-10)


def _check_predictions(model, batch):
    """Before, between, at and after the data; any order of the times gives the same path."""
    ends = batch.time[batch.offsets[1:] - 1][:, None]
    times = torch.cat([ends + 1.5, ends * 0 - 0.5, ends * 0.5, ends, ends + 0.2], 1)
    order = torch.tensor([3, 1, 4, 0, 2])
    answer = model.predict(batch, times, draws=4, generator=_seed("predict"))
    turned = model.predict(batch, times[:, order], draws=4, generator=_seed("predict"))
    assert answer.signal.shape == answer.observation.shape == (4, 3, 5, 2)
    assert bool(torch.isfinite(answer.signal).all())
    assert bool(torch.isfinite(answer.observation).all())
    torch.testing.assert_close(turned.signal, answer.signal[:, :, order], rtol=1e-10, atol=1e-10)
    if answer.latent is not None:
        torch.testing.assert_close(turned.latent, answer.latent[:, :, order], rtol=1e-10, atol=1e-10)
    if answer.mean is not None:
        torch.testing.assert_close(turned.mean, answer.mean[:, order], rtol=1e-10, atol=1e-10)
        assert float(answer.variance.min()) > 0


def _check_generate(model):
    times = torch.tensor([0.0, 0.5, 0.5, 2.0], dtype=F64)
    answer = model.generate(times, draws=3, generator=_seed("generate"))
    again = model.generate(times, draws=3, generator=_seed("generate"))
    assert answer.signal.shape == answer.observation.shape == (3, 1, 4, 2)
    assert bool(torch.isfinite(answer.observation).all())
    assert torch.equal(answer.observation, again.observation)
    # psd_root's eigenvectors: a step of zero length moves nothing
    torch.testing.assert_close(answer.signal[:, :, 1], answer.signal[:, :, 2], rtol=1e-9, atol=1e-9)


def _check_round_trip(options, model, batch):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    other, twin = _build(options, seed=1), _build(options)
    assert torch.equal(before, torch.get_rng_state())
    other.load_state_dict(model.state_dict())
    for copy in (other, twin):
        assert torch.equal(_terms(copy, batch), _terms(model, batch))


def _check_single_precision(options, batch):
    double, single = _terms(_build(options), batch), _terms(_build(options).float(), batch.to(dtype=torch.float32))
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=1e-2, atol=1e-2)
    answer = (
        _build(options)
        .float()
        .predict(
            batch.to(dtype=torch.float32), torch.tensor([[1.0, 9.0]]).expand(3, 2), draws=2, generator=_seed("single")
        )
    )
    assert answer.observation.dtype == torch.float32
    assert bool(torch.isfinite(answer.observation).all())


@pytest.mark.parametrize("posterior", ["bridge", "hermite"])
@pytest.mark.parametrize("known", ["linear", "mlp"])
def test_training_lowers_the_loss(posterior, known):
    model, batch = _build({"posterior": posterior, "decoder": known}), _batch()
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        optimiser.zero_grad()
        losses.append(-(_terms(model, batch) * torch.tensor([1.0, -1.0, -1.0])).sum())
        losses[-1].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimiser.step()
    assert losses[-1].item() < losses[0].item()


def test_warm_up_fades_the_divergences_in():
    model, batch = _build({"warmup": 0.5}), _batch()
    losses = {p: model.loss(batch, generator=_seed("w"), progress=p) for p in (0.0, 0.25, 0.5, 1.0)}
    terms = {name: value.item() for name, value in losses[1.0].terms.items()}
    cost = terms["start"] + terms["path"]
    for progress, beta in ((0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (1.0, 1.0)):
        assert losses[progress].value.item() == pytest.approx(beta * cost - terms["fit"], rel=1e-12)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"process": "cubic"}, "neural, linear, structural"),
        ({"inference": "magic"}, "simulation-free"),
        ({"decoder": "deep"}, "linear, mlp"),
        ({"encoder": "lstm"}, "scan"),
        ({"posterior": "free"}, "bridge, hermite"),
        ({"process": "linear", "likelihood": "poisson"}, "neural"),
        ({"posterior": "hermite", "inference": "simulated"}, "bridge"),
        ({"latent": 0}, "latent"),
        ({"hidden": 2.5}, "hidden"),
        ({"width": -3}, "width"),
        ({"nodes": 0}, "nodes"),
        ({"noise": 0.0}, "noise"),
        ({"noise": -1.0, "process": "structural"}, "noise"),
        ({"warmup": -0.5}, "warmup"),
        ({"process": "structural", "kernel": "matern32("}, "cannot read"),
    ],
)
def test_options_that_make_no_sense_are_refused_when_the_model_is_built(options, says):
    with pytest.raises(ConfigError, match=says):
        latent_sde(SCHEMA, **options)
