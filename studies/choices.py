"""How choices without classes compare with those of an oracle: among methods, among stages, among heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kinfold.methods import Criteria, choose, get_method
from studies.cells import Row
from studies.results import Line

Lines = Mapping[tuple[str, int], Line]
Choices = tuple[str, str, tuple[str, ...], list[list[Any]]]

CRITERIA = {"neighbor_agreement": "neighbours agree", "cross_validated_accuracy": "found again"}
_HEAD_CRITERIA = {
    "loss": "lowest loss",
    "mean_nmi": "NMI with other heads",
    "neighbor_agreement": "neighbours agree",
}
_COMPARED = {"best head": "best head", "consensus": "consensus", "labels": "self-training"}


@dataclass(frozen=True)
class View:
    """A labeling as a choice sees it, and the accuracy that it doesn't see."""

    acc: float
    criteria: Criteria


def choice_tables(rows: Sequence[Row], lines: Lines) -> Iterator[Choices]:
    """Yield title, note, columns and rows of each comparison; cells are text, or a number per seed."""
    columns = ("data", "criterion", "chosen, by seed", "ACC of the choice", "ACC of the oracle", "behind by")
    yield (
        "Among methods",
        "Collapsed fits stand back, and a dead cluster counts by its share, as in `--method auto`, which "
        "goes by neighbours; *found again* is the cross-validated accuracy of a linear classifier. "
        "The oracle knows the classes.",
        columns,
        list(_among_methods(rows, lines)),
    )
    yield (
        "Among the stages of ICCE",
        "The same criteria between stages 1, 2 and 3.",
        columns,
        list(_among_stages(rows, lines)),
    )
    yield (
        "Among heads",
        "ACC of the head that each criterion chooses.",
        ("data", "", *_HEAD_CRITERIA.values(), "mean of heads", "oracle head", "loss behind by"),
        list(_among_heads(rows, lines)),
    )


def choose_head(heads: Mapping[str, Any], criterion: str) -> int:
    """Return the head that a criterion puts first."""
    values = np.asarray(heads[criterion])
    return int(values.argmin() if criterion == "loss" else values.argmax())


def _among_methods(rows: Sequence[Row], lines: Lines) -> Iterator[list[Any]]:
    own = get_method("auto")().candidates
    for data in dict.fromkeys(row.data for row in rows):
        every = [row for row in rows if row.data == data]
        some = [row for row in every if row.method in own]
        seeds = sorted({seed for _, seed in lines})
        complete = [seed for seed in seeds if all((row.key, seed) in lines for row in every)]
        for candidates, title in ((some, f"{data}, candidates of auto"), (every, f"{data}, all methods")):
            if candidates is every and len(some) == len(every):
                continue
            views = [{row.name: _view(lines[row.key, s], "labels") for row in candidates} for s in complete]
            yield from _compare(title, views)


def automatic_lines(rows: Sequence[Row], lines: Lines) -> list[Line]:
    """Return, by seed, the line that ``--method auto`` would take of its candidates, all at their defaults.

    Seeds for which a candidate is missing are left out.
    """
    own = get_method("auto")().candidates
    # ICCE stands twice where its heads alone are compared; a candidate is the one that comes last.
    candidates = {row.method: row for row in rows if row.method in own}
    chosen = []
    for seed in sorted({seed for _, seed in lines}):
        found = {name: lines[row.key, seed] for name, row in candidates.items() if (row.key, seed) in lines}
        if len(found) == len(own):
            name = choose({name: _view(line, "labels").criteria for name, line in found.items()})
            chosen.append(found[name])
    return chosen


def _among_stages(rows: Sequence[Row], lines: Lines) -> Iterator[list[Any]]:
    for row in rows:
        found = [lines[key] for key in sorted(lines) if key[0] == row.key]
        views = [
            {title: _view(line, stage) for stage, title in _COMPARED.items()}
            for line in found
            if _COMPARED.keys() <= line["stages"].keys()
        ]
        yield from _compare(row.data, views)


def _compare(title: str, views: Sequence[Mapping[str, View]]) -> Iterator[list[Any]]:
    """Yield a row per criterion; ``views`` has the candidates of every seed."""
    if not views or not views[0]:
        return
    best = [max(view.acc for view in candidates.values()) for candidates in views]
    for criterion, criterion_title in CRITERIA.items():
        chosen = [
            choose({name: view.criteria for name, view in candidates.items()}, by=criterion)
            for candidates in views
        ]
        reached = [candidates[name].acc for candidates, name in zip(views, chosen, strict=True)]
        behind = [b - r for b, r in zip(best, reached, strict=True)]
        yield [title, criterion_title, ", ".join(chosen), reached, best, behind]


def _among_heads(rows: Sequence[Row], lines: Lines) -> Iterator[list[Any]]:
    for row in rows:
        found = [lines[key] for key in sorted(lines) if key[0] == row.key and "heads" in lines[key]]
        if not found:
            continue
        heads = [line["heads"] for line in found]
        reached = {name: [one["acc"][choose_head(one, name)] for one in heads] for name in _HEAD_CRITERIA}
        best = [max(one["acc"]) for one in heads]
        mean = [float(np.mean(one["acc"])) for one in heads]
        behind = [b - r for b, r in zip(best, reached["loss"], strict=True)]
        yield [row.data, row.name, *reached.values(), mean, best, behind]


def _view(line: Line, stage: str) -> View:
    found = line["stages"][stage]
    return View(found["train"]["acc"], Criteria(**found["criteria"]))
