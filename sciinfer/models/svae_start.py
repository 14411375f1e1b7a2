"""Starts of switching dynamics: components, one smooth path, regimes seeded by stretches, closed-form sweeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..labelled.series import Padded, SeriesBatch
from ..likelihoods import Gaussian
from ..nets import LinearDecoder
from ..processes.bridge import take
from ..processes.hidden_markov import condition_states
from ..processes.switching import (
    Steps,
    SwitchingLinear,
    SwitchingPosterior,
    chain_steps,
    expected_log_steps,
    infer_switching,
    natural_tables,
    step_moments,
)
from ..processes.switching_updates import gather_statistics, update_process
from ..random import generator as stream
from .grids import pad_for
from .svae_recognition import conjugate_potentials, linear_part, principal_components

if TYPE_CHECKING:
    from .svae_slds import StepGrid, SwitchingSVAE

#: tries of the regimes; sweeps of each; steps in a stretch; sweeps of the single regime
_TRIES, _SWEEPS, _STRETCH, _FIRST = 8, 30, 15, 20


class _Path(NamedTuple):
    """A smoothed path: its moments and those of its steps."""

    mean: Tensor
    cov: Tensor
    steps: Steps


@torch.no_grad()
def start_switching(model: SwitchingSVAE, batch: SeriesBatch) -> None:
    """Set process, decoder, noise and reader of a model from the training data.

    One linear regime is fitted first; its smoothed path is segmented by hidden Markov models of linear steps, seeded by
    short stretches, of which the likeliest is kept; then all is refined together by ``model.natural`` sweeps.
    """
    from .svae_slds import step_grid

    straight = linear_part(model.decoder)
    if straight is None or model.likelihood.support != "real":
        return
    padded = pad_for(batch)
    grid = step_grid(padded, model.step)
    g = stream(model.seed_start, "regimes", device=padded.values.device)
    decoder, noise = _linear_start(model, straight, batch)
    single = SwitchingLinear(1, model.process.dim, generator=stream(model.seed_start, "one")).to(padded.values)
    for _ in range(_FIRST):
        _sweep(single, decoder, noise, padded, grid, None)
    path = _path_of(_sweep(single, decoder, noise, padded, grid, None))
    weight = _seed_regimes(model.process, path, grid.moves, g)
    for _ in range(model.natural):
        weight = _sweep(model.process, decoder, noise, padded, grid, weight).states.log_marginal.exp()
    _hand_over(model, straight, decoder, noise)


def _linear_start(model: SwitchingSVAE, straight: LinearDecoder, batch: SeriesBatch) -> tuple[LinearDecoder, Gaussian]:
    W, b, scatter = principal_components(batch, model.process.dim)
    decoder = LinearDecoder(model.process.dim, len(b), generator=stream(0, "unused")).to(W)
    unseen = W.square().sum(0) == 0
    W[:, unseen] = 0.1 * straight.weight[:, unseen]
    decoder.weight.copy_(W)
    decoder.bias.copy_(b)
    noise = Gaussian(len(b)).to(W)
    noise.log_noise.copy_(scatter.log())
    return decoder, noise


def _sweep(
    process: SwitchingLinear,
    decoder: LinearDecoder,
    noise: Gaussian,
    padded: Padded,
    grid: StepGrid,
    weight: Tensor | None,
) -> SwitchingPosterior:
    """Both posteriors by two updates each, then every parameter in closed form."""
    potentials = grid.gather(conjugate_potentials(decoder, noise, padded))
    q = infer_switching(process, potentials, grid.moves, sweeps=2, weight=weight)
    path = _path_of(q)
    pairs = q.states.log_pair.exp()
    found = gather_statistics(path.steps, path.mean, path.cov, q.states.log_marginal.exp(), pairs, grid.moves)
    update_process(process, found)
    _update_emission(decoder, noise, padded, take(path.mean, grid.at_data), take(path.cov, grid.at_data))
    return q


def _path_of(q: SwitchingPosterior) -> _Path:
    mean, cov = q.path.smoothed[:2]
    return _Path(mean, cov, step_moments(mean, cov, q.path.crossed()))


def _update_emission(decoder: LinearDecoder, noise: Gaussian, padded: Padded, mean: Tensor, cov: Tensor) -> None:
    """Regression of each channel on the state, where it was observed."""
    one = torch.ones_like(mean[..., :1])
    wide = torch.cat([mean, one], dim=-1)
    second = wide[..., :, None] * wide[..., None, :]
    second[..., :-1, :-1] += cov
    mask = padded.mask.to(mean.dtype)
    old = torch.einsum("stc,stij->cij", mask, second) + 1e-3 * torch.eye(wide.shape[-1]).to(mean)
    crossed = torch.einsum("stc,sti->ci", mask * padded.values, wide)
    M = torch.linalg.solve(old, crossed)
    decoder.weight.copy_(M[:, :-1])
    decoder.bias.copy_(M[:, -1])
    squares = torch.einsum("stc,stc->c", mask, padded.values.square())
    left = squares - (M * crossed).sum(-1) + 1e-3
    noise.log_noise.copy_(0.5 * (left / mask.sum((0, 1)).clamp(min=1)).clamp(min=1e-6).log())


def _seed_regimes(process: SwitchingLinear, path: _Path, moves: Tensor, g: torch.Generator) -> Tensor:
    """Leave ``process`` at the best of several hidden Markov models of the path's steps; its weights ``[S, N, K]``."""
    start = {name: value.clone() for name, value in process.state_dict().items()}
    best, kept, chosen = -torch.inf, start, path.mean.new_zeros(*moves.shape, process.states)
    for _ in range(_TRIES):
        process.load_state_dict(start)
        _from_stretches(process, path, moves, g)
        score, weight = _markov_sweeps(process, path, moves)
        if score > best:
            best, kept, chosen = score, {name: value.clone() for name, value in process.state_dict().items()}, weight
    process.load_state_dict(kept)
    return chosen


