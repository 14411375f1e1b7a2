"""The demonstration: two real runs, each checked against what can be known, in under a minute and offline."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xarray as xr

    from .fitted import Fitted
    from .models.exact import ExactPathModel

#: the same in eight lines; ``sciinfer demo --show`` prints it
DEMO_CODE = """import numpy as np
import sciinfer as si

ds = si.open_dataset("oscillator_gappy")                    # bundled; NaN = missing; irregular times
fitted = si.fit(ds, model="latent-sde", seed=0)             # a latent stochastic differential equation
tree = fitted.predict(time=np.linspace(0, 15, 301), draws=200)
print(fitted.score(si.open_dataset("oscillator_gappy_test")))
fitted.save("run/")
"""

CO2_KERNEL = (
    "integrated-wiener(rate=1e-8) + seasonal(period=365.25D, harmonics=3, variance=0.03)"
    " + matern12(lengthscale=60D, variance=0.001)"
)
CO2_LAST, CO2_FIRST = "1996-12-31", "1997-01-01"


@dataclass(frozen=True)
class Run:
    """One part of the demonstration."""

    title: str
    fitted: Fitted
    tree: xr.DataTree
    scores: xr.Dataset
    held_out: xr.Dataset
    seconds: float


def run_demo(out: str | Path = "demo", *, progress: str = "auto", say: Callable[[str], None] | None = None) -> Path:
    """Fit, score, save and report both parts.

    Args:
        out: folder for the models, the results and ``report.html``. progress: see :func:`sciinfer.fit`.
        say: receives the text, a block at a time; default: nowhere.

    Returns:
        The report's path.
    """
    from .diagnostics import summary_lines
    from .labelled.write import write
    from .report import write_report

    folder = Path(out)
    tell = say or (lambda text: None)
    runs = {}
    for name, part in (("oscillator", run_oscillator), ("co2", run_co2)):
        run = runs[name] = part(folder / name, progress)
        tell(f"\n{run.title}  ({run.seconds:.1f} s)")
        tell("\n".join(summary_lines(run.scores)))
        write(run.tree, folder / f"{name}.nc")
    exact = runs["oscillator"].scores
    crps = exact["crps"].sel(channel="all")
    ratio = float(crps.sel(forecaster="model") / crps.sel(forecaster="exact Kalman"))
    tell(f"\noscillator: CRPS is {ratio:.3f} times that of the exact Kalman smoother with the true parameters")
    return write_report(
        folder / "report.html",
        title="sciinfer demo",
        trees={run.title: run.tree for run in runs.values()},
        scores={run.title: run.scores for run in runs.values()},
        history={
            run.title: {"steps": run.fitted.history.steps, "loss": run.fitted.history.loss} for run in runs.values()
        },
        held_out={run.title: run.held_out for run in runs.values()},
        provenance={"command": "sciinfer demo"},
        notes=[
            f"On the simulated oscillator the exact answer is known: CRPS is {ratio:.3f} times that of the Kalman "
            "smoother run with the true parameters.",
        ],
    )


def run_oscillator(folder: Path, progress: str = "silent") -> Run:
    """A neural latent SDE, trained simulation-free, beside the exact Kalman smoother with the true parameters."""
    import numpy as np

    from .api import fit, open_dataset

    began = time.perf_counter()
    ds, test = open_dataset("oscillator_gappy"), open_dataset("oscillator_gappy_test")
    fitted = fit(ds, "latent-sde", seed=0, training={"steps": 100}, out=folder, progress=progress)
    scores = fitted.score(test, references={"exact Kalman": exact_oscillator(fitted)})
    tree = fitted.predict(time=np.linspace(0.0, 15.0, 241), draws=100)
    return Run("Gappy oscillator", fitted, tree, scores, test, time.perf_counter() - began)


def run_co2(folder: Path, progress: str = "silent") -> Run:
    """The weekly Mauna Loa record: trend, season and short-term noise as one linear SDE; five years are forecast."""
    from .api import fit, open_dataset

    began = time.perf_counter()
    ds = open_dataset("co2")
    before, after = ds.sel(time=slice(None, CO2_LAST)), ds.sel(time=slice(CO2_FIRST, None))
    options = {"process": "structural", "kernel": CO2_KERNEL, "noise": 0.02}
    fitted = fit(before, "latent-sde", seed=0, options=options, out=folder, progress=progress)
    scores = fitted.score(after, season="365.25D")
    shown = ds["time"].sel(time=slice("1990-01-01", None)).values
    tree = fitted.predict(time=shown, draws=100)
    return Run("Mauna Loa CO2", fitted, tree, scores, after, time.perf_counter() - began)


def exact_oscillator(fitted: Fitted) -> ExactPathModel:
    """The exact model of the simulated oscillator, true parameters from the data's attributes, in model units."""
    import torch

    from .likelihoods import Gaussian
    from .likelihoods.gaussian import FLOOR
    from .models.exact import ExactPathModel
    from .nets import LinearDecoder
    from .processes.linear import KnownLinear
    from .random import generator

    a: dict[str, Any] = dict(fitted.data.attrs)
    omega, zeta, sigma = float(a["omega"]), float(a["zeta"]), float(a["sigma"])
    unit, channel = fitted.schema.time.scale, fitted.schema.channels[0]
    F = torch.tensor([[0.0, 1.0], [-(omega**2), -2 * zeta * omega]], dtype=torch.float64) * unit
    D = torch.diag(torch.tensor([0.0, sigma**2], dtype=torch.float64)) * unit
    P0 = torch.diag(torch.tensor([omega**-2, 1.0], dtype=torch.float64)) * sigma**2 / (4 * zeta * omega)
    decoder = LinearDecoder(2, 1, generator=generator(0, "unused"))
    likelihood = Gaussian(1)
    with torch.no_grad():
        decoder.weight.copy_(torch.tensor([[1.0 / channel.scale, 0.0]], dtype=torch.float64))
        decoder.bias.fill_(-channel.shift / channel.scale)
        likelihood.log_noise.fill_(float(torch.tensor(float(a["noise_sd"]) / channel.scale - FLOOR).log()))
    return ExactPathModel(KnownLinear(F, D, P0), decoder, likelihood)
