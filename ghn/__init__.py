"""Predict every weight of an unseen network in one forward pass of a graph hypernetwork.

import ghn
torchvision = ghn.import_torchvision()
hyper = ghn.load("ghn2-cifar10")
model = ghn.adjust_stem(torchvision.models.resnet50(num_classes=10), 32)
weights, report = hyper.predict(model)
"""

from ghn.lazy import exports

__version__ = "0.1.0"

# name -> module that defines it. Loaded on first use, so that `ghn --help` does not wait for torch.
_EXPORTS = {
    "ArchGraph": "ghn.graph",
    "ParamSlot": "ghn.graph",
    "Primitive": "ghn.primitives",
    "Role": "ghn.primitives",
    "GraphBatch": "ghn.batch",
    "GHN": "ghn.model",
    "GHNConfig": "ghn.family",
    "member": "ghn.family",
    "Hypernet": "ghn.hyper",
    "Report": "ghn.hyper",
    "load": "ghn.io",
    "save": "ghn.io",
    "convert": "ghn.io",
    "checkpoints": "ghn.io",
    "register": "ghn.tracing",
    "trace": "ghn.tracing",
    "adjust_stem": "ghn.stem",
    "adjust_channels": "ghn.ends",
    "adjust_classes": "ghn.ends",
    "batch_statistics": "ghn.norms",
    "sustain_variance": "ghn.variance",
    "functional": "ghn.assign",
    "import_torchvision": "ghn._compat",
    "GHNError": "ghn.errors",
    "GraphError": "ghn.errors",
    "TraceError": "ghn.errors",
    "CoverageError": "ghn.errors",
    "CheckpointError": "ghn.errors",
    "ModelError": "ghn.errors",
    "DataError": "ghn.errors",
}
__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = exports(globals(), _EXPORTS)
