"""HTML pages that need nothing else: the frame, its style, tables, charts and graphs."""

from collections.abc import Sequence
from html import escape
from typing import Any

from ghn.graph import ArchGraph
from ghn.picture import svg

STYLE = """
body{margin:0 auto;max-width:1200px;padding:16px;font:16px/1.5 system-ui,sans-serif;color:#1c2733;background:#fbfbf9}
h1{font-size:1.6rem;margin:.2em 0}h2{font-size:1.25rem;margin:2em 0 .4em}
p,figcaption{max-width:46em}figcaption{font-size:.9rem;color:#3d4a57}
.charts{display:grid;gap:32px 24px;grid-template-columns:repeat(auto-fill,minmax(min(100%,440px),1fr))}
.charts+.charts{margin-top:32px}
figure{margin:0;min-width:0}.charts svg{width:100%;height:auto;display:block;font-family:system-ui,sans-serif}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem}
th,td{padding:3px 10px;text-align:right;border-bottom:1px solid #dfe3e7;white-space:nowrap}
th:first-child,td:first-child{text-align:left}thead th{border-bottom:2px solid #8b97a3}
.graph{overflow:auto;max-height:900px;border:1px solid #dfe3e7;border-radius:6px;background:#fff;margin:28px 0 6px}
.graph>svg{display:block}
"""


def document(title: str, parts: Sequence[str], style: str = "") -> str:
    """The page. parts: of its body. style: rules beside those of every page."""
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
    head += f"<title>{escape(title)}</title><style>{STYLE}{style}</style>"
    body = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def figure(content: str, caption: str) -> str:
    """HTML with a caption, which is text."""
    return f"<figure>{content}<figcaption>{escape(caption)}</figcaption></figure>"


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Rows of texts and numbers under their heads; scrolls where it is too wide."""

    def line(cells: Sequence[Any], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f'<div class="wide"><table><thead>{line(heads, "th")}</thead><tbody>{body}</tbody></table></div>'


def picture(graph: ArchGraph, caption: str) -> str:
    """The graph, drawn, in a box that scrolls."""
    # Nested: the drawing's own rules for text, rect and path must not reach the charts.
    drawing = svg(graph).replace("<style>", "<style>.graph{").replace("</style>", "}</style>")
    return f'<figure><div class="graph">{drawing}</div><figcaption>{escape(caption)}</figcaption></figure>'
