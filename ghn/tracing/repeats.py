"""Results on meta tensors that are known from an equal call: networks repeat their blocks, PyTorch works each out anew.

Only functions whose result is new memory, and depends on nothing but shapes, strides and types of tensors and on plain
arguments, are remembered, for one recording.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghn.tracing.arithmetic import ARITHMETIC
from ghn.tracing.shapes import LAYERS

_PLAIN = frozenset({int, float, bool, str, type(None), torch.dtype, torch.device, torch.memory_format, type(Ellipsis)})
_SEQUENCES = frozenset({list, tuple, torch.Size})


class Repeats:
    """Calls functions, and remembers the form of what they return."""

    def __init__(self) -> None:
        self._known: dict[Hashable, Any] = {}

    def call(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What function(*args, **kwargs) returns."""
        if function not in REPEATED:
            return function(*args, **kwargs)
        try:
            key = function, _signature(args), tuple(kwargs), _signature(kwargs.values())
        except LookupError:
            return function(*args, **kwargs)
        form = self._known.get(key)
        if form is not None:
            return _of_form(form)
        out = function(*args, **kwargs)
        form = _form(out, args)
        if form is not None:
            self._known[key] = form
        return out


def _signature(values: Iterable[Any]) -> tuple[Hashable, ...]:
    """Equal for arguments of the same form. Raises LookupError for what is neither a meta tensor nor plain."""
    found: list[Hashable] = []
    for value in values:
        kind = type(value)
        if kind in _PLAIN:
            found.append((kind, value))  # 1 is True, and 1.0
        elif kind in _SEQUENCES:
            found.append((kind, _signature(value)))
        elif kind is slice:
            found.append((kind, _signature((value.start, value.stop, value.step))))
        elif (kind is Tensor or kind is nn.Parameter) and value.is_meta:
            found.append((value.shape, value.stride(), value.dtype))
        else:
            raise LookupError(kind)
    return tuple(found)


def _form(out: Any, args: tuple[Any, ...]) -> Any:
    """What `_of_form` makes the like of; None for views, and what is no new tensor or tuple of them."""
    if type(out) is tuple:
        forms = tuple(_form(t, args) for t in out)
        return None if not forms or None in forms else forms
    if type(out) is not Tensor or not out.is_meta or out._base is not None or any(out is a for a in args):
        return None
    return out.shape, out.stride(), out.dtype


def _of_form(form: Any) -> Any:
    if type(form[0]) is torch.Size:
        return torch.empty_strided(form[0], form[1], dtype=form[2], device="meta")
    return tuple(map(_of_form, form))


_NAMES = """
    rsub true_divide __rpow__ maximum minimum addcmul where masked_fill clamp clamp_min clamp_max expm1 log1p log2
    __eq__ __ne__ __lt__ __le__ __gt__ __ge__ eq ne lt le gt ge __and__ __or__ __invert__ logical_not logical_and
    relu relu6 hardtanh hardswish hardsigmoid gelu silu mish elu celu selu glu prelu softplus softsign logsigmoid
    softmax log_softmax logsumexp normalize norm vector_norm var std var_mean std_mean prod cumsum cumprod outer
    bmm mm mv addmm baddbmm __rmatmul__ bilinear
    conv1d conv3d conv_transpose1d conv_transpose2d conv_transpose3d unfold fold grid_sample interpolate pad
    group_norm instance_norm rms_norm local_response_norm lp_pool2d embedding pixel_shuffle pixel_unshuffle
    avg_pool1d avg_pool3d max_pool1d max_pool3d adaptive_avg_pool1d adaptive_avg_pool3d adaptive_max_pool2d
    stack hstack vstack roll flip rot90 index_select gather __getitem__ tril triu repeat one_hot
    cat add sub mul div
"""

REPEATED = frozenset(
    {getattr(o, n) for n in _NAMES.split() for o in (torch, Tensor, F, torch.linalg) if hasattr(o, n)}
    | {*ARITHMETIC, *LAYERS}
)
