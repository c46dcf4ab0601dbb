"""The members of the family by name, as combinations of parts, and what fixes a GHN's architecture."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ghn.decode import DECODERS
from ghn.layers import MaxShape
from ghn.propagate import PROPAGATIONS


@dataclass(frozen=True)
class GHNConfig:
    """Everything that fixes a GHN's architecture.

    hid: width d of a node state. max_shape: (O, I, S, S), the largest tensor that is decoded without tiling.
    propagation, decoder: names in `ghn.propagate.PROPAGATIONS` and `ghn.decode.DECODERS`.
    cutoff: longest path that counts as a virtual edge; 1 leaves only real edges (GHN-1).
    layers, heads: of the 'graphormer'. rank: of the 'lowrank' decoder.
    weight_norm: scale by fan-in and squash vectors. layernorm: normalise node states before decoding.

    Raises ValueError where a name is not known.
    """

    num_classes: int = 10
    hid: int = 32
    max_shape: MaxShape = (64, 64, 11, 11)
    cutoff: int = 50
    weight_norm: bool = True
    layernorm: bool = True
    propagation: str = "gated"
    decoder: str = "conv"
    layers: int = 3
    heads: int = 8
    rank: int = 32

    def __post_init__(self) -> None:
        for kind, name, table in (
            ("propagation", self.propagation, PROPAGATIONS),
            ("decoder", self.decoder, DECODERS),
        ):
            if name not in table:
                raise ValueError(f"{kind} {name!r} is none of {', '.join(table)}")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"max_shape": list(self.max_shape)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "GHNConfig":
        out, inp, h, w = data["max_shape"]
        return cls(**{k: v for k, v in data.items() if k != "max_shape"}, max_shape=(out, inp, h, w))


def _ghn3(hid: int, layers: int, heads: int) -> GHNConfig:
    shape = (hid, hid, 11, 11)
    return GHNConfig(hid=hid, max_shape=shape, propagation="graphormer", decoder="centred", layers=layers, heads=heads)


# Name -> its config for CIFAR-10. Sources: Zhang et al. 2019 (GHN-1); Knyazev et al. 2021 (GHN-2, MLP); Knyazev et al.
# 2023 (GHN-3); Zhou et al. 2024 (LoGAH); numbers in ghn_spec sections 1 and 17.
MEMBERS: dict[str, GHNConfig] = {
    "mlp": GHNConfig(propagation="mlp"),
    "ghn1": GHNConfig(cutoff=1, weight_norm=False, layernorm=False),
    "ghn2": GHNConfig(),
    "ghn3-t": _ghn3(64, 3, 8),
    "ghn3-s": _ghn3(128, 5, 16),
    "ghn3-l": _ghn3(256, 12, 16),
    "ghn3-xl": _ghn3(384, 24, 16),
    "logah-t": replace(_ghn3(64, 3, 8), max_shape=(2048, 2048, 16, 16), decoder="lowrank"),
    "logah-s": replace(_ghn3(128, 5, 16), max_shape=(2048, 2048, 16, 16), decoder="lowrank", rank=64),
}


def member(name: str, num_classes: int = 10, image_size: int = 32) -> GHNConfig:
    """The config of this member of the family for data of so many classes and pixels: kernels up to 16 x 16 for large
    images, as for ImageNet, and up to 11 x 11 for small ones. Raises ValueError, naming the known ones.
    """
    if name not in MEMBERS:
        raise ValueError(f"no GHN {name!r}; the family is {', '.join(MEMBERS)}")
    config = MEMBERS[name]
    out, inp, size, _ = config.max_shape
    size = 16 if image_size > 64 else size
    return replace(config, num_classes=num_classes, max_shape=(out, inp, size, size))
