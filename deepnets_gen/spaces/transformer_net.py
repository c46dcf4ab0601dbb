"""Transformers as modules. On the meta device nothing is initialised. Sources: see `transformer`."""

import math
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepnets_gen.ops import Conv2d, LayerNorm, Linear
from deepnets_gen.spaces.transformer import LEAST_CONTEXT, TransformerGenotype

SPREAD = 0.02  # standard deviation of initial weights. Radford et al., 2019; Touvron et al., 2021
SLIGHT = 1e-5  # initial layer scale. Touvron et al., 2021
SLOWEST = 10_000  # radians per turn of the slowest rotation. Su et al., 2021
Rotation = tuple[Tensor, Tensor]  # cosines and sines, (T, head width / 2) each


def build(
    genotype: TransformerGenotype,
    num_classes: int = 10,
    image_size: int = 32,
    device: torch.device | str | None = None,
) -> nn.Module:
    """The network. vit: (B, 3, image_size, image_size) -> (B, num_classes); gpt: (B, T) int64 -> (B, T, vocabulary).

    On device 'meta' nothing is allocated nor initialised. Raises GenotypeError where a vit's patches do not fit the
    image.
    """
    with nullcontext() if device is None else torch.device(device):
        model = VisionTransformer(genotype, num_classes, image_size) if genotype.is_vit else LanguageModel(genotype)
        if not next(model.parameters()).is_meta:
            _initialise(model)
    return model


class VisionTransformer(nn.Module):
    """(B, 3, s, s) -> (B, num_classes). expected_input_sz: s."""

    def __init__(self, genotype: TransformerGenotype, num_classes: int, image_size: int) -> None:
        super().__init__()
        c, tokens = genotype.width, genotype.patches(image_size) + genotype.class_token
        self.genotype = genotype
        self.expected_input_sz = image_size
        self.cls_token = nn.Parameter(torch.empty(1, 1, c)) if genotype.class_token else None
        self.pos_embed = nn.Parameter(torch.empty(1, tokens, c))
        self.patch_embed = Patches(genotype)
        self.blocks = nn.ModuleList(Block(genotype) for _ in range(genotype.layers))
        self.norm = _norm(genotype)
        self.head = Linear(c, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        x = x + self.pos_embed
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.head(x.mean(1) if self.cls_token is None else x[:, 0])


class LanguageModel(nn.Module):
    """(B, T) int64 tokens, T up to the context -> (B, T, vocabulary) logits of the token after each."""

    main_input_name = "input_ids"

    def __init__(self, genotype: TransformerGenotype) -> None:
        super().__init__()
        c = genotype.width
        self.genotype = genotype
        self.wte = Embedding(genotype.vocabulary, c)
        self.wpe = None if genotype.rotary else Embedding(genotype.context, c)
        self.blocks = nn.ModuleList(Block(genotype) for _ in range(genotype.layers))
        self.norm = _norm(genotype)
        self.lm_head = Linear(c, genotype.vocabulary, bias=False)
        if genotype.tied:
            self.lm_head.weight = self.wte.weight

    @property
    def dummy_inputs(self) -> dict[str, Tensor]:
        """Something to call it with: what tracing goes by."""
        return {"input_ids": torch.zeros(2, LEAST_CONTEXT, dtype=torch.long, device=self.wte.weight.device)}

    def forward(self, input_ids: Tensor) -> Tensor:
        x, rotation = self.wte(input_ids), None
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        if self.wpe is not None:
            x = x + self.wpe(positions)
        else:
            rotation = _rotation(positions, self.genotype.width // self.genotype.heads, x.dtype)
        for block in self.blocks:
            x = block(x, rotation)
        return self.lm_head(self.norm(x))


class Patches(nn.Module):
    """(B, 3, s, s) -> (B, patches, C)."""

    def __init__(self, genotype: TransformerGenotype) -> None:
        super().__init__()
        self.proj = Conv2d(3, genotype.width, genotype.patch, genotype.patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class Block(nn.Module):
    """(B, T, C) -> the same: attention, then an MLP, each on normed input and added to it."""

    def __init__(self, genotype: TransformerGenotype) -> None:
        super().__init__()
        self.norm1 = _norm(genotype)
        self.attn = Attention(genotype)
        self.ls1 = _scale(genotype)
        self.norm2 = _norm(genotype)
        self.mlp = GatedMlp(genotype) if genotype.swiglu else Mlp(genotype)
        self.ls2 = _scale(genotype)

    def forward(self, x: Tensor, rotation: Rotation | None = None) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x), rotation))
        return x + self.ls2(self.mlp(self.norm2(x)))


