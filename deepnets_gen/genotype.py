"""Genotype: one DeepNets-1M architecture as plain, hashable data.

Source: Knyazev et al., NeurIPS 2021, section 3.1 and appendix A.2 (DeepNets-1M); cells as in DARTS (Liu et al., 2019).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from deepnets_gen.connect import NONE, CellFlow, CellKind, Edge, flows
from ghn.errors import GHNError

POOLING = ("max_pool_3x3", "avg_pool_3x3", "skip_connect")
OPS = (
    NONE,
    *POOLING,
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
    "conv_1x1",
    "conv_7x1_1x7",
    "conv_3x3",
    "conv_5x5",
    "conv_7x7",
    "msa",
    "cse",
)
DEFAULT_CHANNELS = 32  # what a record without 'C' was generated with
HEADS = 8  # of every attention; channels must split evenly among them


class GenotypeError(GHNError, ValueError):
    """A genotype that describes no network."""


@dataclass(frozen=True)
class Genotype:
    """One architecture: two cells, how they are stacked, the stem and the classifier.

    normal, reduce: 2 edges per step; step i reads the states 0..i+1, of which 0 and 1 are the outputs of the two cells
    before. normal_concat, reduce_concat: states whose concatenation is the cell's output (2 = the first step).
    channels: C of the first cell; c_mult: its growth at each of the two reduction cells. ks: kernel of the stem.
    norm: None, or a batch norm: 'bnorm', with running statistics if the name contains 'track'.
    preproc: cell inputs pass a 1x1 convolution. fc_layers, fc_dim: the classifier.

    Raises GenotypeError where a field is out of range.
    """

    normal: tuple[Edge, ...]
    reduce: tuple[Edge, ...]
    normal_concat: tuple[int, ...]
    reduce_concat: tuple[int, ...]
    n_cells: int
    channels: int = DEFAULT_CHANNELS
    ks: int = 3
    stem_type: int = 0
    stem_pool: bool = False
    norm: str | None = "bnorm"
    preproc: bool = True
    c_mult: int = 1
    fc_layers: int = 1
    fc_dim: int = 256
    glob_avg: bool = True

    def __post_init__(self) -> None:
        _check_cell("normal", self.normal, self.normal_concat)
        _check_cell("reduce", self.reduce, self.reduce_concat)
        _check_stack(self)
        assert self.flow  # raises where nothing flows

    @cached_property
    def ops(self) -> frozenset[str]:
        """The operations of both cells."""
        return frozenset(op for op, _ in (*self.normal, *self.reduce))

    @cached_property
    def is_vit(self) -> bool:
        """Whether it attends: such networks have a patch stem, a position encoding and no striding."""
        return "msa" in self.ops

    @property
    def steps(self) -> int:
        """Steps of the larger cell."""
        return max(len(self.normal), len(self.reduce)) // 2

    @cached_property
    def reductions(self) -> frozenset[int]:
        """Indices of the reduction cells, at one and two thirds of the depth."""
        return frozenset({self.n_cells // 3, 2 * self.n_cells // 3}) - {0}

    @cached_property
    def stack(self) -> tuple[CellKind, ...]:
        """The kind of every cell, in order."""
        normal, reduce = CellKind(self.normal, self.normal_concat), CellKind(self.reduce, self.reduce_concat)
        return tuple(reduce if k in self.reductions else normal for k in range(self.n_cells))

    @cached_property
    def flow(self) -> tuple[CellFlow, ...]:
        """What is alive of every cell."""
        found = flows(self.stack)
        if found is None:
            raise GenotypeError(
                f"the last cell outputs zeros only: {NONE!r} edges cut {self.n_cells} cells from the image"
            )
        return found

    def halves(self, k: int) -> bool:
        """Whether cell k finds its first input at twice the side of the second and must halve it."""
        before = k - 1 in self.reductions if k else self.stem_type == 1
        return before and not self.is_vit

    def to_dict(self) -> dict[str, Any]:
        """A record in the form of the official DeepNets-1M meta files; `from_dict` gives the genotype back."""
        return {
            "genotype": {
                "normal": [list(edge) for edge in self.normal],
                "normal_concat": list(self.normal_concat),
                "reduce": [list(edge) for edge in self.reduce],
                "reduce_concat": list(self.reduce_concat),
            },
            **{name: getattr(self, field) for name, field in _RECORD.items()},
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """The genotype of a meta file's record. Further entries (num_params ...) are ignored; without 'C', it is 32.

        Raises GenotypeError where entries are missing or of a wrong type.
        """
        try:
            cells = record["genotype"]
            return cls(
                normal=_edges(cells["normal"]),
                reduce=_edges(cells["reduce"]),
                normal_concat=tuple(int(i) for i in cells["normal_concat"]),
                reduce_concat=tuple(int(i) for i in cells["reduce_concat"]),
                **{field: record[name] for name, field in _RECORD.items() if name != "C" or name in record},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, GenotypeError):
                raise
            raise GenotypeError(f"not a DeepNets-1M record: {type(error).__name__} {error}") from error

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The genotype that `to_json` wrote. Raises GenotypeError where the text is not such a record."""
        try:
            record = json.loads(text)
        except json.JSONDecodeError as error:
            raise GenotypeError(f"not JSON: {error}") from error
        return cls.from_dict(record)


