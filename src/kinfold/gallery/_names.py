"""The names of groups, as a page shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kinfold.gallery._text import show_name

if TYPE_CHECKING:
    from kinfold.language import ClusterName, Name

_NOUN_LIMIT = 60
_PATH_LIMIT = 240


@dataclass(frozen=True)
class WordView:
    """A word of a group: how well it tells the group apart, and in the title what else is known of it."""

    noun: str
    separation: str
    title: str


@dataclass(frozen=True)
class NameView:
    """What a group is called: its words, the first one's path to the root; or why no name fits."""

    words: list[WordView]
    path: str
    reason: str

    @property
    def noun(self) -> str:
        """The name; empty where none fits."""
        return self.words[0].noun if self.words else ""


def view_name(names: Mapping[int, ClusterName], group: int, given: str | None = None) -> NameView | None:
    """Return what a page says of a group's name; None where groups aren't named.

    A name that was ``given`` to it, where it isn't the run's own, stands alone.
    """
    found = names.get(group)
    if given and (found is None or found.noun != given):
        return NameView([WordView(show_name(given, _NOUN_LIMIT), "", "")], "", "")
    if found is None:
        return None
    words = [_view(name) for name in found.names]
    path = " > ".join(found.names[0].path[1:]) if found.names else ""
    return NameView(words, show_name(path, _PATH_LIMIT), show_name(found.reason, _PATH_LIMIT))


def count_named(names: Mapping[int, str]) -> str:
    """Return how many groups have a name: ``8 of 10``."""
    return f"{sum(map(bool, names.values())):,} of {len(names):,}"


def _view(name: Name) -> WordView:
    title = f"separation {name.separation:.3f}, similarity {name.similarity:.3f}, score {name.score:.2f}"
    return WordView(
        show_name(name.noun, _NOUN_LIMIT),
        f"{name.separation:.2f}",
        f"{title}, {name.synset}" if name.synset else title,
    )
