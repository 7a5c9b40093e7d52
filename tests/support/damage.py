"""Damage to files: bytes flipped, zeroed, cut off, put in or doubled, and JSON whose values are exchanged."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

MOST_BYTES = 1 << 20  # of a damaged file
ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2**63,
    10**400,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "\ud800",
    "../../outside",
    "x" * 5_000,
    [],
    [[]],
    {},
    {"a": {"b": []}},
)


def damage_bytes(data: bytes, rng: random.Random) -> bytes:
    """Return the data with one to three kinds of damage."""
    for _ in range(rng.randint(1, 3)):
        data = rng.choice(_KINDS)(data, rng)
    return data[:MOST_BYTES]


def damage_json(data: bytes, rng: random.Random) -> bytes:
    """Return JSON in which some values have another type or size, or that is nested deeply."""
    content = json.loads(data)
    if rng.random() < 0.1:
        return b'{"a":' * 100_000 + data + b"}" * 100_000
    if rng.random() < 0.1:
        return data.rstrip()[:-1] + b', "zz": ' + b"9" * 5_000 + b"}"
    for _ in range(rng.randint(1, 3)):
        places = list(_places(content))
        if not places:
            break
        holder, key = rng.choice(places)
        if rng.random() < 0.2 and isinstance(holder, dict):
            del holder[key]
        else:
            holder[key] = copy.deepcopy(rng.choice(ODD_VALUES))
    return json.dumps(content, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")


def _places(content: Any) -> Any:
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in list(items):
        yield content, key
        if isinstance(value, dict | list):
            yield from _places(value)


def _place(data: bytes, rng: random.Random) -> int:
    """Return a place; the first and last bytes, with headers and footers, come up as often as the rest."""
    n = max(len(data), 1)
    return rng.choice((rng.randrange(n), rng.randrange(min(n, 128)), n - 1 - rng.randrange(min(n, 512))))


def _flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data or b"\0")
    for _ in range(rng.choice((1, 1, 1, 4, 32))):
        changed[_place(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _zero(data: bytes, rng: random.Random) -> bytes:
    start, n = _place(data, rng), rng.choice((1, 4, 16, 512))
    return data[:start] + bytes(len(data[start : start + n])) + data[start + n :]


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: _place(data, rng)]


def _insert(data: bytes, rng: random.Random) -> bytes:
    start = _place(data, rng)
    return data[:start] + rng.randbytes(rng.choice((1, 2, 7, 100))) + data[start:]


def _double(data: bytes, rng: random.Random) -> bytes:
    start, n = _place(data, rng), rng.choice((1, 8, 64, 4096))
    return data[: start + n] + data[start : start + n] + data[start + n :]


_KINDS = (_flip, _flip, _zero, _cut, _insert, _double)
