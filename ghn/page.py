"""HTML pages that need nothing else: head, style, body."""

from collections.abc import Iterable
from html import escape

STYLE = """
body{margin:0 auto;max-width:1200px;padding:16px;font:16px/1.5 system-ui,sans-serif;color:#1c2733;background:#fbfbf9}
h1{font-size:1.6rem;margin:.2em 0}h2{font-size:1.25rem;margin:2em 0 .4em}
p,figcaption{max-width:46em}figcaption{font-size:.9rem;color:#3d4a57}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem}
th,td{padding:3px 10px;text-align:right;border-bottom:1px solid #dfe3e7;white-space:nowrap}
th:first-child,td:first-child{text-align:left}thead th{border-bottom:2px solid #8b97a3}
.graph{overflow:auto;max-height:900px;border:1px solid #dfe3e7;border-radius:6px;background:#fff;margin:28px 0 6px}
.graph>svg{display:block}
"""


def page(title: str, parts: Iterable[str], style: str = "") -> str:
    """The page of these parts, which are HTML; style: rules beyond those that every page has."""
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
    head += f"<title>{escape(title)}</title><style>{STYLE}{style}</style>"
    body = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'
