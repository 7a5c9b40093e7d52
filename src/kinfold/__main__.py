"""``python -m kinfold`` is ``kinfold``."""

from __future__ import annotations

from kinfold.cli import main

if __name__ == "__main__":
    main()
