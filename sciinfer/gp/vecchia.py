"""Vecchia's approximation over general inputs, under its short name."""

from .spatial.vecchia import VecchiaGP

__all__ = ["VecchiaGP"]
