"""What a search found, as files that need nothing of ours."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from eval.evaluator import Arch
from ghn.files import write
from search.space import SearchSpace

if TYPE_CHECKING:
    from torch import nn

    from ghn.hyper import Hypernet

SOURCE, WEIGHTS, RECORD = "network.py", "weights.safetensors", "arch.json"


def predicted(space: SearchSpace, arch: Arch, hyper: "Hypernet", image_size: int) -> "nn.Module":
    """The network with predicted weights. Raises GenotypeError where there is none of this image size."""
    classes = len(hyper.classes)
    return hyper.init(space.build(arch, classes, image_size), graph=space.graph(arch, classes, image_size))


def export(
    space: SearchSpace, arch: Arch, folder: Path, model: "nn.Module", classes: tuple[str, ...], image_size: int
) -> None:
    """Writes this architecture's network. network.py: its class `Network`, of torch's layers alone.
    weights.safetensors: its state_dict. arch.json: the architecture.

    Batch norms of our spaces go by batch statistics, so that batches need two images or more.
    """
    from safetensors.torch import save

    from search.source import source

    text = source(model.eval(), f"{space.name}: {space.describe(arch)}", image_size, len(classes))
    record = {**arch.to_dict(), "choices": space.choices(arch), "classes": classes, "image_size": image_size}
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / SOURCE, text.encode())
    write(folder / WEIGHTS, save({name: v.detach().contiguous().clone() for name, v in model.state_dict().items()}))
    write(folder / RECORD, (json.dumps(record, indent=1) + "\n").encode())
