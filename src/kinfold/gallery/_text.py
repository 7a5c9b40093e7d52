"""Numbers and names as a page shows them."""

from __future__ import annotations

import unicodedata

_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_JOINERS = "\u200c\u200d"  # part of Persian words and of emoji


def show_name(name: str, limit: int = 160) -> str:
    """Return a name in which nothing is invisible, shortened in its middle to ``limit`` characters.

    Control characters, line breaks, lone surrogates and the marks that turn the direction of writing are
    spelled out, so a name can neither hide a part of itself nor break the line it stands in.
    Escaping for HTML is the template's work.
    """
    shown = "".join(_visible(character) for character in _shorten(name, 4 * limit))
    return _shorten(shown, limit)


def _shorten(name: str, limit: int) -> str:
    if len(name) <= limit:
        return name
    head = limit * 2 // 3
    return f"{name[:head]}…{name[len(name) - (limit - head - 1) :]}"


def show_count(number: int) -> str:
    """Return ``1,234,567``."""
    return f"{number:,}"


def show_share(share: float) -> str:
    """Return a share in [0, 1] as per cent with one decimal: ``10.1 %``."""
    return f"{100 * share:.1f} %"


def show_confidence(value: float) -> str:
    """Return a confidence with two decimals, never rounded up to certainty: 0.999 is ``0.99``."""
    return "1.00" if value >= 0.9995 else f"{min(value, 0.99):.2f}"


def show_seconds(seconds: float) -> str:
    """Return a duration: ``0.4 s``, ``12 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _visible(character: str) -> str:
    if character in _SHORT:
        return _SHORT[character]
    if character in _JOINERS:
        return character
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
        code = ord(character)
        return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
    return character
