"""report.html: a run as one HTML file that opens from disk."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kinfold._version import __version__
from kinfold.gallery._curve import Curve, read_curve
from kinfold.gallery._groups import (
    MAX_SHEETS,
    Bar,
    Grouping,
    Sheet,
    arrange_groups,
    draw_confidence,
    draw_sizes,
    plan_sheets,
    trace,
)
from kinfold.gallery._html import EmbeddedImage, embed_images, render_template
from kinfold.gallery._text import (
    FactSet,
    collect_facts,
    collect_metrics,
    collect_warnings,
    show_confidence,
    show_count,
    show_name,
    show_share,
)
from kinfold.progress import SILENT, Progress
from kinfold.storage import atomic_file

if TYPE_CHECKING:
    from kinfold.images import ImageSource
    from kinfold.language import ClusterName, Name
    from kinfold.run import Run

# in characters, so that one long name can't spoil the layout
_NOUN_LIMIT = 60
_PATH_LIMIT = 240

_NAME_LIMIT = 96
# of longer lists the page gives the number of the rest, and the run's files have all
_FIRST_SKIPPED = 50
_MOST_REASONS = 20
_LISTED_EMPTY = 40
_SECOND_FROM = 0.05  # probability; a second choice below it tells a reader nothing
_COMPACT = 10  # images of a group that fit into one row, with the least confident ones to the right
_ABSENT = (
    "The images were not found where the run knows them, so their names stand here. "
    "If they were moved: kinfold report RUN --source WHERE"
)


@dataclass(frozen=True)
class WordView:
    """A noun of a group, its separation from other groups, and its scores as title."""

    noun: str
    separation: str
    title: str


@dataclass(frozen=True)
class NameView:
    """The nouns of a group with the path of the first one in WordNet, or the reason why none fits."""

    words: list[WordView]
    path: str
    reason: str

    @property
    def noun(self) -> str:
        """The first noun; empty where none fits."""
        return self.words[0].noun if self.words else ""


def view_name(names: Mapping[int, ClusterName], group: int, given: str | None = None) -> NameView | None:
    """Return the name of a group as a page shows it; None where groups aren't named.

    A name ``given`` by a person, other than the run's own, is shown without scores.
    """
    found = names.get(group)
    if given and (found is None or found.noun != given):
        return NameView([WordView(show_name(given, _NOUN_LIMIT), "", "")], "", "")
    if found is None:
        return None
    words = [_view_word(name) for name in found.names]
    path = " > ".join(found.names[0].path[1:]) if found.names else ""
    return NameView(words, show_name(path, _PATH_LIMIT), show_name(found.reason, _PATH_LIMIT))


def count_named(names: Mapping[int, str]) -> str:
    """Return the number of groups that have a name: ``8 of 10``."""
    return f"{sum(map(bool, names.values())):,} of {len(names):,}"


def _view_word(name: Name) -> WordView:
    title = f"separation {name.separation:.3f}, similarity {name.similarity:.3f}, score {name.score:.2f}"
    return WordView(
        show_name(name.noun, _NOUN_LIMIT),
        f"{name.separation:.2f}",
        f"{title}, {name.synset}" if name.synset else title,
    )


@dataclass(frozen=True)
class SheetImage:
    """An image of a group, with its name, confidence and second choice."""

    name: str
    title: str
    confidence: str
    second: str
    image: EmbeddedImage


@dataclass(frozen=True)
class SheetView:
    """One group, as the template shows it."""

    group: int
    n_members: int
    size: str
    share: str
    mean: str
    relative_size: float
    trace: str
    stands_for: str
    name: NameView | None
    top: list[SheetImage]
    least: list[SheetImage]


@dataclass(frozen=True)
class KeyFigure:
    """One of the large figures under the title; ``measured`` marks those that were computed with labels."""

    name: str
    value: str
    note: str = ""
    measured: bool = False


@dataclass(frozen=True)
class SkippedItem:
    """One image that was skipped."""

    name: str
    reason: str


@dataclass(frozen=True)
class SkippedReason:
    """The number of images that were skipped for one reason."""

    name: str
    count: str


@dataclass(frozen=True)
class SkippedView:
    """The skipped images: counts by reason, and the first 50."""

    total: str
    reasons: list[SkippedReason]
    first: list[SkippedItem]
    more: str


@dataclass(frozen=True)
class Page:
    """The values that ``report.html.j2`` shows."""

    title: str
    place: str
    words: list[str]
    version: str
    figures: list[KeyFigure]
    warnings: list[str]
    sizes_caption: str
    size_bars: list[Bar]
    confidence_bars: list[Bar]
    sheets: list[SheetView]
    with_images: bool
    absent: str
    compact: bool
    noun: str
    noun_one: str
    left_out: str
    outside: str
    empty: str
    levels: str
    curve: Curve | None
    skipped: SkippedView
    facts: list[FactSet]
    corrected: bool


def build_page(
    run: Run,
    grouping: Grouping,
    thumbnails: Mapping[int, EmbeddedImage] | None,
    names: Mapping[int, str],
    *,
    corrected: bool = False,
) -> Page:
    """Return the values of a report.

    Parameters
    ----------
    run : Run
        The run to show.
    grouping : Grouping
        Counts of its groups, and the images to show.
    thumbnails : mapping, optional
        Thumbnail by row of the source, for every row shown; None where there are no images.
    names : mapping
        Name by group; empty for a group without name.
    corrected : bool
        Whether people changed the groups, so that they differ from ``assignments.parquet``.
    """
    manifest = run.manifest
    n_rows = run.assignments.num_rows
    images_known = thumbnails is not None or _look(manifest, "source", "images") is not None
    levels, curve = _levels(run)
    noun, noun_one = ("images", "image") if images_known else ("samples", "sample")
    n_groups = len(grouping.sizes)
    sizes = grouping.sizes
    n_shown = max((len(sheet.top) + len(sheet.least) for sheet in grouping.sheets), default=0)
    return Page(
        title=f"{show_count(n_rows)} {noun if n_rows != 1 else noun_one} in {show_count(n_groups)} "
        f"group{'s' if n_groups != 1 else ''}",
        place=show_name(_place(manifest) or run.path.name, 240),
        words=_words(manifest),
        version=__version__,
        figures=_figures(grouping, run, names),
        warnings=collect_warnings(manifest),
        sizes_caption=f"{show_count(int(sizes.max()))} to {show_count(int(sizes.min()))}, "
        f"median {show_count(int(np.median(sizes)))}",
        size_bars=draw_sizes(sizes),
        confidence_bars=draw_confidence(grouping.histogram),
        sheets=_SheetWriter(run, thumbnails, sizes, names).write(grouping.sheets),
        with_images=thumbnails is not None,
        absent=_ABSENT if images_known and thumbnails is None else "",
        compact=thumbnails is not None and n_shown <= _COMPACT,
        noun=noun,
        noun_one=noun_one,
        left_out=_left_out(grouping.n_left_out),
        outside=_outside(grouping.n_outside, noun, noun_one),
        empty=_empty(grouping.empty),
        levels=levels,
        curve=curve,
        skipped=_skipped(run.skipped),
        facts=collect_facts(manifest),
        corrected=corrected,
    )


def _levels(run: Run) -> tuple[str, Curve | None]:
    """Return how many levels a run has, as the sentence before its commands, and how K was estimated."""
    if "levels" not in run.manifest.stages:  # made before Kinfold knew levels
        return "", None
    from kinfold.levels import open_levels  # loads PyTorch

    found = open_levels(run)
    levels = found.levels
    shown = (
        f"Shown here are {show_count(run.level)}; the fit has {show_count(levels.n_live)}. "
        if run.level
        else ""
    )
    return (
        f"These groups are one level of a tree: finer ones lie within them, coarser ones join them, from 1 "
        f"to {show_count(levels.n_parts)} groups. {shown}",
        read_curve(found.estimate),
    )


def _place(manifest: Mapping[str, Any]) -> str:
    """Return the last two parts of the source's path; the facts have all of it."""
    where = _look(manifest, "source", "images") or _look(manifest, "source", "uri") or ""
    return "/".join(re.split(r"[/\\]", str(where).rstrip("/\\"))[-2:])


