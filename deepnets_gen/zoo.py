"""Generated networks by name, for commands that take a MODEL: 'deepnets/SPLIT/INDEX'."""

from itertools import islice

from torch import nn

from deepnets_gen.families import build
from deepnets_gen.splits import SPLITS
from deepnets_gen.stream import generate
from ghn.errors import ModelError


def network(rest: str, num_classes: int, image_size: int, device: str) -> nn.Module:
    """The network at this place of a split. rest: 'SPLIT/INDEX', counted from 0.

    Raises ModelError where there is no such place, GenotypeError where the image is too small for the network.
    """
    split, _, index = rest.partition("/")
    if split not in SPLITS or not index.isdecimal():
        raise ModelError(f"no model 'deepnets/{rest}': give deepnets/SPLIT/INDEX, SPLIT one of {', '.join(SPLITS)}")
    genotype = next(islice(generate(split, int(index) + 1), int(index), None), None)
    if genotype is None:
        raise ModelError(f"no model 'deepnets/{rest}': the split {split} ends before")
    return build(genotype, num_classes, image_size, device)
