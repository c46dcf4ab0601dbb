"""What a search found, as files that need nothing of ours."""

import io
import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from eval.evaluator import Arch
from ghn.files import write
from search.space import SearchSpace

if TYPE_CHECKING:
    from ghn.hyper import Hypernet

PROGRAM, WEIGHTS, RECORD = "network.pt2", "weights.safetensors", "arch.json"


def export(space: SearchSpace, arch: Arch, folder: Path, hyper: "Hypernet", image_size: int) -> None:
    """Writes the network with predicted weights. network.pt2: `torch.export.load(FILE).module()` runs it on batches of
    two images or more, by batch statistics. weights.safetensors: its parameters. arch.json: the architecture.

    Raises GenotypeError where the architecture makes no module of this image size.
    """
    import torch
    from safetensors.torch import save

    model = space.build(arch, len(hyper.classes), image_size)
    model = hyper.init(model, graph=space.graph(arch, len(hyper.classes), image_size)).eval()
    x = torch.zeros(2, 3, image_size, image_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own deprecations
        program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=2)},))
    folder.mkdir(parents=True, exist_ok=True)
    packed = io.BytesIO()
    torch.export.save(program, packed)
    write(folder / PROGRAM, packed.getvalue())
    write(folder / WEIGHTS, save({name: p.detach().contiguous() for name, p in model.named_parameters()}))
    record = {**arch.to_dict(), "choices": space.choices(arch), "classes": hyper.classes, "image_size": image_size}
    write(folder / RECORD, (json.dumps(record, indent=1) + "\n").encode())
