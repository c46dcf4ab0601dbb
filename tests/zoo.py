"""The networks that people use, for the tests of coverage: a sample for every run, what is left out, and why."""

from ghn._compat import import_torchvision
from ghn.adapters.zoo import installed

LIBRARIES = ("torchvision", "timm", "transformers")

# In every run: all sorts of layers, and what is cheap to build. The rest of the libraries is marked slow.
SAMPLE = (
    "torchvision/resnet18",
    "torchvision/densenet121",
    "torchvision/inception_v3",
    "torchvision/efficientnet_b0",
    "torchvision/regnet_y_400mf",
    "torchvision/swin_v2_t",
    "torchvision/maxvit_t",
    "torchvision/fasterrcnn_resnet50_fpn",
    "torchvision/ssd300_vgg16",
    "torchvision/mvit_v2_s",
    "timm/botnet26t_256",
    "timm/convit_tiny",
    "timm/convnextv2_atto",
    "timm/halonet26t",
    "timm/lambda_resnet26t",
    "timm/levit_128s",
    "timm/mixer_s32_224",
    "timm/nfnet_f0",
    "timm/resnetv2_50d_frn",
    "timm/sequencer2d_s",
    "timm/vit_base_patch16_rope_mixed_224",
    "timm/xcit_nano_12_p16_224",
    "transformers/resnet",
    "transformers/convnext",
    "transformers/vit",
    "transformers/swin",
    "transformers/deit",
    "transformers/beit",
    "transformers/clip/AutoModel",
    "transformers/bert",
    "transformers/roberta",
    "transformers/t5/AutoModelForSeq2SeqLM",
    "transformers/gpt2/AutoModelForCausalLM",
    "transformers/llama/AutoModelForCausalLM",
    "transformers/mixtral/AutoModelForCausalLM",
    "transformers/mamba/AutoModelForCausalLM",
)

# Network -> why it is not traced. Nothing may be refused that is not here, nor be here and be traced.
REFUSED: dict[str, str] = {}

# Network -> the parameters that are left, and why. Nothing else may be left.
_MASK = "stands for masked patches, which there are only in training"
LEFT: dict[str, tuple[tuple[str, ...], str]] = {
    "transformers/dinov2": (("dinov2.embeddings.mask_token",), _MASK),
    "transformers/wav2vec2/AutoModel": (("masked_spec_embed",), _MASK),
    "transformers/whisper/AutoModel": (("encoder.embed_positions.weight",), "sines, frozen"),
}

# Network -> why its stem takes no other number of channels.
COLOURED = {
    "timm/csatv2": "separates brightness from colours",
    **dict.fromkeys(("timm/gemma4_vit_167m", "timm/naflexvit_base_patch16_gap"), "a linear layer reads flat patches"),
}


def present(name: str) -> bool:
    """Whether the library that a network is from is installed."""
    return installed(name.partition("/")[0])


def torchvision_classifiers() -> list[str]:
    models = import_torchvision().models
    return [f"torchvision/{name}" for name in models.list_models(module=models)]
