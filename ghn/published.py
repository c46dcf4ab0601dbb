"""GHNs in the peers' files, read without unpickling code. ghn_spec section 14.

Three containers: ppuda's (`torch.save` of state_dict and config), that of ghn3's training (the same, with an
argparse.Namespace beside them), and ghn3's published one (a joblib pickle of the bare state_dict, from which the config
is told). GHN-3's tensors are renamed, and their shapes differ from ours in dimensions of size 1.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ghn.errors import CheckpointError, DataError
from ghn.model import GHN, GHNConfig
from ghn.unpickle import TENSORS, decompressed, read_plain_pickle, read_torch

State = dict[str, Tensor]
PICKLE = b"\x80"  # how a bare pickle begins; a file of torch.save is a zip archive, an old one a pickled number
OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
PROPAGATION = {"gatedgnn": "gated", "mlp": "mlp"}  # their name -> ours
RENAMED = (  # their names -> ours; what serves all of GHN-3's layers is in the first one there, or beside them
    (r"^decoder\.mlp\.fc\.", "decoder.fc."),
    (r"^gnn\.0\.(centrality_embed_\w+|input_dist_embed)\.", r"gnn.\1."),
    (r"^(centrality_embed_\w+|input_dist_embed)\.", r"gnn.\1."),
    (r"^gnn\.0\.attn\.edge_embed\.embed\.", "gnn.edge_embed."),
    (r"^gnn\.0\.attn\.proj_e\.", "gnn.proj_e."),
    (r"^gnn\.(\d+)\.attn\.to_out\.0\.", r"gnn.layers.\1.to_out."),
    (r"^gnn\.(\d+)\.attn\.to_qkv\.", r"gnn.layers.\1.to_qkv."),
    (r"^gnn\.(\d+)\.ff\.net\.0\.", r"gnn.layers.\1.ff.0."),
    (r"^gnn\.(\d+)\.ff\.net\.3\.", r"gnn.layers.\1.ff.2."),
    (r"^gnn\.(\d+)\.ln(\d)\.", r"gnn.layers.\1.ln\2."),
)
SIZES = ("num_classes", "hid", "max_shape", "layers", "heads", "rank")  # in a config
# What a config that is no config, or contradicts itself, raises.
UNFIT = (RuntimeError, AttributeError, KeyError, IndexError, TypeError, ValueError, ArithmeticError)


def load_published(path: str | Path) -> GHN:
    """The GHN-1, GHN-2, MLP or GHN-3 in a file of facebookresearch/ppuda or SamsungSAILMontreal/ghn3.

    Raises CheckpointError where the file is missing, holds code (nothing of it is run), or is another kind of model.
    """
    path = Path(path)
    content = _read(path)
    state = content.get("state_dict", content)
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"{path} holds no GHN: its state_dict is not a dict of tensors alone")
    state = renamed(state)
    try:
        config = _config(content["config"]) if state is not content and "config" in content else told(state)
    except UNFIT as error:
        raise CheckpointError(f"{path} holds no GHN that this version knows: {reason(error)}") from error
    return filled(config, state, str(path)).eval()


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as opened:
            file = decompressed(opened, str(path))
            start = file.read(len(OLD_TORCH))
            file.seek(0)
            if start.startswith(PICKLE) and start != OLD_TORCH:
                content = read_plain_pickle(file, str(path), TENSORS)
            else:
                content = read_torch(file, str(path))
    except DataError as error:
        raise CheckpointError(str(error)) from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # of what is compressed and damaged
        raise CheckpointError(f"{path} is no checkpoint of ppuda or ghn3: {reason(error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no GHN: a {type(content).__name__} in place of a dict")
    return content


def renamed(state: Mapping[str, Tensor]) -> State:
    """The state_dict under our names."""
    ours = {}
    for name, value in state.items():
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        ours[name] = value
    return ours


def _config(config: Mapping[str, Any]) -> GHNConfig:
    """Ours for the config in a training file. GHN-3's own trainer puts GHN-2 in there too, by the name of `is_ghn2`."""
    common: dict[str, Any] = {
        "num_classes": config["num_classes"],
        "hid": config["hid"],
        "max_shape": tuple(config["max_shape"]),
        "cutoff": 50 if config["ve"] else 1,
        "weight_norm": config["weight_norm"],
        "layernorm": config["layernorm"],
    }
    if "layers" in config and not config.get("is_ghn2"):
        return GHNConfig(
            **common, propagation="graphormer", decoder="centred", layers=config["layers"], heads=config["heads"]
        )
    kind = config["hypernet"]
    if kind not in PROPAGATION:
        raise ValueError(f"hypernet {kind!r} is none of {', '.join(PROPAGATION)}")
    return GHNConfig(**common, propagation=PROPAGATION[kind], decoder=config["decoder"])


