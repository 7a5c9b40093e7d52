"""Where results may be written: never over what isn't ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kinfold.errors import InputError
from kinfold.run import Run, is_predictions, is_skipped

_OTHER_FORMATS = (".csv", ".json", ".jsonl", ".tsv", ".txt")


def check_place(out: Path) -> None:
    """Refuse a place that can't be made, because something above it is no folder.

    Raises
    ------
    InputError
        It names what is in the way.
    """
    for parent in out.absolute().parents:
        if parent.exists() or parent.is_symlink():
            if not parent.is_dir():
                raise InputError(
                    f"{out} can't be written: {parent} is no folder; choose another place (out=, --out)"
                )
            return


def check_predictions_place(run: Run, out: Path) -> None:
    """Refuse to write predictions over anything but earlier predictions, or into the run itself.

    Raises
    ------
    InputError
        ``out``, or the list of skipped images beside it, is something else.
    """
    home = run.path.resolve()
    if not out.is_dir() and any(
        place.is_relative_to(home) for place in (out.resolve(), out.parent.resolve())
    ):
        raise InputError(
            f"{out} is inside the run {run.path}; write predictions to another folder (out=, --out)"
        )
    check_table_place(out, is_predictions, "predict")


def check_table_place(out: Path, is_ours: Callable[[Path], bool], command: str) -> None:
    """Refuse to write a table, and a list of skipped images beside it, over anything but earlier ones.

    Raises
    ------
    InputError
        There is something else.
    """
    if out.is_dir():
        raise InputError(f"{out} is a folder; give the Parquet file to write (out=, --out)")
    if out.suffix.lower() in _OTHER_FORMATS:
        raise InputError(
            f"{out} would be a Parquet file by another name; let it end in .parquet (out=, --out)"
        )
    check_place(out)
    for file, is_known in ((out, is_ours), (skipped_path(out), is_skipped)):
        if (file.exists() or file.is_symlink()) and not is_known(file):
            raise InputError(
                f"{file} exists and wasn't written by `kinfold {command}`; it was left as it is. "
                "Choose another name (out=, --out)"
            )


def skipped_path(out: Path) -> Path:
    """Return where images are listed that could not be used for the predictions ``out``."""
    return out.with_name(f"{out.stem}.skipped.parquet")
