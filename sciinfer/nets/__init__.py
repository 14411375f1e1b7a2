"""Neural building blocks: perceptrons and encoders of ragged series."""

from .decoder import Decoder, LinearDecoder, MLPDecoder
from .encoder import ENCODERS, AttentionEncoder, Encoder, ScanEncoder
from .mlp import MLP, linear

__all__ = [
    "ENCODERS",
    "MLP",
    "AttentionEncoder",
    "Decoder",
    "Encoder",
    "LinearDecoder",
    "MLPDecoder",
    "ScanEncoder",
    "linear",
]
