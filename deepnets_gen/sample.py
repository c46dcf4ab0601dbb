"""Random genotypes: the sampling procedure of DeepNets-1M. Source: Knyazev et al., NeurIPS 2021, appendix A.2."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import TypeVar

from deepnets_gen.axes import Axes, NormPolicy
from deepnets_gen.connect import NONE, Edge
from deepnets_gen.genotype import DEFAULT_CHANNELS, OPS, POOLING, Genotype, GenotypeError
from deepnets_gen.layout import num_params

WIDTHS = tuple(range(32, 129, 16))
HIDDEN = tuple(range(64, 513, 64))
LARGE_KERNELS = frozenset({"conv_5x5", "conv_7x7"})
T = TypeVar("T")
IMAGE_SIDES = (32, 224)  # of CIFAR-10 and ImageNet: the limit holds for both
STEM = 30_000  # more than any stem at C = 32 grows from one to the other; most for patches, by 816 C


def candidate(rng: Random, axes: Axes) -> Genotype | None:
    """A draw within the axes, at their C; None where it breaks a rule on operations or is not connected.

    The limit on parameters is not looked at: see `small_enough`.
    """
    cells = _between(rng, *axes.cells)
    deep = cells > (above := _one_of(rng, axes.deep_above))
    steps = _between(rng, axes.steps[0], axes.deep_steps if deep else axes.steps[1])
    only_pool = rng.random() < 0.5
    normal = _cell(rng, steps, OPS)
    reduce = _cell(rng, steps, (NONE, *POOLING) if only_pool else OPS)
    concat = _concat(rng, steps)
    if not allowed(normal, reduce):
        return None
    vit = any(op == "msa" for op, _ in (*normal, *reduce))
    c_mult = _between(rng, 1, 2)
    preproc = steps > 1 or c_mult > 1 or rng.random() >= axes.plain[vit]
    stem_type = _between(rng, 0, 1)
    shallow = cells <= axes.cells[0] + 1 and steps <= axes.deep_steps
    try:
        return Genotype(
            normal=normal,
            reduce=reduce,
            normal_concat=concat,
            reduce_concat=concat,
            n_cells=cells,
            channels=axes.channels,
            ks=_one_of(rng, (3, 5, 7)),
            stem_type=stem_type,
            stem_pool=stem_type == 0 and rng.random() < 0.5,
            norm=_norm(rng, axes.norm, shallow),
            preproc=preproc,
            c_mult=c_mult,
            fc_layers=_between(rng, 1, 2),
            glob_avg=vit or cells > above or rng.random() < 0.9,
        )
    except GenotypeError:  # 'none' edges cut the output off from the image
        return None


def small_enough(genotype: Genotype, axes: Axes) -> bool:
    """Whether its parameters, dead ones included, stay within the limit at DeepNets-1M's width and both image sides."""
    usual = genotype if genotype.channels == DEFAULT_CHANNELS else replace(genotype, channels=DEFAULT_CHANNELS)
    small, large = IMAGE_SIDES
    count = num_params(usual, 10, small, everything=True)
    if usual.glob_avg and count + STEM <= axes.limit:
        return True  # the classifier sees as many numbers whatever the side, so that only the stems differ
    return count <= axes.limit and num_params(usual, 10, large, everything=True) <= axes.limit


def resample_width(rng: Random, genotype: Genotype, num_params: int) -> Genotype:
    """The genotype with C and fc_dim drawn anew, as a training set does at each access: smaller nets grow wider.

    num_params: of the network as DeepNets-1M records it, at C = 32.
    """
    ops = {op for op, _ in (*genotype.normal, *genotype.reduce)}
    millions, cells = num_params / 1e6, genotype.n_cells
    if millions > 0.8 or cells > 12 or not genotype.glob_avg or ops & LARGE_KERNELS:
        choices = 1
    elif millions > 0.4 or cells > 10:
        choices = 2
    elif millions > 0.2 or cells > 8:
        choices = 3
    else:
        choices = len(WIDTHS)
    channels = _one_of(rng, WIDTHS[:choices])
    hidden = len(HIDDEN) if choices == len(WIDTHS) and channels <= 64 else 4
    return replace(genotype, channels=channels, fc_dim=_one_of(rng, HIDDEN[:hidden]))


def _cell(rng: Random, steps: int, allowed: Sequence[str]) -> tuple[Edge, ...]:
    """Edges of a cell: two different inputs a step, in any order, and an operation on each, all equally likely.

    The paper scores every operation on every possible input by softmax(1e-3 * randn) and keeps the two best inputs,
    each with its best operation. The law of the scores does not change when inputs or operations trade places, so the
    choice is uniform, and that of the operation independent of the rest.
    """
    names = [op for op in allowed if op != NONE or steps > 1]
    edges: list[Edge] = []
    for i in range(steps):
        first, second = _between(rng, 0, i + 1), _between(rng, 0, i)
        for source in (first, second + (second >= first)):
            edges.append((_one_of(rng, names), source))
    return tuple(edges)


def _concat(rng: Random, steps: int) -> tuple[int, ...]:
    """All step outputs, or, as often, a random part of them; always the last."""
    states = range(2, steps + 2)
    if steps == 1 or rng.random() < 0.5:
        return tuple(states)
    return tuple(i for i in states if i == steps + 1 or rng.random() < 0.5)


def allowed(normal: Sequence[Edge], reduce: Sequence[Edge]) -> bool:
    """Whether the corpus holds networks of these cells: few large kernels and gates, and something that learns."""
    names = [[op for op, _ in cell] for cell in (normal, reduce)]
    for cell in names:
        if cell.count("cse") > 1 or sum(op in LARGE_KERNELS for op in cell) > 1:
            return False
    flat = names[0] + names[1]
    convolves = any("conv" in op for op in flat)
    return convolves or ("msa" in flat and "cse" not in flat)


def _norm(rng: Random, policy: NormPolicy, shallow: bool) -> str | None:
    if policy is NormPolicy.NEVER:
        return None
    return None if policy is NormPolicy.MOSTLY and shallow and rng.random() < 0.5 else "bnorm"


def _between(rng: Random, least: int, most: int) -> int:
    return least + int(rng.random() * (most - least + 1))


def _one_of(rng: Random, choices: Sequence[T]) -> T:
    return choices[int(rng.random() * len(choices))]
