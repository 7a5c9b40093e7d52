"""Former module of the names of :mod:`kinfold.rows`."""

from kinfold.rows import *  # noqa: F403
from kinfold.rows import __all__ as __all__
