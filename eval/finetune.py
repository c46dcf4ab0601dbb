"""Accuracy against steps of fine-tuning, from several initialisations: what predicted weights are worth as a start.

Every initialisation gets the same learning rates to choose from, by validation images, and each seed gives all of them
the same images in the same order. Source of the few-shot protocol: Knyazev et al., NeurIPS 2021, appendix (100 images
a class of CIFAR-10, SGD with momentum, 50 epochs of a cosine, learning rate chosen on held-out images); ghn_spec 13.
"""

import copy
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import save
from torch import nn

from eval.evaluator import digest
from eval.images import SearchImages, balanced
from eval.predicted import weights_of
from eval.score import score
from ghn.errors import DataError, TrainingError
from ghn.files import write
from ghn.graph import ArchGraph
from ghn.hyper import Hypernet
from ghn.inits import NOISE, Given, initialise
from ghn.tracing import trace
from train.data import ImageSet, load
from train.seeds import INITIAL, mixed, seeded
from train.sgd import Schedule, descend

FEW_SHOT = Schedule(epochs=50, batch=96, lr=0.1, weight_decay=1e-3, nesterov=False)
RATES = (0.01, 0.03, 0.1)
FIRST = (0, 1, 2, 5)  # marks, and so on in tens


@dataclass(frozen=True)
class Parts:
    """Images to train on, to choose by, and to draw the curve with: `shown` are test images, or in a search `val`."""

    train: ImageSet
    val: ImageSet
    shown: ImageSet

    @classmethod
    def load(
        cls,
        where: str | Path | None,
        *,
        shots: int | None = None,
        side: int | None = None,
        val: int | None = None,
        test: int | None = None,
        augmentation: str = "cifar",
    ) -> Self:
        """Of the set at `where`: the first `shots` training images of each class (None: all), and so many of the
        validation and the test images, evenly by class (None: all). augmentation: how training images are changed,
        'cifar' (shifted, mirrored) or 'mirror'. Raises DataError."""
        train = SearchImages.load(where, "train", side=side).images
        if shots is not None:
            train = balanced(train, shots * len(train.classes))
        held = SearchImages.load(where, "val", val, side).images
        shown = load("test", where, side=side)
        shown = balanced(shown, test) if test else shown
        return cls(train.augmented(augmentation), held, shown.resized(side) if side else shown)

    def __post_init__(self) -> None:
        if not self.train.classes == self.val.classes == self.shown.classes:
            raise DataError("the parts of the image set have different classes; give one set")


@dataclass(frozen=True)
class Subject:
    """A network to be trained. build: makes it anew, with its own initialisation, from torch's generator."""

    name: str
    build: Callable[[], nn.Module]
    graph: ArchGraph

    @classmethod
    def of(cls, name: str, build: Callable[[], nn.Module]) -> Self:
        return cls(name, build, trace(build()))


@dataclass(frozen=True)
class Start:
    """An initialisation: a name of `ghn.inits.INITS` or a safetensors file, and what the predicted ones need."""

    name: str
    hyper: Hypernet | None = None
    noise: float = NOISE
    first: int = 0
    strict: bool = True

    def __call__(self, subject: Subject, classes: int, seed: int) -> nn.Module:
        with seeded(mixed(seed, 0, INITIAL)):
            model = copy.deepcopy(subject.build())  # a user's function may return the same module again
        generator = torch.Generator().manual_seed(mixed(seed, 1, INITIAL))
        given = Given(subject.graph, generator, classes, self.hyper, self.noise, self.first, self.strict)
        return initialise(self.name, model, given)


@dataclass(frozen=True)
class Curve:
    """One training. steps, accuracy, loss: on the images shown, batch norms by batch statistics. val: accuracy at the
    end, by which a learning rate is chosen. error: why there is none of it."""

    init: str
    lr: float
    seed: int
    steps: tuple[int, ...] = ()
    accuracy: tuple[float, ...] = ()
    loss: tuple[float, ...] = ()
    val: float = -1.0
    error: str | None = None

    @property
    def name(self) -> str:
        return f"{Path(self.init).stem}-lr{self.lr:g}-seed{self.seed}"


@dataclass(frozen=True)
class Finetuned:
    """curves: at each initialisation's own learning rate, one a seed. tried: those of the first seed at every rate."""

    curves: tuple[Curve, ...]
    tried: tuple[Curve, ...]
    rates: Mapping[str, float] = field(default_factory=dict)


