"""Every combination of options of the latent SDE through one set of checks."""

from __future__ import annotations

import itertools

import pytest
import torch
from support.model_walk import SCHEMA, check_model, move, sample_batch, stream, terms_of

from sciinfer.errors import ConfigError
from sciinfer.models.latent_sde import latent_sde
from sciinfer.models.path_model import PathModel

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
    # the exact ones have no zero start
    return move(model, seed=seed) if isinstance(model, PathModel) else model


@pytest.mark.parametrize("options", [*NEURAL, *EXACT], ids=_name)
def test_every_combination(options):
    check_model(lambda seed=0: _build(options, seed), sample_batch(options.get("likelihood", "gaussian")), moved=0.0)


@pytest.mark.parametrize("posterior", ["bridge", "hermite"])
@pytest.mark.parametrize("known", ["linear", "mlp"])
def test_training_lowers_the_loss(posterior, known):
    model, batch = _build({"posterior": posterior, "decoder": known}), sample_batch()
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        optimiser.zero_grad()
        losses.append(-(terms_of(model, batch) * torch.tensor([1.0, -1.0, -1.0])).sum())
        losses[-1].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimiser.step()
    assert losses[-1].item() < losses[0].item()


def test_warm_up_fades_the_divergences_in():
    model, batch = _build({"warmup": 0.5}), sample_batch()
    losses = {p: model.loss(batch, generator=stream("w"), progress=p) for p in (0.0, 0.25, 0.5, 1.0)}
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
