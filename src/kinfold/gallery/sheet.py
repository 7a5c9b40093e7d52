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

# 24 · 6 · 6 images: what a person can look through, and what keeps the page below 25 MB
N_SECTIONS = 24
N_COLUMNS = 6
N_IMAGES = 6

_SIDE = 112  # pixels
_MOST_BYTES = 24_000  # of one thumbnail
_BUDGET = 16_000_000  # bytes of all thumbnails on the page, as in a report
_NAME_LIMIT = 96  # characters


@dataclass(frozen=True)
class Destination:
    """Images that went from one class to the same class.

    Attributes
    ----------
    after : int
        The class that they went to; the section's own for images that stayed.
    size : int
        Number of images.
    shown : list of int
        Positions of the images shown, by descending confidence, at even distances in that order.
    """

    after: int
    size: int
    shown: list[int]


@dataclass(frozen=True)
class Section:
    """One class before, and the classes that its images went to, the most frequent first."""

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
    """Choose the classes that most images left, the classes that most of those went to, and some images.

    Parameters
    ----------
    before, after : NDArray of int (N,)
        Class of every row; −1 for none.
    confidences : NDArray (N,)
        Probability of each new class; rows with NaN had no choice and aren't counted.
    n_sections, n_columns, n_images : int
        Most classes, most destinations of each, and most images of each destination.

    Notes
    -----
    Ties are broken by class and by position, so that the same labels always give the same sheet.
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
                int(target),
                int(counts[target]),
                _spread_out(rows, own[new[own] == target], sure, n_images),
            )
            for target in targets[:n_columns]
        ]
        n_more = len(targets) - len(destinations)
        sections.append(Section(node, int(sizes[node]), int(moved[node]), destinations, n_more))
    return sections


def _spread_out(rows: NDArray[np.int64], members: NDArray[np.int64], sure: NDArray[Any], n: int) -> list[int]:
    """Return positions of ``n`` members at even distances in the order of descending confidence."""
    order = members[np.argsort(-sure[members], kind="stable")]
    places = np.unique(np.linspace(0, len(order) - 1, min(n, len(order))).round().astype(np.int64))
    return [int(row) for row in rows[order[places]]]


@dataclass(frozen=True)
class Moves:
    """Labels before and after a change, for a sheet to show.

    Attributes
    ----------
    rows : NDArray of int64 (N,)
        Row in the source of every image.
    keys : sequence of str (N,)
        Key of every image; only those of shown images are read.
    before, after : NDArray of int (N,)
        Class before and after; −1 for none.
    confidences : NDArray of float (N,)
        Probability of the new class; NaN where there was no choice.
    names : sequence of str (K,)
        Name of each class, to show.
    ids : sequence of str (K,)
        Identifier of each class in the files; shown beside the name where they differ.
    title : str
        Heading.
    words : sequence of str
        Line under the heading, about how the labels were made.
    figures : Mapping of str to str
        Figures under that line, by name.
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
    """Write a page of images before and after relabeling, as in Figure 1 of the scaling paper.

    Shown are the classes that most images left, at most 24. Each has columns for the (at most six) classes
    that most of its images went to, of up to six images, by falling confidence. The page is one file without
    scripts that loads nothing from the network. The same labels and images give the same bytes.

    Parameters
    ----------
    moves : Moves
        The labels before and after.
    images : ImageSource or None
        The images; only those shown are read. None lists keys instead.
    path : Path
        File to write, whole or not at all.
    progress : Progress
        Shows how many thumbnails are made.

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
    # a key may hold half a surrogate pair, which UTF-8 can't encode
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
