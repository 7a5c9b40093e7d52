"""sheet.html: images whose label was refined, below the label that they had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from kinfold._version import __version__
from kinfold.gallery._html import render_template
from kinfold.gallery._moves import Column, Section, arrange_moves
from kinfold.gallery._text import show_confidence, show_count, show_name, show_share
from kinfold.gallery._thumbnails import Thumbnail, make_thumbnails
from kinfold.progress import SILENT, Progress
from kinfold.storage import atomic_file

if TYPE_CHECKING:
    from kinfold.images import ImageSource

_SIDE = 112
_MOST_BYTES = 24_000
_BUDGET = 16_000_000
_NAME_LIMIT = 96


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
class _Item:
    name: str
    title: str
    confidence: str
    image: Thumbnail
    second: str = ""


@dataclass(frozen=True)
class _ColumnView:
    name: str
    title: str
    size: str
    stayed: bool
    items: list[_Item]


@dataclass(frozen=True)
class _SectionView:
    name: str
    id: str
    size: str
    share: str
    columns: list[_ColumnView]
    more: str


def write_sheet(moves: Moves, images: ImageSource | None, path: Path, *, progress: Progress = SILENT) -> Path:
    """Write a page of images before and after relabelling, as Figure 1 of the scaling paper has them.

    The classes that most images left, at most 24; of each, the (at most six) classes that most went to, as
    columns of up to six images, from the surest to the least sure. The page is one file without scripts that
    asks nothing of the network. The same labels and images give the same bytes.

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
    shown = [place for section in sections for column in section.columns for place in column.shown]
    thumbnails: dict[int, Thumbnail] = {}
    if images is not None and shown:
        most = min(_MOST_BYTES, _BUDGET * 3 // 4 // len(shown))
        rows = [int(moves.rows[place]) for place in shown]
        thumbnails = make_thumbnails(images, rows, _SIDE, most, progress=progress)
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


def _view(moves: Moves, section: Section, thumbnails: Mapping[int, Thumbnail]) -> _SectionView:
    name = moves.names[section.before]
    return _SectionView(
        name=show_name(name, _NAME_LIMIT),
        id=_other_id(moves, section.before),
        size=show_count(section.size),
        share=show_share(section.n_moved / section.size),
        columns=[_view_column(moves, section.before, column, thumbnails) for column in section.columns],
        more=f"and {show_count(section.n_more)} more classes" if section.n_more else "",
    )


def _view_column(
    moves: Moves, before: int, column: Column, thumbnails: Mapping[int, Thumbnail]
) -> _ColumnView:
    return _ColumnView(
        name=show_name(moves.names[column.after], _NAME_LIMIT),
        title=_other_id(moves, column.after),
        size=show_count(column.size),
        stayed=column.after == before,
        items=[_item(moves, place, thumbnails) for place in column.shown],
    )


def _item(moves: Moves, place: int, thumbnails: Mapping[int, Thumbnail]) -> _Item:
    name = show_name(str(moves.keys[place]), _NAME_LIMIT)
    confidence = show_confidence(float(moves.confidences[place]))
    image = thumbnails.get(int(moves.rows[place]), Thumbnail("", reason="no image"))
    return _Item(name, f"{name}, confidence {confidence}", confidence, image)


def _other_id(moves: Moves, number: int) -> str:
    node = moves.ids[number]
    return "" if node == moves.names[number] else show_name(node, _NAME_LIMIT)
