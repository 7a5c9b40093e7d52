"""How choices without classes compare with those of an oracle: among methods, among stages, among heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from studies.cells import Row
from studies.results import Line

Lines = Mapping[tuple[str, int], Line]
Choices = tuple[str, str, tuple[str, ...], list[list[Any]]]

CRITERIA = {"neighbors": "neighbours agree", "cross_validated": "cross-validated agreement"}
_HEAD_CRITERIA = {"loss": "lowest loss", "mean_nmi": "NMI with other heads", "neighbors": "neighbours agree"}
_COMPARED = ("best head", "consensus", "labels")


def choice_tables(rows: Sequence[Row], lines: Lines) -> Iterator[Choices]:
    """Yield title, note, columns and rows of each comparison; cells are text, or a number per seed."""
    columns = ("data", "criterion", "chosen, by seed", "ACC of the choice", "ACC of the oracle", "behind by")
    yield (
        "Among methods",
        "Candidates with dead clusters stand back where any has none. The oracle knows the classes.",
        columns,
        list(_among_methods(rows, lines)),
    )
    yield (
        "Among the stages of ICCE",
        "The same criteria between stages 1, 2 and 3.",
        columns,
        list(_stages(rows, lines)),
    )
    yield (
        "Among heads",
        "ACC of the head that each criterion chooses.",
        ("data", "", *_HEAD_CRITERIA.values(), "mean of heads", "oracle head", "loss behind by"),
        list(_among_heads(rows, lines)),
    )


def choose(candidates: Mapping[str, Mapping[str, float]], criterion: str) -> str:
    """Return the candidate of most live clusters, among equals the one that the criterion puts first."""
    return max(candidates, key=lambda name: (candidates[name]["live"], candidates[name][criterion]))


def choose_head(heads: Mapping[str, Any], criterion: str) -> int:
    """Return the head that a criterion puts first."""
    values = np.asarray(heads[criterion])
    return int(values.argmin() if criterion == "loss" else values.argmax())


def _among_methods(rows: Sequence[Row], lines: Lines) -> Iterator[list[Any]]:
    for data in dict.fromkeys(row.data for row in rows):
        candidates = [row for row in rows if row.data == data]
        seeds = sorted({seed for _, seed in lines})
        complete = [seed for seed in seeds if all((row.key, seed) in lines for row in candidates)]
        table = [{row.name: _view(lines[row.key, seed], "labels") for row in candidates} for seed in complete]
        yield from _compare(data, table)


def _stages(rows: Sequence[Row], lines: Lines) -> Iterator[list[Any]]:
    for row in rows:
        found = [lines[key] for key in sorted(lines) if key[0] == row.key]
        with_stages = [line for line in found if "classifier" in line["stages"]]
        names = {"best head": "best head", "consensus": "consensus", "labels": "self-training"}
        table = [
            {names[stage]: _view(line, stage) for stage in _COMPARED if stage in line["stages"]}
            for line in with_stages
        ]
        yield from _compare(row.data, table)


def _compare(data: str, table: Sequence[Mapping[str, Mapping[str, float]]]) -> Iterator[list[Any]]:
    """Yield a row per criterion; ``table`` has the candidates of every seed."""
    if not table:
        return
    best = [max(one["acc"] for one in candidates.values()) for candidates in table]
    for criterion, title in CRITERIA.items():
        chosen = [choose(candidates, criterion) for candidates in table]
        reached = [candidates[name]["acc"] for candidates, name in zip(table, chosen, strict=True)]
        behind = [b - r for b, r in zip(best, reached, strict=True)]
        yield [data, title, ", ".join(chosen), reached, best, behind]


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


def _view(line: Line, stage: str) -> dict[str, float]:
    found = line["stages"][stage]
    return {**found["criteria"], "acc": found["train"]["acc"]}
