"""The fast way of layers gives what torch's own gives."""

import copy
import weakref

import pytest
import torch
from torch import nn

from train.fast import quicken

CASES = [(k, d, s, side) for k in (3, 5) for d in (1, 2) for s in (1, 2) for side in (4, 7, 16)]


@pytest.mark.parametrize(("kernel", "dilation", "stride", "side"), CASES)
def test_values_and_gradients(kernel: int, dilation: int, stride: int, side: int) -> None:
    torch.manual_seed(0)
    padding = dilation * (kernel - 1) // 2
    plain = nn.Conv2d(8, 8, kernel, stride=stride, padding=padding, dilation=dilation, groups=8, bias=False)
    fast = quicken(copy.deepcopy(plain))
    assert "forward" in vars(fast)
    x = torch.randn(2, 8, side, side).to(memory_format=torch.channels_last).requires_grad_()
    results = []
    for layer in (plain, fast):
        y = layer(x)
        results.append((y, *torch.autograd.grad(y.sin().sum(), (x, layer.weight))))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_readers_of_one_tensor_share_its_relu() -> None:
    torch.manual_seed(0)
    plain = nn.ModuleList([nn.ReLU(), nn.ReLU()])
    fast = quicken(copy.deepcopy(plain))
    results = []
    for one, other in (plain, fast):
        x = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()
        middle = 2 * x
        first, second = one(middle), other(middle)
        results.append((first, second, *torch.autograd.grad((first.sin() * second).sum(), x)))
    for ours, theirs in zip(*results, strict=True):
        assert ours.equal(theirs)
    assert results[1][0] is results[1][1]
    assert results[0][0] is not results[0][1]


@pytest.mark.parametrize("leaf", [True, False])
def test_a_relu_goes_with_its_tensor(leaf: bool) -> None:
    layer, x = quicken(nn.ReLU()), torch.ones(3, requires_grad=True)
    x = x if leaf else 2 * x
    made = weakref.ref(layer(x))
    assert (made() is None) == leaf
    del x
    assert made() is None, "without the garbage collector"


def test_other_layers_are_left_alone() -> None:
    layers = nn.Sequential(
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, groups=4, bias=True),
        nn.Conv2d(4, 4, 1, padding=1, bias=False),
        nn.Conv2d(4, 4, 1, groups=2, bias=False),
        nn.ReLU(inplace=True),
    )
    assert all("forward" not in vars(layer) for layer in quicken(layers))