def told(state: Mapping[str, Tensor]) -> GHNConfig:
    """The config of a bare state_dict, as its keys and shapes tell it. Raises KeyError on another model's."""
    hid = _size(state, "embed.weight", 1)
    size = math.isqrt(_size(state, "decoder.fc.0.weight") // (4 * hid))
    channels = math.isqrt(_size(state, "decoder.conv.2.weight"))
    common: dict[str, Any] = {
        "num_classes": _size(state, "decoder.class_layer_predictor.1.weight"),
        "hid": hid,
        "max_shape": (channels, channels, size, size),
        "layernorm": "ln.weight" in state,
    }
    if any(name.startswith("gnn.gru.") for name in state):
        return GHNConfig(**common)
    layers = sum(re.fullmatch(r"gnn\.layers\.\d+\.ln1\.weight", name) is not None for name in state)
    heads = _size(state, "gnn.proj_e.2.weight")
    return GHNConfig(**common, propagation="graphormer", decoder="centred", layers=layers, heads=heads)


def _size(state: Mapping[str, Tensor], name: str, axis: int = 0) -> int:
    shape = state[name].shape
    if len(shape) <= axis or not shape[axis]:
        raise ValueError(f"{name} has shape {list(shape)}")
    return shape[axis]


def filled(config: GHNConfig, state: Mapping[str, Tensor], where: str) -> GHN:
    """The GHN of this config with these tensors in it. Raises CheckpointError: what is missing, too much, or unfit."""
    try:
        _plausible(config, state)
        with torch.device("meta"):  # no initialisation to pay for, and the caller's random generator stays as it is
            model = GHN(config)
        own = model.state_dict()
        wrong = _differences(own, state)
        if not wrong:
            model.load_state_dict({name: state[name].reshape(own[name].shape) for name in own}, assign=True)
            return model
    except UNFIT as error:
        wrong = [reason(error)]
    more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    raise CheckpointError(f"{where} does not hold the GHN that its config describes: {'; '.join(wrong[:3])}{more}")


def _plausible(config: GHNConfig, state: Mapping[str, Tensor]) -> None:
    """Raises ValueError on a config whose GHN would not end with these tensors: it might take all memory to build."""
    most = max([len(state), *(size for tensor in state.values() for size in tensor.shape)])
    for name, value in config.to_dict().items():
        for number in value if isinstance(value, list) else [value]:
            if name in SIZES and (type(number) is not int or not 0 < number <= most):
                raise ValueError(f"{name} is {number!r}, where no tensor is larger than {most} in a dimension")


def _differences(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """What is wrong with a state_dict, a phrase each; dimensions of size 1 at the end of a shape do not count."""

    def shape(tensor: Tensor) -> list[int]:
        sizes = list(tensor.shape)
        while len(sizes) > 1 and sizes[-1] == 1:
            sizes.pop()
        return sizes

    missing = [f"{name} is missing" for name in own if name not in state]
    extra = [f"{name} is one too many" for name in state if name not in own]
    unfit = [
        f"{name} has shape {list(state[name].shape)}, not {list(own[name].shape)}"
        for name in own
        if name in state and shape(own[name]) != shape(state[name])
    ]
    return missing + extra + unfit + [f"{name} {wrong}" for name in own if (wrong := _no_weights(state.get(name)))]


def _no_weights(tensor: Tensor | None) -> str:
    """Why these cannot be weights; nothing where they can."""
    if tensor is None or tensor.is_meta or not tensor.numel():
        return ""
    if not tensor.is_floating_point():
        return f"has numbers of {str(tensor.dtype).removeprefix('torch.')}"
    return "" if all(limit.isfinite() for limit in tensor.aminmax()) else "has numbers that are not finite"


def reason(error: Exception) -> str:
    """The error's message in one line, with its type where the message alone says little."""
    text = " ".join(str(error).split())[:200]
    return f"no {text}" if isinstance(error, KeyError) else text
