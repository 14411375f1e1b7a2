"""Sporadic Brusselator: 25 units of time to the next 25, one observed time in two units, often one channel only.

The published realisation (1,000 series, three splits of whole series 60/20/20 %; needs the file that ``SCIINFER_DATA``
names), and data sets from the generator of this package, one for each split.
"""

from __future__ import annotations

from collections.abc import Iterable

from sciinfer import api
from sciinfer.errors import ResourceError

from .harness import Row, versions
from .protocol import Contender, Split, compare, simulated, single_thread


def rows(*, tiny: bool = False) -> Iterable[Row]:
    """Latent SDE, state-space layers and regression on histories, each against every baseline."""
    single_thread()
    made = [simulated("brusselator", 12 if tiny else 300, seed=seed) for seed in range(3)]
    yield from compare("dynamics_brusselator/generator", made, contenders(tiny), after=25.0, step=1.0, draws=50)
    try:
        published = splits(tiny)
    except ResourceError as err:
        yield Row(
            name="dynamics_brusselator/absent", ours=float("nan"), peer=None, unit="", note=str(err),
            versions=versions(),
        )  # fmt: skip
        return
    yield from compare("dynamics_brusselator/published", published, contenders(tiny), after=25.0, step=1.0, draws=50)


def contenders(tiny: bool) -> list[Contender]:
    """What is fitted."""
    short = {"steps": 2} if tiny else {}
    return [
        Contender(model="latent-sde", options={"latent": 2, "hidden": 64}, training={"steps": 400} | short),
        Contender(model="s5", options={"sides": "past"}, training={"steps": 600, "validation": 0.0} | short),
        Contender(model="history-regression", options={"random": 0 if tiny else 256}),
    ]


def splits(tiny: bool) -> list[Split]:
    """Of the published file."""
    from sciinfer.datasets import split_series  # pyright: ignore[reportMissingImports] - lives beside the package

    ds = api.open_dataset("brusselator_bxl")
    if tiny:
        ds = split_series(ds, (0.03, 0.97), seed=0)[0]
    return [Split(*split_series(ds, seed=seed)) for seed in range(3)]
