"""One file per format; each declares itself as an entry of kind ``readers``."""

from .common import Limits

__all__ = ["Limits"]
