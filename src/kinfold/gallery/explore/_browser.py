"""Open a page in a browser with windows; one that lives in the terminal is never started."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

_IN_TEXT = frozenset(
    {"browsh", "carbonyl", "cha", "chawan", "elinks", "links", "links2"}
    | {"lynx", "netrik", "retawq", "w3m", "w3mman", "www-browser"}
)
_OPEN = "import sys, webbrowser; webbrowser.open(sys.argv[1])"


def open_in_browser(url: str) -> bool:
    """Open a URL in a browser with windows; False where there is none, which then is no error.

    Python's own ``webbrowser`` runs in a process without a terminal: what it starts can take none over, and
    Ctrl-C doesn't end it.
    """
    environment = find_environment(os.environ)
    if environment is None:
        return False
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", _OPEN, url],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
    except OSError:
        return False
    threading.Thread(target=process.wait, name="kinfold-browser", daemon=True).start()
    return True


def find_environment(environment: Mapping[str, str], platform: str = sys.platform) -> dict[str, str] | None:
    """Return the environment in which ``webbrowser`` finds no browser in text; None where no other can be.

    Parameters
    ----------
    environment : mapping
        Variables of the environment.
    platform : str
        As in ``sys.platform``.
    """
    found = {name: value for name, value in environment.items() if name not in ("BROWSER", "TERM")}
    wanted = [one for one in environment.get("BROWSER", "").split(os.pathsep) if one.strip()]
    if wanted:
        # taken at its word without a screen too: editors set it to what opens pages at the other end of SSH
        kept = [one for one in wanted if not is_in_text(one)]
        return {**found, "BROWSER": os.pathsep.join(kept)} if kept else None
    has_screen = bool(environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY"))
    # Windows and macOS have a screen, but over SSH it is another one than the user sees
    needs_screen = platform not in ("win32", "cygwin", "darwin") or bool(environment.get("SSH_CONNECTION"))
    return None if needs_screen and not has_screen else found


def is_in_text(command: str) -> bool:
    """Tell whether a command, as in the variable BROWSER, starts a browser that lives in the terminal."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    names = {Path(word).name for word in words if not word.startswith("-")}
    for word in words[:1]:  # a link such as /etc/alternatives/x-www-browser
        program = shutil.which(word)
        if program is not None:
            names.add(Path(program).resolve().name)
    return any(name.removesuffix(".exe") in _IN_TEXT for name in names)
