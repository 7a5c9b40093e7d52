"""What corrections and proposals are about: the groups of a run as the model made them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kinfold.storage import hash_array, hash_json

if TYPE_CHECKING:
    from kinfold.run import Run


def hash_base(run: Run) -> str:
    """Return the hash of a run's rows, groups and their number: of another base, an edit means nothing."""
    rows, labels = run.assignments["row"].to_numpy(), run.labels
    return hash_json([hash_array(rows), hash_array(labels), run.n_clusters])
