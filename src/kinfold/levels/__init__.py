"""Groups from coarse to fine: a tree around the groups of a fit, and its files in a run."""

from kinfold.levels._files import LEVEL_FILES, RunLevels, has_levels, open_levels, write_levels
from kinfold.levels._levels import Levels, build_levels

__all__ = [
    "LEVEL_FILES",
    "Levels",
    "RunLevels",
    "build_levels",
    "has_levels",
    "open_levels",
    "write_levels",
]
