"""Evaluators by what a user writes: 'NAME' or 'NAME:ARGUMENT', several joined by '+'. A new one is a line in MAKERS."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from eval.evaluator import Evaluator
from search.errors import SearchError
from search.space import SearchSpace

if TYPE_CHECKING:
    from eval.images import SearchImages
    from ghn.hyper import Hypernet

ZERO_COST = ("naswot", "synflow", "snip", "grad_norm", "jacov", "params", "flops")  # told without waiting for torch


@dataclass(frozen=True)
class Resources:
    """What evaluators are made from. tables, data: folders, or the environment's. checkpoint: of the GHN.

    images: of the validation part, evenly by class. side: of the images in pixels. batch: that batch norms see.
    folder: for networks under training.
    """

    space: SearchSpace
    tables: str | None = None
    data: str | None = None
    checkpoint: str = "ghn2-cifar10"
    images: int = 256
    side: int | None = None
    batch: int = 64
    folder: Path | None = None

    def make(self, spec: str) -> Evaluator:
        """The evaluator of this text. Raises SearchError where it is none, DataError where data for it is missing."""
        parts = [self._single(part) for part in spec.split("+")]
        if len(parts) == 1:
            return parts[0]
        from eval.wrap import Joined

        return Joined(parts)

    def _single(self, spec: str) -> Evaluator:
        name, _, argument = spec.partition(":")
        if name not in MAKERS:
            raise SearchError(f"no evaluator {name!r}; there are {', '.join(MAKERS)}")
        return MAKERS[name](self, name, argument)

    @cached_property
    def hyper(self) -> "Hypernet":
        import ghn

        return ghn.load(self.checkpoint)

    @cached_property
    def val(self) -> "SearchImages":
        from eval.images import SearchImages

        return SearchImages.load(self.data, "val", self.images, self.side)


def _tabular(r: Resources, name: str, argument: str) -> Evaluator:
    from eval.tabular import Tabular

    return Tabular(r.space.tables, argument, r.tables)


def _predicted(r: Resources, name: str, argument: str) -> Evaluator:
    from eval.predicted import Predicted

    return Predicted(r.hyper, r.space, r.val, r.batch)


def _zerocost(r: Resources, name: str, argument: str) -> Evaluator:
    from eval.zerocost import BLIND, ZeroCost

    return ZeroCost(name, r.space, None if name in BLIND else r.val, r.side or 32)


def _trained(r: Resources, name: str, argument: str) -> Evaluator:
    from eval.images import SearchImages
    from eval.trained import Trained
    from train.sgd import Schedule

    if not argument.isdecimal() or int(argument) < 1:
        raise SearchError(f"'trained' needs a number of epochs, as trained:3, not {argument!r}")
    train = SearchImages.load(r.data, "train", side=r.side)
    return Trained(r.space, train, r.val, Schedule(int(argument)), folder=r.folder)


def _latency(r: Resources, name: str, argument: str) -> Evaluator:
    from eval.latency import Latency

    return Latency(r.space, r.side or 32)


MAKERS: dict[str, Callable[[Resources, str, str], Evaluator]] = {
    "tabular": _tabular,
    "predicted": _predicted,
    **dict.fromkeys(ZERO_COST, _zerocost),
    "trained": _trained,
    "latency": _latency,
}
