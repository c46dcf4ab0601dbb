"""The second trace of an architecture is a look-up; whatever a forward pass depends on makes another architecture."""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_trace_modules import IMAGE, Net, conv, param
from torch import nn

from ghn.primitives import Role
from ghn.tracing import forget, memory, register, trace
from ghn.tracing.rules import RULES


@pytest.fixture(autouse=True)
def _nothing_kept():
    forget()
    yield
    forget()


class Block(nn.Module):
    """What it computes depends on all sorts of attributes."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.first, self.second = conv(), conv()
        self.settings = {"residual": True, "depths": [1, 2]}
        self.act: Callable[..., Any] = torch.relu
        for name, value in options.items():
            setattr(self, name, value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.second(self.act(self.first(x)))
        return x + y if self.settings["residual"] else y


def test_built_the_same_way_is_the_same_graph() -> None:
    assert trace(Block(), IMAGE) is trace(Block(), torch.ones_like(IMAGE))
    assert trace(Block().train(), IMAGE) is trace(Block().eval(), IMAGE)


def scaled(by: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: x * by


def test_functions_are_told_apart_by_their_code_and_what_they_hold() -> None:
    assert trace(Block(act=scaled(2.0)), IMAGE) is trace(Block(act=scaled(2.0)), IMAGE)
    assert trace(Block(act=scaled(2.0)), IMAGE) is not trace(Block(act=scaled(3.0)), IMAGE)
    part = functools.partial
    assert trace(Block(act=part(torch.add, other=1)), IMAGE) is trace(Block(act=part(torch.add, other=1)), IMAGE)
    assert trace(Block(act=part(torch.add, other=1)), IMAGE) is not trace(Block(act=part(torch.add, other=2)), IMAGE)


def tied() -> Block:
    model = Block()
    model.second.weight = model.first.weight
    return model


def hooked() -> Block:
    model = Block()
    model.first.register_forward_hook(lambda module, inputs, out: out * 2)
    return model


@pytest.mark.parametrize(
    "other",
    [
        lambda: Block(settings={"residual": False, "depths": [1, 2]}),
        lambda: Block(settings={"residual": True, "depths": [1, 3]}),
        lambda: Block(act=torch.sigmoid),
        lambda: Block(second=conv(4, 4, groups=2)),
        lambda: Block(second=nn.Identity()),
        lambda: Block(extra=param(3)),
        lambda: Block().double(),
        lambda: Block().requires_grad_(False),
        tied,
        hooked,
    ],
)
def test_another_architecture_is_another_graph(other: Callable[[], nn.Module]) -> None:
    before = trace(Block(), IMAGE)
    model = other()
    graph = trace(model, IMAGE.to(next(model.parameters()).dtype))
    assert graph is not before
    forget()
    assert trace(model, IMAGE.to(next(model.parameters()).dtype)) == graph


def test_the_input_and_the_rules_count() -> None:
    model = Block()
    graph = trace(model, IMAGE)
    assert trace(model, torch.zeros(2, 4, 9, 9)) is not graph
    register(Block, {"first.weight": Role.WEIGHT})
    try:
        assert len(trace(model, IMAGE)) == 2
    finally:
        del RULES[Block]
    assert trace(model, IMAGE) == graph


def test_what_may_depend_on_numbers_is_traced_each_time() -> None:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m.a(x) if m.t.item() > 0 else m.b(x)

    def model(t: float) -> nn.Module:
        return Net(forward, a=conv(), b=conv(), t=nn.Parameter(torch.tensor(t), requires_grad=False))

    assert [trace(model(t), IMAGE).slots[0].fqn for t in (1.0, -1.0, 1.0)] == ["a.weight", "b.weight", "a.weight"]


def test_only_the_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "KEPT", 2)
    first = trace(conv(4, 1), IMAGE)
    second = trace(conv(4, 2), IMAGE)
    assert trace(conv(4, 1), IMAGE) is first
    trace(conv(4, 3), IMAGE)
    assert trace(conv(4, 1), IMAGE) is first
    assert trace(conv(4, 2), IMAGE) is not second


def test_an_object_that_cannot_be_looked_into_stands_for_itself() -> None:
    lock = object()
    assert trace(Block(lock=lock), IMAGE) is trace(Block(lock=lock), IMAGE)
    assert trace(Block(lock=object()), IMAGE) is not trace(Block(lock=object()), IMAGE)
    assert trace(Block(slots=Slots(1)), IMAGE) is trace(Block(slots=Slots(1)), IMAGE)
    assert trace(Block(slots=Slots(1)), IMAGE) is not trace(Block(slots=Slots(2)), IMAGE)
    assert trace(Block(seen={1, "a"}), IMAGE) is trace(Block(seen={1, "a"}), IMAGE)


@dataclasses.dataclass(slots=True)
class Slots:
    width: int


NESTED = functools.reduce(lambda inner, _: [inner], range(9999), [])


@pytest.mark.parametrize("held", [bytearray(3), list(range(600_000)), NESTED], ids=["mutable", "large", "deep"])
def test_what_cannot_be_compared_is_traced_each_time(held: Any) -> None:
    model = Block(held=held)
    assert memory.key_of(model) is None
    assert trace(model, IMAGE) == trace(model, IMAGE)
    assert trace(model, IMAGE) is not trace(model, IMAGE)


def test_a_look_up_is_faster_than_a_trace() -> None:
    model = nn.Sequential(*[Block() for _ in range(60)])

    def seconds(clear: bool) -> float:
        spent = []
        for _ in range(5):
            if clear:
                forget()
            start = time.process_time()
            trace(model, IMAGE)
            spent.append(time.process_time() - start)
        return min(spent)

    assert seconds(clear=True) > 3 * seconds(clear=False)
