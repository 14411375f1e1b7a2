"""Spikes and images with one process in common: how well it is found from both, and from either alone.

Trials of the simulator ``two_modalities`` (spikes of neurons; a digit that turns by 120 degrees per unit of the shared
process and zooms by another). The first four fifths train; the shared latent's posterior mean in the others is compared
with the truth after an affine map that was fitted to the training trials. "Alone" is the same fitted model with the
other modality missing. There is no peer to install: the rows compare the two modalities with each, and the two forms.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import xarray as xr

import sciinfer as si

from .harness import Row, versions
from .protocol import single_thread

OPTIONS = {"latent_shared": 1, "latent_private": 1, "likelihood": {"spikes": "poisson"}}
SIZE, STEPS = {"n_series": 150, "n_times": 40, "n_units": 50, "n_pixels": 10}, 1200


class Measured(NamedTuple):
    """``r2``: of the shared process from both, from spikes alone, from images alone; ``seconds`` of training."""

    r2: dict[str, float]
    seconds: float


def rows(*, tiny: bool = False) -> Iterable[Row]:
    """Both against either, in each form; the two forms against each other."""
    single_thread()
    size = {"n_series": 10, "n_units": 8, "n_times": 12} if tiny else SIZE
    data = si.open_dataset("two_modalities", truth=True, **size)
    found = {
        form: measure(data, form=form, kernel=kernel, steps=2 if tiny else STEPS)
        for form, kernel in (("fourier", "rbf"), ("time", "matern52"))
    }
    for form, one in found.items():
        note = f"{one.seconds:.0f} s of CPU for {2 if tiny else STEPS} steps"
        for alone in ("spikes", "image"):
            yield Row(
                name=f"two_modalities/{form}/both-{alone}", ours=1 - one.r2["both"], peer=1 - one.r2[alone],
                unit="1 - R2 of the shared latent", goal=1.0, note=note, versions=versions(),
            )  # fmt: skip
    yield Row(
        name="two_modalities/fourier-time", ours=found["fourier"].seconds, peer=found["time"].seconds, unit="s",
        versions=versions(),
    )  # fmt: skip


def measure(data: xr.Dataset, *, form: str, kernel: str, steps: int, seed: int = 0) -> Measured:
    """Train on four fifths of the trials and look at the others."""
    views = data[["spikes", "image"]]
    cut = data.sizes["trial"] * 4 // 5
    train, test = (views.isel(trial=part) for part in (slice(0, cut), slice(cut, None)))
    start = time.process_time()
    options = {**OPTIONS, "form": form, "kernel": kernel}
    training = {"steps": steps, "batch_size": 8}
    fitted = si.fit(train, model="mm-gpvae", options=options, training=training, seed=seed, progress="silent")
    seconds = time.process_time() - start
    truth = data["truth_latent"].sel(latent="shared").transpose("trial", "time").values
    r2 = {}
    for name, missing in (("both", None), ("spikes", "image"), ("image", "spikes")):
        before, after = (_shared(fitted, part, missing) for part in (train, test))
        slope, level = np.polyfit(before.ravel(), truth[:cut].ravel(), 1)
        error = truth[cut:] - slope * after - level
        r2[name] = 1 - float(np.mean(error**2) / np.var(truth[cut:]))
    return Measured(r2, seconds)


def _shared(fitted: si.Fitted, data: xr.Dataset, missing: str | None) -> np.ndarray:
    """Posterior mean of the first latent, ``[S, T]``."""
    if missing is not None:
        data = data.assign({missing: data[missing] * np.nan})
    latent = fitted.predict(data, draws=20)["posterior"]["latent"].isel(latent_dim=0)
    return latent.mean(("chain", "draw")).transpose("trial", "time").values
