"""Routes of groups: lists of them, one of them, its neighbours; and groups of other levels of the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request, Response
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool

from kinfold.corrections import State
from kinfold.errors import InputError
from kinfold.gallery.explore._answers import MOST_NUMBER, answer, read_json, read_number
from kinfold.gallery.explore._errors import UnavailableError
from kinfold.gallery.explore._explorer import Explorer
from kinfold.gallery.explore._levels import SAME, LevelTree
from kinfold.gallery.explore._lists import GroupSummary
from kinfold.gallery.explore._routes_run import Limit, Offset
from kinfold.gallery.explore._vectors import order_by_similarity
from kinfold.validation import Choice, check

if TYPE_CHECKING:
    from kinfold.gallery.explore._current import Current

_RULES = {
    "sort": Choice(("size", "confidence", "name", "similarity", "number")),
    "order": Choice(("", "asc", "desc")),
}
_FALLING = ("size", "confidence")

Word = Annotated[str, Query(max_length=20)]
Text = Annotated[str, Query(max_length=500)]
LevelNumber = Annotated[int | None, Query(ge=1, le=MOST_NUMBER)]
GroupNumber = Annotated[int, Query(ge=0, le=MOST_NUMBER)]


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


def level_routes(current: Current, explorer: Explorer) -> APIRouter:
    """Return the routes of levels; where the run has none, they are not found."""
    routes = APIRouter(prefix="/api")

    @routes.get("/levels")
    def levels() -> Response:
        return answer(describe_levels(current, explorer))

    @routes.get("/levels/{number}")
    def preview(number: str, was: LevelNumber = None, offset: Offset = 0, limit: Limit = 100) -> Response:
        state = explorer.state
        found = explorer.levels.preview(state, read_number(number, "level"), was)
        groups = [name_origins(explorer, state, one) for one in found.page(offset, limit)]
        return answer(
            {"version": state.version, "total": len(found), "counts": found.counts(), "groups": groups}
        )

    @routes.get("/tree")
    def tree(
        layer: LevelNumber = None, group: GroupNumber = 0, offset: Offset = 0, limit: Limit = 100
    ) -> Response:
        state = explorer.state
        found = LevelTree(explorer.levels, state).children(layer, group, offset, limit)
        nodes = [name_origins(explorer, state, one) for one in found["nodes"]]
        return answer({"version": state.version, "total": found["total"], "nodes": nodes})

    @routes.post("/levels")
    async def switch(request: Request) -> Response:
        content = await read_json(request)
        return answer(await run_in_threadpool(take_level, current, explorer, content))

    return routes


def describe_levels(current: Current, explorer: Explorer) -> dict[str, Any]:
    """Return what the page's control needs."""
    views = explorer.levels
    return {
        "shown": views.shown,
        "fitted": views.fitted,
        "n_parts": views.n_parts,
        "before": current.before if current.before != views.shown else None,
        "steps": views.steps(),
        "suggested": views.suggested(),
        "curve": views.curve.as_dict() if views.curve else None,
        "refusal": explorer.corrections.refusal,
    }


def name_origins(explorer: Explorer, state: State, one: dict[str, Any]) -> dict[str, Any]:
    """Return a description with the names of the groups of now, and its own name where it is one of them."""
    names = explorer.names(state)
    origins = []
    for number in one["from"]:
        heir = state.follow(number) if number in state.groups else number
        origins.append({"id": heir, "name": names.get(heir) or None})
    name = origins[0]["name"] if one["kind"] == SAME else None
    return {**one, "from": origins, "name": name}


def take_level(current: Current, explorer: Explorer, content: Any) -> dict[str, Any]:
    """Make a level the run's groups; return what was carried over and what stays with the level before."""
    n_groups = content.get("n_groups") if isinstance(content, dict) else None
    if not isinstance(n_groups, int) or isinstance(n_groups, bool):
        raise InputError('send the number of groups, as in {"n_groups": 40}')
    change = current.switch(None if n_groups == explorer.levels.fitted else n_groups)
    return {"shown": change.n_groups, "carried": dict(change.carried), "left": dict(change.left)}
