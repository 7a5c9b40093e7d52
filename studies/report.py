"""The tables as Markdown, made of the lines; what was not run is a dash."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from kinfold.language.relabel import RELABEL_RULES
from kinfold.storage import atomic_file
from studies.cells import Row, Table
from studies.choices import automatic_lines, choice_tables
from studies.data import DATA_SETS
from studies.judge import SCORES
from studies.naming import RELATIONS
from studies.results import Line, Results

BEGIN, END = "<!-- studies: begin -->", "<!-- studies: end -->"
MISSING = "–"
_INTRODUCTION = """# Studies

The methods side by side, on data whose classes are known. Labels are read by the evaluation alone, but where
a table says otherwise. `python -m studies run` continues the tables on any day, `python -m studies list` says
what is open, `python -m studies show` writes the part below from `studies/results.jsonl`.
"""
_LEGEND = (
    "Mean ± standard deviation over seeds; – is not run yet. ACC: one-to-one map of clusters to classes; "
    "NMI: arithmetic. Seconds are of the whole fit, neighbours included, on a shared machine: read CPU "
    "seconds first. *Best head* is the one the method chose without classes: by agreement of close "
    "neighbours, or by loss where a row takes the papers' rule; *oracle head* is the one of the highest "
    "training accuracy, which nobody can choose without classes."
)
_STAGES = {
    "best head": "best head",
    "mean head": "mean of heads",
    "oracle head": "oracle head",
    "consensus": "consensus",
    "classifier": "self-training",
}
_WORD_FIGURES = {
    ("words", "live"): 1,
    ("words", "purity", "rows"): 3,
    ("words", "purity", "counterparts"): 3,
    ("words", "n_nouns"): 0,
    ("seconds", "wall"): 0,
    ("seconds", "cpu"): 0,
}

Lines = Mapping[tuple[str, int], Line]


def write_page(path: Path, tables: Sequence[Table], results: Results) -> None:
    """Write the generated part of a page; what stands around its markers stays."""
    page = path.read_text(encoding="utf-8") if path.exists() else f"{_INTRODUCTION}\n{BEGIN}\n{END}\n"
    before, _, rest = page.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"{path} lacks the markers {BEGIN} and {END}")
    with atomic_file(path) as partial:
        partial.write_text(f"{before}{BEGIN}\n{render(tables, results)}\n{END}{after}", encoding="utf-8")


def render(tables: Sequence[Table], results: Results) -> str:
    """Return all tables."""
    lines = {key: line for key, line in results.read().items() if "failed" not in line}
    parts = [_LEGEND, _machines(lines.values())]
    parts += [_render_table(table, lines) for table in tables]
    return "\n\n".join(part for part in parts if part)


def spread(values: Iterable[float | None], digits: int = 3) -> str:
    """Return the mean ± the sample's standard deviation; one value alone, a dash for none."""
    known = [value for value in values if value is not None]
    if not known:
        return MISSING
    if len(known) == 1:
        return f"{known[0]:,.{digits}f}"
    return f"{mean(known):,.{digits}f} ± {stdev(known):,.{digits}f}"


def grid(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    body = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in body)


def lines_of(row: Row, lines: Lines) -> list[Line]:
    """Return the lines of a row, by seed."""
    return [lines[key] for key in sorted(lines) if key[0] == row.key]


def _render_table(table: Table, lines: Lines) -> str:
    view = _VIEWS[table.view]
    return "\n\n".join(part for part in (f"## {table.title}", table.note, view(table, lines)) if part)


def _stages(table: Table, lines: Lines) -> str:
    return _stage_grid(table, lines, with_neighbors=False)


def _neighbors(table: Table, lines: Lines) -> str:
    return _stage_grid(table, lines, with_neighbors=True)


def _stage_grid(table: Table, lines: Lines, *, with_neighbors: bool) -> str:
    """Return one line for every stage of every row."""
    tested = any(DATA_SETS[row.data].tested for row in table.rows)
    several = len({row.data for row in table.rows}) > 1
    columns = ["data"] * several + ["", "stage"]
    columns += ["neighbours", "of the class"] * with_neighbors
    columns += ["ACC", "NMI", "ARI"] + ["test ACC", "test NMI", "test ARI"] * tested
    columns += ["wall s", "CPU s", "epochs", "GiB", "seeds"]
    body = []
    for row in table.rows:
        found = lines_of(row, lines)
        start = [row.data] * several + [row.name]
        for number, (stage, title) in enumerate(_stages_of(found).items()):
            cells = [*(start if not number else [""] * len(start)), title]
            cells += (_graph_cells(found) if not number else ["", ""]) if with_neighbors else []
            cells += _scores(found, stage, "train") + (_scores(found, stage, "test") if tested else [])
            body.append(cells + (_costs(found) if not number else [""] * 5))
    return grid(columns, body)


