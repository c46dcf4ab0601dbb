"""Corpora of architectures: random DeepNets-1M networks as plain data, and as modules."""

from deepnets_gen.build import Network, build
from deepnets_gen.genotype import Genotype, GenotypeError
from deepnets_gen.layout import is_valid, num_params
from deepnets_gen.sample import resample_width, sample
from deepnets_gen.splits import SPLITS, Split, draw, generate

__all__ = [
    "SPLITS",
    "Genotype",
    "GenotypeError",
    "Network",
    "Split",
    "build",
    "draw",
    "generate",
    "is_valid",
    "num_params",
    "resample_width",
    "sample",
]
