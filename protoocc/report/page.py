"""A page of HTML that needs nothing else: no scripts, no fonts, no network."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape

import cv2
import numpy as np
from jaxtyping import UInt8

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2028; max-width: 1240px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.7em; margin-bottom: 0; } h2 { font-size: 1.2em; margin-top: 2em; } p { color: #5c6472; }
table { border-collapse: collapse; margin: 0.5em 0; } th, td { text-align: left; padding: 0.15em 1.2em 0.15em 0; }
td + td { font-variant-numeric: tabular-nums; } tr { border-bottom: 1px solid #e4e7ec; }
svg, img { max-width: 100%; height: auto; } figure { margin: 1em 0; } figcaption { color: #5c6472; }
summary { cursor: pointer; } code { font-size: 0.9em; }
"""


def page(title: str, subtitle: str, sections: Mapping[str, str]) -> str:
    """A whole document.

    Args:
        title: plain text.
        subtitle: plain text below it.
        sections: HTML by heading, in their order; empty ones are left out.
    """
    parts = [f"<h2>{escape(heading)}</h2>\n{body}" for heading, body in sections.items() if body]
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n<p>{escape(subtitle)}</p>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def table(rows: Sequence[Sequence[str]], header: Sequence[str] = ()) -> str:
    """A table of plain text; empty without rows."""
    if not rows:
        return ""
    lines = [_line("th", header)] if header else []
    return "<table>\n" + "\n".join([*lines, *(_line("td", row) for row in rows)]) + "\n</table>"


def folded(summary: str, body: str) -> str:
    """HTML that opens on a click; empty without a body."""
    return f"<details><summary>{escape(summary)}</summary>\n{body}\n</details>" if body else ""


def picture(image: UInt8[np.ndarray, "H W 3"], caption: str) -> str:
    """An RGB picture within the page, JPEG of quality 90."""
    data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    source = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
    return f'<figure><img src="{source}" alt="{escape(caption)}"><figcaption>{escape(caption)}</figcaption></figure>'


def paragraph(text: str) -> str:
    """Plain text."""
    return f"<p>{escape(text)}</p>"


def _line(cell: str, values: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{cell}>{escape(value)}</{cell}>" for value in values) + "</tr>"
