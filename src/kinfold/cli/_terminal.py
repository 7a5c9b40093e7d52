"""Output of commands: results to stdout as tables or JSON; messages and progress to stderr."""

from __future__ import annotations

import json
import logging
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.logging import RichHandler
from rich.table import Table
from rich.text import Text

from kinfold.bars import BarProgress, LineProgress
from kinfold.progress import SILENT, Progress

if TYPE_CHECKING:
    import pyarrow as pa

    from kinfold.pipeline import Estimate
    from kinfold.run import Run

_LIBRARY_LOGGERS = ("huggingface_hub", "transformers", "timm", "open_clip", "PIL", "torch")
MOST_ROWS = 40  # about a screen; --json and the tables on disk have all groups


class Terminal:
    """What a command shows, by what was asked for.

    Parameters
    ----------
    as_json : bool
        The result is one JSON value on stdout.
    quiet : bool
        No progress, no tables; warnings and errors only.
    verbose : bool
        Log what is being done, and let libraries warn.
    """

    def __init__(self, *, as_json: bool = False, quiet: bool = False, verbose: bool = False) -> None:
        self.as_json, self.quiet = as_json, quiet
        self._out = Console(highlight=False)
        self._err = Console(stderr=True, highlight=False, soft_wrap=True)
        self._set_up_logging(verbose)

    @property
    def progress(self) -> Progress:
        """Bars on a terminal, lines elsewhere, nothing if quiet."""
        if self.quiet:
            return SILENT
        return BarProgress(self._err) if self._err.is_terminal else LineProgress(self._err)

    def tell(self, text: str) -> None:
        """Say something on stderr, unless quiet."""
        if not self.quiet:
            self._err.print(text, markup=False)

    def tell_estimate(self, estimate: Estimate) -> None:
        """Say what the work is expected to take."""
        text = str(estimate)
        self.tell(text[:1].upper() + text[1:])

    def show(self, result: Any, *tables: RenderableType) -> None:
        """Show a result: as JSON if that was asked for, else as tables, unless quiet."""
        if self.as_json:
            self._out.file.write(json.dumps(result, ensure_ascii=True, indent=2) + "\n")
        elif not self.quiet:
            for table in tables:
                self._out.print(table, soft_wrap=isinstance(table, Text))

    def _set_up_logging(self, verbose: bool) -> None:
        handler = RichHandler(console=self._err, show_time=False, show_path=False, markup=False)
        logger = logging.getLogger("kinfold")
        logger.handlers = [handler]
        logger.setLevel(logging.INFO if verbose else logging.WARNING)
        logger.propagate = False
        if self.quiet or self.as_json:
            os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        if not verbose:
            warnings.simplefilter("ignore")
            os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
            for name in _LIBRARY_LOGGERS:
                logging.getLogger(name).setLevel(logging.ERROR)


def make_table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> Table:
    """Return a plain table, first column to the left and numbers to the right."""
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for place, name in enumerate(columns):
        table.add_column(name, justify="left" if place == 0 else "right", header_style="dim")
    for row in rows:
        table.add_row(*[Text(cell) for cell in row])
    return table


def make_list(facts: Mapping[str, str]) -> Text:
    """Return names and values below each other; long values are not broken, so that they can be copied."""
    width = max(map(len, facts)) + 3
    text = Text()
    for name, value in facts.items():
        text.append(name.ljust(width), style="dim")
        text.append(f"{value}\n")
    text.right_crop(1)
    return text


def count_reasons(skipped: pa.Table) -> dict[str, int]:
    """Count skipped images by the words that begin their reasons."""
    reasons = skipped.column("reason").to_pylist()
    return dict(Counter(str(reason).split(":", 1)[0] for reason in reasons).most_common())


