"""Which series a step sees, as a pure function of the seed and the step, and which rows are held out."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..errors import DataError
from ..labelled.series import SeriesBatch
from ..random import generator


class Batches:
    """Mini-batches of series without replacement: epoch ``e`` is a permutation from the stream ``("batches", e)``.

    Args:
        data: the training rows; series without any observation are never drawn.
        size: series per batch, None = all; the last batch of an epoch may be smaller.
        seed: the run's seed.

    Raises:
        DataError: nothing is observed.
    """

    def __init__(self, data: SeriesBatch, size: int | None, seed: int) -> None:
        seen = torch.zeros(data.n_series, dtype=torch.bool, device=data.mask.device)
        seen[data.series_of_row[data.mask.any(dim=1)]] = True
        if not bool(seen.any()):
            raise DataError("there is no observed value to train on", fix="check for missing values in the data")
        self._data = data if bool(seen.all()) else data.select(seen.nonzero()[:, 0])
        self._size, self._seed = size, seed
        self._order: tuple[int, list[int]] | None = None

    @property
    def whole(self) -> bool:
        """True if every batch is all the data."""
        return self._size is None or self._size >= self._data.n_series

    def at(self, step: int) -> SeriesBatch:
        """The batch of ``step``."""
        if self._size is None or self.whole:
            return self._data
        epoch, position = divmod(step, -(-self._data.n_series // self._size))
        return self._data.select(self._permutation(epoch)[position * self._size : (position + 1) * self._size])

    def _permutation(self, epoch: int) -> list[int]:
        if self._order is None or self._order[0] != epoch:
            noise = generator(self._seed, "batches", epoch)
            self._order = epoch, torch.randperm(self._data.n_series, generator=noise).tolist()
        return self._order[1]


class Holdout:
    """The last rows of each series in time, kept from the training loss.

    The loss of the held-out entries given the others follows from the chain rule,
    ``(n_all loss(all) - n_train loss(train)) / n_held``, with the same random stream in both terms and every time.

    Args:
        data: all rows.
        fraction: of each series' rows; 0 = none.
    """

    def __init__(self, data: SeriesBatch, fraction: float) -> None:
        self.all = data
        self.train = data.split_time(fraction)[0] if fraction > 0 else data
        self.held = data.observed - self.train.observed
        if self.held > 0 and self.train.observed == 0:  # nothing would be left to train on
            self.train, self.held = data, 0

    def parts(self, size: int | None) -> Iterator[tuple[str, SeriesBatch, int]]:
        """``(name, batch, sign)`` whose signed sum of ``n loss`` is the held-out loss, at most ``size`` series each."""
        width = size or self.all.n_series
        for start in range(0, self.all.n_series, width):
            chosen = range(start, min(start + width, self.all.n_series))
            whole = len(chosen) == self.all.n_series
            for batch, sign in ((self.all, 1), (self.train, -1)):
                yield str(start), batch if whole else batch.select(list(chosen)), sign
