"""Tables as HTML, for notebooks and for pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def html_table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1, title: str = "") -> str:
    """A table with everything escaped; the first `left` columns flush left, the others flush right."""

    def cells(tag: str, values: Sequence[str]) -> str:
        sides = ["left" if i < left else "right" for i in range(len(values))]
        return "".join(
            f'<{tag}{" scope=col" if tag == "th" else ""} style="text-align:{side}">{escape(value)}</{tag}>'
            for value, side in zip(values, sides, strict=True)
        )

    caption = f'<caption style="text-align:left">{escape(title)}</caption>' if title else ""
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table>{caption}<thead><tr>{cells('th', header)}</tr></thead><tbody>{body}</tbody></table>"
