"""Recipe: every number of a training run, as plain frozen data that is written next to its results."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from deepnets_gen.genotype import OPS
from deepnets_gen.splits import SPLITS
from ghn.errors import GHNError
from ghn.model import GHNConfig
from train.augment import AUGMENTATIONS

OPTIMISERS = ("adam", "adamw", "muon")


class RecipeError(GHNError, ValueError):
    """A recipe that does not exist or whose numbers cannot be run."""


@dataclass(frozen=True)
class Stage:
    """One part of the curriculum. Later stages usually show larger images to larger networks.

    steps: meta-batches. image_size: pixels; None becomes that of the data. images: per network. networks: per
    meta-batch.
    channels: initial width C of every network; None draws it per network as DeepNets-1M's loader does.
    max_params, max_nodes, max_macs: networks above these are left out of the stage and counted; None is no limit.
    local_steps: as of the recipe, for this stage; None takes the recipe's.
    without: names of operations, as in a genotype; networks that have one are left out and counted.
    """

    steps: int
    image_size: int | None = 32
    images: int = 64
    networks: int = 8
    channels: int | None = None
    max_params: int | None = None
    max_nodes: int | None = None
    max_macs: int | None = None
    local_steps: int | None = None
    without: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("steps", "networks"):
            _at_least(self, name, 1)
        _at_least(self, "images", 2)  # a batch norm has no statistics of one image after the pooling
        for name in ("image_size", "channels", "max_params", "max_nodes", "max_macs", "local_steps"):
            if getattr(self, name) is not None:
                _at_least(self, name, 1)
        if unknown := set(self.without) - set(OPS):
            raise RecipeError(f"without names {', '.join(sorted(unknown))}; operations are {', '.join(OPS)}")

    @property
    def side(self) -> int:
        """The image size, of a stage that has been fitted to its data."""
        if self.image_size is None:
            raise RecipeError("a stage without image size must be fitted to its data first: Recipe.fitted")
        return self.image_size


@dataclass(frozen=True)
class Recipe:
    """A whole run.

    ghn: fields of GHNConfig that differ from its defaults; the classes come from the data. corpus: networks per
    stage's pool. splits: of `deepnets_gen`, to train on and to validate with.
    augmentation: of the images, 'cifar' (shift, mirror), 'mirror' or 'imagenet' (crop, mirror, colours).
    stratified: whether the images of a batch are spread evenly over the classes and looks (train/strata.py).
    identity: how much of the identity every predicted weight carries at the start (ConvDecoder.start_from_identity).
    optimiser: 'adam', 'adamw' or 'muon' (train/optim.py).
    weight_decay: with 'adam' it is L2 (a part of the gradient), with 'adamw' decoupled from it.
    warmup: steps in which the learning rate grows linearly, from warmup_from or, where that is 0, from lr / warmup.
    milestones: fractions of the run after which it drops to a tenth. Without any, it stays at lr and falls in the last
    part `decay` of the steps after the warm-up, as a cosine, to lr * lr_floor. Below 1, `decay` makes a run that can
    be made longer without a jump: until the fall its steps are those of every longer run.
    clip: largest gradient norm. clip_network: largest norm of one network's gradient with respect to its weights.
    norm_penalty: what each network's loss grows by for the norm of each of its weights (GHN-3: 3e-5).
    local_steps, local_rate: steps that each network takes by itself, with `images` each, and their length relative to
    the weights' (train/step.py). 1 is the plain gradient.
    ema: decay of the averaged weights, which are the ones evaluated and shipped. bf16: networks run in autocast.
    dropout: networks drop units as their modules say.
    recompute_above: MiB of a network's activations, as estimated, from which on those inside its blocks are calculated
    again in the backward pass in place of being kept (train/recompute.py); None keeps all. No result depends on it.
    node_budget: nodes in one forward of the GHN; a larger meta-batch is run in pieces, nothing is left out.
    parts: into how many parts of equal cost a meta-batch is divided; processes take whole parts. The GHN runs once for
    each, and their gradients are added in order, so that the result depends on this number but not on the processes'.
    None becomes the number of processes that the run is started with.
    shared_images: all networks of a meta-batch see the same images.
    val_networks, val_images: the fixed held-out handful that is scored every `val_every` steps.
    save_every: steps between checkpoints, of which the last `keep` stay.
    patience: steps in a row that may fail because nothing in them was finite; with one more the run stops.
    """

    name: str
    stages: tuple[Stage, ...]
    ghn: Mapping[str, Any] = field(default_factory=dict)
    corpus: int = 1000
    splits: tuple[str, str] = ("train", "val")
    augmentation: str = "cifar"
    stratified: bool = False
    identity: float = 0.0
    optimiser: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 1e-2
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: int = 0
    warmup_from: float = 0.0
    milestones: tuple[float, ...] = ()
    decay: float = 1.0
    lr_floor: float = 0.0
    clip: float = 5.0
    clip_network: float | None = None
    local_steps: int = 1
    local_rate: float = 0.03
    label_smoothing: float = 0.0
    norm_penalty: float = 0.0
    ema: float = 0.999
    bf16: bool = False
    dropout: bool = True
    recompute_above: int | None = 896
    node_budget: int = 2200
    parts: int | None = None
    shared_images: bool = False
    val_networks: int = 8
    val_images: int = 500
    val_every: int = 500
    save_every: int = 200
    keep: int = 2
    patience: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.stages:
            raise RecipeError(f"recipe {self.name!r} has no stages")
        if self.optimiser not in OPTIMISERS:
            raise RecipeError(f"optimiser {self.optimiser!r} is none of {', '.join(OPTIMISERS)}")
        if len(self.splits) != 2 or set(self.splits) - set(SPLITS):
            raise RecipeError(f"splits are two of {', '.join(SPLITS)}, not {self.splits}")
        if not 0 <= self.ema < 1 or not 0 <= self.label_smoothing < 1:
            raise RecipeError(f"ema ({self.ema}) and label_smoothing ({self.label_smoothing}) must be in [0, 1)")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise RecipeError(f"betas are two numbers in [0, 1), not {self.betas}")
        for name in ("corpus", "node_budget", "val_every", "save_every", "keep", "patience", "local_steps"):
            _at_least(self, name, 1)
        for name in ("lr", "weight_decay", "identity", "warmup", "warmup_from", "clip", "local_rate", "lr_floor"):
            _at_least(self, name, 0)
        for name in ("val_networks", "norm_penalty", "seed"):
            _at_least(self, name, 0)
        _at_least(self, "val_images", 1)
        if not 0 < self.decay <= 1 or not all(0 < fraction <= 1 for fraction in self.milestones):
            raise RecipeError(f"decay ({self.decay}) and milestones {self.milestones} are fractions of the run")
        decoder = self.ghn_config(1).decoder
        if self.identity and decoder not in ("conv", "centred"):
            raise RecipeError(
                f"identity is a start of 'conv' and 'centred' decoders; {decoder!r} has none: set it to 0"
            )
        if self.augmentation not in AUGMENTATIONS:
            raise RecipeError(f"augmentation {self.augmentation!r} is none of {', '.join(AUGMENTATIONS)}")
        for name in ("parts", "recompute_above"):
            if getattr(self, name) is not None:
                _at_least(self, name, 1)

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    @property
    def image_size(self) -> int | None:
        """The largest size at which images are shown; None where a stage takes the data's."""
        sizes = [stage.image_size for stage in self.stages]
        return None if None in sizes else max(size for size in sizes if size)

    def fitted(self, side: int) -> "Recipe":
        """The recipe for images of this side: stages without an image size get it."""
        return replace(self, stages=tuple(replace(s, image_size=s.image_size or side) for s in self.stages))

    def ghn_config(self, num_classes: int) -> GHNConfig:
        """The GHN that is trained on data of so many classes. Raises RecipeError on fields that it does not have."""
        try:
            return GHNConfig.from_dict(GHNConfig(num_classes=num_classes).to_dict() | dict(self.ghn))
        except (TypeError, ValueError) as error:
            raise RecipeError(f"ghn={dict(self.ghn)} does not describe a GHN: {error}") from error

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
