"""Output shapes of the hot functions on meta tensors, without running their kernels.

PyTorch computes the meta results of convolutions, batch norms and adaptive pools in Python; that is most of the time
of a trace. Each function here returns an empty meta tensor of the right shape, or None where the real function should
run: unusual arguments, and wrong ones, whose error message is then PyTorch's own.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ghn.tracing.arithmetic import ARITHMETIC, empty, empty_like

Size = int | Sequence[int]


def _pair(size: Size) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    return (size[0], size[0]) if len(size) == 1 else (size[0], size[1])


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor | None:
    if isinstance(padding, str) or input.dim() != 4 or weight.dim() != 4:
        return None
    n, c, *side = input.shape
    out, inner, *kernel = weight.shape
    if c != inner * groups or out % groups or (bias is not None and bias.shape != (out,)):
        return None
    windows = zip(side, kernel, _pair(stride), _pair(padding), _pair(dilation), strict=True)
    sides = [(x + 2 * p - d * (k - 1) - 1) // s + 1 for x, k, s, p, d in windows]
    return empty((n, out, *sides), input) if min(sides) > 0 else None


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *_: Any,
    **__: Any,
) -> Tensor | None:
    fits = all(t is None or t.shape == input.shape[1:2] for t in (running_mean, running_var, weight, bias))
    return empty_like(input) if input.dim() > 1 and fits else None


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    if weight.dim() != 2 or input.dim() < 1 or input.shape[-1] != weight.shape[1]:
        return None
    if bias is not None and bias.shape != weight.shape[:1]:
        return None
    return empty((*input.shape[:-1], weight.shape[0]), input)


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor | None:
    shape = tuple(normalized_shape)
    fits = all(t is None or t.shape == shape for t in (weight, bias))
    return empty_like(input) if shape and input.shape[-len(shape) :] == shape and fits else None


def _elementwise(input: Tensor, *_: Any, inplace: bool = False, **__: Any) -> Tensor:
    # The wrappers in torch.nn.functional hand `inplace` on by name, however they were called.
    return input if inplace else empty_like(input)


def _softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor | None:
    return None if dtype else empty_like(input)


def _max_pool2d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | None:
    if ceil_mode or return_indices or input.dim() != 4:
        return None
    return _pooled(input, kernel_size, stride, padding, dilation)


def _avg_pool2d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor | None:
    return None if ceil_mode or input.dim() != 4 else _pooled(input, kernel_size, stride, padding, 1)


def _pooled(input: Tensor, kernel: Size, stride: Size | None, padding: Size, dilation: Size) -> Tensor | None:
    kernels, pads = _pair(kernel), _pair(padding)
    if any(2 * p > k for k, p in zip(kernels, pads, strict=True)):
        return None
    windows = zip(input.shape[2:], kernels, _pair(stride or kernel), pads, _pair(dilation), strict=True)
    sides = [(x + 2 * p - d * (k - 1) - 1) // s + 1 for x, k, s, p, d in windows]
    return empty((*input.shape[:2], *sides), input) if min(sides) > 0 else None


def _adaptive_avg_pool2d(input: Tensor, output_size: int | Sequence[int | None]) -> Tensor | None:
    sizes = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    if input.dim() != 4 or len(sizes) != 2:
        return None
    sides = [x if s is None else s for x, s in zip(input.shape[2:], sizes, strict=True)]
    return empty((*input.shape[:2], *sides), input)


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor | None:
    same_heads = query.shape[:-2] == key.shape[:-2] == value.shape[:-2]
    if not same_heads or query.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2]:
        return None
    return empty((*query.shape[:-1], value.shape[-1]), query)


def _multihead(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    width: int,
    heads: int,
    in_weight: Tensor | None,
    in_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    zero_attention: bool,
    dropout: float,
    out_weight: Tensor,
    *_: Any,
    need_weights: bool = True,
    average_attn_weights: bool = True,
    **__: Any,
) -> tuple[Tensor, Tensor | None] | None:
    fits = query.dim() == 3 and query.shape == key.shape == value.shape and query.shape[2] == width
    if not fits or in_weight is None or in_weight.shape != (3 * width, width) or out_weight.shape != (width, width):
        return None
    if width % heads or bias_k is not None or zero_attention:
        return None
    length, batch = query.shape[:2]
    each = (batch,) if average_attn_weights else (batch, heads)
    return empty(query.shape, query), empty((*each, length, length), query) if need_weights else None


def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    first = tensors[0]
    rank = first.dim()
    if not rank or not -rank <= dim < rank:
        return None
    dim %= rank
    rests = {(*t.shape[:dim], -1, *t.shape[dim + 1 :]) for t in tensors}
    if len(rests) > 1 or len({t.dtype for t in tensors}) > 1:
        return None
    return empty((*first.shape[:dim], sum(t.shape[dim] for t in tensors), *first.shape[dim + 1 :]), first)


def _grouped_mm(input: Tensor, weight: Tensor, *, offs: Any = None, bias: Any = None, **_: Any) -> Tensor | None:
    # The real one takes no other type than bfloat16 on meta.
    if input.dim() != 2 or weight.dim() != 3 or input.shape[1] != weight.shape[1]:
        return None
    return empty((input.shape[0], weight.shape[2]), input)


def _recurrent(input: Tensor, state: Any, weights: Any, *options: Any) -> tuple[Tensor, ...] | None:
    # torch would unroll the sequence; (data, batch_sizes, state, weights...) of a packed one is left to it.
    if not isinstance(weights, list):
        return None
    states = (state,) if isinstance(state, Tensor) else tuple(state)
    bidirectional = options[4]
    out = empty((*input.shape[:-1], states[0].shape[-1] * (1 + bidirectional)), input)
    return (out, *(empty_like(s) for s in states))


LAYERS: dict[Any, Callable[..., Any]] = {
    torch.conv2d: _conv2d,
    F.batch_norm: _batch_norm,
    F.linear: _linear,
    F.layer_norm: _layer_norm,
    F.max_pool2d: _max_pool2d,
    F.avg_pool2d: _avg_pool2d,
    F.adaptive_avg_pool2d: _adaptive_avg_pool2d,
    F.scaled_dot_product_attention: _attention,
    F.multi_head_attention_forward: _multihead,
    torch.cat: _cat,
    **dict.fromkeys((torch._grouped_mm, F.grouped_mm), _grouped_mm),
    **dict.fromkeys((torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu), _recurrent),
    F.softmax: _softmax,
    **dict.fromkeys((F.relu, F.relu6, F.gelu, F.silu, F.hardswish, F.hardsigmoid), _elementwise),
    **dict.fromkeys((F.leaky_relu, F.elu, F.mish, F.dropout), _elementwise),
}

SHORTCUTS: dict[Any, Callable[..., Any]] = ARITHMETIC | LAYERS
