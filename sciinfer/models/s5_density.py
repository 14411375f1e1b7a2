"""The density of a row given its prediction: Gaussian or Student's t, channels independent or correlated."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

#: smallest scale, in units of a channel's own: repeated values must not drive it to zero
FLOOR = 1e-3
DENSITIES = ("gaussian", "student-t")


class Density(nn.Module):
    """``y_c = mean_c + scale_c e_c``, ``e`` standard normal with correlation ``diag(1 - |l_c|^2) + L L^T``, or each
    ``e_c`` a Student's t with ``df_c > 2``.

    Args:
        channels: ``C``. kind: ``"gaussian"`` or ``"student-t"``. rank: of ``L``; 0: independent. floor: least scale.
        generator: starting loadings.
    """

    def __init__(self, channels: int, kind: str, rank: int, *, floor: float = FLOOR, generator: torch.Generator):
        super().__init__()
        self.floor = floor
        self.loading = self.log_excess_df = None
        if kind == "student-t":
            self.log_excess_df = nn.Parameter(torch.full((channels,), math.log(4.0), dtype=torch.float64))
        elif rank:
            start = 0.1 * torch.randn(channels, rank, generator=generator, dtype=torch.float64)
            self.loading = nn.Parameter(start)

    def log_prob(self, y: Tensor, mean: Tensor, scale: Tensor, mask: Tensor) -> Tensor:
        """``log p`` of the entries in ``mask``, ``[S, Q]`` from ``[S, Q, C]``."""
        z = torch.where(mask, (y - mean) / scale, 0.0)
        log_scale = torch.where(mask, scale.log(), 0.0).sum(-1)
        if self.log_excess_df is not None:
            return torch.where(mask, self._student(z), 0.0).sum(-1) - log_scale
        constant = 0.5 * math.log(2 * math.pi) * mask.sum(-1).to(z.dtype)
        if self.loading is None:
            return -0.5 * z.square().sum(-1) - constant - log_scale
        return self._correlated(z, mask) - constant - log_scale

    def _student(self, z: Tensor) -> Tensor:
        df = self.df
        constant = torch.lgamma((df + 1) / 2) - torch.lgamma(df / 2) - 0.5 * (df * math.pi).log()
        return constant - (df + 1) / 2 * torch.log1p(z.square() / df)

    def _correlated(self, z: Tensor, mask: Tensor) -> Tensor:
        # Woodbury: only r x r systems
        rows, own = self._rows()
        weight = mask.to(z.dtype) / own
        G = torch.einsum("...c,cr,cs->...rs", weight, rows, rows)
        factor = torch.linalg.cholesky(G + torch.eye(rows.shape[1], dtype=z.dtype, device=z.device))
        pull = torch.linalg.solve_triangular(factor, ((z * weight) @ rows)[..., None], upper=False)[..., 0]
        logs = torch.where(mask, own.log(), 0.0).sum(-1) + 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return -0.5 * ((z.square() * weight).sum(-1) - pull.square().sum(-1) + logs)

    def _rows(self) -> tuple[Tensor, Tensor]:
        """Loadings of length below one ``[C, r]``, and each channel's own share of its variance ``[C]``."""
        raw = torch.zeros(1, 1) if self.loading is None else self.loading
        own = 1 / (1 + raw.square().sum(-1))
        return raw * own.sqrt()[:, None], own

    @property
    def df(self) -> Tensor:
        """Degrees of freedom ``[C]``."""
        if self.log_excess_df is None:
            return torch.full((1,), math.inf)
        return 2.0 + self.log_excess_df.exp()

    def variance(self, scale: Tensor) -> Tensor:
        """Variance of an entry, from its scale."""
        return scale.square() if self.log_excess_df is None else scale.square() * self.df / (self.df - 2)

    def noise(self, draws: int, like: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Two independent fields of ``e``'s Gaussian part ``[n, S, Q, C]`` and the factor ``[n, S, 1, C]`` that makes
        it a Student's t (one per path, so that paths stay smooth)."""
        fields = [self._standard((draws, *like.shape), like, generator) for _ in range(2)]
        if self.log_excess_df is None:
            return fields[0], fields[1], like.new_ones(())
        half = (self.df.detach() / 2).expand(draws, like.shape[0], 1, -1).contiguous()
        chi2 = 2 * torch._standard_gamma(half, generator=generator)  # pyright: ignore[reportPrivateImportUsage]
        return fields[0], fields[1], (self.df / chi2).sqrt()

    def _standard(self, shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
        def normal(*size: int) -> Tensor:
            return torch.randn(size, generator=generator, dtype=like.dtype, device=like.device)

        field = normal(*shape)
        if self.loading is None:
            return field
        rows, own = self._rows()
        return own.sqrt() * field + normal(*shape[:-1], rows.shape[1]) @ rows.mT