def _stages_of(found: Sequence[Line]) -> dict[str, str]:
    """Return the stages that lines have, with their titles."""
    known = {
        stage: title for stage, title in _STAGES.items() if any(stage in line["stages"] for line in found)
    }
    return known or {"labels": ""}


def _scores(found: Sequence[Line], stage: str, part: str) -> list[str]:
    return [spread(get(line, "stages", stage, part, name) for line in found) for name in SCORES]


def _graph_cells(found: Sequence[Line]) -> list[str]:
    degrees = spread((get(line, "graph", "mean_degree") for line in found), 0)
    return [degrees, spread(get(line, "graph", "purity") for line in found)]


def _costs(found: Sequence[Line]) -> list[str]:
    epochs = [line["epochs"] for line in found if "epochs" in line]
    return [
        spread((get(line, "seconds", "wall") for line in found), 0),
        spread((get(line, "seconds", "cpu") for line in found), 0),
        f"{mean(done for done, _ in epochs):.0f} of {epochs[0][1]}" if epochs else MISSING,
        f"{max(line['peak_mib'] for line in found) / 1024:.1f}" if found else MISSING,
        str(len(found)),
    ]


def _test_consensus(table: Table, lines: Lines) -> str:
    columns = ["data", ""]
    stages = {
        "best head": "best head",
        "classifier": "self-training",
        "test consensus": "consensus of the test set",
    }
    columns += [f"{title}, {name.upper()}" for title in stages.values() for name in SCORES]
    body = []
    for row in table.rows:
        found = lines_of(row, lines)
        cells = [row.data, row.name]
        for stage in stages:
            cells += _scores(found, stage, "test")
        body.append([*cells, str(len(found))])
    return grid([*columns, "seeds"], body)


def _calibration(table: Table, lines: Lines) -> str:
    """Return confidence and calibration error of every row, before and after."""
    columns = ["data", "", "ACC", "estimated", "confidence before", "ECE before", "ECE after"]
    columns += ["test ACC", "test ECE before", "test ECE after", "temperature, times", "seeds"]
    figures: list[tuple[str, ...]] = [
        ("train", "acc"),
        ("train", "after", "confidence"),
        ("train", "before", "confidence"),
        ("train", "before", "error"),
        ("train", "after", "error"),
        ("test", "acc"),
        ("test", "before", "error"),
        ("test", "after", "error"),
        ("temperature",),
    ]
    body = []
    for row in table.rows:
        found = lines_of(row, lines)
        cells = [spread(get(line, "calibration", *names) for line in found) for names in figures]
        body.append([row.data, row.name, *cells, str(len(found))])
    return grid(columns, body)


def _balance(table: Table, lines: Lines) -> str:
    """Return ACC and NMI of each method, and of auto's choice, on every data set and in the mean."""
    names = list(dict.fromkeys(row.name for row in table.rows))
    body: list[list[str]] = []
    kept: dict[str, list[list[tuple[float, float]]]] = {name: [] for name in (*names, "auto")}
    for data in dict.fromkeys(row.data for row in table.rows):
        rows = {row.name: row for row in table.rows if row.data == data}
        found = {name: _label_scores(lines_of(row, lines)) for name, row in rows.items()}
        found["auto"] = _label_scores(automatic_lines([*rows.values()], lines))
        for name, scores in found.items():
            kept[name].append(scores)
        seconds = [
            spread((get(one, "seconds", "cpu") for one in lines_of(rows[name], lines)), 0) for name in names
        ]
        body.append([data, *(_pair(found[name]) for name in (*names, "auto"))])
        body.append(["CPU seconds", *seconds, ""])
    # A mean is shown where no data set is missing.
    means = [_average_pair(kept[name]) if all(kept[name]) else MISSING for name in kept]
    return grid(["data", *kept], [*body, ["mean", *means]])


def _label_scores(found: Sequence[Line]) -> list[tuple[float, float]]:
    """Return ACC and NMI, in percent, of the labels of every line."""
    scores = [line["stages"]["labels"]["train"] for line in found]
    return [(100 * one["acc"], 100 * one["nmi"]) for one in scores]


def _average_pair(sets: Sequence[Sequence[tuple[float, float]]]) -> str:
    """Return the mean over data sets of the mean over their seeds."""
    return " / ".join(f"{mean(mean(one[part] for one in scores) for scores in sets):.1f}" for part in (0, 1))


