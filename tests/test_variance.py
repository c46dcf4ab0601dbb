"""sustain_variance: what each convolution puts out afterwards is measured by hooks of the test's own."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import deepnets_gen
import ghn
from train.data import load_sample


def images() -> Tensor:
    return torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def deviations(model: nn.Module, x: Tensor) -> dict[str, list[float]]:
    """Of the output of each convolution, by name, in the order of its calls."""
    found: dict[str, list[float]] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda _m, _a, y, name=name: found.setdefault(name, []).append(y.std().item()))
    with torch.no_grad(), ghn.batch_statistics(model):
        model(x)
    return found


@settings(max_examples=30, deadline=None)
@given(gains=st.lists(st.floats(0.05, 20), min_size=1, max_size=6), bias=st.booleans(), groups=st.sampled_from([1, 3]))
def test_outputs_below_one_come_to_one(gains: list[float], bias: bool, groups: int) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 3, 3, padding=1, bias=bias, groups=groups) for _ in gains]
    model = nn.Sequential(*(m for layer in layers for m in (layer, nn.ReLU())))
    with torch.no_grad():
        for layer, gain in zip(layers, gains, strict=True):
            layer.weight *= gain
    before = copy.deepcopy(model)
    factors = ghn.sustain_variance(model, images())
    for name, (deviation,) in deviations(model, images()).items():
        factor = factors.get(f"{name}.weight", 1.0)
        assert factor >= 1
        assert deviation == pytest.approx(1, rel=1e-3) if factor > 1 else deviation >= 1
    for (name, one), other in zip(model.named_parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(one, other * factors.get(name, 1.0))


def test_how_faint_weights_are_does_not_matter() -> None:
    """The deepest of ten networks of the split without normalisation, its random kernels at a tenth and a thirtieth."""
    genotype = max(deepnets_gen.generate("bnfree", 10), key=lambda g: g.n_cells)
    x, _ = load_sample().draw(32, torch.Generator().manual_seed(0))
    found = []
    for gain in (0.1, 0.03):
        torch.manual_seed(0)
        model = deepnets_gen.build(genotype, 10, 32).eval()
        with torch.no_grad():
            for layer in model.modules():
                if isinstance(layer, nn.Conv2d):
                    layer.weight *= gain
            before = model(x).std(dim=0).mean()
            assert ghn.sustain_variance(model, x)
            found.append(model(x))
            assert found[-1].std(dim=0).mean() > 3 * before
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-3)


def test_normalised_networks_stay_as_they_are() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    flags = [m.training for m in model.modules()]
    buffers = copy.deepcopy(dict(model.named_buffers()))
    with torch.no_grad(), ghn.batch_statistics(model):
        before = model(images())
        assert ghn.sustain_variance(model, images())
        torch.testing.assert_close(model(images()), before, rtol=1e-3, atol=1e-3)
    assert [m.training for m in model.modules()] == flags
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())


class Shared(nn.Module):
    """One convolution called twice, one that shares its weight, a gate, and one that calculates its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.other, self.gate = (nn.Conv2d(3, 3, k, padding=k // 2, bias=False) for k in (3, 3, 1))
        self.other.weight = self.twice.weight
        self.computed = weight_norm(nn.Conv2d(3, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.computed(self.other(self.twice(self.twice(x))))
        return x * self.gate(x.mean(dim=(2, 3), keepdim=True))


def test_shared_weights_are_scaled_once_and_gates_not_at_all() -> None:
    torch.manual_seed(0)
    model = Shared()
    weight = model.twice.weight.clone()
    (first,) = deviations(copy.deepcopy(model), images())["twice"][:1]
    assert ghn.sustain_variance(model, images()) == {"twice.weight": pytest.approx(1 / first)}
    torch.testing.assert_close(model.twice.weight, weight / first)
    assert deviations(model, images())["twice"][0] == pytest.approx(1, rel=1e-4)


def test_a_model_that_cannot_run_is_left_alone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(4, 4, 1))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ghn.ModelError, match=r"Sequential cannot run on images \(8, 3, 6, 6\)"):
        ghn.sustain_variance(model, images())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(layer._forward_hooks for layer in model)
