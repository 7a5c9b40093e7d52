"""From a template to a self-contained page: styles and scripts inside, each named by hash in its policy."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup


def render_template(name: str, *, styles: tuple[str, ...], script: str = "", **content: Any) -> str:
    """Return the HTML of a template.

    Parameters
    ----------
    name : str
        The template; it finds ``style``, ``script`` and their hashes beside ``content``.
    styles : tuple of str
        Our own style sheets, one after the other.
    script : str
        Our own script; empty for a page without.
    **content
        What the page says; escaped by the template.
    """
    style = "".join(_static(sheet) for sheet in styles)
    code = _static(script) if script else ""
    return (
        _environment()
        .get_template(name)
        .render(
            style=Markup(style),  # ours, not the user's: the only texts that are not escaped
            script=Markup(code),
            style_hash=_csp_hash(style),
            script_hash=_csp_hash(code),
            **content,
        )
    )


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("kinfold.gallery"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )


def _static(name: str) -> str:
    return resources.files("kinfold.gallery").joinpath("static").joinpath(name).read_text(encoding="utf-8")


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