def _pair(scores: Sequence[tuple[float, float]]) -> str:
    if not scores:
        return MISSING
    return " / ".join(spread((one[part] for one in scores), 1) for part in (0, 1))


def _words(table: Table, lines: Lines) -> str:
    """Return one line for every row of methods on joint spaces."""
    several = len({row.data for row in table.rows}) > 1
    columns = ["data"] * several + ["", *(name.upper() for name in SCORES), "live clusters"]
    columns += ["purity of rows", "of counterparts", "nouns", "wall s", "CPU s", "seeds"]
    body = []
    for row in table.rows:
        found = lines_of(row, lines)
        cells = [row.data] * several + [row.name, *_scores(found, "labels", "train")]
        for names, digits in _WORD_FIGURES.items():
            cells.append(spread((get(line, *names) for line in found), digits))
        body.append([*cells, str(len(found))])
    return grid(columns, body)


def _nouns(table: Table, lines: Lines) -> str:
    """Return the surest nouns of every row's first seed."""
    body = []
    for row in table.rows:
        nouns = next((get(line, "words", "surest") for line in lines_of(row, lines)), None)
        body.append([row.data, ", ".join(nouns) if nouns else MISSING])
    return grid(("data", "nouns"), body)


def _names(table: Table, lines: Lines) -> str:
    """Return what the names of every row's groups are, and once for each data set those of its classes."""
    columns = ["data", "", "groups", "named", *RELATIONS[:-1], "class or kin, of all groups", "seeds"]
    body = []
    for row in table.rows:
        found, n = lines_of(row, lines), DATA_SETS[row.data].n_clusters
        titles = {"names": row.name} | ({"names_of_classes": "the classes themselves"} if _told(row) else {})
        for part, title in titles.items():
            counts = [get(line, "words", part) for line in found]
            cells = [spread((one and one[name] for one in counts), 1) for name in ("named", *RELATIONS[:-1])]
            shares = (one and sum(one[name] for name in RELATIONS[:-1]) / n for one in counts)
            body.append([row.data, title, str(n), *cells, spread(shares, 2), str(len(found))])
    return grid(columns, body)


def _refining(table: Table, lines: Lines) -> str:
    """Return where the labels of images end by both rules; nothing is random, so that one seed is shown."""
    columns = ["data", "rule"]
    columns += ["from the parent: right", "above", "random: right"]
    columns += ["from the root: right", "above", "random: right"]
    columns += ["taken out: stay", "the others: right"]
    body = []
    for row in table.rows:
        for rule in RELABEL_RULES:
            paths = [
                (start, rule, what) for start in ("parent", "root") for what in ("right", "above", "chance")
            ]
            paths += [("missing", rule, what) for what in ("stay", "right")]
            first = lines_of(row, lines)[:1]
            cells = (spread(get(line, "words", "refining", *path) for line in first) for path in paths)
            body.append([row.data, rule, *cells])
    return grid(columns, body)


def _told(row: Row) -> bool:
    return row.method == "zero-shot"


def _auto(table: Table, lines: Lines) -> str:
    parts = []
    for title, note, columns, body in choice_tables(table.rows, lines):
        cells = [[cell if isinstance(cell, str) else spread(cell) for cell in row] for row in body]
        parts.append(f"### {title}\n\n{note}\n\n{grid(columns, cells)}" if cells else "")
    return "\n\n".join(part for part in parts if part) or "Nothing is complete yet."


def _machines(lines: Iterable[Line]) -> str:
    """Return on what the lines were measured."""
    found: dict[str, None] = {}
    for line in lines:
        machine = line["machine"]
        units = "with" if machine["bfloat16"] else "without"
        place = machine.get(
            "gpu", f"{machine['threads']} threads of {machine['cores']} cores, {units} bfloat16 units"
        )
        found[f"{place}, PyTorch {machine['torch']}"] = None
    return f"Machines: {'; '.join(found)}." if found else ""


def get(line: Mapping[str, Any], *names: str) -> Any:
    """Return what stands at the end of a path of names, None where it ends early."""
    here: Any = line
    for name in names:
        if not isinstance(here, Mapping) or name not in here:
            return None
        here = here[name]
    return here


_VIEWS: Mapping[str, Callable[[Table, Lines], str]] = {
    "stages": _stages,
    "neighbors": _neighbors,
    "test consensus": _test_consensus,
    "auto": _auto,
    "balance": _balance,
    "calibration": _calibration,
    "words": _words,
    "nouns": _nouns,
    "names": _names,
    "refining": _refining,
}
