"""Shapes without kernels: arithmetic agrees with torch on meta, and a repeated call gives what the function gives."""

from itertools import permutations, product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ghn.tracing import trace
from ghn.tracing.arithmetic import ARITHMETIC
from ghn.tracing.repeats import REPEATED, Repeats


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def form(out):
    """Shape, type and the strides that matter."""
    if isinstance(out, tuple | list):
        return [form(t) for t in out]
    return tuple(out.shape), out.dtype, [s for s, n in zip(out.stride(), out.shape, strict=True) if n > 1]


def check(function, *args, **kwargs) -> bool:
    """Whether there was a shortcut. Where there is one it is right, and torch does not raise."""
    ours = ARITHMETIC[function](*args, **kwargs)
    if ours is None:
        return False
    assert form(ours) == form(function(*args, **kwargs))
    return True


sizes = st.lists(st.integers(1, 3), max_size=4).map(tuple)
numbers = st.one_of(st.integers(-2, 2), st.floats(-2, 2))
tensors = st.builds(lambda s, d: meta(*s, dtype=d), sizes, st.sampled_from([torch.float32, torch.float16, torch.int64]))
turned = tensors.flatmap(lambda t: st.permutations(range(t.dim())).map(t.permute))


@settings(max_examples=150)
@given(a=turned, b=st.one_of(turned, numbers), data=st.data())
def test_two_operands(a, b, data):
    name = data.draw(st.sampled_from(["__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__truediv__"]))
    check(getattr(Tensor, name), a, b)
    function = data.draw(st.sampled_from([torch.add, torch.sub, torch.mul, torch.div]))
    check(function, a, b)
    in_place = data.draw(st.sampled_from([Tensor.add_, Tensor.__iadd__, Tensor.mul_, Tensor.__imul__, Tensor.div_]))
    ours = ARITHMETIC[in_place](a, b)
    assert ours is None or (ours is a and in_place(a, b) is a)


def test_sums_of_all_small_views():
    """Sides of length 1 with the strides of a view: where neither operand has the whole shape, torch goes by them."""
    views = [meta(*s).permute(p) for s in product((1, 2), repeat=3) for p in permutations(range(3))]
    assert sum(check(torch.add, a, b) for a, b in product(views, views)) > 700


@settings(max_examples=150)
@given(a=turned, dims=st.lists(st.integers(-5, 4), max_size=3), keep=st.booleans(), data=st.data())
def test_one_operand(a, dims, keep, data):
    function = data.draw(st.sampled_from([torch.mean, torch.sum, Tensor.mean, torch.amax]))
    check(function, a, tuple(dims), keep)
    check(function, a, dims[:1] or 0)
    check(data.draw(st.sampled_from([torch.sigmoid, torch.exp, torch.relu, Tensor.tanh, Tensor.__neg__])), a)
    check(torch.pow, a, data.draw(numbers))
    check(torch.unbind, a, dims[0] if dims else 0)
    check(torch.softmax, a, dims[0] if dims else 0)


@settings(max_examples=150)
@given(a=turned, b=turned)
def test_products_of_matrices(a, b):
    check(torch.matmul, a, b)
    if b.dim() > 1:
        check(torch.matmul, meta(*b.shape[:-2], 5, b.shape[-2], dtype=b.dtype), b)


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (torch.add, (meta(2, 1, 3), meta(4, 1))),
        (Tensor.__mul__, (meta(2, 3), 2)),
        (torch.relu, (meta(2, 3),)),
        (torch.mean, (meta(2, 3, 4), (1, 2), True)),
        (torch.matmul, (meta(2, 3, 4, 5), meta(2, 3, 5, 6))),
        (torch.unbind, (meta(3, 2),)),
        (Tensor.softmax, (meta(3, 2), -1)),
    ],
)
def test_the_usual_calls_have_one(function, args):
    assert check(function, *args)


def test_results_that_share_memory_still_do():
    x = meta(3, 4)
    assert all(t._base is x for t in ARITHMETIC[torch.unbind](x))
    assert ARITHMETIC[Tensor.add_](x, 1) is x
    assert ARITHMETIC[Tensor.add_](meta(1, 4).expand(3, 4), 1) is None


CALLS = [
    (torch.bmm, (meta(2, 3, 4), meta(2, 4, 5)), {}),
    (torch.stack, ([meta(2, 3), meta(2, 3)],), {"dim": 1}),
    (torch.var_mean, (meta(2, 3, 4), (1, 2)), {"keepdim": True}),
    (Tensor.__getitem__, (meta(4, 5), (slice(None), meta(2, dtype=torch.long))), {}),
    (Tensor.__eq__, (meta(2, 3), 1), {}),
    (F.interpolate, (meta(1, 2, 4, 4),), {"scale_factor": 2, "mode": "nearest"}),
    (F.conv_transpose2d, (meta(1, 4, 5, 5), meta(4, 2, 3, 3)), {"stride": 2, "groups": 2}),
]


@pytest.mark.parametrize(("function", "args", "kwargs"), CALLS)
def test_a_repeated_call_gives_new_tensors_of_the_same_form(function, args, kwargs):
    repeats = Repeats()
    first, second = (repeats.call(function, args, kwargs) for _ in range(2))
    assert len(repeats._known) == 1
    assert form(first) == form(second) == form(function(*args, **kwargs))
    assert first is not second


def test_types_of_numbers_and_of_tensors_are_told_apart():
    repeats, x = Repeats(), meta(2, dtype=torch.long)
    assert repeats.call(torch.add, (x, 1), {}).dtype == torch.long
    assert repeats.call(torch.add, (x, 1.0), {}).dtype == torch.float32
    assert repeats.call(torch.add, (x.to(torch.int32), 1), {}).dtype == torch.int32


def test_views_and_what_is_no_meta_tensor_are_left_to_torch():
    repeats, x = Repeats(), meta(4, 5)
    assert repeats.call(Tensor.__getitem__, (x, slice(1, 3)), {})._base is x
    assert repeats.call(Tensor.__getitem__, (x, slice(1, 3)), {})._base is x
    values = torch.arange(3.0)
    assert repeats.call(torch.softmax, (values, 0), {}).sum() == pytest.approx(1)
    assert repeats.call(F.hardtanh, (x, -1.0, 1.0, True), {}) is x
    assert repeats.call(F.hardtanh, (x, -1.0, 1.0, True), {}) is x
    assert not repeats._known
    assert torch.nonzero not in REPEATED  # its shape depends on numbers


def test_a_network_meets_the_same_shapes_as_without():
    """Every module's result has the shape and strides that it has when nothing is short-cut."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.norm = nn.Parameter(torch.rand(6, 6)), nn.LayerNorm(6)

        def forward(self, x: Tensor) -> Tensor:
            q, k = (x @ self.weight).unflatten(-1, (2, 3)).transpose(1, 2).unbind(1)
            gate = (q @ k.mT).softmax(-1).mean(-1, keepdim=True).sigmoid()
            y = self.norm(F.normalize(x, dim=-1) * gate + 1)
            y += x
            return y

    net = nn.Sequential(Block(), Block(), Block())
    seen: list = []
    for module in net:
        module.register_forward_hook(lambda _module, _args, out: seen.append(form(out)))
    trace(net, torch.rand(2, 4, 6))
    traced = seen.copy()
    seen.clear()
    net(torch.rand(2, 4, 6))
    assert traced == seen
