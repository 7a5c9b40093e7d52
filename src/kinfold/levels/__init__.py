"""Groups from coarse to fine: a tree around the groups of a fit, its files, and which level is meant."""

from kinfold.levels._building import build_levels, count_level_parts, draw_of_each
from kinfold.levels._files import (
    LEVEL_FILES,
    PARTS_NAME,
    RunLevels,
    has_levels,
    open_levels,
    write_levels,
    write_parts,
)
from kinfold.levels._levels import GroupMatch, Levels, match_groups
from kinfold.levels._placing import Placing, check_levels, label_levels, open_tree
from kinfold.methods import LevelEstimate, estimate_levels

__all__ = [
    "LEVEL_FILES",
    "PARTS_NAME",
    "GroupMatch",
    "LevelEstimate",
    "Levels",
    "Placing",
    "RunLevels",
    "build_levels",
    "check_levels",
    "count_level_parts",
    "draw_of_each",
    "estimate_levels",
    "has_levels",
    "label_levels",
    "match_groups",
    "open_levels",
    "open_tree",
    "write_levels",
    "write_parts",
]
