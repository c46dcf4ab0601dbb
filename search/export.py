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


def export(
    space: SearchSpace,
    arch: Arch,
    folder: Path,
    hyper: "Hypernet",
    image_size: int,
    trained: "nn.Module | None" = None,
) -> None:
    """Writes the network, with predicted weights or those of `trained`. network.py: its class `Network`, of torch's
    layers alone. weights.safetensors: its state_dict. arch.json: the architecture.

    Batch norms of our spaces go by batch statistics, so that batches need two images or more. Raises GenotypeError
    where the architecture makes no module of this image size.
    """
    from safetensors.torch import save

    from search.source import source

    classes = hyper.classes
    model = trained
    if model is None:
        model = space.build(arch, len(classes), image_size)
        model = hyper.init(model, graph=space.graph(arch, len(classes), image_size))
    text = source(model.eval(), f"{space.name}: {space.describe(arch)}", image_size, len(classes))
    record = {**arch.to_dict(), "choices": space.choices(arch), "classes": classes, "image_size": image_size}
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / SOURCE, text.encode())
    write(folder / WEIGHTS, save({name: v.detach().contiguous().clone() for name, v in model.state_dict().items()}))
    write(folder / RECORD, (json.dumps(record, indent=1) + "\n").encode())
