"""Checks of the parameters that ICCE alone has."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np

from kinfold.consensus import METHODS as CONSENSUS_METHODS
from kinfold.errors import InputError, nearest_name


def check_threshold(threshold: Any) -> None:
    """Raise :class:`InputError` unless it is a cosine similarity, "auto" or None."""
    if threshold is None or threshold == "auto":
        return
    if not isinstance(threshold, Real) or isinstance(threshold, bool) or not -1 <= float(threshold) <= 1:
        raise InputError(
            f"similarity_threshold must be a cosine similarity in [-1, 1], 'auto' or None; got {threshold!r}"
        )


def check_shares(shares: Any) -> None:
    """Raise :class:`InputError` unless these are numbers in [0, 1], at least one."""
    entries = (
        list(shares) if isinstance(shares, Sequence | np.ndarray) and not isinstance(shares, str) else []
    )
    if not entries or not all(isinstance(share, Real) and 0 <= float(share) <= 1 for share in entries):
        raise InputError(f"consensus_shares must be numbers in [0, 1], at least one, not {shares!r}")


def check_consensus(consensus: Any) -> None:
    """Raise :class:`InputError` unless it is true, false or the name of a consensus function."""
    if isinstance(consensus, bool | np.bool_) or consensus in CONSENSUS_METHODS:
        return
    raise InputError(
        f"consensus must be true, false or one of {', '.join(CONSENSUS_METHODS)}, not {consensus!r}"
        f"{nearest_name(str(consensus), list(CONSENSUS_METHODS))}"
    )
