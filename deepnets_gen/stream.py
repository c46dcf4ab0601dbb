"""The endless stream of a split's candidates, any part of it computed on its own: what corpora are made of."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from deepnets_gen import families
from deepnets_gen.splits import Part, Split, named

GENERATOR = 2  # version of the streams: the same number, the same networks
BLOCK = 64  # candidates that `generate` computes ahead

SAMPLED, INVALID, TOO_LARGE, OTHER_PART, EXHAUSTED = "sampled", "invalid", "too large", "other part", "exhausted"


@dataclass(frozen=True)
class Drawn:
    """An accepted candidate. index: its place in the stream. key, nodes, num_params: of its graph for CIFAR-10."""

    index: int
    genotype: Any
    key: str
    nodes: int
    num_params: int


@dataclass(frozen=True)
class Block:
    """The candidates start .. stop - 1. drawn: those accepted, the same architecture perhaps more than once.

    fates: how many were sampled, and how many of these left out for which reason; EXHAUSTED counts places past the end
    of a finite split.
    """

    start: int
    stop: int
    drawn: tuple[Drawn, ...]
    fates: dict[str, int]


def block(split: Split | str, start: int, stop: int, seed_offset: int = 0) -> Block:
    """What becomes of these candidates: a function of the arguments alone, whoever computes it.

    Raises GenotypeError where the split is unknown.
    """
    split = named(split)
    fates: Counter[str] = Counter()
    drawn = []
    for index in range(start, stop):
        result = _candidate(split, index, seed_offset)
        if isinstance(result, Drawn):
            drawn.append(result)
        else:
            fates[result] += 1
    return Block(start, stop, tuple(drawn), {SAMPLED: stop - start - fates[EXHAUSTED], **fates})


def generate(split: Split | str, count: int, seed_offset: int = 0) -> Iterator[Any]:
    """The first `count` distinct networks of the split's stream, fewer where it ends before.

    A longer run begins with the shorter one. seed_offset: another stream of the same split. Raises GenotypeError
    where the split is unknown.
    """
    split = named(split)
    seen: set[str] = set()
    start = 0
    while len(seen) < count and (split.size is None or start < split.size):
        for drawn in block(split, start, start + BLOCK, seed_offset).drawn:
            if drawn.key not in seen and len(seen) < count:
                seen.add(drawn.key)
                yield drawn.genotype
        start += BLOCK


def _candidate(split: Split, index: int, seed_offset: int) -> Drawn | str:
    """The candidate at this place, or why it is left out."""
    if split.size is not None and index >= split.size:
        return EXHAUSTED
    rng = Random(((split.seed << 32) + seed_offset << 64) + index)
    genotype = split.draw(rng, index)
    if genotype is None:
        return INVALID
    if not split.small(genotype):
        return TOO_LARGE
    sketch = families.sketch(genotype)
    if split.part is not None and Part.of(sketch.topology) is not split.part:
        return OTHER_PART
    return Drawn(index, genotype, sketch.key, len(sketch), sketch.num_params)
