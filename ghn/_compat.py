"""torchvision's import, mended where its compiled half does not fit the installed torch."""

import importlib
import sys
from types import ModuleType

import torch

# The import dies on fake kernels for these two; every other operator is looked for before it is used.
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library: torch.library.Library | None = None  # definitions last as long as this object


def import_torchvision() -> ModuleType:
    """The torchvision package; call it before anything else imports torchvision, timm or transformers.

    A wheel built for CUDA next to a CPU torch skips its operators and then fails on their absence: two are declared
    (never implemented) so that the models and transforms load. Where torchvision imports as it is, nothing is done.
    Raises ImportError where it is not installed.
    """
    global _library
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if _library is not None or "torchvision::nms does not exist" not in str(error):
            raise
    for name in [n for n in sys.modules if n == "torchvision" or n.startswith("torchvision.")]:
        del sys.modules[name]
    _library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        _library.define(schema)
    return importlib.import_module("torchvision")
