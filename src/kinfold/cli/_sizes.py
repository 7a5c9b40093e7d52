"""Amounts of bytes as people write them."""

from __future__ import annotations

import re

from kinfold.errors import InputError

_SIZE = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)\s*([kmgt]?)(?:i?b)?\Z", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def read_size(text: str, option: str) -> int:
    """Return the bytes that ``500M`` or ``1.5 GiB`` stands for, in powers of 1,024.

    Raises
    ------
    InputError
        It stands for none, or for less than 1 MiB.
    """
    found = _SIZE.match(text.strip())
    size = int(float(found[1]) * 1024 ** _POWERS[found[2].lower()]) if found else 0
    if size < 1 << 20:
        raise InputError(f"{option} {text!r} is no size of 1M or more; write 500M or 2G")
    return size
