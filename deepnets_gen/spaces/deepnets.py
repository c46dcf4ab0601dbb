"""Genotype -> Sketch: the graph of a DeepNets-1M network stated directly; no module is built, nothing is traced.

Follows `build` part for part: the graph is the one that `ghn.trace` finds of the module. Source: Knyazev et al.,
NeurIPS 2021, appendix A.
"""

from functools import lru_cache

from deepnets_gen.genotype import Genotype, GenotypeError
from deepnets_gen.layout import CellLayout, Layout, layout, reads_second_stem
from ghn.primitives import Primitive
from ghn.sketch import INPUT, Piece, Sketch

SEP_CONV, DIL_CONV = Primitive.SEP_CONV.value, Primitive.DIL_CONV.value
LN, MSA, CSE = Primitive.LN.value, Primitive.MSA.value, Primitive.CSE.value
POOLS = {"max_pool": Primitive.MAX_POOL.value, "avg_pool": Primitive.AVG_POOL.value}


def sketch(genotype: Genotype, num_classes: int = 10, image_size: int = 32) -> Sketch:
    """The graph of the network for images of this side, in the making.

    Raises GenotypeError where the image is too small for the network's strides.
    """
    plan = layout(genotype, image_size)
    if plan.smallest < 2:
        raise GenotypeError(f"images of side {image_size} vanish in this network; give larger ones")
    s = Sketch()
    s0, s1 = _stem(s, genotype, plan)
    for k, cell in enumerate(plan.cells):
        s0, s1 = s1, _cell(s, genotype, k, cell, (s0, s1)) if genotype.flow[k].live else None
    assert s1 is not None, "the last cell of a connected network is alive"
    _head(s, genotype, s1, plan.features, num_classes)
    return s


def _stem(s: Sketch, g: Genotype, plan: Layout) -> tuple[int, int | None]:
    """The nodes of the stem's two outputs; None where nothing reads the second."""
    stem, c, normed = plan.stem, g.channels, g.norm is not None
    first, second = (side * side for side in stem.sides)
    weight = (stem.width, 3, stem.kernel, stem.kernel)
    if stem.kind == "patches":
        encoding = s.table("pos_enc.weight", (1, c, stem.sides[0], stem.sides[0]))  # a source: comes first
        patches = s.layer(INPUT, "stem0", weight, first)
        s.entries.reverse()  # the module lists the patches' weight first
        x = s.sum((encoding, patches), "pos_enc")
        return x, x
    if stem.kind == "single":
        x = _normed(s, s.layer(INPUT, "stem.0", weight, stem.first**2), "stem.1", stem.width, normed)
        if g.stem_pool:
            x = s.pool(x, "stem.2", POOLS["max_pool"], 3)
        return x, x
    x = _normed(s, s.layer(INPUT, "stem0.0", weight, stem.first**2), "stem0.1", stem.width, normed)
    s0 = _normed(s, s.layer(x, "stem0.3", (c, stem.width, 3, 3), first), "stem0.4", c, normed)
    if not reads_second_stem(g):
        return s0, None
    return s0, _normed(s, s.layer(s0, "stem1.1", (c, c, 3, 3), second), "stem1.2", c, normed)


Inputs = tuple[int | None, int | None]


def _cell(s: Sketch, g: Genotype, k: int, cell: CellLayout, inputs: Inputs) -> int:
    """The node of living cell k's output. inputs: the nodes of the outputs of the two cells before."""
    path, kind, flow, normed = f"cells.{k}", g.stack[k], g.flow[k], g.norm is not None
    states: list[int | None] = list(inputs)
    for i, x in enumerate(inputs):
        if x is not None and g.preproc and i in flow.reads:
            piece = _preprocess(cell.halves and i == 0, cell.channels, cell.inputs[i], cell.before, normed)
            states[i] = s.paste(piece, x, f"{path}.preprocess{i}")
    for j in range(0, len(kind.edges), 2):
        terms = []
        for i in (j, j + 1):
            op, source = kind.edges[i]
            if i in flow.live and (x := states[source]) is not None:
                piece = _operation(op, cell.channels, cell.stride(source), cell.before, cell.side, normed)
                terms.append(s.paste(piece, x, f"{path}._ops.{i}"))
        states.append(s.sum(terms, path) if terms else None)
    return s.concat([x for i in kind.concat if (x := states[i]) is not None], path)


