"""Factor models with Gaussian noise: everything is exact."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import DataError
from ..labelled.series import Padded, SeriesBatch
from ..likelihoods import Gaussian
from ..nets import LinearDecoder
from ..processes.bridge import grid_problem
from ..statespace import log_likelihood
from .base import Draws
from .exact import whitened_rows
from .gpfa_latents import UnitGPs
from .gpfa_model import FactorModel, Settings
from .grids import pad_for


class GaussianFactors(FactorModel):
    """Gaussian noise of each channel's own: everything is exact.

    Args:
        transform: ``"sqrt"`` takes the roots of the caller's counts first. shift, scale: ``[C]``, how the model's
            values follow from the caller's, ``(y - shift) / scale``.

    References:
        Yu, Cunningham, Santhanam, Ryu, Shenoy, Sahani (2009), Gaussian-process factor analysis.
    """

    def __init__(
        self,
        process: UnitGPs,
        decoder: LinearDecoder,
        likelihood: Gaussian,
        settings: Settings,
        *,
        transform: str = "none",
        shift: Tensor | None = None,
        scale: Tensor | None = None,
    ) -> None:
        super().__init__(process, decoder, likelihood, settings)
        self.transform, self.noise_model = transform, likelihood
        zero = torch.zeros_like(decoder.bias.detach())
        self.register_buffer("shift", zero if shift is None else shift)
        self.register_buffer("scale", zero + 1 if scale is None else scale)

    def bound(self, batch: SeriesBatch) -> Tensor:
        """Exact ``log p(y)`` of each series, ``[S]``; with a transform, of the transformed values."""
        padded = self._prepare(pad_for(batch))
        H, y, log_jacobian = whitened_rows(self.decoder, self.noise_model, padded)
        problem = grid_problem(self.process, padded.time, H @ self.process.readout(), y)
        return log_likelihood(problem) + log_jacobian.sum(1)

    log_likelihood = bound

    def _rows(self, padded: Padded) -> tuple[Tensor, Tensor]:
        H, y, _ = whitened_rows(self.decoder, self.noise_model, padded)
        return H @ self.process.readout(), y

    def _prepare(self, padded: Padded) -> Padded:
        if self.transform == "none":
            return padded
        raw = padded.values * self.get_buffer("scale") + self.get_buffer("shift")
        if bool((padded.mask & (raw < -1e-6)).any()):
            raise DataError("the square root of a negative value", fix='transform="none" for what is no count')
        # round-off in the caller's zeros; no root is taken where nothing was seen
        return padded._replace(values=torch.where(padded.mask, raw.clamp(min=0.0), torch.zeros_like(raw)).sqrt())

    def _moments(self, mean: Tensor, variance: Tensor) -> tuple[Tensor | None, Tensor | None]:
        total = variance + self.noise_model.noise.square()
        if self.transform == "none":
            return mean, total
        squared = mean.square() + total
        return self._back(squared), (2 * total.square() + 4 * mean.square() * total) / self.get_buffer("scale").square()

    def _draws(self, z: Tensor, generator: torch.Generator) -> Draws:
        found = super()._draws(z, generator)
        if self.transform == "none":
            return found
        noise = self.noise_model.noise.square().detach()
        return found._replace(
            signal=self._back(found.signal.square() + noise), observation=self._back(found.observation.square())
        )

    def _back(self, counts: Tensor) -> Tensor:
        return (counts - self.get_buffer("shift")) / self.get_buffer("scale")
