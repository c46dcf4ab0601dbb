"""Recipe: every number of a training run, as plain frozen data that is written next to its results."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ghn.errors import GHNError


class RecipeError(GHNError, ValueError):
    """A recipe that does not exist or whose numbers cannot be run."""


@dataclass(frozen=True)
class Stage:
    """One part of the curriculum. Later stages usually show larger images to larger networks.

    steps: meta-batches. image_size: pixels. images: per network. networks: per meta-batch.
    channels: initial width C of every network; None draws it per network as DeepNets-1M's loader does.
    max_params, max_nodes, max_macs: networks above these are left out of the stage and counted; None is no limit.
    """

    steps: int
    image_size: int = 32
    images: int = 64
    networks: int = 8
    channels: int | None = None
    max_params: int | None = None
    max_nodes: int | None = None
    max_macs: int | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "image_size", "networks"):
            _at_least(self, name, 1)
        _at_least(self, "images", 2)  # a batch norm has no statistics of one image after the pooling
        for name in ("channels", "max_params", "max_nodes", "max_macs"):
            if getattr(self, name) is not None:
                _at_least(self, name, 1)


@dataclass(frozen=True)
class Recipe:
    """A whole run.

    ghn: fields of GHNConfig that differ from its defaults. corpus: networks per stage's pool.
    warmup: steps of linear growth of the learning rate. milestones: fractions of the run after which it drops to a
    tenth; without any, it falls as a cosine to lr * lr_floor. clip: largest gradient norm. clip_network: largest norm
    of one network's gradient with respect to its weights.
    ema: decay of the averaged weights, which are the ones evaluated and shipped. bf16: networks run in autocast.
    dropout: networks drop units as their modules say.
    node_budget: nodes in one forward of the GHN; a larger meta-batch is run in pieces, nothing is left out.
    parts: into how many parts of equal cost a meta-batch is divided; processes take whole parts. The GHN runs once for
    each, and their gradients are added in order, so that the result depends on this number but not on the processes'.
    None becomes the number of processes that the run is started with.
    shared_images: all networks of a meta-batch see the same images.
    val_networks, val_images: the fixed held-out handful that is scored every `val_every` steps.
    save_every: steps between checkpoints, of which the last `keep` stay.
    """

    name: str
    stages: tuple[Stage, ...]
    ghn: Mapping[str, Any] = field(default_factory=dict)
    corpus: int = 1000
    optimiser: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 1e-2
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: int = 0
    milestones: tuple[float, ...] = ()
    lr_floor: float = 0.0
    clip: float = 5.0
    clip_network: float | None = None
    label_smoothing: float = 0.0
    ema: float = 0.999
    bf16: bool = False
    dropout: bool = True
    node_budget: int = 2200
    parts: int | None = None
    shared_images: bool = False
    val_networks: int = 8
    val_images: int = 500
    val_every: int = 500
    save_every: int = 200
    keep: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.stages:
            raise RecipeError(f"recipe {self.name!r} has no stages")
        if self.optimiser not in ("adam", "adamw"):
            raise RecipeError(f"optimiser {self.optimiser!r} is neither 'adam' nor 'adamw'")
        if not 0 <= self.ema < 1 or not 0 <= self.label_smoothing < 1:
            raise RecipeError(f"ema ({self.ema}) and label_smoothing ({self.label_smoothing}) must be in [0, 1)")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise RecipeError(f"betas are two numbers in [0, 1), not {self.betas}")
        for name in ("corpus", "node_budget", "val_every", "save_every", "keep"):
            _at_least(self, name, 1)
        for name in ("lr", "weight_decay", "warmup", "clip", "lr_floor", "val_networks", "val_images", "seed"):
            _at_least(self, name, 0)
        if self.parts is not None:
            _at_least(self, "parts", 1)

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> int:
        """Index of the stage that a step (from 0) belongs to."""
        for index, stage in enumerate(self.stages):
            step -= stage.steps
            if step < 0:
                return index
        return len(self.stages) - 1

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready data; `from_dict` gives the same recipe back."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Recipe":
        """The recipe that `to_dict` wrote. Raises RecipeError on unknown, missing or mistyped fields."""
        values = {key: _typed(cls, key, value) for key, value in data.items()}
        try:
            values["stages"] = tuple(
                Stage(**{key: _typed(Stage, key, value) for key, value in stage.items()}) for stage in data["stages"]
            )
            return cls(**values)
        except (KeyError, TypeError, AttributeError) as error:
            raise RecipeError(f"not a recipe: {type(error).__name__} {error}") from error

    def changed(self, assignments: Iterable[str]) -> "Recipe":
        """The recipe after assignments like 'lr=3e-4' or 'stages.0.steps=100'; values are JSON or bare words."""
        data = self.to_dict()
        for assignment in assignments:
            path, equals, text = assignment.partition("=")
            if not equals:
                raise RecipeError(f"{assignment!r} is not of the form key=value")
            _assign(data, path.strip(), _parse(text.strip()))
        return Recipe.from_dict(data)


_KINDS: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "int | None": (int, type(None)),
    "float": (int, float),
    "float | None": (int, float, type(None)),
    "bool": (bool,),
    "str": (str,),
}


def _typed(owner: type, key: str, value: Any) -> Any:
    known = {f.name: getattr(f.type, "__name__", None) or str(f.type) for f in fields(owner)}  # ty: ignore[invalid-argument-type]
    if key not in known:
        raise RecipeError(f"{owner.__name__.lower()} has no field {key!r}; it has {', '.join(known)}")
    kinds = _KINDS.get(known[key])
    if kinds and (not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)):
        raise RecipeError(f"{key} must be of type {known[key]}, got {value!r}")
    return tuple(value) if isinstance(value, list) else value


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _assign(data: Any, path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for part in parents:
        try:
            data = data[int(part)] if isinstance(data, list) else data[part]
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise RecipeError(f"recipe has no {part!r} in {path!r}") from error
    if not isinstance(data, dict):
        raise RecipeError(f"{path!r} does not name a field of a recipe")
    data[last] = value


def _at_least(owner: Any, name: str, least: float) -> None:
    value = getattr(owner, name)
    if not value >= least:
        raise RecipeError(f"{name} must be at least {least}, got {value}")