def finetune(
    subject: Subject,
    starts: Sequence[Start],
    parts: Parts,
    schedule: Schedule = FEW_SHOT,
    *,
    rates: Sequence[float] = RATES,
    seeds: Sequence[int] = (0, 1, 2),
    folder: Path | None = None,
    device: torch.device | str = "cpu",
    progress: Callable[[Curve, int], object] = lambda curve, step: None,
) -> Finetuned:
    """Every start at the rate of these that is best on `parts.val` for the first seed, and then with all seeds.

    folder: keeps every training, finished or under way, and the final weights; what is there is not done again.
    device: where it is trained and scored; initial weights are the same on any.
    progress: called with what is trained, and the steps done. Raises TrainingError where no rate is low enough.
    """

    def run(start: Start, lr: float, seed: int) -> Curve:
        rated = replace(schedule, lr=lr)
        return tune(subject, start, parts, rated, seed, folder=folder, device=device, progress=progress)

    tried = [run(start, lr, seeds[0]) for start, lr in product(starts, rates)]
    chosen = {start.name: _best([c for c in tried if c.init == start.name]) for start in starts}
    curves = [run(start, chosen[start.name], seed) for start, seed in product(starts, seeds)]
    return Finetuned(tuple(curves), tuple(tried), chosen)


def tune(
    subject: Subject,
    start: Start,
    parts: Parts,
    schedule: Schedule,
    seed: int,
    *,
    folder: Path | None = None,
    device: torch.device | str = "cpu",
    progress: Callable[[Curve, int], object] = lambda curve, step: None,
) -> Curve:
    """One training of the subject from this start on this device; what diverges is a curve with an error.

    With a folder, NAME.json holds the curve and NAME.safetensors the final weights; while it trains, NAME.state.
    """
    curve = Curve(start.name, schedule.lr, seed)
    key = _key(subject, start, parts, schedule)
    file = folder / f"{curve.name}.json" if folder else None
    if file is not None and file.exists():
        return _read(file, key)
    model = start(subject, len(parts.train.classes), seed).to(device)
    steps = marks(schedule.total(len(parts.train)))

    def watch(step: int) -> tuple[float, float]:
        found = score(model, parts.shown)
        return found.accuracy, found.loss

    state = file.with_suffix(f".{key}.state") if file else None
    try:
        found = descend(
            model,
            parts.train,
            schedule,
            seed,
            marks=steps,
            watch=watch,
            file=state,
            progress=lambda step: progress(curve, step),
        )
        accuracy, loss = zip(*found, strict=True)
        curve = replace(curve, steps=steps, accuracy=accuracy, loss=loss, val=score(model, parts.val).accuracy)
    except TrainingError as error:
        curve = replace(curve, error=str(error))
    if file is not None and state is not None:
        _write(file, model, key, curve)
        state.unlink(missing_ok=True)
    return curve


def marks(total: int) -> tuple[int, ...]:
    """0, 1, 2, 5, 10, 20, 50 ... and `total`: where a curve has points."""
    found = {first * 10**power for first in FIRST for power in range(9)}
    return tuple(sorted({m for m in found if m < total} | {total}))


def _best(curves: Sequence[Curve]) -> float:
    """The rate that validation images prefer; of equals the lowest."""
    able = [c for c in curves if c.error is None]
    if not able:
        raise TrainingError(f"{curves[0].init}: {curves[0].error}; it diverges at every rate tried")
    return max(able, key=lambda c: (c.val, -c.lr)).lr


def _key(subject: Subject, start: Start, parts: Parts, schedule: Schedule) -> str:
    """What tells one training from others of the same name."""
    content = [SearchImages(parts.train, "train").content, SearchImages(parts.val, "val").content, len(parts.shown)]
    hyper = weights_of(start.hyper) if start.hyper else ""
    file = Path(start.name).read_bytes() if start.name.endswith(".safetensors") else b""
    train = [parts.train.side, parts.train.augmentation]
    settings = [asdict(schedule), content, train, start.noise, start.first, subject.name]
    return digest([json.dumps(settings), subject.graph.key, hashlib.sha256(file).hexdigest(), hyper])


def _write(file: Path, model: nn.Module, key: str, curve: Curve) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if curve.error is None:
        write(
            file.with_suffix(".safetensors"),
            save({n: v.cpu().contiguous().clone() for n, v in model.state_dict().items()}),
        )
    write(file, (json.dumps({"key": key, **asdict(curve)}) + "\n").encode())


def _read(file: Path, key: str) -> Curve:
    try:
        record: dict[str, Any] = json.loads(file.read_text())
        found = record.pop("key")
        lists: dict[str, Any] = {name: tuple(value) for name, value in record.items() if isinstance(value, list)}
        curve = Curve(**{**record, **lists})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file} is no finished training ({error}); delete it") from error
    if found != key:
        raise DataError(f"{file} is of another run, with other settings; give another folder")
    return curve
