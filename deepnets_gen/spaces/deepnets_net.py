"""Genotype -> nn.Module. Parts that reach no output get no parameters; names are those of the published networks.

Source: Knyazev et al., NeurIPS 2021, appendix A.2.
"""

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepnets_gen.connect import CellFlow, CellKind
from deepnets_gen.genotype import Genotype, GenotypeError
from deepnets_gen.layout import CellLayout, Layout, StemLayout, is_valid, layout, reads_second_stem
from deepnets_gen.ops import (
    Conv2d,
    FactorizedReduce,
    Linear,
    Norm,
    PosEnc,
    Subsample,
    make_norm,
    make_op,
    relu_conv_norm,
)


def build(
    genotype: Genotype, num_classes: int = 10, image_size: int = 32, device: torch.device | str | None = None
) -> "Network":
    """The network: (B, 3, image_size, image_size) -> (B, num_classes) logits.

    On device 'meta' nothing is allocated nor initialised; otherwise as torch.nn initialises. Raises GenotypeError
    where the image is too small for the network's strides.
    """
    if not is_valid(genotype, image_size):
        raise GenotypeError(f"images of side {image_size} vanish in this network; give larger ones")
    with nullcontext() if device is None else torch.device(device):
        return Network(genotype, num_classes, image_size)


class Network(nn.Module):
    """A DeepNets-1M network. expected_input_sz: the side of its images."""

    def __init__(self, genotype: Genotype, num_classes: int, image_size: int) -> None:
        super().__init__()
        plan = layout(genotype, image_size)
        self.genotype = genotype
        self.expected_input_sz = image_size
        self._add_stem(plan.stem)
        alive = [k for k, flow in enumerate(genotype.flow) if flow.live]
        self.cells = nn.ModuleDict({str(k): _cell(genotype, plan, k) for k in alive})
        self.classifier = _classifier(genotype, plan.features, num_classes)

    def _add_stem(self, stem: StemLayout) -> None:
        g = self.genotype
        if stem.kind == "patches":
            self.stem0 = Conv2d(3, stem.width, stem.kernel, stem.stride, int(stem.kernel < 4), bias=False)
            self.pos_enc = PosEnc(stem.width, stem.sides[0])
        elif stem.kind == "single":
            pool = nn.MaxPool2d(3, 2, 1) if g.stem_pool else nn.Identity()
            self.stem = nn.Sequential(_stem_conv(3, stem.width, stem), make_norm(g.norm, stem.width), pool)
        else:
            c = g.channels
            first = [_stem_conv(3, stem.width, stem), make_norm(g.norm, stem.width)]
            second = [Conv2d(stem.width, c, 3, stem.stride, 1, bias=False), make_norm(g.norm, c)]
            self.stem0 = nn.Sequential(*first, nn.ReLU(), *second)
            if reads_second_stem(g):
                third = Conv2d(c, c, 3, 2, 1, bias=False)
                self.stem1 = nn.Sequential(nn.ReLU(), third, make_norm(g.norm, c))

    def _stem(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.genotype.is_vit:
            s = self.pos_enc(self.stem0(x))
        elif self.genotype.stem_type == 0:
            s = self.stem(x)
        else:
            s = self.stem0(x)
            return s, self.stem1(s) if hasattr(self, "stem1") else None
        return s, s

    def features(self, x: Tensor) -> Tensor:
        """(B, 3, s, s) -> (B, F): what the classifier sees."""
        s0, s1 = self._stem(x)
        for k in range(self.genotype.n_cells):
            s0, s1 = s1, self.cells[str(k)](s0, s1) if str(k) in self.cells else None
        assert s1 is not None, "the last cell of a connected network is alive"
        return (F.adaptive_avg_pool2d(s1, 1) if self.genotype.glob_avg else s1).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


class Cell(nn.Module):
    """Two feature maps -> one: sums of operations along the live edges, some of the sums concatenated."""

    def __init__(self, kind: CellKind, flow: CellFlow, cell: CellLayout, norm: Norm, preproc: bool) -> None:
        super().__init__()
        if 0 in flow.reads:
            self.preprocess0 = _preprocess(cell.inputs[0], cell.channels, cell.halves, norm, preproc)
        if 1 in flow.reads:
            self.preprocess1 = _preprocess(cell.inputs[1], cell.channels, False, norm, preproc)
        self.reads = flow.reads
        self.concat = kind.concat
        self.steps = tuple(
            tuple((str(j), kind.edges[j][1]) for j in (i, i + 1) if j in flow.live)
            for i in range(0, len(kind.edges), 2)
        )
        self._ops = nn.ModuleDict()
        for j in sorted(flow.live):
            op, source = kind.edges[j]
            self._ops[str(j)] = make_op(op, cell.channels, cell.stride(source), norm)

    def forward(self, s0: Tensor | None, s1: Tensor | None) -> Tensor:
        states: list[Tensor | None] = [
            self.preprocess0(s0) if 0 in self.reads else None,
            self.preprocess1(s1) if 1 in self.reads else None,
        ]
        for edges in self.steps:
            terms = [self._ops[name](states[source]) for name, source in edges]
            states.append(terms[0] + terms[1] if len(terms) == 2 else terms[0] if terms else None)
        outputs = [states[i] for i in self.concat]
        if len(outputs) == 1:
            assert outputs[0] is not None, "a live cell has a live output"
            return outputs[0]
        blank = torch.zeros_like(next(y for y in outputs if y is not None))
        return torch.cat([blank if y is None else y for y in outputs], dim=1)


def _cell(g: Genotype, plan: Layout, k: int) -> Cell:
    return Cell(g.stack[k], g.flow[k], plan.cells[k], g.norm, g.preproc)


def _preprocess(c_in: int, c_out: int, halve: bool, norm: Norm, preproc: bool) -> nn.Module:
    if not preproc:
        return Subsample() if halve else nn.Identity()
    return FactorizedReduce(c_in, c_out, norm) if halve else relu_conv_norm(c_in, c_out, 1, 1, norm)


def _stem_conv(c_in: int, c_out: int, stem: StemLayout) -> Conv2d:
    return Conv2d(c_in, c_out, stem.kernel, stem.stride, stem.kernel // 2, bias=False)


def _classifier(g: Genotype, features: int, num_classes: int) -> nn.Sequential:
    hidden = [g.fc_dim] * (g.fc_layers - 1)
    layers: list[nn.Module] = []
    for a, b in zip([features, *hidden], [*hidden, num_classes], strict=True):
        layers += [Linear(a, b), nn.ReLU(), nn.Dropout(0.5)]
    return nn.Sequential(*layers[:-2])