@lru_cache(maxsize=4096)
def _preprocess(halve: bool, c: int, c_in: int, side: int, normed: bool) -> Piece:
    """What brings a cell's input to its channels, and to half the side where it must be halved."""
    s = Sketch()
    make = _factorized_reduce if halve else _conv
    return Piece.of(s, make(s, INPUT, "", (c, c_in, 1, 1), side**2, normed))


@lru_cache(maxsize=4096)
def _operation(op: str, c: int, stride: int, before: int, side: int, normed: bool) -> Piece:
    """An operation from a state of side `before` to one of this side."""
    s = Sketch()
    return Piece.of(s, _write(s, op, c, stride, before, side, normed))


def _write(s: Sketch, op: str, c: int, stride: int, before: int, side: int, normed: bool) -> int:
    positions, (family, kernel), x = side**2, _parsed(op), INPUT
    match family:
        case "max_pool" | "avg_pool":
            return s.pool(x, "", POOLS[family], kernel)
        case "skip":
            return x if stride == 1 else _factorized_reduce(s, x, "", (c, c, 1, 1), positions, normed)
        case "conv":
            return _conv(s, x, "", (c, c, kernel, kernel), positions, normed)
        case "conv_7x1":
            x = s.layer(x, ".op.1", (c, c, 1, 7), before * side if stride == 2 else positions)
            return _normed(s, s.layer(x, ".op.2", (c, c, 7, 1), positions), ".op.3", c, normed)
        case "sep_conv":
            x = _depthwise(s, x, 1, c, kernel, positions, normed, SEP_CONV)
            return _depthwise(s, x, 5, c, kernel, positions, normed, SEP_CONV)
        case "dil_conv":
            return _depthwise(s, x, 1, c, kernel, positions, normed, DIL_CONV)
    return _transformer(s, x, c, positions) if op == "msa" else _squeeze_excite(s, x, c)


def _parsed(op: str) -> tuple[str, int]:
    """Family and kernel size of an operation: 'sep_conv_3x3' -> ('sep_conv', 3)."""
    family, _, kernel = op.rpartition("_")
    return family, int(kernel.split("x")[0]) if kernel[:1].isdigit() else 0


def _normed(s: Sketch, x: int, path: str, c: int, normed: bool) -> int:
    return s.norm(x, path, c) if normed else x


def _conv(s: Sketch, x: int, path: str, shape: tuple[int, int, int, int], positions: int, normed: bool) -> int:
    return _normed(s, s.layer(x, f"{path}.op.1", shape, positions), f"{path}.op.2", shape[0], normed)


def _depthwise(s: Sketch, x: int, i: int, c: int, k: int, positions: int, normed: bool, op: int) -> int:
    x = s.layer(x, f".op.{i}", (c, 1, k, k), positions, op=op)
    return _normed(s, s.layer(x, f".op.{i + 1}", (c, c, 1, 1), positions), f".op.{i + 2}", c, normed)


def _factorized_reduce(
    s: Sketch, x: int, path: str, shape: tuple[int, int, int, int], positions: int, normed: bool
) -> int:
    half = (shape[0] // 2, *shape[1:])
    halves = [s.layer(x, f"{path}.conv_{i}", half, positions) for i in (1, 2)]
    return _normed(s, s.concat(halves, path), f"{path}.bn", shape[0], normed)


def _transformer(s: Sketch, x: int, c: int, positions: int) -> int:
    qkv = s.layer(s.norm(x, ".ln1", c, LN), ".to_qkv", (3 * c, c), positions)
    attended = s.add(MSA, (qkv,), "", ".msa")
    x = s.sum((x, s.layer(attended, ".to_out.0", (c, c), positions, bias=True)), "")
    y = s.norm(x, ".ln2", c, LN)
    for i in (0, 3):
        y = s.layer(y, f".ff.net.{i}", (c, c), positions, bias=True)
    return s.sum((x, y), "")


def _squeeze_excite(s: Sketch, x: int, c: int) -> int:
    gate = s.layer(x, ".fc1", (c // 2, c), bias=True)
    gate = s.layer(gate, ".fc2", (c, c // 2), bias=True)
    return s.add(CSE, (x, gate), "", ".cse")


def _head(s: Sketch, g: Genotype, x: int, features: int, num_classes: int) -> None:
    if g.glob_avg:
        x = s.add(Primitive.GLOB_AVG.value, (x,), "glob_avg")
    widths = [features, *([g.fc_dim] * (g.fc_layers - 1)), num_classes]
    last = len(widths) - 2
    for i in range(last + 1):
        shape = (widths[i + 1], widths[i])
        x = s.layer(x, f"classifier.{3 * i}", shape, bias=True, classifies=i == last)
