"""How the loader and its worker processes talk: messages with their length before them, through pipes.

Messages are serialised by :mod:`multiprocessing`, between our own processes only; nothing of it reaches a
file.
"""

from __future__ import annotations

import struct
from multiprocessing.reduction import ForkingPickler
from typing import IO, Any

_LENGTH = struct.Struct("<Q")


def pack(message: Any) -> bytes:
    """Serialise a message."""
    return bytes(ForkingPickler.dumps(message, protocol=5))


def unpack(data: bytes) -> Any:
    """Return the message that :func:`pack` was given."""
    return ForkingPickler.loads(data)


def send(stream: IO[bytes], packed: bytes) -> None:
    """Write one packed message."""
    stream.write(_LENGTH.pack(len(packed)))
    stream.write(packed)
    stream.flush()


def receive(stream: IO[bytes]) -> bytes | None:
    """Read one packed message, or None when the other side is gone."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    data = stream.read(length)
    return data if len(data) == length else None
