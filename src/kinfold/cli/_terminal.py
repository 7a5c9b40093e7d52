"""Where a command's words go: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
import logging
import os
import warnings
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.logging import RichHandler
from rich.text import Text

from kinfold.progress import SILENT, Progress

if TYPE_CHECKING:
    from kinfold.pipeline import Estimate

_LIBRARY_LOGGERS = ("huggingface_hub", "transformers", "timm", "open_clip", "PIL", "torch")


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
        from kinfold.cli._progress import BarProgress, LineProgress

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
