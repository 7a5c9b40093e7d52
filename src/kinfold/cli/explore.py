"""``kinfold explore``."""

from __future__ import annotations

import os
import re
import sys
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kinfold.cli import _app as options
from kinfold.cli._app import app
from kinfold.cli._terminal import Terminal
from kinfold.errors import InputError

if TYPE_CHECKING:
    from kinfold.gallery.explore import Address

_SIZE = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)\s*([kmgt]?)(?:i?b)?\Z", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def read_size(text: str, option: str) -> int:
    """Return the bytes that ``500M`` or ``1.5 GiB`` stands for, in powers of 1,024.

    Raises
    ------
    InputError
        It stands for none, or for less than 1 MiB.
    """
    found = _SIZE.match(text.strip())
    size = int(float(found[1]) * 1024 ** _POWERS[found[2].lower()]) if found else 0
    if size < 1 << 20:
        raise InputError(f"{option} {text!r} is no size of 1M or more; write 500M or 2G")
    return size


@app.command(epilog="Example: [bold]kinfold explore run[/bold]  (Ctrl-C ends it)")
def explore(
    run: options.RunPath,
    port: Annotated[
        int, typer.Option("--port", "-p", min=0, max=65535, help="Where to listen; 0 takes a free port.")
    ] = 0,
    host: Annotated[
        str,
        typer.Option(
            "--host",
            metavar="ADDRESS",
            help="Let other machines in: 0.0.0.0 listens everywhere. The address then needs a token, which "
            "is printed with it; the connection isn't encrypted.",
        ),
    ] = "127.0.0.1",
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            metavar="NAME",
            help="Answer under one more name: that of a proxy, a tunnel or a container's machine, such as "
            "box.local. May be given several times. With a token any name is let in.",
            show_default=False,
        ),
    ] = None,
    root_path: Annotated[
        str,
        typer.Option(
            "--root-path",
            metavar="PATH",
            help="Path of a proxy that passes it on, such as /user/ann/proxy/absolute/8000 of JupyterHub; "
            "behind one that takes it off, nothing is needed.",
            show_default=False,
        ),
    ] = "",
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Print the address, open nothing.")
    ] = False,
    source: options.MovedSource = None,
    features: options.MovedFeatures = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            "--predictions",
            metavar="FILE",
            help="Show what kinfold predict wrote (Parquet or CSV), by group and read-only; --source is "
            "where its images are.",
            show_default=False,
        ),
    ] = None,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Only look: no corrections, nothing written to the run.")
    ] = False,
    lay_out_map: Annotated[
        bool,
        typer.Option(
            "--map",
            help="Lay out the map first, if the run has none: seconds for thousands of images, many minutes "
            "for a million. Without this the page offers it, and it is made in the background.",
        ),
    ] = False,
    thumbnail_limit: Annotated[
        str,
        typer.Option(
            "--thumbnail-limit",
            metavar="SIZE",
            help="How much disk the run's thumbnails may take: 500M, 2G. The longest unused go first.",
        ),
    ] = "1G",
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Look through the groups of a run in the browser, and correct them."""
    terminal = Terminal(as_json=False, quiet=quiet, verbose=verbose)
    limit = read_size(thumbnail_limit, "--thumbnail-limit")
    from kinfold import pipeline
    from kinfold.gallery.explore import compute_map, serve
    from kinfold.run import Run

    if lay_out_map and predictions is not None:
        raise InputError("predictions have no map; leave out --map or --predictions")
    if lay_out_map and read_only:
        raise InputError("--map writes into the run, which --read-only forbids; leave one of them out")
    if lay_out_map:
        compute_map(Run.open(run), features=features, progress=terminal.progress)

    def tell(address: Address) -> None:
        if address.trouble:
            terminal.tell(f"This run can't be shown: {address.trouble}")
        typer.echo(address.url)
        if address.local not in ("", address.url):
            terminal.tell(f"On this machine also: {address.local}")
        terminal.tell("Ctrl-C ends it.")

    serve(
        run,
        host=host,
        port=port,
        open_browser=not no_browser,
        allow_hosts=allow_host or (),
        root_path=root_path,
        source=source,
        features=features,
        predictions=predictions,
        read_only=read_only,
        thumbnail_limit=limit,
        device=device,
        on_ready=tell,
        take_level=partial(pipeline.level, source=source),  # which writes the report anew as well
    )
    _leave()


def _leave() -> None:
    """End the process now if threads still run: Python would wait until the last image is decoded."""
    running = [one for one in threading.enumerate() if not one.daemon and one is not threading.main_thread()]
    if running:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
