"""The nouns of WordNet 3.0, and trees of classes: of any synsets, or from a parent table.

Importing this room reads nothing; :func:`load_wordnet` reads the data when it is first called.
"""

from __future__ import annotations

from kinfold.hierarchy._class_tree import ClassTree
from kinfold.hierarchy._hierarchy import Hierarchy, Links
from kinfold.hierarchy._wordnet import Nouns, WordNet, load_wordnet

__all__ = ["ClassTree", "Hierarchy", "Links", "Nouns", "WordNet", "load_wordnet"]
