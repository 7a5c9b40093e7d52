"""sheet.html: images whose label was refined, below the label that they had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kinfold._version import __version__
from kinfold.gallery._html import EmbeddedImage, embed_images, render_template
from kinfold.gallery._text import show_confidence, show_count, show_name, show_share
from kinfold.progress import SILENT, Progress
from kinfold.storage import atomic_file

if TYPE_CHECKING:
    from kinfold.images import ImageSource

N_SECTIONS = 24
N_COLUMNS = 6
N_IMAGES = 6

_SIDE = 112
_MOST_BYTES = 24_000
_BUDGET = 16_000_000
_NAME_LIMIT = 96


@dataclass(frozen=True)
class Destination:
    """Images that went from one class to the same other one.

    Attributes
    ----------
    after : int
        Where they went; the section's own class for those that stayed.
    size : int
        How many.
    shown : list of int
        Positions of those shown, the surest first: every so many in the order of confidence.
    """

    after: int
    size: int
    shown: list[int]


@dataclass(frozen=True)
class Section:
    """One class before, and where its images went, most first."""

    before: int
    size: int
    n_moved: int
    destinations: list[Destination]
    n_more: int


def arrange_moves(
    before: NDArray[Any],
    after: NDArray[Any],
    confidences: NDArray[Any],
    *,
    n_sections: int = N_SECTIONS,
    n_columns: int = N_COLUMNS,
    n_images: int = N_IMAGES,
) -> list[Section]:
    """Pick the classes that most images left, where most of those went, and some of them.

    Parameters
    ----------
    before, after : NDArray of int (N,)
        Classes of every row; −1 for none.
    confidences : NDArray (N,)
        Probability of each choice; rows without one (NaN) had none and aren't counted.

    Notes
    -----
    Ties are broken by class and by position, so the same labels always give the same sheet.
    """
    rows = np.flatnonzero((before >= 0) & np.isfinite(confidences))
    old, new, sure = before[rows].astype(np.int64), after[rows].astype(np.int64), confidences[rows]
    n_classes = int(max(old.max(initial=-1), new.max(initial=-1))) + 1
    sizes = np.bincount(old, minlength=n_classes)
    moved = np.bincount(old[old != new], minlength=n_classes)
    ranked = np.argsort(-moved, kind="stable")[:n_sections]
    sections = []
    for node in ranked[moved[ranked] > 0].tolist():
        own = np.flatnonzero(old == node)
        counts = np.bincount(new[own], minlength=n_classes)
        targets = np.argsort(-counts, kind="stable")[: int((counts > 0).sum())]
        destinations = [
            Destination(
                int(target), int(counts[target]), _spread(rows, own[new[own] == target], sure, n_images)
            )
            for target in targets[:n_columns]
        ]
        n_more = len(targets) - len(destinations)
        sections.append(Section(node, int(sizes[node]), int(moved[node]), destinations, n_more))
    return sections


def _spread(rows: NDArray[np.int64], members: NDArray[np.int64], sure: NDArray[Any], n: int) -> list[int]:
    """Return positions of ``n`` members at even distances from the surest to the least sure."""
    order = members[np.argsort(-sure[members], kind="stable")]
    places = np.unique(np.linspace(0, len(order) - 1, min(n, len(order))).round().astype(np.int64))
    return [int(row) for row in rows[order[places]]]


@dataclass(frozen=True)
class Moves:
    """What a sheet is about.

    Attributes
    ----------
    rows : NDArray of int64 (N,)
        Row in the source of every image.
    keys : sequence of str (N,)
        Its name; those shown alone are read.
    before, after : NDArray of int (N,)
        Its class before and after; −1 for none.
    confidences : NDArray of float (N,)
        Probability of the choice; NaN where there was none.
    names : sequence of str (K,)
        What to call each class.
    ids : sequence of str (K,)
        What it is called in the files; shown beside its name where they differ.
    title : str
        The heading.
    words : sequence of str
        What stands under the heading: how it was made.
    figures : Mapping of str to str
        The figures under that, by name.
    """

    rows: NDArray[Any]
    keys: Sequence[str]
    before: NDArray[Any]
    after: NDArray[Any]
    confidences: NDArray[Any]
    names: Sequence[str]
    ids: Sequence[str]
    title: str
    words: Sequence[str] = ()
    figures: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _MovedImage:
    name: str
    title: str
    confidence: str
    image: EmbeddedImage
    second: str = ""


@dataclass(frozen=True)
class _ColumnView:
    name: str
    title: str
    size: str
    stayed: bool
    items: list[_MovedImage]


@dataclass(frozen=True)
class _SectionView:
    name: str
    id: str
    size: str
    share: str
    destinations: list[_ColumnView]
    more: str


def write_sheet(moves: Moves, images: ImageSource | None, path: Path, *, progress: Progress = SILENT) -> Path:
    """Write a page of images before and after relabelling, as Figure 1 of the scaling paper has them.

    Shown are the classes that most images left, at most 24. Each has columns for the (at most six) classes
    that most of its images went to, of up to six images, by falling confidence. The page is one file without
    scripts that loads nothing from the network. The same labels and images give the same bytes.

    Parameters
    ----------
    moves : Moves
        Labels before and after.
    images : ImageSource or None
        Only those shown are read; None lists names in their place.
    path : Path
        The file to write, whole or not at all.
    progress : Progress
        Shown while thumbnails are made.

    Returns
    -------
    Path
        ``path``.
    """
    sections = arrange_moves(moves.before, moves.after, moves.confidences)
    shown = [place for section in sections for column in section.destinations for place in column.shown]
    thumbnails: dict[int, EmbeddedImage] = {}
    if images is not None and shown:
        most = min(_MOST_BYTES, _BUDGET * 3 // 4 // len(shown))
        rows = [int(moves.rows[place]) for place in shown]
        thumbnails = embed_images(images, rows, _SIDE, most, progress=progress)
    text = render_template(
        "sheet.html.j2",
        styles=("report.css", "sheet.css"),
        moves=moves,
        version=__version__,
        sections=[_view(moves, section, thumbnails) for section in sections],
        with_images=images is not None,
    )
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
    return path


def _view(moves: Moves, section: Section, thumbnails: Mapping[int, EmbeddedImage]) -> _SectionView:
    name = moves.names[section.before]
    return _SectionView(
        name=show_name(name, _NAME_LIMIT),
        id=_other_id(moves, section.before),
        size=show_count(section.size),
        share=show_share(section.n_moved / section.size),
        destinations=[
            _view_column(moves, section.before, column, thumbnails) for column in section.destinations
        ],
        more=f"and {show_count(section.n_more)} more classes" if section.n_more else "",
    )


def _view_column(
    moves: Moves, before: int, column: Destination, thumbnails: Mapping[int, EmbeddedImage]
) -> _ColumnView:
    return _ColumnView(
        name=show_name(moves.names[column.after], _NAME_LIMIT),
        title=_other_id(moves, column.after),
        size=show_count(column.size),
        stayed=column.after == before,
        items=[_view_image(moves, place, thumbnails) for place in column.shown],
    )


def _view_image(moves: Moves, place: int, thumbnails: Mapping[int, EmbeddedImage]) -> _MovedImage:
    name = show_name(str(moves.keys[place]), _NAME_LIMIT)
    confidence = show_confidence(float(moves.confidences[place]))
    image = thumbnails.get(int(moves.rows[place]), EmbeddedImage("", reason="no image"))
    return _MovedImage(name, f"{name}, confidence {confidence}", confidence, image)


def _other_id(moves: Moves, number: int) -> str:
    node = moves.ids[number]
    return "" if node == moves.names[number] else show_name(node, _NAME_LIMIT)
