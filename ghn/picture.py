"""A graph as a picture: SVG text, without any library."""

from collections import Counter
from html import escape

import numpy as np

from ghn.graph import ArchGraph
from ghn.layout import BOX, MARGIN, Path, Point, layout
from ghn.primitives import Primitive
from ghn.summary import shape_text

COLOURS = {
    Primitive.INPUT: "#ffffff",
    Primitive.CONV: "#a8c8f0",
    Primitive.SEP_CONV: "#c3b8ee",
    Primitive.DIL_CONV: "#8fb0d8",
    Primitive.BIAS: "#dce8f6",
    Primitive.BN: "#fbe3a8",
    Primitive.LN: "#f7cf86",
    Primitive.MAX_POOL: "#b5dcc0",
    Primitive.AVG_POOL: "#cfe8c0",
    Primitive.GLOB_AVG: "#8fcfa8",
    Primitive.MSA: "#f3a6a0",
    Primitive.CSE: "#f0b8d4",
    Primitive.POS_ENC: "#e3c7a8",
    Primitive.SUM: "#d9dde2",
    Primitive.CONCAT: "#b9c0c9",
}
CHARS = 29  # that fit in a node
CORNER = 6.0  # pixels: radius of the bends
CHIP = 118  # pixels of a legend entry
HEAD = 26  # pixels above the drawing for a row of text
STYLE = """text{font:10px ui-monospace,Menlo,Consolas,monospace;fill:#1c2733}
.head{font-size:13px;font-weight:600}
rect{stroke:#5b6b7c;stroke-width:.8}
path{fill:none;stroke:#5b6b7c;stroke-width:1.1;marker-end:url(#tip)}
.far{stroke:#d98e5f}"""
TIP = (
    '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
    '<path d="M0 1L7 4L0 7z" style="fill:#5b6b7c;stroke:none;marker-end:none"/></marker>'
)


def svg(graph: ArchGraph) -> str:
    """The graph as SVG: read down each column, then on at the top of the next.

    One box a node, coloured by primitive, with its name and shape, all of it in a tooltip; edges that pass over
    nodes run beside them in another colour.
    """
    plan = layout(graph)
    count = Counter(Primitive(op) for op in graph.ops)
    width = max(plan.size[0], 4 * CHIP + 2 * MARGIN)
    per_row = int((width - 2 * MARGIN) // CHIP)
    top = HEAD * (1 + -(-len(count) // per_row)) + MARGIN
    size = f"{width:.0f} {plan.size[1] + top:.0f}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" width="{width:.0f}">',
        f"<style>{STYLE}</style><defs>{TIP}</defs>",
        '<rect width="100%" height="100%" style="fill:#fff;stroke:none"/>',
        f'<text class="head" x="{MARGIN}" y="{HEAD - 6}">{len(graph)} nodes, {len(graph.edges)} edges, '
        f"{graph.num_params:,} parameters</text>",
        *_legend(count, per_row),
        f'<g transform="translate(0 {top})">',
        *(_edge(path) for path in plan.edges),
        *(_node(graph, i, plan.nodes[i]) for i in range(len(graph))),
        "</g></svg>\n",
    ]
    return "\n".join(parts)


def _legend(count: Counter[Primitive], per_row: int) -> list[str]:
    parts = []
    for i, primitive in enumerate(sorted(count)):
        x, y = MARGIN + CHIP * (i % per_row), HEAD * (1 + i // per_row) + 4
        parts.append(f'<rect x="{x}" y="{y}" width="16" height="14" rx="3" fill="{COLOURS[primitive]}"/>')
        parts.append(f'<text x="{x + 22}" y="{y + 11}">{primitive.label} {count[primitive]}</text>')
    return parts


def _node(graph: ArchGraph, i: int, centre: Point) -> str:
    """A box with its label; the name is cut at the front, where it says least."""
    primitive, shape, name = Primitive(graph.ops[i]), shape_text(graph, i), graph.names[i]
    numbers = sum(s.numel for s in graph.slots if s.node == i)
    full = f"{i}: {name}\n{primitive.label} {shape}".rstrip() + (f"\n{numbers:,} parameters" if numbers else "")
    (x, y), (w, h) = centre, BOX
    return (
        f'<g><title>{escape(full)}</title><rect x="{x - w / 2:g}" y="{y - h / 2:g}" width="{w}" height="{h}" rx="4" '
        f'fill="{COLOURS[primitive]}"/><text x="{x:g}" y="{y + 3.5:g}" text-anchor="middle">'
        f"{escape(label(name, shape))}</text></g>"
    )


def label(name: str, shape: str) -> str:
    """Name and shape in at most CHARS characters."""
    short = name.removesuffix(".weight")
    room = CHARS - len(shape) - bool(shape)
    if len(short) > room:
        short = "…" + short[len(short) - max(room - 1, 1) :]
    return f"{short} {shape}".rstrip()[:CHARS]


def _edge(path: Path) -> str:
    if len(path) > 2:
        return f'<path class="far" d="{_rounded(path)}"/>'
    (x0, y0), (x1, y1) = path
    middle = (y0 + y1) / 2
    curve = f"V{y1:g}" if x0 == x1 else f"C{x0:g} {middle:g} {x1:g} {middle:g} {x1:g} {y1:g}"
    return f'<path d="M{x0:g} {y0:g}{curve}"/>'


def _rounded(path: Path) -> str:
    """The path's commands, each corner replaced by a curve that begins and ends on its sides."""
    points = [np.array(p) for p in path]
    commands = [f"M{path[0][0]:g} {path[0][1]:g}"]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        enter, leave = _towards(corner, before), _towards(corner, after)
        commands.append(f"L{enter[0]:g} {enter[1]:g}Q{corner[0]:g} {corner[1]:g} {leave[0]:g} {leave[1]:g}")
    return "".join(commands) + f"L{path[-1][0]:g} {path[-1][1]:g}"


def _towards(corner: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The point CORNER away from the corner, or half-way where that is nearer."""
    length = float(np.linalg.norm(end - corner))
    return corner + (end - corner) * min(0.5, CORNER / max(length, 1e-9))
