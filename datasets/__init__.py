"""Data sets: cards, simulators, loaders. ``open_dataset`` opens any of them by name, offline unless told otherwise."""

from .cards import Card, RawFile
from .catalog import card, names, open_dataset
from .fetch import Fetch
from .splits import split_series, split_time

__all__ = ["Card", "Fetch", "RawFile", "card", "names", "open_dataset", "split_series", "split_time"]
