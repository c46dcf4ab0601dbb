"""batch_statistics: PyTorch's functional batch norm is the oracle, and nothing is left changed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import ghn
from ghn.norms import evaluating


def network() -> nn.Sequential:
    """Norms in every state: trained, in eval mode, without affine, without running statistics."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.Sequential(nn.BatchNorm2d(4, affine=False), nn.ReLU()),
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.BatchNorm2d(4, momentum=None),
        nn.Dropout(0.5),
        nn.Flatten(2),
        nn.BatchNorm1d(4),
    ).eval()
    model[4].train()
    return model


def images(seed: int = 0, n: int = 6) -> Tensor:
    return 3 * torch.randn(n, 3, 6, 6, generator=torch.Generator().manual_seed(seed)) + 1


def state(model: nn.Module) -> list[object]:
    flags = [(m.training, getattr(m, "track_running_stats", None)) for m in model.modules()]
    return [flags, [(k, v.tolist()) for k, v in model.state_dict().items()]]


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), eps=st.sampled_from([1e-5, 1e-2]), training=st.booleans(), affine=st.booleans())
def test_equals_batch_norm_in_training(seed: int, eps: float, training: bool, affine: bool) -> None:
    norm = nn.BatchNorm2d(3, eps=eps, affine=affine).train(training)
    norm.running_mean.fill_(7)
    if affine:
        with torch.no_grad():
            norm.weight.copy_(torch.tensor([0.5, 2, -1]))
            norm.bias.copy_(torch.tensor([1.0, 0, 3]))
    x = images(seed)
    with ghn.batch_statistics(norm):
        ours = norm(x)
    expected = F.batch_norm(x, None, None, norm.weight, norm.bias, training=True, eps=eps)
    assert torch.equal(ours, expected)


def test_only_batch_norms_are_switched() -> None:
    model = network()
    with ghn.batch_statistics(model) as same:
        assert same is model
        assert not model.training
        assert not model[5].training  # dropout stays off
        assert torch.equal(model(images()), model(images()))


def test_nothing_is_left_changed() -> None:
    model = network()
    before = state(model)
    with ghn.batch_statistics(model):
        model(images())
    assert state(model) == before


def test_nothing_is_left_changed_after_an_error() -> None:
    model = network()
    before = state(model)
    with pytest.raises(RuntimeError, match="channels"), ghn.batch_statistics(model):
        model(images()[:, :2])
    assert state(model) == before
    with pytest.raises(KeyboardInterrupt), ghn.batch_statistics(model):
        raise KeyboardInterrupt
    assert state(model) == before


def test_nesting_restores_in_turn() -> None:
    model = network()
    before = state(model)
    with ghn.batch_statistics(model):
        inside = model(images())
        with ghn.batch_statistics(model[2]):
            pass
        assert torch.equal(model(images()), inside)
    assert state(model) == before


def test_evaluating_is_eval_mode_by_batch_statistics_and_puts_every_flag_back() -> None:
    model = network().train()
    model[2].eval()
    before = state(model)
    with evaluating(model):
        assert not model[5].training
        inside = model(images())
    assert state(model) == before
    with pytest.raises(KeyboardInterrupt), evaluating(model):
        raise KeyboardInterrupt
    assert state(model) == before
    with ghn.batch_statistics(model.eval()):
        assert torch.equal(inside, model(images()))