def count_groups(
    table: pa.Table, n_clusters: int, names: Mapping[int, str] | None = None
) -> list[dict[str, Any]]:
    """Return size and mean confidence of every group, or of those that have ``names``, empty ones too.

    Images of group −1 are in none, and aren't counted.
    """
    import numpy as np

    labels, confidence = (table.column(name).to_numpy() for name in ("cluster", "confidence"))
    inside = labels >= 0
    sizes = np.bincount(labels[inside], minlength=n_clusters)
    sums = np.bincount(labels[inside], weights=confidence[inside], minlength=n_clusters)
    return [
        {
            "cluster": group,
            **({} if names is None else {"name": names[group] or None}),
            "size": int(size),
            "mean_confidence": round(float(total / size), 6) if size else None,
        }
        for group, (size, total) in enumerate(zip(sizes, sums, strict=True))
        if names is None or group in names
    ]


def show_groups(groups: Sequence[Mapping[str, Any]]) -> Table:
    """Return groups as a table, largest first, with names if any has one; of very many, the largest."""
    named = any(group.get("name") for group in groups)
    total = max(sum(group["size"] for group in groups), 1)
    ranked = sorted(groups, key=lambda group: (-group["size"], group["cluster"]))
    rows = [
        (
            str(group["cluster"]),
            f"{group['size']:,}",
            f"{100 * group['size'] / total:.1f} %",
            "" if group["mean_confidence"] is None else f"{group['mean_confidence']:.2f}",
            *([group.get("name") or ""] if named else []),
        )
        for group in ranked[:MOST_ROWS]
    ]
    if len(ranked) > MOST_ROWS:
        rest = ranked[MOST_ROWS:]
        rows.append(
            (
                f"{len(rest):,} more",
                f"{sum(group['size'] for group in rest):,}",
                "",
                "",
                *([""] if named else []),
            )
        )
    return make_table(("group", "size", "share", "confidence", *(["name"] if named else [])), rows)


_MOST_CAUSES = 4  # of skipped images, on the terminal; skipped.parquet has them all


def describe_skipped(skipped: pa.Table) -> str:
    """Return ``3 (truncated 2, empty 1)``, or ``none``."""
    reasons = count_reasons(skipped)
    if not reasons:
        return "none"
    return f"{skipped.num_rows:,} ({', '.join(f'{name} {count:,}' for name, count in reasons.items())})"


def explain_skipped(skipped: pa.Table) -> dict[str, str]:
    """Return a line per cause, the most frequent first: what is wrong, how to mend it, and an example.

    Causes are whole reasons with their numbers left out; what begins alike may need different commands.
    """
    causes: dict[str, list[int]] = {}
    reasons, keys = (skipped.column(name).to_pylist() for name in ("reason", "key"))
    for place, reason in enumerate(reasons):
        causes.setdefault(re.sub(r"[0-9][0-9.,]*", "#", reason), []).append(place)
    often = sorted(causes.values(), key=len, reverse=True)[:_MOST_CAUSES]
    lines = [f"{len(places):,} like {keys[places[0]]}: {reasons[places[0]]}" for places in often]
    if len(causes) > len(often):
        lines.append(f"and {len(causes) - len(often):,} more causes")
    return {"why skipped" if not number else " " * number: line for number, line in enumerate(lines)}


def summarize_run(run: Run) -> dict[str, Any]:
    """Return what ``kinfold cluster --json`` prints; the groups are those as corrected."""
    from kinfold.pipeline import CorrectedGroups

    corrected = CorrectedGroups.of(run)
    return {
        "run": str(run.path),
        "method": run.manifest.parameters.get("method"),
        "n_clusters": run.n_clusters,
        "choice": run.manifest.choice,
        "criteria": run.manifest.criteria or None,
        "chosen": run.manifest.fit.get("chosen"),
        "n_images": run.assignments.num_rows,
        "n_corrections": corrected.n_corrections,
        "groups": corrected.count(),
        "skipped": {"total": run.skipped.num_rows, "reasons": count_reasons(run.skipped)},
        "warnings": list(run.manifest.diagnosis.get("messages", [])),
        "report": str(run.report_path) if run.report_path.exists() else None,
        "timings": run.manifest.timings,
    }
