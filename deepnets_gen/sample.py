"""Random genotypes: the sampling procedure of DeepNets-1M. Source: Knyazev et al., NeurIPS 2021, appendix A.2."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from deepnets_gen.axes import Axes, NormPolicy
from deepnets_gen.connect import NONE, Edge
from deepnets_gen.genotype import OPS, POOLING, Genotype, GenotypeError
from deepnets_gen.layout import num_params

WIDTHS = tuple(range(32, 129, 16))
HIDDEN = tuple(range(64, 513, 64))
LARGE_KERNELS = frozenset({"conv_5x5", "conv_7x7"})
CONCENTRATION = 1e-3  # of the random scores of operations: nearly uniform
MAX_DRAWS = 1_000  # one in a few is kept; axes that keep none are a mistake


def sample(rng: np.random.Generator, axes: Axes) -> Genotype:
    """One genotype within the axes, rejected and drawn anew until it makes a network.

    Raises GenotypeError where 1,000 draws gave none.
    """
    for _ in range(MAX_DRAWS):
        genotype = _candidate(rng, axes)
        if genotype is not None and _small_enough(genotype, axes.limit):
            return replace(genotype, channels=axes.channels)
    raise GenotypeError(f"no network in {MAX_DRAWS} draws; widen the axes: {axes}")


def resample_width(rng: np.random.Generator, genotype: Genotype, num_params: int) -> Genotype:
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
    channels = WIDTHS[rng.integers(choices)]
    hidden = len(HIDDEN) if choices == len(WIDTHS) and channels <= 64 else 4
    return replace(genotype, channels=channels, fc_dim=HIDDEN[rng.integers(hidden)])


def _candidate(rng: np.random.Generator, axes: Axes) -> Genotype | None:
    """A draw that obeys the rules on operations and is connected, at C = 32; else None."""
    cells = int(rng.integers(axes.cells[0], axes.cells[1] + 1))
    deep = cells > (above := int(rng.choice(axes.deep_above)))
    steps = int(rng.integers(axes.steps[0], (axes.deep_steps if deep else axes.steps[1]) + 1))
    only_pool = rng.random() < 0.5
    normal = _cell(rng, steps, OPS)
    reduce = _cell(rng, steps, (NONE, *POOLING) if only_pool else OPS)
    concat = _concat(rng, steps)
    if not _allowed(normal, reduce):
        return None
    vit = any(op == "msa" for op, _ in (*normal, *reduce))
    c_mult = int(rng.integers(1, 3))
    preproc = steps > 1 or c_mult > 1 or rng.random() >= axes.plain[vit]
    stem_type = int(rng.integers(2))
    shallow = cells <= axes.cells[0] + 1 and steps <= axes.deep_steps
    try:
        return Genotype(
            normal=normal,
            reduce=reduce,
            normal_concat=concat,
            reduce_concat=concat,
            n_cells=cells,
            ks=int(rng.choice((3, 5, 7))),
            stem_type=stem_type,
            stem_pool=stem_type == 0 and rng.random() < 0.5,
            norm=_norm(rng, axes.norm, shallow),
            preproc=preproc,
            c_mult=c_mult,
            fc_layers=int(rng.integers(1, 3)),
            glob_avg=vit or cells > above or rng.random() < 0.9,
        )
    except GenotypeError:  # 'none' edges cut the output off from the image
        return None


def _cell(rng: np.random.Generator, steps: int, allowed: Sequence[str]) -> tuple[Edge, ...]:
    """Edges of a cell: each step keeps the two inputs with the highest score of any operation, and that operation."""
    names = [op for op in allowed if op != NONE or steps > 1]
    columns = [OPS.index(op) for op in names]
    edges: list[Edge] = []
    for i in range(steps):
        raw = np.exp(CONCENTRATION * rng.standard_normal((i + 2, len(OPS))))
        scores = (raw / raw.sum(axis=1, keepdims=True))[:, columns]
        for source in np.argsort(-scores.max(axis=1), kind="stable")[:2]:
            edges.append((names[int(scores[source].argmax())], int(source)))
    return tuple(edges)


def _concat(rng: np.random.Generator, steps: int) -> tuple[int, ...]:
    """All step outputs, or, as often, a random part of them; always the last."""
    states = range(2, steps + 2)
    if steps == 1 or rng.random() < 0.5:
        return tuple(states)
    kept = rng.random(steps) < 0.5
    return tuple(i for i in states if kept[i - 2] or i == steps + 1)


def _allowed(normal: Sequence[Edge], reduce: Sequence[Edge]) -> bool:
    names = [[op for op, _ in cell] for cell in (normal, reduce)]
    for cell in names:
        if cell.count("cse") > 1 or sum(op in LARGE_KERNELS for op in cell) > 1:
            return False
    flat = names[0] + names[1]
    convolves = any("conv" in op for op in flat)
    return convolves or ("msa" in flat and "cse" not in flat)


def _norm(rng: np.random.Generator, policy: NormPolicy, shallow: bool) -> str | None:
    if policy is NormPolicy.NEVER:
        return None
    return None if policy is NormPolicy.MOSTLY and shallow and rng.random() < 0.5 else "bnorm"


def _small_enough(genotype: Genotype, limit: int) -> bool:
    return all(num_params(genotype, 10, side, everything=True) <= limit for side in (32, 224))
