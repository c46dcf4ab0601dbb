"""Initial weights by name: what each promises, whatever the layer keeps its weights in."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

import ghn
from ghn.axes import as_stored, by_outputs
from ghn.errors import CheckpointError, CoverageError, ModelError
from ghn.hyper import Hypernet
from ghn.inits import INITS, Given, initialise
from ghn.model import GHN, GHNConfig
from ghn.primitives import Role


class Net(nn.Module):
    """Convolutions, grouped, depthwise and transposed, and a matrix kept inputs first."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 40, 3, padding=1), nn.BatchNorm2d(40)
        self.grouped, self.depthwise = nn.Conv2d(40, 20, 3, groups=4), nn.Conv2d(20, 20, 3, groups=20)
        self.up = nn.ConvTranspose2d(20, 12, 2)
        self.matrix = nn.Parameter(torch.randn(12, 16))
        self.fc = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.depthwise(self.grouped(F.relu(self.norm(self.first(x))))))
        return self.fc(x.mean((2, 3)) @ self.matrix)


def made(name: str, seed: int = 0, classes: int = 10, **options: object) -> tuple[nn.Module, Given]:
    torch.manual_seed(7)
    model = Net(classes)
    model.expected_input_sz = 16
    hyper = Hypernet(GHN(GHNConfig(hid=8, max_shape=(8, 8, 3, 3))), {}, 16, tuple("abcdefghij"))
    generator = torch.Generator().manual_seed(seed)
    given = Given(ghn.trace(model), generator, classes, hyper, **options)  # ty: ignore[invalid-argument-type]
    return initialise(name, model, given), given


def matrices(model: nn.Module, given: Given, *roles: Role) -> dict[str, Tensor]:
    """Name -> (outputs, inputs) of the weights with these roles."""
    parameters = dict(model.named_parameters())
    slots = [s for s in given.graph.slots if s.role in (roles or (Role.WEIGHT,)) and len(s.shape) > 1]
    assert len(slots) >= 5
    return {s.fqn: by_outputs(parameters[s.fqn].detach(), s.axes).flatten(1).double() for s in slots}


def test_outputs_first_and_back_changes_nothing() -> None:
    shapes = {"": (4, 3, 2, 2), "iokk": (4, 3, 2, 5), "iokk/2": (4, 3, 2, 5), "io": (6, 2), "ooi": (2, 3, 5)}
    for axes, shape in shapes.items():
        value = torch.randn(shape)
        assert torch.equal(as_stored(by_outputs(value, axes), shape, axes), value)
    assert torch.equal(by_outputs(torch.arange(6).view(2, 3), "io"), torch.arange(6).view(2, 3).T)


@pytest.mark.parametrize("name", ["orthogonal", "predicted-orth"])
def test_orthogonal_weights_have_orthonormal_rows_or_columns(name: str) -> None:
    model, given = made(name)
    for fqn, matrix in matrices(model, given).items():
        out, into = matrix.shape
        gram = matrix @ matrix.T if out <= into else matrix.T @ matrix
        assert torch.allclose(gram, torch.eye(len(gram), dtype=torch.double), atol=1e-5), fqn
        assert matrix.norm().item() == pytest.approx(min(out, into) ** 0.5, rel=1e-5)


def test_kaiming_has_variance_2_over_fan_in() -> None:
    model, given = made("kaiming")
    for fqn, matrix in matrices(model, given).items():
        spread = matrix.std().item() / (2 / matrix.shape[1]) ** 0.5
        assert spread == pytest.approx(1, abs=4 / matrix.numel() ** 0.5), fqn


def test_noise_tells_equal_filters_apart_and_changes_little() -> None:
    """A GHN of 8 x 8 kernels gives 40 filters of which five are equal; training alone would keep them so."""
    plain, noisy = made("predicted")[0].first.weight, made("predicted-noise")[0].first.weight
    assert isinstance(plain, Tensor)
    assert isinstance(noisy, Tensor)
    assert torch.equal(plain[:8], plain[8:16])
    assert not torch.equal(noisy[:8], noisy[8:16])
    rows = plain.detach().flatten(1)
    noise = (noisy - plain).detach().std().item()
    assert noise == pytest.approx(3e-5 * torch.corrcoef(rows).std().item(), rel=0.1)


def test_orthogonalising_keeps_what_already_is_orthonormal() -> None:
    """Q of a matrix with orthonormal columns is that matrix: the sign is fixed by R."""
    from ghn.inits import _nearest

    once = _nearest(torch.randn(6, 20))
    assert torch.allclose(_nearest(once), once, atol=1e-6)
    assert torch.allclose(_nearest(once.T), once.T, atol=1e-6)


def test_layers_before_the_first_and_the_classifier_stay_as_predicted() -> None:
    plain, _ = made("predicted")
    changed, _ = made("predicted-orth", first=2)
    other = dict(changed.named_parameters())
    unlike = [n for n, p in plain.named_parameters() if not torch.equal(p, other[n])]
    assert unlike == ["grouped.weight", "depthwise.weight", "up.weight"]  # not the matrix and the first, nor the last


def test_a_classifier_for_other_classes_is_left_as_it_is() -> None:
    fresh, predicted = made("own", classes=7)[0], made("predicted", classes=7)[0]
    own, other = dict(fresh.named_parameters()), dict(predicted.named_parameters())
    assert [n for n in own if torch.equal(own[n], other[n])] == ["fc.weight", "fc.bias"]


@pytest.mark.parametrize("name", list(INITS))
def test_a_seed_decides_what_is_drawn(name: str) -> None:
    one, again, other = (made(name, seed)[0].state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[n], again[n]) for n in one)
    drawn = name not in ("own", "predicted")
    assert drawn != all(torch.equal(one[n], other[n]) for n in one)


def test_weights_come_from_a_file_that_fits(tmp_path: Path) -> None:
    model, given = made("kaiming")
    file = tmp_path / "w.safetensors"
    save_file({n: p.detach() for n, p in model.named_parameters()}, file)
    again = initialise(str(file), made("own")[0], given)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    with pytest.raises(CheckpointError, match=r"1 of .* differ, as fc.weight \[7, 16\], of which it has \[10, 16\]"):
        initialise(str(file), _seven(), given)
    file.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="cannot be read"):
        initialise(str(file), model, given)
    with pytest.raises(ModelError, match="no initialisation 'magic'; there are own, kaiming"):
        initialise("magic", model, given)


def _seven() -> nn.Module:
    model = Net()
    model.fc.weight = nn.Parameter(torch.zeros(7, 16))
    return model


def test_what_no_rule_covers_is_refused_or_left() -> None:
    class Odd(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) ** self.power

        def __init__(self) -> None:
            super().__init__()
            self.power = nn.Parameter(torch.ones(10))

    model = Odd()
    graph, hyper = (
        ghn.trace(model),
        Hypernet(GHN(GHNConfig(hid=8, max_shape=(8, 8, 3, 3))), {}, 16, tuple("0123456789")),
    )
    with pytest.raises(CoverageError, match="power"):
        initialise("predicted", model, Given(graph, torch.Generator(), 10, hyper))
    initialise("predicted", model, Given(graph, torch.Generator(), 10, hyper, strict=False))
    assert torch.equal(model.power, torch.ones(10))
