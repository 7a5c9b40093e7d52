"""Groups from coarse to fine: a tree around the groups of a fit, and its files in a run."""

from kinfold.levels._files import LEVEL_FILES, RunLevels, has_levels, open_levels, write_levels
from kinfold.levels._levels import GroupMatch, Levels, build_levels, match_groups
from kinfold.levels._placing import Placing, label_levels

__all__ = [
    "LEVEL_FILES",
    "GroupMatch",
    "Levels",
    "Placing",
    "RunLevels",
    "build_levels",
    "has_levels",
    "label_levels",
    "match_groups",
    "open_levels",
    "write_levels",
]
