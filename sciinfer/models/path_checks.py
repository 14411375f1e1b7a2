"""Does the learned diffusion move as much as the paths that the data ask for?"""

from __future__ import annotations

import torch
from torch import Tensor

from ..labelled.series import SeriesBatch
from ..processes import simulate
from .grids import pad_for
from .path_model import PathModel

#: simulated copies of each step
COPIES = 16


@torch.no_grad()
def quadratic_variation(model: PathModel, batch: SeriesBatch, *, draws: int = 8, generator: torch.Generator) -> Tensor:
    """Squared innovations of posterior paths over those of the prior's own steps, for each latent dimension.

    From posterior draws ``z_i`` at the data, ``R_k = sum (z_{i+1} - E[z_{i+1} | z_i])^2 / sum Var[z_{i+1} | z_i]`` with
    the moments of the process by simulation. Averaged over data from the model, ``R = 1``. Well above 1: the paths are
    rougher than the diffusion (it has collapsed). Well below 1: the diffusion is larger than the data show.

    Args:
        model: fitted. batch: the data. draws: posterior paths. generator: of the draws.

    Returns:
        ``[d]``; NaN where no series has two times.
    """
    padded = pad_for(batch)
    step = padded.time.diff(dim=1)
    latent = model.predict(batch, padded.time, draws=draws, generator=generator).latent
    if latent is None or not bool((step > 0).any()):
        return torch.full((model.process.dim,), float("nan"), dtype=padded.time.dtype, device=step.device)
    before, after = latent[:, :, :-1].flatten(1, 2), latent[:, :, 1:].flatten(1, 2)
    start, stop = padded.time[:, :-1].flatten(), padded.time[:, 1:].flatten()
    moves = stop > start
    copies = before[:, moves].repeat(COPIES, 1, 1)
    ends = simulate(model.process, copies, start[moves], stop[moves][:, None], step=model.step, generator=generator)
    ends = ends[:, :, 0].unflatten(0, (COPIES, draws))
    miss = (after[:, moves] - ends.mean(0)).square()
    spread = ends.var(dim=0)
    # the mean of the copies has an error of its own
    return ((miss - spread / COPIES).sum((0, 1)) / spread.sum((0, 1))).clamp(min=0.0)
