"""Which variables are one modality, and how each is observed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..errors import ConfigError
from ..extend import registry
from ..labelled.schema import Schema
from ..likelihoods import JointLikelihood, Likelihood

#: likelihoods with a starting scale
SCALED = ("gaussian", "student-t")


class Modality(NamedTuple):
    """Channels ``[start, stop)`` of the schema, named after their variable, with the name of their likelihood."""

    name: str
    start: int
    stop: int
    likelihood: str

    @property
    def size(self) -> int:
        """Number of channels."""
        return self.stop - self.start


def find_modalities(schema: Schema, likelihood: str | Mapping[str, str] = "gaussian") -> list[Modality]:
    """One modality for each variable, in the order of the channels.

    Args:
        likelihood: a registered name for all variables, or one for each, ``{"spikes": "poisson"}``; a variable that
            the mapping does not name is Gaussian.

    Raises:
        ConfigError: the mapping names something that is not a variable.

    Example:
        >>> from sciinfer.labelled.schema import Channel, Schema, TimeAxis, Variable
        >>> axis, names = TimeAxis("t", "number", 0.0, 1.0), ("spikes", "angle")
        >>> schema = Schema(axis, None, tuple(map(Variable, names)), tuple(map(Channel, names)))
        >>> [m.likelihood for m in find_modalities(schema, {"spikes": "poisson"})]
        ['poisson', 'gaussian']
    """
    names = [variable.name for variable in schema.variables]
    if isinstance(likelihood, Mapping) and (unknown := sorted(set(likelihood) - set(names))):
        raise ConfigError(f"likelihoods for unknown variables {unknown}", variable="likelihood", fix=f"one of {names}")
    found: list[Modality] = []
    for name in names:
        start = found[-1].stop if found else 0
        size = sum(channel.variable == name for channel in schema.channels)
        chosen = likelihood if isinstance(likelihood, str) else likelihood.get(name, "gaussian")
        found.append(Modality(name, start, start + size, chosen))
    return found


def build_likelihood(modalities: Sequence[Modality], noise: float = 0.3) -> Likelihood:
    """The likelihood of all channels: one object for one modality, else one for each side by side.

    Args:
        noise: starting scale of Gaussian and Student-t noise, in units of each channel's own.
    """
    parts = [_build(modality, noise) for modality in modalities]
    return parts[0] if len(parts) == 1 else JointLikelihood(parts, [modality.size for modality in modalities])


def _build(modality: Modality, noise: float) -> Likelihood:
    build = registry().get("likelihoods", modality.likelihood)
    return build(modality.size, noise=noise) if modality.likelihood in SCALED else build(modality.size)
