"""Predator and prey: 15 s of history to the next 15 s from scattered starts, three in ten entries missing.

Each split is a data set of its own: 64 series to train on, five times a second, observation noise 0.05.
"""

from __future__ import annotations

from collections.abc import Iterable

from .harness import Row
from .protocol import Contender, compare, simulated, single_thread

DATA = {"duration": 30.0, "rate": 5.0, "start_sd": 0.3, "noise_sd": 0.05, "missing": 0.3}


def rows(*, tiny: bool = False) -> Iterable[Row]:
    """Latent SDE, state-space layers and regression on histories, each against every baseline."""
    single_thread()
    short = {"steps": 2} if tiny else {}
    contenders = [
        Contender(model="latent-sde", options={"latent": 2, "hidden": 64}, training={"steps": 400} | short),
        Contender(model="s5", options={"sides": "past"}, training={"steps": 600, "validation": 0.0} | short),
        Contender(model="history-regression", options={"random": 0 if tiny else 256}),
    ]
    size = 10 if tiny else 64
    splits = [simulated("lotka_volterra", size, seed=seed, **DATA) for seed in range(3)]
    yield from compare("dynamics_lotka_volterra", splits, contenders, after=15.0, step=0.2, draws=50)