def _from_stretches(process: SwitchingLinear, path: _Path, moves: Tensor, g: torch.Generator) -> None:
    """A regime for each of K stretches: the first anywhere, the next where the regimes so far fit worst."""
    block = torch.arange(moves.shape[1], device=moves.device) // _STRETCH
    blocks = int(block[-1]) + 1
    inside = torch.nn.functional.one_hot(block, blocks).to(path.mean) * moves[..., None]
    size = inside.sum(1)
    weight = path.mean.new_zeros(*moves.shape, process.states)
    misfit = size
    for k in range(process.states):
        p = (misfit * (size >= 0.5 * min(_STRETCH, moves.shape[1] - 1))).clamp(min=0).flatten() + 1e-12
        chosen = int(torch.multinomial(p / p.sum(), 1, generator=g))
        s, at = divmod(chosen, blocks)
        weight[s, :, k] = inside[s, :, at]
        _fit_steps(process, path, weight, moves)
        scores = expected_log_steps(natural_tables(process.laws()), path.steps, moves)[..., : k + 1].amax(-1)
        level = torch.einsum("sn,snb->sb", scores, inside) / size.clamp(min=1)
        misfit = (level.amax() - level) * (size > 0)


def _fit_steps(
    process: SwitchingLinear, path: _Path, weight: Tensor, moves: Tensor, pairs: Tensor | None = None
) -> None:
    blank = weight.new_zeros(*weight[:, 1:].shape, process.states) if pairs is None else pairs
    update_process(
        process, gather_statistics(path.steps, path.mean, path.cov, weight, blank, moves), chain=pairs is not None
    )


def _markov_sweeps(process: SwitchingLinear, path: _Path, moves: Tensor) -> tuple[float, Tensor]:
    """Expectation-maximisation of the regimes on a given path."""
    weight, log_z = path.mean.new_zeros(*moves.shape, process.states), -torch.inf
    for _ in range(_SWEEPS):
        log_e = expected_log_steps(natural_tables(process.laws()), path.steps, moves)
        q = condition_states(process.chain.start(), chain_steps(process.chain, moves), log_e)
        weight, log_z = q.log_marginal.exp(), float(q.log_normaliser.sum())
        _fit_steps(process, path, weight, moves, q.log_pair.exp())
    return log_z, weight


def _hand_over(model: SwitchingSVAE, straight: LinearDecoder, decoder: LinearDecoder, noise: Gaussian) -> None:
    straight.load_state_dict(decoder.state_dict())
    if isinstance(model.likelihood, Gaussian):
        model.likelihood.load_state_dict(noise.state_dict())
    if model.reader is not None:
        weighted = decoder.weight / noise.noise.square()[:, None]
        J = decoder.weight.mT @ weighted
        eye = torch.eye(len(J), dtype=J.dtype, device=J.device)
        inverse = torch.linalg.solve(J + 1e-3 * J.diagonal().mean() * eye, weighted.mT)
        model.reader.start(inverse, decoder.bias, J.diagonal())
