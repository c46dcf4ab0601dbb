"""Networks of inverted residuals for small devices, as data and as graphs.

Source: Sandler et al., CVPR 2018 (MobileNetV2); Tan et al., CVPR 2019 (MnasNet); Howard et al., ICCV 2019 (MobileNetV3:
hard swish, and a hidden layer in the classifier).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from itertools import pairwise
from random import Random
from typing import Any, Self

from deepnets_gen.layout import halved
from deepnets_gen.spaces.fields import check, check_whole, pick, read
from ghn.primitives import Primitive
from ghn.sketch import INPUT, Sketch

ACTIVATIONS = ("relu", "relu6", "hardswish", "silu")
KERNELS = (3, 5, 7)
EXPANSIONS = tuple(range(1, 7))
DIVISOR = 8  # of every block's channels
SEP_CONV, CSE, GLOB_AVG = Primitive.SEP_CONV.value, Primitive.CSE.value, Primitive.GLOB_AVG.value


@dataclass(frozen=True)
class Stage:
    """Blocks of the same form. stride: of the first. kernel: of the depthwise convolutions.

    expansion: channels within a block over those of its input; with 1 there is no expanding convolution.
    reduction: channels within a block over those that squeeze-excite gates are made from; 0: no gates.

    Raises GenotypeError where a field is out of range.
    """

    channels: int
    repeats: int
    stride: int
    kernel: int
    expansion: int
    reduction: int = 0
    activation: str = "relu6"

    def __post_init__(self) -> None:
        _check_channels("channels", self.channels)
        check_whole("repeats", self.repeats, 1)
        _check_known("stride", self.stride, (1, 2))
        _check_known("kernel", self.kernel, KERNELS)
        _check_known("expansion", self.expansion, EXPANSIONS)
        check_whole("reduction", self.reduction, 0)
        _check_known("activation", self.activation, ACTIVATIONS)


@dataclass(frozen=True)
class Block:
    """One block as its stage makes it. inputs: channels of its input. inner: within."""

    stage: Stage
    inputs: int
    stride: int

    @property
    def inner(self) -> int:
        return self.inputs * self.stage.expansion

    @property
    def squeezed(self) -> int:
        """Channels that its gates are made from; 0: no gates."""
        return max(1, self.inner // self.stage.reduction) if self.stage.reduction else 0

    @property
    def residual(self) -> bool:
        """Whether its input is added to its output."""
        return self.stride == 1 and self.inputs == self.stage.channels


@dataclass(frozen=True)
class MobileGenotype:
    """One network: a strided 3x3 convolution, stages, a 1x1 convolution, a global average, the classifier.

    stem, head: channels of the first and last convolution. stem_stride: of the first. hidden: width of the classifier's
    hidden layer, 0 where it has none. activation: of stem, head and classifier.

    Raises GenotypeError where a field is out of range.
    """

    stages: tuple[Stage, ...]
    stem: int = 32
    stem_stride: int = 2
    head: int = 1280
    hidden: int = 0
    activation: str = "relu6"

    def __post_init__(self) -> None:
        filled = type(self.stages) is tuple and bool(self.stages) and all(type(s) is Stage for s in self.stages)
        check(filled, "stages", self.stages, "give a tuple of one Stage or more")
        _check_channels("stem", self.stem)
        _check_known("stem_stride", self.stem_stride, (1, 2))
        _check_channels("head", self.head)
        check_whole("hidden", self.hidden, 0)
        _check_known("activation", self.activation, ACTIVATIONS)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Every block, in order."""
        inputs, found = self.stem, []
        for stage in self.stages:
            for i in range(stage.repeats):
                found.append(Block(stage, inputs, 1 if i else stage.stride))
                inputs = stage.channels
        return tuple(found)

    def check_side(self, image_size: int) -> None:
        """Raises GenotypeError unless every halving of images of this side starts from two pixels or more."""
        check_whole("image_size", image_size, 2)
        side = image_size
        for stride in (self.stem_stride, *(stage.stride for stage in self.stages)):
            check(stride == 1 or side >= 2, "image_size", image_size, "such images vanish here; give larger ones")
            side = halved(side) if stride == 2 else side

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready record, each stage a list of its fields in order; `from_dict` gives the genotype back."""
        return {**asdict(self), "stages": [list(astuple(stage)) for stage in self.stages]}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """The genotype that `to_dict` wrote; further entries are ignored. Raises GenotypeError on anything else."""
        given = read(record, (f.name for f in fields(cls)), "mobile")
        rows, width = given["stages"], len(fields(Stage))
        lists = isinstance(rows, list | tuple) and all(isinstance(r, list | tuple) and len(r) == width for r in rows)
        check(lists, "stages", rows, f"give a list of stages, each a list of its {width} fields")
        given["stages"] = tuple(Stage(*row) for row in rows)
        return cls(**given)


def _check_channels(field: str, value: Any) -> None:
    ok = type(value) is int and value > 0 and value % DIVISOR == 0
    check(ok, field, value, f"give a positive multiple of {DIVISOR}")


def _check_known(field: str, value: Any, known: Sequence[Any]) -> None:
    ok = type(value) is type(known[0]) and value in known
    check(ok, field, value, f"known are {', '.join(map(str, known))}")


MOBILENET_V2 = MobileGenotype(  # Sandler et al. 2018, table 2
    stages=(
        Stage(16, 1, 1, 3, 1),
        Stage(24, 2, 2, 3, 6),
        Stage(32, 3, 2, 3, 6),
        Stage(64, 4, 2, 3, 6),
        Stage(96, 3, 1, 3, 6),
        Stage(160, 3, 2, 3, 6),
        Stage(320, 1, 1, 3, 6),
    )
)
MNASNET_A1 = MobileGenotype(  # Tan et al. 2019, figure 7; gates are made from a quarter of a block's input
    stages=(
        Stage(16, 1, 1, 3, 1, 0, "relu"),
        Stage(24, 2, 2, 3, 6, 0, "relu"),
        Stage(40, 3, 2, 5, 3, 12, "relu"),
        Stage(80, 4, 2, 3, 6, 0, "relu"),
        Stage(112, 2, 1, 3, 6, 24, "relu"),
        Stage(160, 3, 2, 5, 6, 24, "relu"),
        Stage(320, 1, 1, 3, 6, 0, "relu"),
    ),
    activation="relu",
)


@dataclass(frozen=True)
class MobileAxes:
    """What varies, each value as likely; kernel, expansion, gates, growth and repeats are drawn for each stage.

    halvings: of the image, the stem's included; the rest goes to as many stages. growth: of the channels from stage to
    stage, up to `widest`. first: channels of the first stage over the stem's. gated: probability that a stage has
    gates, drawn for each network. activations: one for the early stages and one for the others and the head.
    hidden: 0 stands for no hidden layer. limit: most parameters.
    """

    stems: tuple[int, ...] = (16, 24, 32, 40)
    stem_strides: tuple[int, ...] = (1, 2)
    stages: tuple[int, ...] = (4, 5, 6, 7)
    halvings: tuple[int, ...] = (2, 3, 4)
    repeats: tuple[int, ...] = (1, 2, 3, 4)
    kernels: tuple[int, ...] = KERNELS
    expansions: tuple[int, ...] = EXPANSIONS
    first: tuple[float, ...] = (0.5, 1.0)
    growth: tuple[float, ...] = (1.0, 1.25, 1.5, 1.75, 2.0)
    widest: int = 320
    gated: tuple[float, ...] = (0.0, 0.5, 1.0)
    reductions: tuple[int, ...] = (4, 8, 16, 24)
    activations: tuple[str, ...] = ACTIVATIONS
    heads: tuple[int, ...] = tuple(range(256, 1281, 128))
    hidden: tuple[int, ...] = (0, 0, 0, 256, 512, 1024)
    limit: int = 10_000_000


def candidate(rng: Random, axes: MobileAxes) -> MobileGenotype | None:
    """A random network, perhaps larger than the limit: see `small_enough`.

    None where it would halve the image more often than it has stages.
    """
    count, stem_stride = pick(rng, axes.stages), pick(rng, axes.stem_strides)
    halvings = pick(rng, axes.halvings) - (stem_stride == 2)
    if not 0 <= halvings <= count:
        return None
    halving = sorted(range(count), key=lambda _: rng.random())[:halvings]
    stem, gated = pick(rng, axes.stems), pick(rng, axes.gated)
    early, late = pick(rng, axes.activations), pick(rng, axes.activations)
    change = int(rng.random() * count)
    stages, width = [], stem * pick(rng, axes.first)
    for i in range(count):
        width = min(width * pick(rng, axes.growth) if i else width, axes.widest)
        stages.append(_stage(rng, axes, width, 1 + (i in halving), gated, early if i < change else late))
    return MobileGenotype(tuple(stages), stem, stem_stride, pick(rng, axes.heads), pick(rng, axes.hidden), late)


def _stage(rng: Random, axes: MobileAxes, width: float, stride: int, gated: float, activation: str) -> Stage:
    return Stage(
        channels=max(DIVISOR, int(width / DIVISOR + 0.5) * DIVISOR),
        repeats=pick(rng, axes.repeats),
        stride=stride,
        kernel=pick(rng, axes.kernels),
        expansion=pick(rng, axes.expansions),
        reduction=pick(rng, axes.reductions) if rng.random() < gated else 0,
        activation=activation,
    )


def small_enough(genotype: MobileGenotype, axes: MobileAxes) -> bool:
    """Whether its parameters stay within the limit."""
    return num_params(genotype) <= axes.limit


def num_params(genotype: MobileGenotype, num_classes: int = 10) -> int:
    """Numbers in the parameters of the network, without its graph."""
    g = genotype
    total = 27 * g.stem + 2 * g.stem
    for block in g.blocks:
        stage, inner = block.stage, block.inner
        total += (block.inputs + 2) * inner if stage.expansion > 1 else 0
        total += (stage.kernel**2 + 2) * inner
        total += (2 * inner + 1) * block.squeezed + inner if block.squeezed else 0
        total += (inner + 2) * stage.channels
    widths = [g.head, *([g.hidden] if g.hidden else []), num_classes]
    return total + (g.stages[-1].channels + 2) * g.head + sum((a + 1) * b for a, b in pairwise(widths))


def sketch(genotype: MobileGenotype, num_classes: int = 10, image_size: int = 32) -> Sketch:
    """The graph of the network, in the making. Raises GenotypeError where images of this side vanish in it."""
    genotype.check_side(image_size)
    s = Sketch()
    side = halved(image_size) if genotype.stem_stride == 2 else image_size
    x = s.layer(INPUT, "features.0.0", (genotype.stem, 3, 3, 3), side * side)
    x = s.norm(x, "features.0.1", genotype.stem)
    blocks = genotype.blocks
    for i, block in enumerate(blocks, start=1):
        before, side = side, halved(side) if block.stride == 2 else side
        x = _block(s, x, f"features.{i}", block, before * before, side * side)
    last = f"features.{len(blocks) + 1}"
    x = s.layer(x, f"{last}.0", (genotype.head, genotype.stages[-1].channels, 1, 1), side * side)
    x = s.add(GLOB_AVG, (s.norm(x, f"{last}.1", genotype.head),), "glob_avg")
    if not genotype.hidden:
        s.layer(x, "classifier.1", (num_classes, genotype.head), bias=True, classifies=True)
        return s
    x = s.layer(x, "classifier.0", (genotype.hidden, genotype.head), bias=True)
    s.layer(x, "classifier.3", (num_classes, genotype.hidden), bias=True, classifies=True)
    return s


def _block(s: Sketch, x: int, path: str, block: Block, before: int, after: int) -> int:
    """The last node of a block. before, after: positions of its input and output."""
    y, inner, kernel, i = x, block.inner, block.stage.kernel, 0
    if block.stage.expansion > 1:
        y = s.norm(s.layer(y, f"{path}.conv.0.0", (inner, block.inputs, 1, 1), before), f"{path}.conv.0.1", inner)
        i = 1
    y = s.layer(y, f"{path}.conv.{i}.0", (inner, 1, kernel, kernel), after, op=SEP_CONV)
    y = s.norm(y, f"{path}.conv.{i}.1", inner)
    i += 1
    if block.squeezed:
        gate = s.layer(y, f"{path}.conv.{i}.fc1", (block.squeezed, inner, 1, 1), bias=True)
        gate = s.layer(gate, f"{path}.conv.{i}.fc2", (inner, block.squeezed, 1, 1), bias=True)
        y = s.add(CSE, (y, gate), f"{path}.conv.{i}", ".cse")
        i += 1
    out = block.stage.channels
    y = s.norm(s.layer(y, f"{path}.conv.{i}", (out, inner, 1, 1), after), f"{path}.conv.{i + 1}", out)
    return s.sum((x, y), path) if block.residual else y
