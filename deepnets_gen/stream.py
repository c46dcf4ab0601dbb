"""The endless stream of a split's candidates, any part of it computed on its own: what corpora are made of."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from deepnets_gen import families
from deepnets_gen.splits import Part, Split, named
from ghn.garbage import uncollected
from ghn.identity import identities

GENERATOR = 2  # version of the streams: the same number, the same networks
HELD = 256  # candidates whose graphs are held, and told apart, at a time
AHEAD = 64  # candidates that `generate` looks at before it gives out the first

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
    drawn: list[Drawn] = []
    fates: Counter[str] = Counter()
    with uncollected():
        for first in range(start, stop, HELD):
            part, left_out = _drawn(split, range(first, min(first + HELD, stop)), seed_offset)
            drawn += part
            fates += left_out
    return Block(start, stop, tuple(drawn), {SAMPLED: stop - start - fates[EXHAUSTED], **fates})


def _drawn(split: Split, indices: range, seed_offset: int) -> tuple[list[Drawn], Counter[str]]:
    """The accepted ones of these candidates, and how many of the others were left out for which reason."""
    fates: Counter[str] = Counter()
    sketched = []
    for index in indices:
        genotype = _candidate(split, index, seed_offset)
        if isinstance(genotype, str):
            fates[genotype] += 1
        else:
            sketched.append((index, genotype, families.sketch(genotype)))
    drawn = []
    found = identities([sketch for _, _, sketch in sketched])
    for (index, genotype, sketch), (key, topology) in zip(sketched, found, strict=True):
        if split.part is None or Part.of(topology) is split.part:
            drawn.append(Drawn(index, genotype, key, len(sketch), sketch.num_params))
        else:
            fates[OTHER_PART] += 1
    return drawn, fates


def generate(split: Split | str, count: int, seed_offset: int = 0) -> Iterator[Any]:
    """The first `count` distinct networks of the split's stream, fewer where it ends before.

    A longer run begins with the shorter one. seed_offset: another stream of the same split. Raises GenotypeError
    where the split is unknown.
    """
    split = named(split)
    seen: set[str] = set()
    start = 0
    while len(seen) < count and (split.size is None or start < split.size):
        for drawn in block(split, start, start + AHEAD, seed_offset).drawn:
            if drawn.key not in seen and len(seen) < count:
                seen.add(drawn.key)
                yield drawn.genotype
        start += AHEAD


def _candidate(split: Split, index: int, seed_offset: int) -> Any:
    """The genotype at this place, or the reason why there is none."""
    if split.size is not None and index >= split.size:
        return EXHAUSTED
    genotype = split.draw(Random(((split.seed << 32) + seed_offset << 64) + index), index)
    if genotype is None:
        return INVALID
    return genotype if split.small(genotype) else TOO_LARGE
