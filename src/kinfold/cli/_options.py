"""Options that several commands share, each said once."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from kinfold.errors import InputError

# Said here again, so that `kinfold --help` loads no PyTorch; tests hold them against the library.
DEFAULT_BACKBONE = "dinov2-small"
METHODS = ("icce", "temi", "scan", "turtle", "kmeans", "tac", "auto")
PRESETS = ("paper", "cifar", "cifar20", "stl10", "ucf101", "imagenet1k", "imagenet21k")
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "float32", "bfloat16")
MOST_SEED = 2**32 - 1
_WORDS = {"none": None, "true": True, "false": False}  # JSON's own are null, true, false


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
        "hog and pixels need no download.",
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
