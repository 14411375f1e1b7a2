"""Gaussian-process regression over labelled points: stations, tables and grids with any named inputs."""

from .field import FittedField, fit_field, load_field

__all__ = ["FittedField", "fit_field", "load_field"]