class _SheetWriter:
    """Makes sheets of names and images from sheets of positions, reading only the rows shown."""

    def __init__(
        self,
        run: Run,
        thumbnails: Mapping[int, EmbeddedImage] | None,
        sizes: NDArray[np.int64],
        given: Mapping[int, str],
    ) -> None:
        self._assignments = run.assignments
        self._thumbnails = thumbnails or {}
        self._names, self._given = run.names, given
        self._classes = run.metrics.get("classes", {})
        self._largest = max(int(sizes.max(initial=0)), 1)
        self._total = max(int(sizes.sum()), 1)

    def write(self, sheets: Sequence[Sheet]) -> list[SheetView]:
        shown = [int(place) for sheet in sheets for place in (*sheet.top, *sheet.least)]
        table = self._assignments.take(pa.array(shown, type=pa.int64()))
        # one call for all groups: taking rows one by one from a table of a million is slow
        records = dict(zip(shown, table.to_pylist(), strict=True))
        return [self._view(sheet, records) for sheet in sheets]

    def _view(self, sheet: Sheet, records: Mapping[int, dict[str, Any]]) -> SheetView:
        return SheetView(
            group=sheet.group,
            n_members=sheet.size,
            size=show_count(sheet.size),
            share=show_share(sheet.size / self._total),
            mean=show_confidence(sheet.mean_confidence),
            relative_size=round(max(100 * sheet.size / self._largest, 1), 1),
            trace=trace(sheet.histogram),
            stands_for=show_name(str(self._classes.get(str(sheet.group), "")), 60),
            name=view_name(self._names, sheet.group, self._given[sheet.group]),
            top=[self._item(records[int(place)]) for place in sheet.top],
            least=[self._item(records[int(place)], sheet.group) for place in sheet.least],
        )

    def _item(self, record: Mapping[str, Any], group: int | None = None) -> SheetImage:
        name = show_name(record["key"], _NAME_LIMIT)
        confidence = show_confidence(record["confidence"] or 0.0)
        second = "" if group is None else _second_choice(record, group, self._given)
        image = self._thumbnails.get(record["row"], EmbeddedImage("", reason="no image"))
        return SheetImage(name, f"{name}, confidence {confidence}", confidence, second, image)


