"""What the tests of training share: tiny runs on the packaged images."""

from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from train.config import Recipe, Stage
from train.data import load_sample
from train.loop import Trainer

TINY = Stage(
    steps=6, image_size=16, images=6, networks=2, channels=8, max_params=60_000, max_nodes=80, max_macs=2 * 10**6
)


def tiny(**changes: object) -> Recipe:
    """A run of six steps on small networks with everything switched on."""
    fields = {
        "name": "tiny",
        "stages": (TINY,),
        "ghn": {"hid": 8, "max_shape": [16, 16, 5, 5]},
        "corpus": 3,
        "stratified": True,
        "warmup": 2,
        "ema": 0.9,
        "clip_network": 5.0,
        "node_budget": 100,
        "val_networks": 1,
        "val_images": 20,
        "val_every": 2,
        "save_every": 2,
    }
    return Recipe(**{**fields, **changes})  # ty: ignore[invalid-argument-type]


def trainer(recipe: Recipe, folder: Path) -> Trainer:
    """A trainer on the packaged images: 900 train, 100 validate. Calculates with one thread, as every run does."""
    torch.set_num_threads(1)
    sample = load_sample()
    index = torch.arange(len(sample))
    return Trainer(recipe, sample.take(index[:900]), sample.take(index[900:]), folder / "checkpoints")


def write_pictures(folder: Path, classes: int, each: int) -> Path:
    """The folder, with so many real pictures of each of so many classes for every split, in folders of their names."""
    from PIL import Image

    sample = load_sample()
    for label, name in enumerate(sample.classes[:classes]):
        places = torch.nonzero(sample.labels == label).flatten()
        for i, split in enumerate(("train", "val", "test")):
            (folder / split / name).mkdir(parents=True)
            for place in places[each * i : each * (i + 1)].tolist():
                picture = Image.fromarray(sample.pixels[place].permute(1, 2, 0).numpy())
                picture.save(folder / split / name / f"{place}.png")
    return folder


def kept_bytes(run: Callable[[], object], without: Iterable[torch.Tensor] = ()) -> int:
    """What autograd keeps of the run for a backward pass, besides these tensors; views count once."""
    kept: dict[int, torch.Tensor] = {}  # the tensors too, or a later one would lie in a freed one's place

    def pack(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        run()
    own = {x.untyped_storage().data_ptr() for x in without}
    return sum(x.untyped_storage().nbytes() for place, x in kept.items() if place not in own)


def tensors(run: Trainer) -> dict[str, torch.Tensor]:
    """Everything that training changes, under names."""
    from train.optim import optimiser_tensors

    parts = {
        "model": run.ghn.state_dict(),
        "average": run.average.state_dict(),
        "optimiser": optimiser_tensors(run.ghn, run.optimiser),
    }
    return {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}
