"""Transformers of one width: image classifiers (vit) and decoder-only language models (gpt), as data and as graphs.

Blocks are pre-norm. Source: Dosovitskiy et al., ICLR 2021 (ViT); Touvron et al., ICCV 2021 (layer scale); Radford et
al., 2019 (GPT-2); Touvron et al., 2023 (LLaMA: RMSNorm, SwiGLU, rotary positions).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Self

from deepnets_gen.genotype import GenotypeError
from deepnets_gen.spaces.fields import check, check_whole, flip, pick, read
from ghn.primitives import Primitive, Role
from ghn.sketch import INPUT, Sketch

LEAST_CONTEXT = 8  # tokens that a language model is traced with
_SHARED = ("kind", "layers", "width", "heads", "mlp_ratio", "bias")
_OF_KIND = {
    "vit": ("patch", "class_token", "layer_scale"),
    "gpt": ("vocabulary", "context", "tied", "rotary", "rms_norm", "swiglu"),
}
_FLAGS = ("bias", "class_token", "layer_scale", "tied", "rotary", "rms_norm", "swiglu")


@dataclass(frozen=True)
class TransformerGenotype:
    """One transformer. kind: 'vit', (B, 3, s, s) -> (B, classes), or 'gpt', (B, T) tokens -> (B, T, vocabulary).

    layers, width, heads: of the blocks. mlp_ratio: hidden width of the MLP over `width`.
    bias: vit: of the query, key and value projection, all else has one; gpt: of every layer and norm that can have one.
    vit: patch: side of a patch, in pixels; class_token: read by the classifier, else the mean over patches;
    layer_scale: branches scaled per channel.
    gpt: context: most tokens; tied: the last layer's weight is the token embedding; rotary: positions rotate queries
    and keys, else they have a learned table; rms_norm: in place of layer norms; swiglu: MLPs gated by SiLU, with two
    thirds of the hidden width, else by GELU.

    Raises GenotypeError where a field is out of range, or belongs to the other kind and is set.
    """

    kind: str
    layers: int
    width: int
    heads: int
    mlp_ratio: float = 4.0
    bias: bool = True
    patch: int = 0
    class_token: bool = False
    layer_scale: bool = False
    vocabulary: int = 0
    context: int = 0
    tied: bool = False
    rotary: bool = False
    rms_norm: bool = False
    swiglu: bool = False

    def __post_init__(self) -> None:
        check(self.kind in tuple(_OF_KIND), "kind", self.kind, "known are 'vit' and 'gpt'")
        for name in ("layers", "width", "heads"):
            check_whole(name, getattr(self, name), 1)
        check(self.width >= 2, "width", self.width, "give at least 2 channels")
        check(self.width % self.heads == 0, "heads", self.heads, f"give a divisor of the width, {self.width}")
        ratio = self.mlp_ratio
        number = type(ratio) in (int, float) and 0 < ratio < float("inf")
        check(number and self.hidden >= 1, "mlp_ratio", ratio, "give a number for which the MLP has a hidden unit")
        object.__setattr__(self, "mlp_ratio", float(ratio))  # equal genotypes have equal records
        for name in _FLAGS:
            check(type(getattr(self, name)) is bool, name, getattr(self, name), "give True or False")
        self._check_kind()

    def _check_kind(self) -> None:
        other = "gpt" if self.is_vit else "vit"
        for name in _OF_KIND[other]:
            check(not getattr(self, name), name, getattr(self, name), f"that belongs to a {other}; leave it out")
        if self.is_vit:
            check_whole("patch", self.patch, 1)
            return
        check_whole("vocabulary", self.vocabulary, 2)
        check_whole("context", self.context, LEAST_CONTEXT)
        even = self.width // self.heads % 2 == 0
        check(even or not self.rotary, "heads", self.heads, "rotary positions turn pairs: give heads of even width")

    @property
    def is_vit(self) -> bool:
        return self.kind == "vit"

    @property
    def hidden(self) -> int:
        """Hidden width of the MLP."""
        if self.swiglu:
            return -(-int(2 * self.mlp_ratio * self.width) // 24) * 8  # 2/3, up to a multiple of 8
        return int(self.mlp_ratio * self.width)

    def patches(self, image_size: int) -> int:
        """Number of patches of a vit's image. Raises GenotypeError where there are not two or more, or none fit."""
        fits = type(image_size) is int and image_size % self.patch == 0 and image_size >= 2 * self.patch
        if not fits:
            raise GenotypeError(
                f"patch is {self.patch}, which does not cut images of side {image_size!r} into rows of two or more; "
                f"give a multiple of {self.patch} from {2 * self.patch} on"
            )
        return (image_size // self.patch) ** 2

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready record of the fields that its kind has; `from_dict` gives the genotype back."""
        return {name: getattr(self, name) for name in (*_SHARED, *_OF_KIND[self.kind])}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """The genotype that `to_dict` wrote; further entries are ignored. Raises GenotypeError on anything else."""
        kind = read(record, ["kind"], "transformer")["kind"]
        check(kind in tuple(_OF_KIND), "kind", kind, "known are 'vit' and 'gpt'")
        return cls(**read(record, (*_SHARED, *_OF_KIND[kind]), "transformer"))


@dataclass(frozen=True)
class VitAxes:
    """What varies among vits, each value as likely; width is heads * head_width. limit: most parameters."""

    layers: tuple[int, ...] = tuple(range(3, 13))
    heads: tuple[int, ...] = tuple(range(2, 13))
    head_widths: tuple[int, ...] = (16, 24, 32, 40, 48, 56, 64)
    mlp_ratios: tuple[float, ...] = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)
    patches: tuple[int, ...] = (2, 4, 8)
    limit: int = 10_000_000


@dataclass(frozen=True)
class GptAxes:
    """What varies among gpts, each value as likely; width is heads * head_width. limit: most parameters.

    tied: share of networks with tied embeddings.
    """

    layers: tuple[int, ...] = tuple(range(2, 13))
    heads: tuple[int, ...] = tuple(range(2, 13))
    head_widths: tuple[int, ...] = (32, 40, 48, 56, 64)
    mlp_ratios: tuple[float, ...] = (2.0, 2.5, 3.0, 3.5, 4.0)
    vocabularies: tuple[int, ...] = (256, 1024, 4096, 8192, 16384, 32000, 50257)
    contexts: tuple[int, ...] = (64, 128, 256, 512, 1024)
    tied: float = 0.8
    limit: int = 100_000_000


def vit_candidate(rng: Random, axes: VitAxes) -> TransformerGenotype:
    """A random image classifier; perhaps larger than the limit: see `small_enough`."""
    heads = pick(rng, axes.heads)
    return TransformerGenotype(
        kind="vit",
        layers=pick(rng, axes.layers),
        width=heads * pick(rng, axes.head_widths),
        heads=heads,
        mlp_ratio=pick(rng, axes.mlp_ratios),
        bias=flip(rng),
        patch=pick(rng, axes.patches),
        class_token=flip(rng),
        layer_scale=flip(rng),
    )


def gpt_candidate(rng: Random, axes: GptAxes) -> TransformerGenotype:
    """A random language model; perhaps larger than the limit: see `small_enough`."""
    heads = pick(rng, axes.heads)
    return TransformerGenotype(
        kind="gpt",
        layers=pick(rng, axes.layers),
        width=heads * pick(rng, axes.head_widths),
        heads=heads,
        mlp_ratio=pick(rng, axes.mlp_ratios),
        bias=flip(rng),
        vocabulary=pick(rng, axes.vocabularies),
        context=pick(rng, axes.contexts),
        tied=flip(rng, axes.tied),
        rotary=flip(rng),
        rms_norm=flip(rng),
        swiglu=flip(rng),
    )


def small_enough(genotype: TransformerGenotype, axes: VitAxes | GptAxes) -> bool:
    """Whether its parameters stay within the limit."""
    return num_params(genotype) <= axes.limit


def num_params(genotype: TransformerGenotype, num_classes: int = 10, image_size: int = 32) -> int:
    """Numbers in the parameters of the network, without its graph; a tied table counts once."""
    g, c, h = genotype, genotype.width, genotype.hidden
    bias = g.bias or g.is_vit  # in all layers but the projection of queries, keys and values
    norm = c * (1 + (bias and not g.rms_norm))
    attention = 4 * c * c + 3 * c * g.bias + c * bias
    mlp = (2 + g.swiglu) * c * h + (c + (1 + g.swiglu) * h) * bias
    body = g.layers * (2 * norm + attention + mlp + 2 * c * g.layer_scale) + norm
    if g.is_vit:
        patches = g.patches(image_size)
        return body + c * (patches + 2 * g.class_token + 3 * g.patch**2 + 1) + num_classes * (c + 1)
    return body + c * (g.vocabulary * (2 - g.tied) + g.context * (not g.rotary))


def sketch(genotype: TransformerGenotype, num_classes: int = 10, image_size: int = 32) -> Sketch:
    """The graph of the network, in the making; a gpt has neither classes nor images, and ignores them.

    Raises GenotypeError where a vit's patches do not fit the image.
    """
    return _vit(genotype, num_classes, image_size) if genotype.is_vit else _gpt(genotype)


def _vit(g: TransformerGenotype, num_classes: int, image_size: int) -> Sketch:
    s, c, patches = Sketch(), g.width, g.patches(image_size)
    tokens = patches + g.class_token
    table = s.table("pos_embed", (1, tokens, c))
    x = s.layer(INPUT, "patch_embed.proj", (c, 3, g.patch, g.patch), patches, bias=True)
    x = s.sum((table, x), "")
    if g.class_token:  # put before the patches, it has its effect where these meet their positions
        s.ride(x, "cls_token", Role.OFFSET, (1, 1, c))
        s.entries.insert(0, s.entries.pop())  # the module lists it first
    x = _blocks(s, x, g, tokens)
    if not g.class_token:
        x = s.add(Primitive.GLOB_AVG.value, (x,), "glob_avg")
    s.layer(x, "head", (num_classes, c), bias=True, classifies=True)
    return s


def _gpt(g: TransformerGenotype) -> Sketch:
    s, shape = Sketch(), (g.vocabulary, g.width)
    x = s.table("wte.weight", shape, x=INPUT, aliases=("lm_head.weight",) if g.tied else ())
    if not g.rotary:
        x = s.sum((x, s.table("wpe.weight", (g.context, g.width))), "")
    x = _blocks(s, x, g, g.context)
    if g.tied:  # a second node for the one parameter, whose slot is on the first
        s.add(Primitive.CONV.value, (x,), "wte", ".weight", (*shape, 1, 1))
        s.macs += g.vocabulary * g.width * g.context
    else:
        s.layer(x, "lm_head", shape, g.context, classifies=True)
    return s


def _blocks(s: Sketch, x: int, g: TransformerGenotype, tokens: int) -> int:
    """All blocks and the last norm."""
    for i in range(g.layers):
        x = _block(s, x, f"blocks.{i}", g, tokens)
    return _norm(s, x, "norm", g)


def _block(s: Sketch, x: int, path: str, g: TransformerGenotype, tokens: int) -> int:
    c, bias = g.width, g.bias or g.is_vit
    y = s.layer(_norm(s, x, f"{path}.norm1", g), f"{path}.attn.qkv", (3 * c, c), tokens, bias=g.bias)
    y = s.add(Primitive.MSA.value, (y,), path, ".attn.msa")
    y = _scaled(s, s.layer(y, f"{path}.attn.proj", (c, c), tokens, bias=bias), f"{path}.ls1", g)
    x = s.sum((x, y), path)
    y = _mlp(s, _norm(s, x, f"{path}.norm2", g), f"{path}.mlp", g, tokens)
    return s.sum((x, _scaled(s, y, f"{path}.ls2", g)), path)


def _mlp(s: Sketch, x: int, path: str, g: TransformerGenotype, tokens: int) -> int:
    up, down, bias = (g.hidden, g.width), (g.width, g.hidden), g.bias or g.is_vit
    if not g.swiglu:
        return s.layer(s.layer(x, f"{path}.fc1", up, tokens, bias=bias), f"{path}.fc2", down, tokens, bias=bias)
    gate, value = (s.layer(x, f"{path}.fc1_{part}", up, tokens, bias=bias) for part in "gx")
    y = s.layer(gate, f"{path}.fc2", down, tokens, bias=bias)
    s.preds[y - bias] = (gate, value)  # a product is no node: what it multiplies flows into the next weight
    return y


def _norm(s: Sketch, x: int, path: str, g: TransformerGenotype) -> int:
    return s.norm(x, path, g.width, Primitive.LN.value, bias=not g.rms_norm and (g.bias or g.is_vit))


def _scaled(s: Sketch, x: int, path: str, g: TransformerGenotype) -> int:
    """The node x: a scale is no node, it rides on the last node before it."""
    if g.layer_scale:
        s.ride(x, f"{path}.gamma", Role.SCALE, (g.width,))
    return x
