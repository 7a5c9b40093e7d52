"""Routes of groups: lists of them, one of them, and its neighbours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Response
from numpy.typing import NDArray

from kinfold.corrections import State
from kinfold.gallery.explore._answers import answer, read_number
from kinfold.gallery.explore._errors import UnavailableError
from kinfold.gallery.explore._explorer import Explorer
from kinfold.gallery.explore._lists import GroupSummary
from kinfold.gallery.explore._routes_run import Limit, Offset
from kinfold.gallery.explore._vectors import order_by_similarity
from kinfold.validation import Choice, check

_RULES = {
    "sort": Choice(("size", "confidence", "name", "similarity", "number")),
    "order": Choice(("", "asc", "desc")),
}
_FALLING = ("size", "confidence")

Word = Annotated[str, Query(max_length=20)]
Text = Annotated[str, Query(max_length=500)]


def group_routes(explorer: Explorer) -> APIRouter:
    """Return the routes of groups."""
    routes = APIRouter(prefix="/api/groups")
    groups = GroupLists(explorer)

    @routes.get("")
    def all_groups(
        sort: Word = "size",
        order: Word = "",
        q: Text = "",
        offset: Offset = 0,
        limit: Limit = 100,
        brief: bool = False,
    ) -> Response:
        state = explorer.state
        found = groups.find(state, sort, order, q)
        page = [groups.describe(state, group, brief=brief) for group in found[offset : offset + limit]]
        return answer({"version": state.version, "total": len(found), "groups": page})

    @routes.get("/{number}")
    def one_group(number: str) -> Response:
        state, group = explorer.state, read_number(number, "group")
        explorer.check_group(state, group)
        return answer(
            {
                "version": state.version,
                **groups.describe(state, group),
                "borders": groups.borders(state, group),
            }
        )

    return routes


class GroupLists:
    """Lists and descriptions of groups for the page.

    Parameters
    ----------
    explorer : Explorer
        The run.
    """

    def __init__(self, explorer: Explorer) -> None:
        self._explorer = explorer
        self._similar: tuple[int, list[int]] = (-1, [])
        self._words = explorer.words

    def find(self, state: State, sort: str, order: str, text: str) -> list[int]:
        """Return the numbers of the groups whose name, nouns or number match ``text``, in order."""
        check(_RULES, sort=sort, order=order)
        summaries, names = self._explorer.summaries.of(state), self._explorer.names(state)
        falling = order == "desc" or (not order and sort in _FALLING)
        found = self._sort(state, sort, falling=falling)
        if not text:
            return found
        wanted = text.casefold()
        return [group for group in found if group in summaries and self._matches(group, wanted, names)]

    def describe(self, state: State, group: int, *, brief: bool = False) -> dict[str, Any]:
        """Return a group; ``brief`` leaves out histogram, nouns and most of its images."""
        one, known = self._explorer.summaries.of(state)[group], state.groups[group]
        facts: dict[str, Any] = {
            "id": group,
            "name": self._explorer.names(state).get(group) or None,
            "size": one.size,
            "mean_confidence": round(one.mean_confidence, 4),
            "locked": known.locked,
            "n_wrong": one.n_wrong,
            "n_noise": one.n_noise,
            "origin": known.origin,
        }
        rows = self._explorer.columns.rows[list(one.representatives)].tolist()
        if brief:
            return {**facts, "representatives": rows[:3]}
        return {
            **facts,
            "words": self._words.get(group, []),
            "histogram": list(one.histogram),
            "representatives": rows,
        }

    def borders(self, state: State, group: int) -> list[dict[str, Any]]:
        """Return the neighbours of a group."""
        names, rows = self._explorer.names(state), self._explorer.columns.rows
        return [
            {
                "id": one.group,
                "name": names.get(one.group) or None,
                "n": one.n,
                "share": round(one.share, 4),
                "rows": rows[list(one.places)].tolist(),
            }
            for one in self._explorer.choices.borders(state, group)
        ]

    def _matches(self, group: int, wanted: str, names: dict[int, str]) -> bool:
        number = wanted.removeprefix("group").strip()
        return (
            wanted in names.get(group, "").casefold()
            or number == str(group)
            or any(wanted in word.casefold() for word in self._words.get(group, ()))
        )

    def _sort(self, state: State, sort: str, *, falling: bool) -> list[int]:
        summaries = self._explorer.summaries.of(state)
        if sort == "similarity":
            found = self._by_similarity(state)
            return found[::-1] if falling else found
        names = self._explorer.names(state)
        keys: dict[str, Callable[[int], Any]] = {
            "size": lambda group: summaries[group].size,
            "confidence": lambda group: summaries[group].mean_confidence,
            "number": lambda group: group,
            "name": lambda group: names.get(group, "").casefold(),
        }
        found = sorted(sorted(summaries), key=keys[sort], reverse=falling)
        if sort == "name":  # groups without a name come last in both orders
            found = [group for group in found if names.get(group)] + [
                g for g in sorted(summaries) if not names.get(g)
            ]
        return found

    def _by_similarity(self, state: State) -> list[int]:
        if self._similar[0] != state.version:
            summaries = self._explorer.summaries.of(state)
            groups = list(summaries)
            order = order_by_similarity(self._centers(state, summaries, groups))
            self._similar = (state.version, [groups[int(k)] for k in order])
        return self._similar[1]

    def _centers(
        self, state: State, summaries: Mapping[int, GroupSummary], groups: list[int]
    ) -> NDArray[np.float32]:
        """Return a direction for each group: from its features, or without them from its probabilities."""
        shown: list[GroupSummary] = [summaries[group] for group in groups]
        try:
            return self._explorer.vectors.means([np.array(one.representatives, np.int64) for one in shown])
        except UnavailableError:
            return self._explorer.choices.profiles(state, groups)
