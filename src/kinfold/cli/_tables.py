"""Results as tables and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import pyarrow as pa

    from kinfold.run import Run

_MOST_ROWS = 40


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


def count_groups(table: pa.Table, n_clusters: int) -> list[dict[str, Any]]:
    """Return size and mean confidence of every group, empty ones too."""
    import numpy as np

    labels = table.column("cluster").to_numpy()
    sizes = np.bincount(labels, minlength=n_clusters)
    sums = np.bincount(labels, weights=table.column("confidence").to_numpy(), minlength=n_clusters)
    return [
        {
            "cluster": group,
            "size": int(size),
            "mean_confidence": round(float(total / size), 6) if size else None,
        }
        for group, (size, total) in enumerate(zip(sizes, sums, strict=True))
    ]


def show_groups(groups: Sequence[Mapping[str, Any]]) -> Table:
    """Return groups as a table, largest first; of very many, the largest."""
    total = max(sum(group["size"] for group in groups), 1)
    ranked = sorted(groups, key=lambda group: (-group["size"], group["cluster"]))
    rows = [
        (
            str(group["cluster"]),
            f"{group['size']:,}",
            f"{100 * group['size'] / total:.1f} %",
            "" if group["mean_confidence"] is None else f"{group['mean_confidence']:.2f}",
        )
        for group in ranked[:_MOST_ROWS]
    ]
    if len(ranked) > _MOST_ROWS:
        rest = ranked[_MOST_ROWS:]
        rows.append((f"{len(rest):,} more", f"{sum(group['size'] for group in rest):,}", "", ""))
    return make_table(("group", "size", "share", "confidence"), rows)


def describe_skipped(skipped: pa.Table) -> str:
    """Return ``3 (truncated 2, empty 1)``, or ``none``."""
    reasons = count_reasons(skipped)
    if not reasons:
        return "none"
    return f"{skipped.num_rows:,} ({', '.join(f'{name} {count:,}' for name, count in reasons.items())})"


def summarise_run(run: Run) -> dict[str, Any]:
    """Return what ``kinfold cluster --json`` prints."""
    return {
        "run": str(run.path),
        "method": run.manifest.parameters.get("method"),
        "n_clusters": run.n_clusters,
        "criteria": run.manifest.criteria or None,
        "chosen": run.manifest.fit.get("chosen"),
        "n_images": run.assignments.num_rows,
        "groups": count_groups(run.assignments, run.n_clusters),
        "skipped": {"total": run.skipped.num_rows, "reasons": count_reasons(run.skipped)},
        "warnings": list(run.manifest.diagnosis.get("messages", [])),
        "report": str(run.report_path) if run.report_path.exists() else None,
        "timings": run.manifest.timings,
    }
