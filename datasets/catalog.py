"""Open a data set or run a simulator by name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import xarray as xr

from sciinfer.errors import ConfigError, NameNotFoundError
from sciinfer.extend import DatasetEntry, registry

from .cards import Card, has_card, read_card
from .fetch import Fetch

_KINDS = ("datasets", "simulators")


def names() -> list[str]:
    """Everything that :func:`open_dataset` opens: data sets, then simulators.

    Example:
        >>> {"co2", "oscillator_gappy", "ornstein_uhlenbeck"} <= set(names())
        True
    """
    return [name for kind in _KINDS for name in registry().names(kind)]


def card(name: str) -> Card:
    """The card of a data set; for a simulator or a plugin's data set, what its entry says.

    Raises:
        NameNotFoundError: nothing of that name is registered.

    Example:
        >>> card("nile").license
        'public domain'
    """
    entry = registry().entry(_kind(name), name)
    if has_card(name):
        return read_card(name)
    source, citation, sha256 = "simulated", "; ".join(entry.references), ""
    if isinstance(entry, DatasetEntry):
        source, citation, sha256 = entry.source, entry.citation, entry.sha256
    return Card(
        name=name, title=entry.summary, summary=entry.summary, source=source, origin=entry.target,
        license=entry.license, citation=citation, sha256=sha256, units=entry.units,
    )  # fmt: skip


def open_dataset(name: str, *, cache: str | Path | None = None, download: bool = False, **options: Any) -> xr.Dataset:
    """Open a data set, or run a simulator, by name. The network is not touched unless ``download=True``.

    Args:
        name: one of :func:`names`.
        cache: folder of downloaded files; default ``$SCIINFER_CACHE``, else the user's cache folder.
        download: allow missing files to be downloaded; they are checked against the card's sha256.
        options: options of the loader; a simulator takes its parameters and ``seed``.

    Returns:
        A new Dataset; changing it changes no later one.

    Raises:
        NameNotFoundError: nothing of that name is registered.
        ConfigError: an option that this data set does not take.
        ResourceError: a file is absent, or the network is.
        ReadError: a file is damaged or is not the one the card names.

    Example:
        >>> ds = open_dataset("oscillator_gappy")
        >>> ds["y"].dims, ds["y"].attrs["units"]
        (('series', 'time'), 'm')
    """
    opener = registry().get(_kind(name), name)
    accepted = _keywords(opener)
    _check_options(name, options, accepted)
    if "fetch" in accepted:
        options["fetch"] = Fetch(cache=Path(cache) if cache is not None else None, download=download)
    return opener(**options)


def _kind(name: str) -> str:
    known = {kind: registry().names(kind) for kind in _KINDS}
    for kind, listed in known.items():
        if name in listed:
            return kind
    everything = [n for listed in known.values() for n in listed]
    near = difflib.get_close_matches(str(name), everything, n=3, cutoff=0.5)
    fix = f"did you mean {', '.join(near)}" if near else f"known: {', '.join(everything)}"
    raise NameNotFoundError(f"no data set or simulator is called {name!r}", code="name/datasets", fix=fix)


def _keywords(opener: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(opener).parameters)


def _check_options(name: str, options: Iterable[str], accepted: set[str]) -> None:
    allowed = sorted(accepted - {"fetch"})
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        takes = f"it takes {', '.join(allowed)}" if allowed else "it takes no options"
        raise ConfigError(f"data set {name!r} has no option {', '.join(unknown)}", code="config/option", fix=takes)