_RECORD = {  # the meta file's name -> ours
    "C": "channels",
    "n_cells": "n_cells",
    "ks": "ks",
    "stem_type": "stem_type",
    "stem_pool": "stem_pool",
    "norm": "norm",
    "preproc": "preproc",
    "C_mult": "c_mult",
    "fc_layers": "fc_layers",
    "fc_dim": "fc_dim",
    "glob_avg": "glob_avg",
}

_WHOLE = frozenset({"channels", "n_cells", "ks", "stem_type", "c_mult", "fc_layers", "fc_dim"})
_COUNTS = tuple((name, field) for name, field in _RECORD.items() if field in _WHOLE)
_KNOWN = frozenset(OPS)


def _check_cell(name: str, edges: tuple[Edge, ...], concat: tuple[int, ...]) -> None:
    if not edges or len(edges) % 2:
        raise GenotypeError(f"{name} cell has {len(edges)} edges; it needs two per step, at least one step")
    for j, (op, source) in enumerate(edges):
        if op not in _KNOWN:
            raise GenotypeError(f"{name} cell, edge {j}: unknown operation {op!r}; known are {', '.join(OPS)}")
        if not 0 <= source < j // 2 + 2:
            raise GenotypeError(f"{name} cell, edge {j} reads state {source}; step {j // 2} sees 0..{j // 2 + 1}")
    last = len(edges) // 2 + 1
    if not concat or len(set(concat)) != len(concat) or not all(2 <= i <= last for i in concat):
        raise GenotypeError(f"{name} cell concatenates states {list(concat)}; give distinct ones of 2..{last}")


def _check_stack(g: Genotype) -> None:
    for name, field in _COUNTS:
        if type(getattr(g, field)) is not int:
            raise GenotypeError(f"{name} is {getattr(g, field)!r}; it must be a whole number")
    for holds, message in _CHECKS:
        if not holds(g):
            raise GenotypeError(message.format(g=g))


_CHECKS: tuple[tuple[Callable[[Genotype], bool], str], ...] = (
    (lambda g: g.n_cells >= 1, "n_cells is {g.n_cells}; at least one cell is needed"),
    (
        lambda g: g.channels >= HEADS and g.channels % HEADS == 0,
        f"C is {{g.channels}}; it must be a multiple of {HEADS}",
    ),
    (lambda g: g.ks >= 1 and g.ks % 2 == 1, "ks is {g.ks}; the stem's kernel must be odd"),
    (lambda g: g.stem_type in (0, 1), "stem_type is {g.stem_type!r}; known are 0 and 1"),
    (lambda g: g.norm is None or str(g.norm).startswith("bn"), "norm is {g.norm!r}; known are None and 'bnorm'"),
    (lambda g: g.c_mult >= 1, "C_mult is {g.c_mult}; it must be 1 or more"),
    (
        lambda g: g.preproc or (g.steps == 1 and g.c_mult == 1),
        "without preproc only one step and C_mult 1 fit together",
    ),
    (
        lambda g: g.fc_layers >= 0 and g.fc_dim >= 1,
        "fc_layers is {g.fc_layers}, fc_dim {g.fc_dim}; not negative, please",
    ),
)


def _edges(rows: Sequence[Sequence[Any]]) -> tuple[Edge, ...]:
    return tuple((str(op), int(source)) for op, source in rows)
