"""Do units parse? A small grammar: symbols with SI prefixes, powers, products and quotients."""

from __future__ import annotations

import re

_WITH_PREFIX = """m s g K A mol cd Hz N Pa J W C V F S Wb T H lm lx Bq Gy Sv eV L l bar Jy pc yr cal erg Ohm ohm rad
arcsec sec a"""
_WITHOUT = """
1 % percent ppm ppb mag dex min h d day days hour hours minute minutes second seconds year years month months
week deg degree degrees degC degF degrees_north degrees_east arcmin AU au ly count counts electron electrons
photon photons adu ADU DN pixel pixels pix px nmgy maggy dB spike spikes sample samples celsius kelvin atm
mmHg bpm units dimensionless psu sigma Angstrom angstrom solMass solRad solLum U IU mEq USD EUR GBP JPY CHF
CNY AUD CAD NZD SGD
"""
_PREFIX_LETTERS = "Y Z E P T G M k h da d c m u µ n p f a z y"
_PREFIXED, _PLAIN, _PREFIXES = (frozenset(text.split()) for text in (_WITH_PREFIX, _WITHOUT, _PREFIX_LETTERS))
_FACTOR = re.compile(r"\d+(\.\d+)?([eE][+-]?\d+)?")
_TOKEN = re.compile(r"(?P<symbol>[A-Za-zµ%_]+|1)(?:(?:\*\*|\^)?(?P<power>[+-]?\d+))?$")


def parses(text: str) -> bool:
    """True if ``text`` is a product of known units, with a factor of its own if need be (``1e8 m3``).

    Example:
        >>> parses("kg m-2 s^-1"), parses("mmol/L"), parses("furlongz")
        (True, True, False)
    """
    if not isinstance(text, str) or not text.strip():
        return False
    parts = [part for part in re.split(r"\s*[*·/]\s*|\s+", re.sub(r"\*\*", "^", text.strip())) if part]
    if len(parts) > 1 and _FACTOR.fullmatch(parts[0]):
        parts = parts[1:]
    return bool(parts) and all(_known(part) for part in parts)


def _known(part: str) -> bool:
    match = _TOKEN.match(part.strip("()"))
    if match is None:
        return False
    symbol = match["symbol"]
    if symbol in _PLAIN or symbol in _PREFIXED:
        return True
    return any(symbol.startswith(p) and symbol[len(p) :] in _PREFIXED for p in _PREFIXES)