class Attention(nn.Module):
    """(B, T, C) -> the same: multi-head self-attention, of a gpt to the tokens before only."""

    def __init__(self, genotype: TransformerGenotype) -> None:
        super().__init__()
        c = genotype.width
        self.heads, self.causal = genotype.heads, not genotype.is_vit
        self.qkv = Linear(c, 3 * c, bias=genotype.bias)
        self.proj = Linear(c, c, bias=genotype.bias or genotype.is_vit)

    def forward(self, x: Tensor, rotation: Rotation | None) -> Tensor:
        b, t, c = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        if rotation is not None:
            q, k = _rotated(q, *rotation), _rotated(k, *rotation)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.proj(attended.transpose(1, 2).reshape(b, t, c))


class Mlp(nn.Module):
    """(..., C) -> (..., C): two layers with a GELU between."""

    def __init__(self, genotype: TransformerGenotype) -> None:
        super().__init__()
        bias = genotype.bias or genotype.is_vit
        self.fc1 = Linear(genotype.width, genotype.hidden, bias=bias)
        self.fc2 = Linear(genotype.hidden, genotype.width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class GatedMlp(nn.Module):
    """(..., C) -> (..., C): SwiGLU, a layer gated by the SiLU of another. Shazeer, 2020."""

    def __init__(self, genotype: TransformerGenotype) -> None:
        super().__init__()
        self.fc1_g = Linear(genotype.width, genotype.hidden, bias=genotype.bias)
        self.fc1_x = Linear(genotype.width, genotype.hidden, bias=genotype.bias)
        self.fc2 = Linear(genotype.hidden, genotype.width, bias=genotype.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.silu(self.fc1_g(x)) * self.fc1_x(x))


class LayerScale(nn.Module):
    """(..., C) -> (..., C): a factor per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Embedding(nn.Embedding):
    """nn.Embedding that skips initialisation where there is no data."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()


class RMSNorm(nn.RMSNorm):
    """nn.RMSNorm that skips initialisation where there is no data."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()


def _norm(g: TransformerGenotype) -> nn.Module:
    if g.rms_norm:
        return RMSNorm(g.width, eps=1e-6)
    return LayerNorm(g.width, eps=1e-6 if g.is_vit else 1e-5, bias=g.bias or g.is_vit)


def _scale(g: TransformerGenotype) -> nn.Module:
    return LayerScale(g.width) if g.layer_scale else nn.Identity()


def _rotation(positions: Tensor, head_width: int, dtype: torch.dtype) -> Rotation:
    """Cosines and sines of the angles by which positions turn the pairs of a head. Su et al., 2021."""
    pairs = torch.arange(head_width // 2, device=positions.device)
    speeds = torch.exp(pairs * (-2 * math.log(SLOWEST) / head_width))
    angles = positions[:, None] * speeds
    return angles.cos().to(dtype), angles.sin().to(dtype)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(B, heads, T, d) -> the same: channels i and i + d/2 are a pair."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _initialise(model: nn.Module) -> None:
    """Weights and tables normal, biases zero, scales slight."""
    for name, parameter in model.named_parameters():
        if name.endswith(".gamma"):
            nn.init.constant_(parameter, SLIGHT)
        elif parameter.dim() > 1:
            nn.init.normal_(parameter, std=SPREAD)
        elif name.endswith(".bias"):
            nn.init.zeros_(parameter)
