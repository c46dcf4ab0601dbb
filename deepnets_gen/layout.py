"""The layout of a network: channels, sides and strides of every part, and its parameter count, without torch.

`build` follows it to make modules, `sample` to reject what is too large. Source: Knyazev et al., NeurIPS 2021,
appendix A.2; the cells are those of DARTS (Liu et al., 2019).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from deepnets_gen.connect import Edge
from deepnets_gen.genotype import Genotype, GenotypeError

LARGE_IMAGE = 128  # from this side on, the stem is the one for ImageNet
SHRUNK = frozenset({0, 1})  # the states that a reduction cell halves: its inputs


@dataclass(frozen=True)
class StemLayout:
    """The stem: patches of attention networks, one convolution ('single') or three ('double').

    channels: of its two outputs, sides: theirs. width: of the first convolution. kernel, stride: of the first.
    first: side of its output.
    """

    kind: str
    width: int
    kernel: int
    stride: int
    first: int
    channels: tuple[int, int]
    sides: tuple[int, int]


@dataclass(frozen=True)
class CellLayout:
    """One cell. inputs: channels of states 0 and 1 before preprocessing. channels: of every other state.

    reduction: whether it strides. halves: whether its first input has twice the side of the second.
    before, side: of its states 0 and 1, and of its output.
    """

    inputs: tuple[int, int]
    channels: int
    reduction: bool
    halves: bool
    before: int
    side: int

    def stride(self, source: int) -> int:
        """Stride of an edge that reads this state."""
        return _stride(self.reduction, source)


@dataclass(frozen=True)
class Layout:
    """A whole network. features: numbers that enter the classifier. smallest: the least side that is still halved."""

    stem: StemLayout
    cells: tuple[CellLayout, ...]
    features: int
    smallest: int


def layout(genotype: Genotype, image_size: int = 32) -> Layout:
    """The layout for square images of this side. Raises GenotypeError where the image is smaller than the stem."""
    stem = _stem(genotype, image_size)
    cells = tuple(_cells(genotype, stem))
    last = cells[-1]
    width = last.channels * len(genotype.stack[-1].concat)
    features = width if genotype.glob_avg else width * last.side**2
    sides = [stem.sides[1], *(cell.side for cell in cells)]
    halved = [before for before, cell in zip(sides, cells, strict=False) if cell.reduction and not genotype.is_vit]
    return Layout(stem, cells, features, min(halved, default=sides[-1]))


def is_valid(genotype: Genotype, image_size: int = 32) -> bool:
    """Whether images of this side survive every halving: each one must start from two pixels or more."""
    return image_size >= 2 and layout(genotype, image_size).smallest >= 2


def halved(side: int) -> int:
    """The side after a stride of 2, rounded up."""
    return -(-side // 2)


def _stem(g: Genotype, size: int) -> StemLayout:
    if size < 1:
        raise GenotypeError(f"image_size is {size}; give the side of the images in pixels")
    large, c = size >= LARGE_IMAGE, g.channels
    if g.is_vit:
        kernel = 16 if large else 3
        side = (size + 2 * int(kernel < 4) - kernel) // kernel + 1
        return StemLayout("patches", c, kernel, kernel, side, (c, c), (side, side))
    if g.stem_type == 0:
        width, stride = (3 * c if g.preproc and not large else c), (4 if large else 1)
        first = -(-size // stride)
        side = halved(first) if g.stem_pool else first
        return StemLayout("single", width, g.ks, stride, first, (width, width), (side, side))
    first = halved(size) if large else size
    side = halved(first) if large else first
    return StemLayout("double", c // 2, g.ks, 2 if large else 1, first, (c, c), (side, halved(side)))


def _cells(g: Genotype, stem: StemLayout) -> Iterator[CellLayout]:
    inputs, c, side = stem.channels, g.channels, stem.sides[1]
    for k, kind in enumerate(g.stack):
        reduction = k in g.reductions
        c *= g.c_mult if reduction else 1
        before, side = side, halved(side) if reduction and not g.is_vit else side
        yield CellLayout(inputs, c, reduction and not g.is_vit, g.halves(k), before, side)
        inputs = inputs[1], c * len(kind.concat)


def num_params(genotype: Genotype, num_classes: int = 10, image_size: int = 32, *, everything: bool = False) -> int:
    """Parameters of the built network; with `everything`, also those of parts that reach no output.

    The latter is what DeepNets-1M records and limits: its generator counts before dead parts are pruned.
    """
    plan = layout(genotype, image_size)
    total = _stem_params(genotype, plan.stem, everything or reads_second_stem(genotype))
    total += _head_params(genotype, plan.features, num_classes)
    for k, cell in enumerate(plan.cells):
        edges, flow = genotype.stack[k].edges, genotype.flow[k]
        total += sum(preprocess_params(genotype, cell, i) for i in (0, 1) if everything or i in flow.reads)
        counted = edges if everything else tuple(edges[j] for j in sorted(flow.live))
        total += _edges_params(counted, cell.channels, cell.reduction, genotype.norm is not None)
    return total


@lru_cache(maxsize=1024)  # a network has two kinds of cells at no more than three widths, at either image size
def _edges_params(edges: tuple[Edge, ...], c: int, reduction: bool, normed: bool) -> int:
    return sum(op_params(op, c, _stride(reduction, source), normed) for op, source in edges)


def _stride(reduction: bool, source: int) -> int:
    return 2 if reduction and source in SHRUNK else 1


def reads_second_stem(genotype: Genotype) -> bool:
    """Whether a living cell reads the second output of the stem."""
    flow = genotype.flow
    return 1 in flow[0].reads or (len(flow) > 1 and 0 in flow[1].reads)


def preprocess_params(g: Genotype, cell: CellLayout, i: int) -> int:
    """Parameters between input i of a cell and its state i."""
    norm = 2 * cell.channels if g.norm is not None else 0
    return cell.inputs[i] * cell.channels + norm if g.preproc else 0


def op_params(op: str, c: int, stride: int, normed: bool) -> int:
    """Parameters of one operation on c channels."""
    family, _, kernel = op.rpartition("_")
    k = int(kernel.split("x")[0]) if kernel[:1].isdigit() else 0
    norm = 2 * c if normed else 0
    counts = {
        "sep_conv": 2 * (k * k * c + c * c + norm),
        "dil_conv": k * k * c + c * c + norm,
        "conv": k * k * c * c + norm,
        "conv_7x1": 14 * c * c + norm,
        "skip": c * c + norm if stride == 2 else 0,
    }
    if op == "msa":
        return 6 * c * c + 7 * c
    if op == "cse":
        return 2 * c * (c // 2) + c // 2 + c
    return counts.get(family, 0)


def _stem_params(g: Genotype, stem: StemLayout, second: bool) -> int:
    c, norm = g.channels, 2 * int(g.norm is not None)
    first = 3 * stem.kernel**2 * stem.width
    if stem.kind == "patches":
        return first + c * stem.sides[0] ** 2
    if stem.kind == "single":
        return first + norm * stem.width
    return first + 9 * stem.width * c + norm * (stem.width + c) + int(second) * (9 * c * c + norm * c)


def _head_params(g: Genotype, features: int, num_classes: int) -> int:
    widths = [features, *([g.fc_dim] * (g.fc_layers - 1)), num_classes]
    return sum(a * b + b for a, b in pairwise(widths))
