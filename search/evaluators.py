"""Evaluators by what a user writes: 'NAME' or 'NAME:ARGUMENT', with '.METRIC' after the name for one metric of several;
several joined by '+'. A new one is a line in MAKERS."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from eval.evaluator import Arch, Evaluator
from search.errors import SearchError
from search.space import SearchSpace
from search.spaces import make_space

if TYPE_CHECKING:
    from eval.images import SearchImages
    from eval.learned import Encoding
    from ghn.hyper import Hypernet

SAMPLE = 200  # random architectures that `blend` compares with
LABELS = 100  # that `learned` draws from a table
FEATURES = "genes,params"  # that `learned` reads unless told otherwise
ZERO_COST = ("naswot", "synflow", "snip", "grad_norm", "jacov", "params", "flops")  # told without waiting for torch
COUNTS = ("params", "flops")  # that are of the space's own networks, whatever stands for them elsewhere
READ = ("predicted", *ZERO_COST)  # evaluators that `learned` can read


@dataclass(frozen=True)
class Resources:
    """What evaluators are made from. tables, data: folders, or the environment's. checkpoint: of the GHN.

    images: of the validation part, evenly by class. side: of the images in pixels. batch: that batch norms see.
    folder: for networks under training. proxy: settings of the space for the networks that are scored without training,
    such as fewer cells. seed: of the labels and samples that are drawn.
    """

    space: SearchSpace
    tables: str | None = None
    data: str | None = None
    checkpoint: str = "ghn2-cifar10"
    images: int = 256
    side: int | None = None
    batch: int = 64
    folder: Path | None = None
    proxy: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0

    def make(self, spec: str) -> Evaluator:
        """The evaluator of this text. Raises SearchError where it is none, DataError where data for it is missing."""
        parts = [self._single(part) for part in spec.split("+")]
        if len(parts) == 1:
            return parts[0]
        from eval.wrap import Joined

        return Joined(parts)

    def options(self, spec: str) -> dict[str, Any]:
        """What the evaluator of this text is made from, as the options of the commands have it; without what plays no
        part in it. Ready for JSON."""
        from eval.zerocost import BLIND

        names = set(re.split("[:,+.]", spec))
        found: dict[str, Any] = {"space": self.space.name, "evaluator": spec}
        if names & {"predicted", "ghn"}:
            found["checkpoint"] = Path(self.checkpoint).name
        if names & {*READ} - {*BLIND}:
            found["images"] = self.images
        if names & {"ghn", "trained", *READ}:
            found["image_size"] = self.side
        if names & {"ghn", *READ} - {*COUNTS}:
            found["proxy"] = dict(self.proxy)
        return found

    def _single(self, spec: str) -> Evaluator:
        given, _, argument = spec.partition(":")
        name, _, metric = given.partition(".")
        if name not in MAKERS:
            raise SearchError(f"no evaluator {name!r}; there are {', '.join(MAKERS)}")
        evaluator = MAKERS[name](self, name, argument)
        if not metric:
            return evaluator
        from eval.wrap import Only

        return Only(evaluator, metric)

    @cached_property
    def small(self) -> SearchSpace:
        """The space whose networks stand for those of `space`; the same genes name the same architecture in both."""
        return make_space(self.space.name, **self.proxy) if self.proxy else self.space

    @cached_property
    def hyper(self) -> "Hypernet":
        import ghn

        return ghn.load(self.checkpoint)

    @cached_property
    def val(self) -> "SearchImages":
        from eval.images import SearchImages

        return SearchImages.load(self.data, "val", self.images, self.side)

    @cached_property
    def train(self) -> "SearchImages":
        from eval.images import SearchImages

        return SearchImages.load(self.data, "train", side=self.side)


def _tabular(r: Resources, name: str, argument: str) -> Evaluator:
    from eval.tabular import Tabular

    return Tabular(r.space.tables, argument, r.tables)


def _predicted(r: Resources, name: str, argument: str) -> Evaluator:
    from eval.predicted import Predicted, Steps

    if argument and not _counts(argument):
        raise SearchError(f"'predicted' takes a number of steps of training, as predicted:5, not {argument!r}")
    steps = Steps(r.train, int(argument)) if argument else None
    return Predicted(r.hyper, r.small, r.val, r.batch, steps)


def _zerocost(r: Resources, name: str, argument: str) -> Evaluator:
    from eval.zerocost import BLIND, ZeroCost

    space = r.space if name in COUNTS else r.small
    return ZeroCost(name, space, None if name in BLIND else r.val, r.side or 32)


def _trained(r: Resources, name: str, argument: str) -> Evaluator:
    from eval.trained import Trained
    from train.sgd import Schedule

    if not _counts(argument):
        raise SearchError(f"'trained' needs a number of epochs, as trained:3, not {argument!r}")
    return Trained(r.space, r.train, r.val, Schedule(int(argument)), folder=r.folder)


def _latency(r: Resources, name: str, argument: str) -> Evaluator:
    from eval.latency import Latency

    return Latency(r.space, r.side or 32)


def _learned(r: Resources, name: str, argument: str) -> Evaluator:
    """learned:SOURCE:COUNT:FEATURES; the last two may be left out, and COUNT be empty."""
    from eval.learned import Beside, Learned
    from search.labels import FILES, from_file, from_table

    source, _, rest = argument.partition(":")
    count, _, features = rest.partition(":")
    if not source or (count and not _counts(count)):
        raise SearchError(
            f"'learned' needs labels, as learned:cifar10_valid_12:100 or learned:scores.json, not {argument!r}"
        )
    names = (features or FEATURES).split(",")
    if unknown := [n for n in names if n not in ENCODINGS and n not in READ]:
        known = ", ".join([*ENCODINGS, *READ])
        raise SearchError(f"'learned' cannot read {unknown[0]!r}; give some of {known}, with commas between")
    if source.endswith(FILES):
        labels = from_file(r.space, Path(source).expanduser(), int(count) if count else None, r.seed)
    else:
        labels = from_table(r.space, source, int(count or LABELS), r.tables, r.seed)
    others = "+".join(n for n in names if n not in ENCODINGS)
    encode = Beside([ENCODINGS[n](r) for n in names if n in ENCODINGS])
    return Learned(encode, labels.rows, labels.sees, inner=r.make(others) if others else None, seed=r.seed)


def _blend(r: Resources, name: str, argument: str) -> Evaluator:
    """blend:E,E,...; `learned` last, whose features have commas as well."""
    from eval.wrap import Blended

    simple, learned, rest = f",{argument}".partition(",learned:")
    specs = [*simple[1:].split(","), *([learned[1:] + rest] if learned else [])]
    if len(specs) < 2 or any(s.partition(":")[0] in ("", name) for s in specs):
        raise SearchError(f"'blend' needs two evaluators or more, as blend:jacov,params, not {argument!r}")
    rng = Random("blend")  # whatever the seed: a yardstick, so that searches of all seeds see the same scores
    return Blended([r.make(s) for s in specs], [r.space.sample(rng) for _ in range(SAMPLE)])


def _genes(r: Resources) -> "Encoding":
    return r.space.encode


def _embedding(r: Resources) -> "Encoding":
    hyper, space = r.hyper, r.small
    return partial(_embedded, hyper, space, r.side or hyper.image_size)


def _embedded(hyper: "Hypernet", space: SearchSpace, side: int, arch: Arch) -> list[float]:
    return hyper.embed(graph=space.graph(arch, len(hyper.classes), side)).tolist()


def _counts(text: str) -> bool:
    """Whether this is a whole number from 1 on."""
    return text.isdecimal() and int(text) > 0


ENCODINGS: dict[str, Callable[[Resources], "Encoding"]] = {"genes": _genes, "ghn": _embedding}
MAKERS: dict[str, Callable[[Resources, str, str], Evaluator]] = {
    "tabular": _tabular,
    "predicted": _predicted,
    **dict.fromkeys(ZERO_COST, _zerocost),
    "trained": _trained,
    "latency": _latency,
    "learned": _learned,
    "blend": _blend,
}
