"""The application: its front page, the options that commands share, and its exit codes.

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
import io
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from typer.core import TyperGroup

from kinfold._version import __version__
from kinfold.errors import InputError, KinfoldError

# Said here again, so that `kinfold --help` loads no PyTorch; tests hold them against the library.
DEFAULT_BACKBONE = "auto"
METHODS = ("icce", "graph", "temi", "scan", "turtle", "kmeans", "tac", "auto")
PRESETS = ("paper", "cifar", "cifar20", "stl10", "ucf101", "imagenet1k", "imagenet21k")
DEVICES = ("auto", "cpu", "cuda", "mps")
ENGINES = ("auto", "torch", "onnxruntime", "openvino")
PRECISIONS = ("auto", "float32", "bfloat16")
MOST_SEED = 2**32 - 1
DEFAULT_JOINT_BACKBONE = "clip-vit-b32"
LINKS = ("auto", "hard", "symlink", "copy")
_WORDS = {"none": None, "true": True, "false": False}  # JSON's own are null, true, false
EXIT_BUG = 1
EXIT_INPUT = 2
EXIT_STOPPED = 130

_ORDER = (
    "cluster",
    "embed",
    "predict",
    "update",
    "evaluate",
    "report",
    "check",
    "level",
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
_RESUMABLE = (
    "cluster",
    "embed",
    "predict",
    "update",
    "level",
    "name",
    "relabel",
    "zeroshot",
    "nouns",
    "benchmark",
    "demo",
)
_AS_JSON = "kinfold.json"
_UsageError: type[Any] = typer.BadParameter.__mro__[1]  # click's; Typer may bring its own copy of it


def _complete_backbone(incomplete: str) -> list[str]:
    from kinfold.backbones import list_cards

    return [card.name for card in list_cards() if card.name.startswith(incomplete)]


def complete_from(words: tuple[str, ...]) -> Any:
    """Return what completes one of ``words``."""
    return lambda incomplete: [word for word in words if word.startswith(incomplete)]


Images = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="Folder, glob pattern, zip, WebDataset tar shards, or a CSV or Parquet table of images.",
        show_default=False,
    ),
]
Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="Images (folder, glob pattern, zip, tar shards, CSV or Parquet table), or features "
        "(feature store, .npy, .npz, .safetensors, Parquet column).",
        show_default=False,
    ),
]
RunPath = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run that kinfold cluster wrote.", show_default=False)
]
Backbone = Annotated[
    str,
    typer.Option(
        "--backbone",
        "-b",
        metavar="NAME|DIR",
        help="What turns images into vectors: a name that kinfold info lists, or a model's directory. "
        "auto is dinov2-small, or where it can't be downloaded efficientnet-lite0, which comes by pip "
        "(kinfold[small]). hog and pixels need no weights.",
        autocompletion=_complete_backbone,
    ),
]
MovedBackbone = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        "-b",
        metavar="NAME|DIR",
        help="Where the run's backbone is now, if it was moved.",
        show_default=False,
    ),
]
MovedSource = Annotated[
    str | None,
    typer.Option(
        "--source", metavar="SOURCE", help="Where the images are now, if they were moved.", show_default=False
    ),
]
MovedFeatures = Annotated[
    str | None,
    typer.Option(
        "--features",
        metavar="PATH",
        help="Where the run's features are now, if they were moved.",
        show_default=False,
    ),
]
Levels = Annotated[
    str | None,
    typer.Option(
        "--levels",
        metavar="K,K",
        help="Also give the groups of these levels, before any correction: numbers of groups such as 5,20. "
        "Tables get a column level_K each, folders lie in one another from coarse to fine, those of the "
        "run's own groups innermost.",
        show_default=False,
    ),
]
Strays = Annotated[
    float | None,
    typer.Option(
        "--strays",
        metavar="SHARE",
        help="Leave images in no group that belong nowhere: those less typical than this share of their "
        "group's images, such as 0.01. Of images of the run's own kinds about so many are taken for strays.",
        show_default=False,
    ),
]
TextModel = Annotated[
    str | None,
    typer.Option(
        "--text-model",
        metavar="NAME|DIR",
        help="What reads words, where it isn't the text tower of the backbone: a name that kinfold info "
        "lists, or a model's directory.",
        autocompletion=_complete_backbone,
        show_default=False,
    ),
]
Nouns = Annotated[
    Path | None,
    typer.Option(
        "--nouns",
        metavar="FILE",
        help="The nouns that may be used, one per line; those of WordNet if not given.",
        show_default=False,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        help="auto, cpu, cuda, cuda:1, mps.",
        autocompletion=complete_from(DEVICES),
        metavar="DEVICE",
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        "--precision",
        help="auto, float32, bfloat16.",
        autocompletion=complete_from(PRECISIONS),
        metavar="PRECISION",
    ),
]
Engine = Annotated[
    str,
    typer.Option(
        "--engine",
        help="What runs the network on a CPU: auto (for 500 images or more the fastest that is installed and "
        "gives the same vectors), torch, onnxruntime, openvino.",
        autocompletion=complete_from(ENGINES),
        metavar="ENGINE",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        help="Processes that decode images; one per core if not given, four per core at most.",
        show_default=False,
    ),
]
PathColumn = Annotated[
    str | None,
    typer.Option("--path-column", help="Tables: the column with paths.", show_default=False, metavar="NAME"),
]
ImageColumn = Annotated[
    str | None,
    typer.Option(
        "--image-column",
        help="Parquet: the column with the images themselves.",
        show_default=False,
        metavar="NAME",
    ),
]
KeyColumn = Annotated[
    str | None,
    typer.Option(
        "--key-column",
        help="Tables: the column with the images' names.",
        show_default=False,
        metavar="NAME",
    ),
]
FeatureColumn = Annotated[
    str | None,
    typer.Option(
        "--column",
        help="Ready features in Parquet: the column with the vectors.",
        show_default=False,
        metavar="NAME",
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        "--seed", min=0, max=MOST_SEED, help="The same seed on the same machine gives the same bytes."
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print the result, or the error, as JSON, and nothing else on stdout."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show warnings and errors only.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Tell what is being done.")]


def is_first_process() -> bool:
    """Tell whether this process talks: of several that ``torchrun`` started, the first alone."""
    return os.environ.get("RANK", "0") == "0"


def read_parameters(settings: list[str]) -> dict[str, Any]:
    """Read ``NAME=VALUE`` pairs: a value is JSON, or words and numbers between commas, or one of them.

    Raises
    ------
    InputError
        One has no ``=``, or begins as JSON and isn't.

    Examples
    --------
    >>> read_parameters(["n_heads=8", "space_dims=8,8", "similarity_threshold=none", "consensus=mcla"])
    {'n_heads': 8, 'space_dims': [8, 8], 'similarity_threshold': None, 'consensus': 'mcla'}
    """
    found: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise InputError(f"--set {setting!r} is not NAME=VALUE; for example --set n_heads=8")
        found[name] = _read_value(value, setting)
    return found


def read_levels(text: str | None) -> tuple[int, ...]:
    """Read numbers of groups between commas.

    Raises
    ------
    InputError
        One is none.

    Examples
    --------
    >>> read_levels("5,20"), read_levels(None)
    ((5, 20), ())
    """
    if text is None:
        return ()
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() and int(part) for part in parts):
        raise InputError(f"--levels {text!r} isn't a list of numbers of groups; write them like 5,20")
    return tuple(map(int, parts))


def _read_value(value: str, setting: str) -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        if value.lstrip().startswith(("[", "{", '"')):
            raise InputError(
                f"--set {setting!r} is no valid JSON ({error.msg}); write lists like [8, 8] or 8,8, and in "
                'quotes for the shell what holds words: \'candidates=["kmeans", "icce"]\''
            ) from error
    if "," in value:
        parts = [part.strip() for part in value.rstrip().removesuffix(",").split(",")]
        if not all(parts):
            raise InputError(f"--set {setting!r} has nothing between two commas; write lists like 8,8")
        return [_read_value(part, setting) for part in parts]
    return _WORDS.get(value.lower(), value)


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


def write_whatever_comes() -> None:
    """Let stdout and stderr replace what their encoding can't hold, such as names of files.

    A run that is whole must not end in an error because a terminal, a pipe on Windows or an ASCII locale
    knows fewer letters than the names of images have.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def take_names_for_utf8() -> None:
    """Start this command anew in Python's UTF-8 mode where the locale has names of files in another encoding.

    In an ASCII locale, as cron jobs and bare containers have it, no file could be given a name that isn't
    ASCII; and keys of images would depend on the locale.
    """
    if sys.flags.utf8_mode or sys.getfilesystemencoding() == "utf-8" or len(sys.orig_argv) < 2:
        return
    os.environ["PYTHONUTF8"] = "1"  # for the processes that this one starts
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def main() -> None:
    """Run the command line; the entry point of ``kinfold``."""
    take_names_for_utf8()
    write_whatever_comes()
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


def _fail(ctx: Any, message: str, code: int, color: str = "red") -> NoReturn:
    _tell_as_json(ctx, message)
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(message, style=color, markup=False)
    raise typer.Exit(code)
