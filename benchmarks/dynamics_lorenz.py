"""Stochastic Lorenz attractor: 0.6 units of time to the next 0.4, a tenth of the entries missing.

Each split is a data set of its own: 256 series to train on, 41 times 0.025 apart, noise 0.15 of the state.
"""

from __future__ import annotations

from collections.abc import Iterable

from .harness import Row
from .protocol import Contender, compare, simulated, single_thread

LATENT_SDE = {"latent": 3, "hidden": 64}


def rows(*, tiny: bool = False) -> Iterable[Row]:
    """Latent SDE, state-space layers and regression on histories, each against every baseline."""
    single_thread()
    short = {"steps": 2} if tiny else {}
    contenders = [
        Contender(model="latent-sde", options=LATENT_SDE, training={"steps": 400} | short),
        Contender(model="s5", options={"sides": "past"}, training={"steps": 600, "validation": 0.0} | short),
        Contender(model="history-regression", options={"random": 0 if tiny else 256}),
    ]
    size = 12 if tiny else 256
    splits = [simulated("stochastic_lorenz", size, seed=seed, missing=0.1) for seed in range(3)]
    yield from compare("dynamics_lorenz", splits, contenders, after=0.6, draws=50)
