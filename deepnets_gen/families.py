"""Families of architectures, and what can be done with a genotype of any of them: graph, module, record.

A new family is one file that states its genotype and its sketch, one that builds modules, and one line in FAMILIES.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deepnets_gen.genotype import Genotype, GenotypeError
from deepnets_gen.spaces import deepnets, mobile, nasbench201, resnet, transformer
from ghn.graph import ArchGraph
from ghn.sketch import Sketch

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Family:
    """A kind of genotype: the class, with from_dict and to_dict. sketch: (genotype, num_classes, image_size) -> Sketch.

    builder: 'module:function' of (genotype, num_classes, image_size, device) -> nn.Module, imported when it is needed,
    for it needs torch.
    """

    name: str
    genotype: Any
    sketch: Callable[[Any, int, int], Sketch]
    builder: str


_NETS = "deepnets_gen.spaces.{}_net:build"
FAMILIES: dict[str, Family] = {
    name: Family(name, genotype, sketch, _NETS.format(name))
    for name, genotype, sketch in (
        ("deepnets", Genotype, deepnets.sketch),
        ("mobile", mobile.MobileGenotype, mobile.sketch),
        ("nasbench201", nasbench201.Nasbench201Genotype, nasbench201.sketch),
        ("resnet", resnet.ResNetGenotype, resnet.sketch),
        ("transformer", transformer.TransformerGenotype, transformer.sketch),
    )
}
_BY_TYPE = {family.genotype: family for family in FAMILIES.values()}


def family_of(genotype: Any) -> Family:
    """The family of this genotype. Raises GenotypeError where it is none."""
    try:
        return _BY_TYPE[type(genotype)]
    except KeyError:
        known = ", ".join(t.__name__ for t in _BY_TYPE)
        raise GenotypeError(f"a {type(genotype).__name__} is no genotype; known are {known}") from None


def sketch(genotype: Any, num_classes: int = 10, image_size: int = 32) -> Sketch:
    """The network's graph in the making, with its parameter and multiply-add counts; no torch, no module.

    Raises GenotypeError where the network cannot take images of this side.
    """
    return family_of(genotype).sketch(genotype, num_classes, image_size)


def graph(genotype: Any, num_classes: int = 10, image_size: int = 32) -> ArchGraph:
    """The graph that tracing the built network gives, without building it. Raises GenotypeError as `sketch`."""
    return sketch(genotype, num_classes, image_size).graph()


def build(
    genotype: Any, num_classes: int = 10, image_size: int = 32, device: "torch.device | str | None" = None
) -> "nn.Module":
    """The network as a module. Raises GenotypeError where it cannot take images of this side."""
    module, _, function = family_of(genotype).builder.partition(":")
    return getattr(importlib.import_module(module), function)(genotype, num_classes, image_size, device)


def to_record(genotype: Any) -> dict[str, Any]:
    """JSON-ready data that `from_record` reads; for DeepNets-1M's own networks as in its meta files."""
    family = family_of(genotype)
    record = genotype.to_dict()
    return record if family.genotype is Genotype else {"family": family.name, **record}


def from_record(record: Mapping[str, Any]) -> Any:
    """The genotype that `to_record` wrote. Raises GenotypeError on anything else."""
    if not isinstance(record, Mapping):
        raise GenotypeError(f"not a genotype: a {type(record).__name__} in place of a record")
    name = record.get("family", "deepnets")
    if name not in FAMILIES:
        raise GenotypeError(f"no family {name!r}; there are {', '.join(FAMILIES)}")
    return FAMILIES[name].genotype.from_dict({k: v for k, v in record.items() if k != "family"})
