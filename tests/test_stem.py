"""adjust_stem: every family that has a rule runs on 32 pixels, at the resolutions that follow from its rule."""

import importlib.util
from collections.abc import Callable

import pytest
import torch
from torch import nn

import ghn
from ghn._compat import import_torchvision
from ghn.errors import ModelError
from ghn.stem import RULES, has_rule

if importlib.util.find_spec("torchvision") is None:
    pytest.skip("torchvision is not installed (extra: models)", allow_module_level=True)
models = import_torchvision().models

# name -> (module whose output shows the stem's side, that side, module before the head, its side).
FAMILIES = {
    "resnet18": ("maxpool", 32, "layer4", 4),
    "densenet121": ("features.pool0", 32, "features.norm5", 4),
    "mobilenet_v2": ("features.4", 32, "features.18", 8),
    "mobilenet_v3_small": ("features.4", 32, "features.12", 16),
    "mobilenet_v3_large": ("features.4", 32, "features.16", 8),
    "vgg11": ("features.9", 32, "features.20", 4),
    "alexnet": ("features.2", 26, "features.12", 5),
    "mnasnet0_5": ("layers.7", 32, "layers.16", 2),
    "shufflenet_v2_x0_5": ("maxpool", 32, "conv5", 4),
    "googlenet": ("maxpool1", 32, "inception5b", 4),
    "convnext_tiny": ("features.0", 29, "features.7", 3),
}


def build(name: str) -> nn.Module:
    options = {"init_weights": False} if name in ("googlenet", "vgg11") else {}
    return getattr(models, name)(num_classes=10, **options)


def sides(model: nn.Module, names: list[str], image_size: int) -> list[int]:
    """Side of each module's output."""
    found: dict[str, int] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: found.__setitem__(name, output.shape[-1])

    handles = [model.get_submodule(n).register_forward_hook(keep(n)) for n in names]
    out = model.eval()(torch.zeros(1, 3, image_size, image_size, device=next(model.parameters()).device))
    for handle in handles:
        handle.remove()
    assert out.shape == (1, 10)
    return [found[n] for n in names]


@pytest.mark.parametrize("name", FAMILIES)
def test_small_images_keep_their_resolution(name: str) -> None:
    stem, side, last, last_side = FAMILIES[name]
    with torch.device("meta"):
        model = build(name)
    assert has_rule(model)
    assert ghn.adjust_stem(model, 32) is model
    assert sides(model, [stem, last], 32) == [side, last_side]
    assert model.expected_input_sz == 32
    assert len(ghn.trace(model)) > 10


def test_every_rule_is_tried() -> None:
    with torch.device("meta"):
        assert {type(build(name)).__name__ for name in FAMILIES} == RULES.keys()


@pytest.mark.parametrize(("name", "path"), [("resnet18", "conv1"), ("densenet121", "features.conv0")])
def test_the_middle_of_the_first_kernel_is_kept(name: str, path: str) -> None:
    model = build(name)
    before = model.get_submodule(path).weight.detach().clone()
    ghn.adjust_stem(model, 32)
    conv = model.get_submodule(path)
    assert torch.equal(conv.weight, before[:, :, 2:5, 2:5])
    assert conv.weight.is_contiguous()
    assert conv.weight.requires_grad
    assert (conv.kernel_size, conv.padding, conv.stride) == ((3, 3), (1, 1), (1, 1))
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(conv(x), torch.nn.functional.conv2d(x, before[:, :, 2:5, 2:5], padding=1))


def test_other_families_keep_their_kernels() -> None:
    model = build("shufflenet_v2_x0_5")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    ghn.adjust_stem(model, 32)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[k], before[k]) for k in before)


def test_twice_is_once() -> None:
    with torch.device("meta"):
        once, twice = build("resnet18"), build("resnet18")
    ghn.adjust_stem(once, 32)
    ghn.adjust_stem(ghn.adjust_stem(twice, 32), 32)
    assert ghn.trace(once) == ghn.trace(twice)


def test_large_images_change_nothing_but_the_size() -> None:
    with torch.device("meta"):
        model = build("resnet18")
    assert ghn.adjust_stem(model, 128).conv1.kernel_size == (7, 7)
    assert model.expected_input_sz == 128
    assert ghn.adjust_stem(nn.Linear(2, 2), 65).expected_input_sz == 65


def test_networks_without_a_rule_are_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3))
    assert not has_rule(model)
    with pytest.raises(ModelError, match="no rule to fit Sequential to 32 pixels; rules exist for AlexNet"):
        ghn.adjust_stem(model, 32)
    assert not hasattr(model, "expected_input_sz")


def named(name: str, **parts: nn.Module) -> nn.Module:
    """A module of a class of this name with these children."""
    model = type(name, (nn.Module,), {})()
    for key, part in parts.items():
        setattr(model, key, part)
    return model


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (named("ResNet"), "conv1"),
        (named("ResNet", conv1=nn.Sequential(nn.Conv2d(3, 8, 3))), "kernel_size"),
        (named("ResNet", conv1=nn.Conv2d(3, 8, 1)), "smaller than 3x3"),
        (named("DenseNet", features=nn.Sequential(nn.Conv2d(3, 8, 3))), "range"),
        (named("GoogLeNet", conv1=nn.Sequential(nn.ReLU())), ""),
        (named("VGG"), "features"),
    ],
)
def test_namesakes_built_otherwise_are_refused(model: nn.Module, reason: str) -> None:
    with pytest.raises(ModelError, match=f"{type(model).__name__} is not built like torchvision's.*{reason}"):
        ghn.adjust_stem(model, 32)
