"""SearchSpace: variables and their choices; sampling, mutation, neighbours and encodings follow from these."""

import math
from abc import ABC
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from inspect import Parameter, signature
from itertools import product
from random import Random
from typing import TYPE_CHECKING, Any

from eval.evaluator import Arch
from eval.tables import Table
from search.errors import SearchError

if TYPE_CHECKING:
    from torch import nn

    from ghn.graph import ArchGraph

TRIES = 10_000  # draws before a space counts as empty


@dataclass(frozen=True)
class Variable:
    """One decision. choices: JSON-ready values; a gene is the number of one."""

    name: str
    choices: tuple[Any, ...]


class SearchSpace(ABC):
    """All architectures that a few variables span.

    A space gives `name`, `variables` and `genotype`, or in place of the latter `build` (and `graph`, if it can be
    stated without tracing). It may say which variables count (`active`), what is no network (`valid`), when two are the
    same (`identity`), what is worth knowing of one (`traits`), where results are tabulated (`tables`), and which column
    of these tells best how good a network is (`truth`).
    """

    name: str
    variables: tuple[Variable, ...]
    tables: tuple[Table, ...] = ()
    truth: str | None = None

    # What a space may say.

    def genotype(self, genes: tuple[int, ...]) -> Any:
        """The network as data of one of `deepnets_gen`'s families. GenotypeError or ValueError: there is none."""
        raise NotImplementedError

    def active(self, genes: tuple[int, ...]) -> Sequence[bool]:
        """Whether each gene makes a difference, the others being as they are."""
        return [True] * len(genes)

    def valid(self, genes: tuple[int, ...]) -> bool:
        """Whether these genes make a network."""
        return True

    def identity(self, genes: tuple[int, ...]) -> str:
        """Equal for genes that make the same network."""
        return "-".join(map(str, genes))

    def traits(self, arch: Arch) -> Mapping[str, float]:
        """Quantities that an evaluator may be biased towards."""
        graph = self.graph(arch)
        return {"params": graph.num_params, "depth": int(graph.levels.max()), "nodes": len(graph)}

    def build(self, arch: Arch, num_classes: int = 10, image_size: int = 32) -> "nn.Module":
        """The network with fresh weights, from torch's own generator."""
        import deepnets_gen

        return deepnets_gen.build(self.genotype(arch.genes), num_classes, image_size)

    def graph(self, arch: Arch, num_classes: int = 10, image_size: int = 32) -> "ArchGraph":
        """The network's graph, as tracing it gives."""
        import deepnets_gen

        return deepnets_gen.graph(self.genotype(arch.genes), num_classes, image_size)

    def describe(self, arch: Arch) -> str:
        """The architecture in words."""
        return ", ".join(f"{name} {choice}" for name, choice in self.choices(arch).items())

    def picture(self, arch: Arch) -> "ArchGraph":
        """The graph that stands for the architecture in a drawing."""
        return self.graph(arch)

    # What follows.

    @property
    def networks(self) -> str:
        """Which networks are built: the space's name, and the settings of its class that are not as usual."""
        usual = {k: p.default for k, p in signature(type(self)).parameters.items() if p.default is not Parameter.empty}
        return " ".join([self.name, *(f"{k}={getattr(self, k)}" for k in usual if getattr(self, k) != usual[k])])

    @cached_property
    def size(self) -> int:
        """Combinations of choices, those that make no network among them."""
        return math.prod(len(v.choices) for v in self.variables)

    @cached_property
    def degree(self) -> int:
        """The most neighbours that an architecture has."""
        return sum(len(v.choices) - 1 for v in self.variables)

    def arch(self, genes: Sequence[int]) -> Arch:
        """The architecture; genes without effect are set to 0. Raises SearchError where it is none of this space."""
        genes = tuple(genes)
        if len(genes) != len(self.variables):
            raise SearchError(f"{self.name} has {len(self.variables)} variables, {len(genes)} genes were given")
        for gene, variable in zip(genes, self.variables, strict=True):
            if type(gene) is not int or not 0 <= gene < len(variable.choices):
                raise SearchError(
                    f"{self.name}: {variable.name} has {len(variable.choices)} choices, not number {gene}"
                )
        genes = self._canonical(genes)
        if not self.valid(genes):
            raise SearchError(f"{self.name}: genes {list(genes)} make no network; change one, or sample")
        return Arch(self.name, genes, f"{self.name}:{self.identity(genes)}")

    def read(self, record: Mapping[str, Any]) -> Arch:
        """The architecture that `Arch.to_dict` wrote. Raises SearchError on anything else."""
        if not isinstance(record, Mapping) or record.get("space") != self.name or "genes" not in record:
            raise SearchError(f"no architecture of {self.name}: {str(record)[:80]}")
        return self.arch(record["genes"])

    def named(self, **choices: Any) -> Arch:
        """The architecture with these choices by name; the first choice where nothing is said. Raises SearchError."""
        genes = []
        for v in self.variables:
            choice = choices.pop(v.name, v.choices[0])
            if choice not in v.choices:
                raise SearchError(f"{self.name}: {v.name} is one of {', '.join(map(str, v.choices))}, not {choice!r}")
            genes.append(v.choices.index(choice))
        if choices:
            raise SearchError(f"{self.name} has no variable {', '.join(choices)}")
        return self.arch(genes)

    def choices(self, arch: Arch) -> dict[str, Any]:
        """Variable -> its choice, for those that make a difference."""
        active = self.active(arch.genes)
        rows = zip(self.variables, arch.genes, active, strict=True)
        return {v.name: v.choices[gene] for v, gene, counts in rows if counts}

    def sample(self, rng: Random) -> Arch:
        """An architecture with every choice as likely, among those that make a network. Raises SearchError."""
        for _ in range(TRIES):
            found = self._try([rng.randrange(len(v.choices)) for v in self.variables])
            if found is not None:
                return found
        raise SearchError(f"{self.name}: none of {TRIES} random draws makes a network")

    def neighbors(self, arch: Arch) -> list[Arch]:
        """All architectures that differ in the choice of one variable, each once."""
        found: dict[tuple[int, ...], Arch] = {}
        for place in self._places(arch.genes):
            for gene in range(len(self.variables[place].choices)):
                other = self._try([*arch.genes[:place], gene, *arch.genes[place + 1 :]])
                if other is not None and other.genes != arch.genes:
                    found[other.genes] = other
        return list(found.values())

    def mutate(self, arch: Arch, rng: Random) -> Arch:
        """The architecture with one variable, each as likely, at another of its choices. Raises SearchError."""
        places = self._places(arch.genes)
        for _ in range(TRIES if places else 0):
            place = rng.choice(places)
            gene = rng.randrange(len(self.variables[place].choices) - 1)
            gene += gene >= arch.genes[place]
            other = self._try([*arch.genes[:place], gene, *arch.genes[place + 1 :]])
            if other is not None and other.genes != arch.genes:
                return other
        raise SearchError(f"{self.name}: {arch.key} has no neighbour that is a network")

    def crossover(self, one: Arch, other: Arch, rng: Random) -> Arch:
        """Every gene from one of both, each as likely (uniform crossover); `one` where no draw makes a network."""
        for _ in range(100):
            found = self._try([rng.choice(pair) for pair in zip(one.genes, other.genes, strict=True)])
            if found is not None:
                return found
        return one

    def encode(self, arch: Arch) -> list[float]:
        """The genes one-hot, one after the other; zeros for those without effect."""
        row: list[float] = []
        for v, gene, counts in zip(self.variables, arch.genes, self.active(arch.genes), strict=True):
            row += [float(counts and i == gene) for i in range(len(v.choices))]
        return row

    def all(self) -> Iterator[Arch]:
        """Every architecture once, in the order of the genes. For spaces that are small enough."""
        seen = set()
        for genes in product(*(range(len(v.choices)) for v in self.variables)):
            found = self._try(genes)
            if found is not None and found.genes not in seen:
                seen.add(found.genes)
                yield found

    def _places(self, genes: tuple[int, ...]) -> list[int]:
        """Variables that make a difference and have another choice."""
        active = self.active(genes)
        return [i for i, v in enumerate(self.variables) if active[i] and len(v.choices) > 1]

    def _try(self, genes: Sequence[int]) -> Arch | None:
        canonical = self._canonical(tuple(genes))
        if not self.valid(canonical):
            return None
        return Arch(self.name, canonical, f"{self.name}:{self.identity(canonical)}")

    def _canonical(self, genes: tuple[int, ...]) -> tuple[int, ...]:
        active = self.active(genes)
        return tuple(gene if counts else 0 for gene, counts in zip(genes, active, strict=True))
