"""Glob patterns, with braces: ``photos/**/*.{jpg,png}``, ``shard-{000..099}.tar``."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from kinfold.errors import InputError

_MAGIC = re.compile(r"[*?[{]")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MOST = 1_000_000


@dataclass(frozen=True)
class Pattern:
    """A pattern, taken apart.

    Attributes
    ----------
    root : Path
        The deepest folder above everything that can match, absolute.
    regex : re.Pattern
        Matches paths relative to the root, with ``/``.
    max_depth : int or None
        How many levels below the root can match; None with ``**``.
    """

    root: Path
    regex: re.Pattern[str]
    max_depth: int | None


def has_magic(text: str) -> bool:
    """Tell whether ``text`` is a pattern rather than a path."""
    return _MAGIC.search(text) is not None


def parse_pattern(text: str) -> Pattern:
    """Take a pattern apart: ``*``, ``?``, ``[ab]`` in a name, ``**`` at any depth, ``{a,b}``, ``{0..9}``."""
    parts = os.path.abspath(text).replace(os.sep, "/").split("/")
    first = next((i for i, part in enumerate(parts) if has_magic(part)), len(parts) - 1)
    while first and "/".join(parts[:first]).count("{") > "/".join(parts[:first]).count("}"):
        first -= 1
    inside = expand_braces("/".join(parts[first:]))
    depth = None if any("**" in one for one in inside) else max(one.count("/") + 1 for one in inside)
    try:
        regex = re.compile("|".join(f"(?:{_translate(one)})" for one in inside), re.DOTALL)
    except re.error as error:
        raise InputError(f"the pattern {text} can't be understood: {error}") from error
    return Pattern(Path("/".join(parts[:first]) or "/"), regex, depth)


def expand_braces(text: str) -> list[str]:
    """Return every text that ``{a,b}`` and ``{000..099}`` stand for, as a shell does."""
    found = _BRACES.search(text)
    if found is None:
        return [text]
    span = _RANGE.fullmatch(found[1])
    if span:
        low, high = int(span[1]), int(span[2])
        if abs(high - low) >= _MOST:
            raise InputError(f"{{{found[1]}}} stands for more than {_MOST:,} names; use * instead")
        width = max(len(span[1]), len(span[2])) if "0" in (span[1][0], span[2][0]) else 0
        step = 1 if low <= high else -1
        choices = [f"{number:0{width}d}" for number in range(low, high + step, step)]
    else:
        choices = found[1].split(",")
    tails = expand_braces(text[found.end() :])
    return [f"{text[: found.start()]}{choice}{tail}" for choice in choices for tail in tails]


def _translate(pattern: str) -> str:
    out, at = [], 0
    while at < len(pattern):
        if pattern.startswith("**/", at) and (at == 0 or pattern[at - 1] == "/"):
            out.append("(?:[^/]+/)*")
            at += 3
        elif pattern.startswith("**", at):
            out.append(".*")
            at += 2
        elif pattern[at] == "*":
            out.append("[^/]*")
            at += 1
        elif pattern[at] == "?":
            out.append("[^/]")
            at += 1
        elif pattern[at] == "[" and (end := pattern.find("]", at + 2)) > 0:
            body = pattern[at + 1 : end].replace("\\", "\\\\")
            out.append(f"[^{body[1:]}]" if body[0] in "!^" else f"[{body}]")
            at = end + 1
        else:
            out.append(re.escape(pattern[at]))
            at += 1
    return "".join(out)
