"""A process that writes what it is told on standard input, a line for each order, and says how it went."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import kinfold
from kinfold.errors import InputError

WON, TOLD = "won", "told"
_TOLD = ("is being written by", "is an earlier export")


def write(verb: str, home: Path, out: Path) -> None:
    """Write one result at ``out``: of the images or of the run in ``home``."""
    if verb == "embed":
        kinfold.embed(home / "photos", out, backbone="pixels", batch_size=4, n_workers=1)
    elif verb == "cluster":
        kinfold.cluster(home / "run" / "features", 3, method="kmeans", out=out)
    elif verb == "folders":
        kinfold.export(home / "run", "folders", out, link="copy")
    elif verb == "csv":
        kinfold.export(home / "run", "csv", out)
    elif verb == "predict":
        kinfold.predict(home / "run", home / "run" / "features", out)
    elif verb == "evaluate":
        kinfold.evaluate(out, home / "labels.csv")
    else:
        getattr(kinfold, verb)(out)


def main() -> None:
    """Carry out orders until there are no more."""
    for line in sys.stdin:
        order = json.loads(line)
        time.sleep(order["seconds"])
        try:
            write(order["verb"], Path(order["home"]), Path(order["out"]))
            answer = WON
        except InputError as error:
            answer = TOLD if any(words in str(error) for words in _TOLD) else repr(error)
        except Exception as error:
            answer = repr(error)
        print(answer, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
