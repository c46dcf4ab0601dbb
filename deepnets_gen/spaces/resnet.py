"""Residual networks, named and shaped as torchvision's, as data and as graphs. Source: He et al., CVPR 2016."""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Self

from deepnets_gen.spaces.fields import check, check_whole, pick, read
from ghn.primitives import Primitive
from ghn.sketch import INPUT, Sketch

SMALL = 64  # pixels: up to this side the stem keeps the resolution, as in `ghn.adjust_stem`
EXPANSION = {"basic": 1, "bottleneck": 4}  # channels of a block's output over those within


@dataclass(frozen=True)
class ResNetGenotype:
    """One residual network. block: 'basic', two 3x3 convolutions, or 'bottleneck', 1x1, 3x3, 1x1.

    layers: blocks of each stage; a stage has half the resolution and twice the channels of the one before.
    width: channels of the stem and within the blocks of the first stage.

    Raises GenotypeError where a field is out of range.
    """

    block: str
    layers: tuple[int, ...]
    width: int = 64

    def __post_init__(self) -> None:
        check(self.block in tuple(EXPANSION), "block", self.block, f"known are {', '.join(EXPANSION)}")
        check(type(self.layers) is tuple and bool(self.layers), "layers", self.layers, "give a tuple, blocks per stage")
        for blocks in self.layers:
            check_whole("layers", blocks, 1)
        check_whole("width", self.width, 1)

    @property
    def expansion(self) -> int:
        """Channels of a block's output over those within."""
        return EXPANSION[self.block]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready record; `from_dict` gives the genotype back."""
        return {"block": self.block, "layers": list(self.layers), "width": self.width}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """The genotype that `to_dict` wrote; further entries are ignored. Raises GenotypeError on anything else."""
        fields = read(record, ("block", "layers", "width"), "ResNet")
        check(isinstance(fields["layers"], list | tuple), "layers", fields["layers"], "give a list, blocks per stage")
        return cls(fields["block"], tuple(fields["layers"]), fields["width"])


RESNET50 = ResNetGenotype("bottleneck", (3, 4, 6, 3))


@dataclass(frozen=True)
class ResNetAxes:
    """What varies, each value as likely; the number of blocks is drawn for each stage."""

    blocks: tuple[str, ...] = tuple(EXPANSION)
    stages: tuple[int, ...] = (3, 4)
    layers: tuple[int, ...] = (1, 2, 3, 4, 5, 6)
    widths: tuple[int, ...] = tuple(range(16, 65, 8))


def resnet_candidate(rng: Random, axes: ResNetAxes) -> ResNetGenotype:
    """A random residual network."""
    block = pick(rng, axes.blocks)
    layers = tuple(pick(rng, axes.layers) for _ in range(pick(rng, axes.stages)))
    return ResNetGenotype(block, layers, pick(rng, axes.widths))


def sketch(genotype: ResNetGenotype, num_classes: int = 10, image_size: int = 32) -> Sketch:
    """The graph of the network, in the making. Raises GenotypeError where images have no such side."""
    check_whole("image_size", image_size, 1)
    s, c = Sketch(), genotype.width
    x, side = _stem(s, c, image_size)
    for i, blocks in enumerate(genotype.layers):
        inner = genotype.width << i
        for j in range(blocks):
            before, side = side, _halved(side) if i and not j else side
            x = _block(s, x, f"layer{i + 1}.{j}", genotype, (c, inner), (before, side))
            c = inner * genotype.expansion
    x = s.add(Primitive.GLOB_AVG.value, (x,), "avgpool.glob_avg")
    s.layer(x, "fc", (num_classes, c), bias=True, classifies=True)
    return s


def _stem(s: Sketch, c: int, side: int) -> tuple[int, int]:
    """The last node of the stem, and the side of its output."""
    small = side <= SMALL
    kernel, side = (3, side) if small else (7, _halved(side))
    x = s.norm(s.layer(INPUT, "conv1", (c, 3, kernel, kernel), side * side), "bn1", c)
    return (x, side) if small else (s.pool(x, "maxpool", Primitive.MAX_POOL.value, 3), _halved(side))


def _block(s: Sketch, x: int, path: str, g: ResNetGenotype, channels: tuple[int, int], sides: tuple[int, int]) -> int:
    """The node of a block's sum. channels: of its input and within. sides: of its input and output."""
    (c_in, inner), (before, after) = channels, sides
    out = inner * g.expansion
    if g.block == "basic":
        layers = [(inner, c_in, 3, after), (inner, inner, 3, after)]
    else:
        layers = [(inner, c_in, 1, before), (inner, inner, 3, after), (out, inner, 1, after)]
    y = x
    for i, (c_out, c, kernel, side) in enumerate(layers, start=1):
        y = s.layer(y, f"{path}.conv{i}", (c_out, c, kernel, kernel), side * side)
        y = s.norm(y, f"{path}.bn{i}", c_out)
    if c_in != out:  # as wherever the stride is 2
        x = s.layer(x, f"{path}.downsample.0", (out, c_in, 1, 1), after * after)
        x = s.norm(x, f"{path}.downsample.1", out)
    return s.sum((x, y), path)


def _halved(side: int) -> int:
    return (side + 1) // 2
