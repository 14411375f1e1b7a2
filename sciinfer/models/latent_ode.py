"""The ``latent-ode`` model: a start drawn once, and an ordinary equation from there on."""

from __future__ import annotations

import torch

from ..errors import ConfigError
from ..extend import registry
from ..integrate.rk43 import RK43
from ..integrate.tableau import EmbeddedRK
from ..labelled.schema import Schema
from ..likelihoods import Likelihood
from ..nets import ENCODERS, Decoder, LinearDecoder, MLPDecoder
from ..nets.prefix import PrefixEncoder
from ..random import generator
from .base import Model
from .latent_ode_field import FirstOrder, LatentField, SecondOrder
from .latent_ode_model import REGULARISERS, Integration, LatentODE
from .oscillator_field import Oscillators
from .stable_sde import positive_numbers, shares, whole_numbers

__entries__ = [
    {
        "kind": "models",
        "name": "latent-ode",
        "target": "latent_ode",
        "summary": "latent ordinary differential equation of first or second order: the start decides the whole path",
        "references": [
            "Chen, Rubanova, Bettencourt, Duvenaud (2018), Neural ordinary differential equations",
            "Rubanova, Chen, Duvenaud (2019), Latent ODEs for irregularly-sampled time series",
            "Yildiz, Heinonen, Lahdesmaki (2019), ODE2VAE",
            "Pal, Edelman, Rackauckas (2023), Locally regularized neural differential equations",
        ],
        "options": {
            "order": "1 (default): z' = f(z); 2: z'' = f(z, z')",
            "dynamics": "net (default) | oscillators: phases that turn at a pace of each series' own, in closed form",
            "planes": "number of oscillators",
            "doubt": "oscillators: further sd of the log pace in answers, for series unlike those seen in training",
            "history": "rows of a series from which its start is inferred; default all",
            "crop": "True: in training, begin each series at a random row of its first half",
            "latent": "dimension of z (order 2: of the place; oscillators: constants); default 2 or C + 2 <= 8",
            "likelihood": "a registered likelihood: gaussian (default), student-t, poisson, bernoulli",
            "decoder": "linear (default) | mlp",
            "encoder": "scan (default) | attention | s5 | prefix: level, slope and bend of the first rows",
            "hidden": "width of the drift net",
            "width": "width of the encoder",
            "noise": "starting noise standard deviation, in units of each channel's own",
            "solver": "rk4 (default; equal steps) | tsit5 | dopri5 | kvaerno5 (adaptive for each series)",
            "step": "step of rk4, in typical gaps of the data",
            "rtol": "tolerance of the adaptive solvers",
            "gradient": "backprop (default) | checkpoint (less memory)",
            "regularise": "none (default) | global | local: penalise the solver's own error estimate",
            "penalty": "weight of that penalty",
            "warmup": "fraction of training over which the divergence fades in",
            "curriculum": "fraction of training over which the fitted span grows from a tenth of a series to all",
        },
    },
]


def latent_ode(
    schema: Schema,
    *,
    seed: int = 0,
    order: int = 1,
    dynamics: str = "net",
    planes: int = 1,
    doubt: float = 0.0,
    history: int | None = None,
    crop: bool = False,
    latent: int | None = None,
    likelihood: str = "gaussian",
    decoder: str = "linear",
    encoder: str = "scan",
    hidden: int = 32,
    width: int = 32,
    noise: float = 0.5,
    solver: str = "rk4",
    step: float = 1.0,
    rtol: float = 1e-5,
    gradient: str = "backprop",
    regularise: str = "none",
    penalty: float = 1.0,
    warmup: float = 0.2,
    curriculum: float = 0.3,
) -> Model:
    """Build a latent ODE for data of this schema.

    Args:
        schema: channels and time scale. seed: starting weights. The others are listed in the registry's entry.

    Raises:
        ConfigError: an option is unknown or out of range.

    References:
        Rubanova, Chen, Duvenaud (2019), Latent ODEs for irregularly-sampled time series.
    """
    whole_numbers(latent=latent, hidden=hidden, width=width, planes=planes, history=history)
    positive_numbers(noise=noise, step=step, rtol=rtol, penalty=penalty)
    shares(warmup=warmup, curriculum=curriculum, doubt=doubt)
    _known("decoder", decoder, ("linear", "mlp"))
    _known("encoder", encoder, (*ENCODERS, "prefix"))
    _known("dynamics", dynamics, ("net", "oscillators"))
    _known("gradient", gradient, ("backprop", "checkpoint"))
    _known("regularise", regularise, REGULARISERS)
    _known("order", order, (1, 2))
    _known("crop", crop, (False, True))
    _together(dynamics, order, planes, doubt, regularise)
    g, C = generator(seed, "weights"), schema.n_channels
    d = latent if latent is not None else (2 if C == 1 else min(C + 2, 8))
    if dynamics == "oscillators":
        field: LatentField = Oscillators(planes, d, doubt=doubt, generator=g)
    else:
        field = (FirstOrder if order == 1 else SecondOrder)(d, (hidden, hidden), generator=g)
    seen, lik = _answer(field.seen, C, decoder, hidden, likelihood, noise, g)
    encode = PrefixEncoder if encoder == "prefix" else ENCODERS[encoder]
    return LatentODE(
        field,
        encode(C, width, generator=g),
        seen,
        lik,
        _integration(solver, step, rtol, gradient),
        warmup=warmup,
        curriculum=curriculum,
        regularise=regularise,
        penalty=penalty,
        generator=g,
        seed_start=seed,
        history=history,
        crop=crop,
    )


def _integration(solver: str, step: float, rtol: float, gradient: str) -> Integration:
    if solver == "rk4":
        return Integration(RK43, float(step), checkpoint=gradient == "checkpoint")
    known = ("tsit5", "dopri5", "kvaerno5", "rk43")
    found = registry().get("solvers", f"ode-{solver}") if solver in known else None
    if not isinstance(found, EmbeddedRK):
        raise ConfigError(f"unknown solver {solver!r}", variable="solver", fix=f"one of: rk4, {', '.join(known)}")
    return Integration(found, None, float(rtol), checkpoint=gradient == "checkpoint")


def _answer(
    dim: int, channels: int, decoder: str, hidden: int, likelihood: str, noise: float, g: torch.Generator
) -> tuple[Decoder, Likelihood]:
    seen: Decoder = LinearDecoder(dim, channels, generator=g)
    if decoder == "mlp":
        seen = MLPDecoder(dim, channels, (hidden,), generator=g)
    build = registry().get("likelihoods", likelihood)
    return seen, build(channels, noise=noise) if likelihood in ("gaussian", "student-t") else build(channels)


def _known(name: str, value: object, known: tuple[object, ...]) -> None:
    if value not in known:
        fix = f"one of: {', '.join(map(str, known))}"
        raise ConfigError(f"unknown {name} {value!r}", variable=name, fix=fix)


def _together(dynamics: str, order: int, planes: int, doubt: float, regularise: str) -> None:
    """Refuse what would silently do nothing."""
    turning = dynamics == "oscillators"
    idle = {"planes": planes != 1, "doubt": doubt != 0}
    if turning:
        idle = {"order": order != 1, "regularise": regularise != "none"}
    for name in (name for name, given in idle.items() if given):
        fix = f"leave {name} out" if turning else 'dynamics="oscillators"'
        raise ConfigError(f"{name} has no meaning with dynamics={dynamics!r}", variable=name, fix=fix)
