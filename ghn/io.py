"""Checkpoints: our own folder (safetensors + JSON), and the peers' files, read without unpickling code."""

from pathlib import Path

import torch

from ghn.errors import CheckpointError
from ghn.model import GHN, GHNConfig


def load_ppuda(path: str | Path) -> GHN:
    """The GHN-1 or GHN-2 in a checkpoint of facebookresearch/ppuda (`torch.save` of state_dict and config).

    Raises CheckpointError where the file is missing, holds code, or is another kind of model.
    """
    path = Path(path)
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
        config, state = data["config"], data["state_dict"]
    except Exception as error:
        raise CheckpointError(f"{path} is not a ppuda checkpoint: {error}") from error
    if config.get("hypernet") != "gatedgnn" or config.get("decoder") != "conv":
        raise CheckpointError(
            f"{path} holds a {config.get('hypernet')!r} GHN with decoder {config.get('decoder')!r}; "
            "'gatedgnn' with 'conv' (GHN-1, GHN-2) can be read"
        )
    model = GHN(
        GHNConfig(
            num_classes=config["num_classes"],
            hid=config["hid"],
            max_shape=tuple(config["max_shape"]),
            cutoff=50 if config["ve"] else 1,
            weight_norm=config["weight_norm"],
            layernorm=config["layernorm"],
        )
    )
    model.load_state_dict(state)
    return model.eval()
