"""Sentences that stand around a word when a text tower reads it."""

from __future__ import annotations

from collections.abc import Sequence

from kinfold.errors import InputError

TEMPLATES: tuple[str, ...] = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
"""The seven templates that CLIP's authors settled on for ImageNet; TAC and zero-shot use them too."""

PLAIN: tuple[str, ...] = ("{}",)
"""The word alone, for sentence encoders that never saw captions."""


def fill(templates: Sequence[str], words: Sequence[str]) -> list[str]:
    """Put every word into every template.

    Parameters
    ----------
    templates : sequence of str
        Each with one ``{}``.
    words : sequence of str
        They are put in as they are.

    Returns
    -------
    list of str
        ``len(words) × len(templates)`` texts, those of the first word first.

    Raises
    ------
    InputError
        A template has no ``{}`` or several, or there are none.

    Examples
    --------
    >>> fill(["a {}.", "art of the {}."], ["cat", "dog"])
    ['a cat.', 'art of the cat.', 'a dog.', 'art of the dog.']
    """
    check_templates(templates)
    parts = [template.split("{}") for template in templates]
    return [f"{before}{word}{after}" for word in words for before, after in parts]


def check_templates(templates: Sequence[str]) -> None:
    """Raise :class:`InputError` unless every template has one ``{}``."""
    if not isinstance(templates, Sequence) or isinstance(templates, str) or not templates:
        raise InputError(f"templates must be a list of strings with one {{}} each; got {templates!r}")
    for template in templates:
        if not isinstance(template, str) or template.count("{}") != 1:
            raise InputError(f"the template {template!r} must hold {{}} once, where the word goes")
