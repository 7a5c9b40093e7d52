"""The application: its front page, and how it ends.

==== =========================================================================
code meaning
==== =========================================================================
0    done
1    a bug in Kinfold
2    the input, an option or the machine doesn't allow it; one message says why
130  stopped by Ctrl-C
==== =========================================================================

With ``--json`` the message of 2 and 130 is on stdout too, as ``{"error": message}``.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import traceback
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from typer.core import TyperGroup

from kinfold._version import __version__
from kinfold.cli._options import is_first_process
from kinfold.errors import KinfoldError

EXIT_BUG = 1
EXIT_INPUT = 2
EXIT_STOPPED = 130

_ORDER = (
    "cluster",
    "embed",
    "predict",
    "evaluate",
    "report",
    "explore",
    "export",
    "name",
    "refine",
    "relabel",
    "zeroshot",
    "nouns",
    "benchmark",
    "info",
    "demo",
)
_RESUMABLE = ("cluster", "embed", "predict", "name", "relabel", "zeroshot", "nouns", "benchmark", "demo")
_AS_JSON = "kinfold.json"
_UsageError: type[Any] = typer.BadParameter.__mro__[1]  # click's; Typer may bring its own copy of it


class _KinfoldGroup(TyperGroup):
    """Turns errors into messages and exit codes, and lists the commands in the order people meet them."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the commands' names."""
        return [name for name in _ORDER if name in self.commands]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Note whether errors are wanted as JSON too, before anything can fail."""
        ctx.meta[_AS_JSON] = "--json" in args and is_first_process()
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except _UsageError as error:
            _tell_as_json(ctx, error.format_message())
            raise
        except KinfoldError as error:
            _fail(ctx, str(error), EXIT_INPUT)
        except KeyboardInterrupt:
            resumable = ctx.invoked_subcommand in _RESUMABLE
            hint = " What is done is kept: run the same command again to go on." if resumable else ""
            _fail(ctx, f"Stopped.{hint}", EXIT_STOPPED, "yellow")
        except MemoryError:
            _fail(ctx, "There is not enough memory for this.", EXIT_INPUT)
        except OSError as error:
            if error.errno in (None, errno.EPIPE):
                raise
            _fail(ctx, _describe(error), EXIT_INPUT)


app = typer.Typer(
    name="kinfold",
    cls=_KinfoldGroup,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with: [bold]kinfold demo --out demo[/bold], or "
    "[bold]kinfold cluster photos/ -k 10 --out run[/bold]",
)


def main() -> None:
    """Run the command line; the entry point of ``kinfold``."""
    # PyTorch reads this at its first large allocation on Linux: huge pages for large tensors on the CPU,
    # which spare training a page fault for every 4 KiB of every temporary.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        app()
    except Exception as error:
        if _was_interrupted(error):
            sys.stderr.write("Stopped.\n")
            sys.exit(EXIT_STOPPED)
        traceback.print_exc()
        sys.stderr.write(
            f"\nThis is a bug in Kinfold {__version__}; please report it with the lines above "
            "and what `kinfold info` says.\n"
        )
        sys.exit(EXIT_BUG)


def _was_interrupted(error: BaseException) -> bool:
    """Tell whether Ctrl-C is behind an error: libraries whose import it hits raise another one."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        if isinstance(cause, KeyboardInterrupt):
            return True
        seen.append(cause)
        cause = cause.__cause__ or cause.__context__
    return False


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kinfold {__version__}")
        raise typer.Exit


@app.callback()
def _front(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Sort unlabeled images into their kinds."""


def _describe(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return f"The disk is full{f' ({error.filename})' if error.filename else ''}; make room and go on."
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"


def _tell_as_json(ctx: Any, message: str) -> None:
    if ctx.meta[_AS_JSON]:
        typer.echo(json.dumps({"error": message}))


def _fail(ctx: Any, message: str, code: int, colour: str = "red") -> NoReturn:
    _tell_as_json(ctx, message)
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(message, style=colour, markup=False)
    raise typer.Exit(code)
