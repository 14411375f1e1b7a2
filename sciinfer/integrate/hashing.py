"""Counter-based Gaussians: a pure function of (seed, path key, node, dim), so that noise needs no state and no memory.

A 64-bit mixer (the finaliser of SplitMix64 in Stafford's variant 13) turns a counter into 64 random bits; two uniforms
of 32 bits each become two normals by Box and Muller. Elementwise arithmetic only: a value does not
depend on what else is in the batch.

References: Steele, Lea, Flood (2014), Fast splittable pseudorandom number generators; Salmon et al. (2011), Parallel
random numbers: as easy as 1, 2, 3; Box and Muller (1958).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_MASK64 = (1 << 64) - 1
# odd constants with well spread bits: one Weyl increment per coordinate of the counter
_GOLDEN, _WEYL_KEY, _WEYL_CELL, _WEYL_DIM = (
    0x9E3779B97F4A7C15,
    0xD1342543DE82EF95,
    0xA0761D6478BD642F,
    0xE7037ED1A0B428DB,
)
_MIX_A, _MIX_B = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB

#: words that a pass works on at once, so that the next pass finds them in the cache
_TILE = 1 << 16


def _signed(word: int) -> int:
    # torch has no arithmetic on unsigned 64-bit integers; multiplication and addition wrap identically on signed ones
    word &= _MASK64
    return word - (1 << 64) if word >> 63 else word


def _xorshift(words: Tensor, bits: int, scratch: Tensor) -> Tensor:
    # >> is arithmetic on signed integers: the mask makes it logical, without which the mixer would not be a bijection
    torch.bitwise_right_shift(words, bits, out=scratch)
    return words.bitwise_xor_(scratch.bitwise_and_((1 << (64 - bits)) - 1))


def mix64(words: Tensor) -> Tensor:
    """A bijection of 64-bit words (int64 tensors) with full avalanche; works **in place** and returns its argument.

    Example:
        >>> import torch
        >>> len(set(mix64(torch.arange(1000)).tolist()))
        1000
    """
    scratch = torch.empty_like(words)
    _xorshift(words, 30, scratch).mul_(_signed(_MIX_A))
    _xorshift(words, 27, scratch).mul_(_signed(_MIX_B))
    return _xorshift(words, 31, scratch)


def path_codes(seed: int, keys: Tensor, dim: int) -> Tensor:
    """``[K, dim]``: one 64-bit code for each path key and each dim of the noise.

    Args:
        seed: any integer.
        keys: ``[K]`` int64, the identity of each path.
        dim: number of independent components of a path.
    """
    root = mix64(torch.full_like(keys, _signed(seed)))
    base = mix64(root.bitwise_xor_(mix64(keys * _signed(_WEYL_KEY) + _signed(_GOLDEN))))
    dims = torch.arange(dim, device=keys.device) * _signed(_WEYL_DIM)
    return mix64(base[:, None] + dims)


def node_codes(cell: Tensor, node: Tensor) -> Tensor:
    """``[n]``: one 64-bit code for each (cell, node) of the dyadic tree; both ``[n]`` int64 (broadcast)."""
    return mix64(mix64(cell * _signed(_WEYL_CELL) + _signed(_MIX_B)) + node * _signed(_GOLDEN))


def normal_pairs(paths: Tensor, nodes: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """Two independent standard normals for every node and path.

    z1 = sqrt(-2 log u) cos(2 pi v),  z2 = sqrt(-2 log u) sin(2 pi v)

    Args:
        paths: ``[K]`` codes from :func:`path_codes`, flattened.
        nodes: ``[n]`` codes from :func:`node_codes`.
        dtype: float32 or float64, of the arithmetic after the hash; both round the same uniforms.

    Returns:
        ``[n, 2, K]``; |z| < 6.8 by the 32 bits of u.

    Example:
        >>> import torch
        >>> paths = path_codes(0, torch.arange(100), 1).flatten()
        >>> z = normal_pairs(paths, node_codes(torch.tensor(0), torch.arange(100)))
        >>> z.shape, bool(abs(z.mean()) < 0.03)
        (torch.Size([100, 2, 100]), True)
    """
    pair = torch.empty(len(nodes), 2, len(paths), dtype=dtype, device=paths.device)
    rows, columns = _tile(len(nodes), len(paths)) if pair.device.type == "cpu" else pair.shape[::2]
    for first in range(0, len(nodes), max(1, rows)):
        here = slice(first, first + rows)
        for left in range(0, len(paths), max(1, columns)):
            part = slice(left, left + columns)
            _box_muller(mix64(nodes[here, None] ^ paths[part]), pair[here, :, part])
    return pair


def _tile(rows: int, columns: int) -> tuple[int, int]:
    columns = min(columns, _TILE)
    return max(1, min(rows, _TILE // max(1, columns))), columns


def uniforms(words: Tensor) -> tuple[Tensor, Tensor]:
    """Two independent uniforms in (0, 1), float64, from the halves of each word (any shape)."""
    high = (words >> 32).to(torch.float64).add_(2.0**31 + 0.5).mul_(2.0**-32)
    return high, (words & 0xFFFFFFFF).to(torch.float64).add_(0.5).mul_(2.0**-32)


def _box_muller(words: Tensor, out: Tensor) -> None:
    """Fill ``out [n, 2, K]`` with two normals for each of the ``words [n, K]``."""
    # shifted to [0, 2^32) as an integer: as a float32, the lowest would round to 0, whose log is infinite
    radius = (words >> 32).add_(1 << 31).to(out.dtype).add_(0.5).mul_(2.0**-32)
    radius.log_().mul_(-2.0).sqrt_()
    angle = words.bitwise_and_(0xFFFFFFFF).to(out.dtype).mul_(2.0 * math.pi * 2.0**-32)
    torch.mul(torch.cos(angle), radius, out=out[:, 0])
    torch.mul(angle.sin_(), radius, out=out[:, 1])
