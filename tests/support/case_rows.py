"""Cases made of rows, for tests of metrics that need no predictions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from uml_dist.metrics.cases import Cases, draw_weights


def cases_of(rows: Sequence[Mapping[str, Any]], draws: int = 0, seed: int = 0) -> Cases:
    """Return cases in the order of the rows: numbers become columns, NaN in rows without them; arrays are summed."""
    names = dict.fromkeys(name for row in rows for name in row if name != "key")
    arrays = [name for name in names if any(np.ndim(row.get(name)) for row in rows)]
    columns = {name: np.array([row.get(name, np.nan) for row in rows]) for name in names if name not in arrays}
    drawn = draw_weights(len(rows), draws, seed)
    weights = np.vstack([np.ones((1, len(rows))), drawn])
    sums = {}
    for name in arrays:
        shape = next(np.shape(row[name]) for row in rows if name in row)
        stacked = np.stack([row.get(name, np.zeros(shape)) for row in rows]).astype(float)
        sums[name] = np.tensordot(weights, stacked, 1)
    return Cases(tuple(str(row["key"]) for row in rows), columns, sums, drawn, seed)
