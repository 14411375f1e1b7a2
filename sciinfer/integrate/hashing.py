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
    words = mix64(nodes[:, None] ^ paths)
    # the high half is signed, in [-2^31, 2^31): shifting it to (0, 1) keeps log finite
    radius = (words >> 32).to(dtype).add_(2.0**31 + 0.5).mul_(2.0**-32)
    radius.log_().mul_(-2.0).sqrt_()
    angle = words.bitwise_and_(0xFFFFFFFF).to(dtype).mul_(2.0 * math.pi * 2.0**-32)
    pair = torch.empty(len(angle), 2, angle.shape[1], dtype=angle.dtype, device=angle.device)
    pair[:, 0].copy_(torch.cos(angle).mul_(radius))
    pair[:, 1].copy_(angle.sin_().mul_(radius))
    return pair
