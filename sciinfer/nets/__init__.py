"""Neural building blocks: perceptrons and encoders of ragged series."""

from .decoder import Decoder, InverseLipschitzDecoder, LinearDecoder, MLPDecoder
from .encoder import AttentionEncoder, Encoder, ScanEncoder
from .mlp import MLP, linear
from .potentials import PotentialEncoder
from .s5 import S5Encoder

#: name -> encoder, built as ``ENCODERS[name](channels, width, generator=...)``
ENCODERS: dict[str, type[ScanEncoder] | type[AttentionEncoder] | type[S5Encoder]] = {
    "scan": ScanEncoder,
    "attention": AttentionEncoder,
    "s5": S5Encoder,
}

__all__ = [
    "ENCODERS",
    "MLP",
    "AttentionEncoder",
    "Decoder",
    "Encoder",
    "InverseLipschitzDecoder",
    "LinearDecoder",
    "MLPDecoder",
    "PotentialEncoder",
    "S5Encoder",
    "ScanEncoder",
    "linear",
]
