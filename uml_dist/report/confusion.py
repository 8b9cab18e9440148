"""Tables of counts, such as a confusion matrix."""

from collections.abc import Mapping
from typing import Any

from ..watch.text import escape

SHADES = 10
"""Shades of a cell by its share of the row; the style sheet has a class for each."""

MOST_SHOWN = 30
"""Most rows and columns of a table that is shown; that of more is in metrics.json."""


def counts_part(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the tables of counts of a record, each cell shaded by its share of the row; "" without any."""
    return "".join(_table(title, table) for title, table in tables.items())


def _table(title: str, table: Mapping[str, Any]) -> str:
    rows, columns, values = table["rows"], table["columns"], table["values"]
    heading = f"<h3>{escape(title.replace('_', ' ').capitalize())}</h3>"
    if max(len(rows), len(columns)) > MOST_SHOWN:
        return f'{heading}<p class="note">{len(rows)} rows and {len(columns)} columns: see metrics.json.</p>'
    heads = "".join(f'<th scope="col">{escape(name, 40)}</th>' for name in columns)
    lines = []
    for name, counts in zip(rows, values, strict=True):
        total = sum(counts)
        cells = "".join(_cell(count, total) for count in counts)
        lines.append(f'<tr><th scope="row">{escape(name, 40)}</th>{cells}<td class="sum">{total:,}</td></tr>')
    return (
        f'{heading}<p class="note">{escape(table["text"], 200)}; percent of the row.</p>'
        f'<div class="table counts"><table><thead><tr><th></th>{heads}<th scope="col">all</th></tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _cell(count: int, total: int) -> str:
    share = count / total if total else 0.0
    shade = min(SHADES - 1, int(share * SHADES))
    percent = f"<small>{share:.0%}</small>" if total else ""
    return f'<td class="shade-{shade}">{count:,}{percent}</td>'
