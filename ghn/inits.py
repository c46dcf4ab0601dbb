"""Initial weights of a network, by name: its own, the customary random ones, predicted ones, and these made unlike.

Sources: He et al., ICCV 2015 (kaiming); Saxe et al., ICLR 2014 (orthogonal); Knyazev, "Pretraining a Neural Network
before Knowing Its Architecture" (ICML 2022 workshop): tiling makes filters equal, and equal filters stay equal under
training, so that a little noise, and the nearest orthogonal matrix, are what fine-tuning starts from.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ghn.assign import load
from ghn.axes import as_stored, by_outputs
from ghn.errors import CheckpointError, ModelError
from ghn.graph import ArchGraph, ParamSlot
from ghn.hyper import Hypernet
from ghn.primitives import Role

NOISE = 3e-5  # the published strength for ResNet-50
CLASSIFIER = (Role.CLASSIFIER_WEIGHT, Role.CLASSIFIER_BIAS)


@dataclass(frozen=True)
class Given:
    """What initial weights are made from. graph: of the network. generator: of what is drawn.

    hyper: for those that are predicted; its classifier is taken only where the network has as many `classes`.
    noise: strength of what is added to predicted weights. first: of the weights with two dimensions or more, in the
    order of the network, the first that is changed so. strict: as for `Hypernet.predict`.
    """

    graph: ArchGraph
    generator: torch.Generator
    classes: int
    hyper: Hypernet | None = None
    noise: float = NOISE
    first: int = 0
    strict: bool = True


def initialise(name: str, model: nn.Module, given: Given) -> nn.Module:
    """The model with these initial weights. name: of INITS, or a safetensors file with all parameters.

    What an initialisation says nothing of keeps the values that the model came with. Raises ModelError on another
    name, or where a GHN is needed and there is none; CheckpointError where the file does not fit; CoverageError.
    """
    if name.endswith(".safetensors"):
        return load(model, _read(Path(name), model))
    if name not in INITS:
        raise ModelError(f"no initialisation {name!r}; there are {', '.join(INITS)}, or give a .safetensors file")
    with torch.no_grad():
        INITS[name](model, given)
    return model


def own(model: nn.Module, given: Given) -> None:
    """What the network's author chose."""


def kaiming(model: nn.Module, given: Given) -> None:
    """Every convolution and linear layer normal with variance 2 / fan-in."""
    for slot, parameter in _weights(model, given, (Role.WEIGHT, Role.CLASSIFIER_WEIGHT)):
        parameter.normal_(0, math.sqrt(2 / slot.fan_in), generator=given.generator)


def orthogonal(model: nn.Module, given: Given) -> None:
    """Every convolution and linear layer a random matrix, outputs by inputs, with orthonormal rows or columns."""
    for slot, parameter in _weights(model, given, (Role.WEIGHT, Role.CLASSIFIER_WEIGHT)):
        drawn = torch.randn(slot.outputs_first, generator=given.generator)
        parameter.copy_(as_stored(_nearest(drawn), slot.shape, slot.axes))


def predicted(model: nn.Module, given: Given) -> None:
    """All that the GHN predicts. Where its classes are others, the classifier is left as it is."""
    if given.hyper is None:
        raise ModelError("predicted weights need a GHN; give one with --checkpoint")
    weights, _ = given.hyper.predict(graph=given.graph, strict=given.strict)
    if given.classes != len(given.hyper.classes):
        for slot in given.graph.slots:
            if slot.role in CLASSIFIER:
                del weights[slot.fqn]
    load(model, weights)


def predicted_noise(model: nn.Module, given: Given) -> None:
    """Predicted weights, and normal noise of `noise` times the deviation of the correlations between their filters."""
    predicted(model, given)
    for slot, parameter in _weights(model, given, (Role.WEIGHT,), given.first):
        made = _disturbed(by_outputs(parameter, slot.axes), given)
        parameter.copy_(as_stored(made, slot.shape, slot.axes))


def predicted_orth(model: nn.Module, given: Given) -> None:
    """The same, and of each weight, outputs by inputs, the Q of its QR decomposition with a positive R."""
    predicted(model, given)
    for slot, parameter in _weights(model, given, (Role.WEIGHT,), given.first):
        made = _nearest(_disturbed(by_outputs(parameter, slot.axes), given))
        parameter.copy_(as_stored(made, slot.shape, slot.axes))


INITS: dict[str, Callable[[nn.Module, Given], None]] = {
    "own": own,
    "kaiming": kaiming,
    "orthogonal": orthogonal,
    "predicted": predicted,
    "predicted-noise": predicted_noise,
    "predicted-orth": predicted_orth,
}


def _weights(
    model: nn.Module, given: Given, roles: tuple[Role, ...], first: int = 0
) -> Iterator[tuple[ParamSlot, nn.Parameter]]:
    parameters = dict(model.named_parameters())
    slots = [slot for slot in given.graph.slots if slot.role in roles and len(slot.shape) > 1]
    return ((slot, parameters[slot.fqn]) for slot in slots[first:])


def _disturbed(weight: Tensor, given: Given) -> Tensor:
    """(out, in, ...) with noise; none where there are not two filters to compare."""
    rows = weight.flatten(1)
    correlations = torch.corrcoef(rows).flatten()
    correlations = correlations[correlations.isfinite()]  # those of constant filters are not
    strength = correlations.std() if len(correlations) > 1 else 0.0
    return weight + given.noise * strength * torch.randn(weight.shape, generator=given.generator)


def _nearest(weight: Tensor) -> Tensor:
    """(out, in, ...) with orthonormal rows, or columns where there are more rows."""
    matrix = weight.flatten(1)
    wide = matrix.shape[0] < matrix.shape[1]
    q, r = torch.linalg.qr(matrix.T if wide else matrix)
    q = q * torch.where(r.diagonal() < 0, -1.0, 1.0)
    return (q.T if wide else q).reshape(weight.shape)


def _read(file: Path, model: nn.Module) -> dict[str, Tensor]:
    """The parameters in a safetensors file, which must have every one of the model's."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}); give a file of `ghn predict --out`") from error
    wanted = {name: tuple(p.shape) for name, p in model.named_parameters()}
    wrong = [n for n, shape in wanted.items() if n not in found or tuple(found[n].shape) != shape]
    if wrong:
        held = list(found[wrong[0]].shape) if wrong[0] in found else "nothing"
        raise CheckpointError(
            f"{file} does not fit the network: {len(wrong)} of {len(wanted)} parameters differ, as {wrong[0]} "
            f"{list(wanted[wrong[0]])}, of which it has {held}"
        )
    return {name: found[name] for name in wanted}