def _second_choice(record: Mapping[str, Any], group: int, known: Collection[int]) -> str:
    """Return the most probable other group; "" where its probability is below 0.05."""
    for cluster, probability in zip(record["top_clusters"], record["top_probabilities"], strict=True):
        if cluster != group and cluster in known:
            return f"or {cluster}" if probability >= _SECOND_FROM else ""
    return ""


def _look(manifest: Mapping[str, Any], section: str, name: str) -> Any:
    content = manifest.get(section)
    return content.get(name) if isinstance(content, Mapping) else None


def _words(manifest: Mapping[str, Any]) -> list[str]:
    """Return method, backbone and seed for the line under the title."""
    method = _look(manifest, "parameters", "method")
    card = _look(manifest, "backbone", "card")
    backbone = card.get("name") if isinstance(card, Mapping) else None
    seed = _look(manifest, "parameters", "random_state")
    words = [
        {"temi": "TEMI", "kmeans": "k\u2011means", "graph": "graph clustering"}.get(str(method), str(method))
        if method
        else "",
        f"on {backbone}" if backbone else "",
        f"seed {seed}" if seed is not None else "",
    ]
    return [show_name(word, 80) for word in words if word]


def _figures(grouping: Grouping, run: Run, names: Mapping[int, str]) -> list[KeyFigure]:
    figures = [
        KeyFigure("mean confidence", show_confidence(grouping.mean_confidence)),
        KeyFigure("largest group", show_count(int(grouping.sizes.max()))),
        KeyFigure("smallest group", show_count(int(grouping.sizes.min()))),
        KeyFigure("skipped", show_count(run.skipped.num_rows)),
    ]
    if any(names.values()):
        figures.append(KeyFigure("named groups", count_named(names)))
    measured = collect_metrics(run.manifest)
    return figures + [KeyFigure(fact.name, fact.value, measured=True) for fact in measured]


