"""A device beside the CPU for machines without a GPU: what runs on it shows that no tensor is left in main memory.

Its tensors keep a tensor of main memory out of sight, and operations calculate with that. As with CUDA, tensors of two
devices in one operation are an error, except for copies, single numbers, and indices into a tensor of the device; and
autocast knows the operations that are done in half precision. Import it in a process of its own: a process can have
one such device, and keeps it.
"""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._pytree import tree_iter, tree_map

DEVICE = torch.device("privateuseone", 0)
aten = torch.ops.aten
COPIES = (aten._to_copy.default, aten.copy_.default)
INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)
HALVED = ("conv2d", "linear", "matmul", "bmm", "addmm", "scaled_dot_product_attention")  # some of CUDA's list


class Second(Tensor):
    """A tensor of the device; `raw` holds its numbers."""

    raw: Tensor
    made = 0  # how many there have been

    @staticmethod
    def __new__(cls, raw: Tensor) -> "Second":
        form = {"strides": raw.stride(), "storage_offset": raw.storage_offset(), "dtype": raw.dtype, "device": DEVICE}
        made = Tensor._make_wrapper_subclass(cls, raw.size(), **form)
        made.raw = raw
        cls.made += 1
        return made

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return calculate(op, *args, **(kwargs or {}))


def calculate(op: Any, *args: Any, **kwargs: Any) -> Any:
    """The operation's result, on the device if its first tensor is there, or if it makes one there."""
    tensors = [x for x in tree_iter((args, kwargs)) if isinstance(x, Tensor)]
    bound = [] if op in COPIES else tensors[:1] if op in INDEXED else tensors
    if any(t.device != DEVICE and t.dim() for t in bound):
        found = ", ".join(f"{tuple(t.shape)} on {t.device}" for t in tensors)
        raise RuntimeError(f"{op} with tensors of two devices: {found}")
    ours = {id(t.raw): t for t in tensors if isinstance(t, Second)}
    asked = kwargs.get("device")
    here = isinstance(tensors[0], Second) if asked is None else torch.device(asked) == DEVICE

    def inside(x: Any) -> Any:
        return x.raw if isinstance(x, Second) else torch.device("cpu") if isinstance(x, torch.device) else x

    def outside(x: Any) -> Any:
        if not isinstance(x, Tensor) or not here:
            return x
        return ours[id(x)] if id(x) in ours else Second(x)  # what was changed in place is the same tensor still

    return tree_map(outside, op(*tree_map(inside, args), **tree_map(inside, kwargs)))


class Constants(TorchFunctionMode):
    """`torch.tensor(numbers, device=DEVICE)`, which torch does not give to a device written in Python."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and "device" in kwargs:
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        return func(*args, **kwargs)


class _Module(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


def _halved(name: str) -> Any:
    """The operation in autocast's precision."""
    beneath = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def run(*args: Any, **kwargs: Any) -> Any:
        def cast(x: Any) -> Any:
            return x.to(torch.get_autocast_dtype(DEVICE.type)) if isinstance(x, Tensor) and x.is_floating_point() else x

        with torch._C._ExcludeDispatchKeyGuard(beneath):
            return getattr(aten, name)(*tree_map(cast, args), **tree_map(cast, kwargs))

    return run


backend_registration._setup_privateuseone_for_python_backend("second", backend_module=_Module())
_KERNELS = [torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")]
_KERNELS[0].fallback(calculate, "PrivateUse1")
_KERNELS[0].fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
for _name in HALVED:
    _KERNELS[1].impl(_name, _halved(_name), "AutocastPrivateUse1")
Constants().__enter__()
