"""What every export writes: the groups as corrected, image by image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from kinfold.corrections._edits import MARKS
from kinfold.corrections._state import State

if TYPE_CHECKING:
    from kinfold.run import Run

CORRECTED_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("key", pa.string()),
        ("cluster", pa.int32()),
        ("name", pa.string()),
        ("confidence", pa.float32()),
        ("original_cluster", pa.int32()),
        ("mark", pa.string()),
        ("by_hand", pa.bool_()),
    ]
)


def names_of(run: Run, state: State) -> dict[int, str]:
    """Return what each group is called, by its number: as corrected, else by the run's noun, else ""."""
    nouns = run.names
    return {number: group.name or _noun(nouns, number) for number, group in sorted(state.groups.items())}


def corrected_table(run: Run, state: State) -> pa.Table:
    """Return the groups as corrected, in row order.

    Columns: ``row``, ``key``; ``cluster`` (−1 where the image is marked), ``name`` (null where there is
    none), ``confidence`` (the model's, in its own first choice ``original_cluster``), ``mark`` ("wrong",
    "noise" or null) and ``by_hand``.
    """
    assignments = run.assignments
    marked = state.marks != 0
    names = names_of(run, state)
    numbers = np.arange(max(names, default=-1) + 1)
    dictionary = pa.array([names.get(int(number)) or None for number in numbers], pa.string())
    shown = pa.array(np.where(marked, 0, state.labels), pa.int32(), mask=marked)
    marks = pa.array(state.marks.astype(np.int8) - 1, pa.int8(), mask=~marked)
    columns = {
        "row": assignments["row"],
        "key": assignments["key"],
        "cluster": pa.array(np.where(marked, -1, state.labels), pa.int32()),
        "name": dictionary.take(shown),
        "confidence": assignments["confidence"],
        "original_cluster": assignments["cluster"],
        "mark": pa.array(MARKS, pa.string()).take(marks),
        "by_hand": pa.array(state.by_hand),
    }
    return pa.table(columns, schema=CORRECTED_SCHEMA)


def _noun(nouns: object, number: int) -> str:
    found = nouns.get(number) if hasattr(nouns, "get") else None
    return (found.noun or "") if found is not None else ""