def _skipped(table: pa.Table) -> SkippedView:
    """Count skipped images by kind, which is the part of the reason before the colon; list the first 50."""
    kinds = Counter(str(reason).split(":", 1)[0] for reason in table.column("reason").to_pylist())
    first = table.slice(0, _FIRST_SKIPPED).to_pylist()
    more = table.num_rows - len(first)
    return SkippedView(
        total=show_count(table.num_rows) if table.num_rows else "",
        reasons=[
            SkippedReason(show_name(name, 80), show_count(n)) for name, n in kinds.most_common(_MOST_REASONS)
        ],
        first=[
            SkippedItem(show_name(entry["key"], 200), show_name(str(entry["reason"]), 200)) for entry in first
        ],
        more=f"and {show_count(more)} more in skipped.parquet" if more else "",
    )


def _left_out(n_left_out: int) -> str:
    if not n_left_out:
        return ""
    return f"{show_count(n_left_out)} more groups are not shown, those of the lowest mean confidence."


def _outside(n_outside: int, noun: str, noun_one: str) -> str:
    if not n_outside:
        return ""
    marked = f"{show_count(n_outside)} {noun_one if n_outside == 1 else noun}"
    return f"{marked} marked as wrong or as noise: in no group."


def _empty(groups: Sequence[int]) -> str:
    if not groups:
        return ""
    listed = ", ".join(str(group) for group in groups[:_LISTED_EMPTY])
    rest = len(groups) - _LISTED_EMPTY
    more = f" and {show_count(rest)} more" if rest > 0 else ""
    return f"Empty: group{'s' if len(groups) > 1 else ''} {listed}{more}."


@dataclass(frozen=True)
class Shown:
    """Corrected groups, for a report to show in place of the run's own.

    Attributes
    ----------
    labels : NDArray of int (N,)
        Group of every row of the run's assignments; −1 for none.
    names : Mapping of int to str
        Name of every group by its number; empty for a group without name.
    """

    labels: NDArray[np.integer]
    names: Mapping[int, str]

    @classmethod
    def of(cls, run: Run) -> Shown:
        """Return the run's own groups."""
        names = dict.fromkeys(range(run.n_clusters), "")
        # Names of groups that people made, while the run was corrected, are of no group here.
        given = {group: name.noun or "" for group, name in run.names.items() if group in names}
        return cls(run.labels, {**names, **given})


def write_report(
    run: Run,
    images: ImageSource | None,
    path: Path,
    *,
    shown: Shown | None = None,
    progress: Progress = SILENT,
) -> Path:
    """Write the report of a run: a contact sheet for each group, figures and facts.

    The page is one file whose only script is its own (named by hash in its content security policy). It loads
    nothing from the network and takes at most 25 MB for any number of images and groups: a run of more groups
    shows fewer and smaller thumbnails, and beyond 1,000 groups only the most confident have a sheet. The same
    run and images give the same bytes.

    Parameters
    ----------
    run : Run
        An opened run.
    images : ImageSource or None
        The images of the run; only those shown are read. None where the run was made from features, or the
        images are missing: the page then lists keys.
    path : Path
        File to write, whole or not at all; usually ``RUN/report.html``.
    shown : Shown, optional
        Corrected groups; the run's own by default.
    progress : Progress
        Shows how many thumbnails are made.

    Returns
    -------
    Path
        ``path``.
    """
    corrected, shown = shown is not None, shown or Shown.of(run)
    plan = plan_sheets(min(len(shown.names), MAX_SHEETS))
    confidence = run.assignments.column("confidence").to_numpy()
    grouping = arrange_groups(shown.labels, confidence, shown.names, plan)
    thumbnails: dict[int, EmbeddedImage] | None = None
    if images is not None:
        thumbnails = embed_images(
            images, _rows_shown(run, grouping), plan.side, plan.max_bytes, progress=progress
        )
    text = render_page(build_page(run, grouping, thumbnails, shown.names, corrected=corrected))
    # a key may hold half a surrogate pair, which UTF-8 can't encode
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
    return path


def render_page(page: Page) -> str:
    """Return the HTML of a page."""
    return render_template("report.html.j2", styles=("report.css",), script="report.js", page=page)


def _rows_shown(run: Run, grouping: Grouping) -> list[int]:
    places = [np.concatenate([sheet.top, sheet.least]) for sheet in grouping.sheets]
    rows = run.assignments.column("row").to_numpy()
    return [int(row) for row in rows[np.concatenate(places)]] if places else []
