"""Benchmarks as files: what the papers describe, and the same from one's own classes.

A benchmark is made by a builder from labels by key (or a class histogram) and, where it needs one, a class
tree; what is written says how it was made, so that anyone can make it again. Nothing here reads images or
computes features.
"""

from __future__ import annotations

from kinfold.benchmark._building import (
    Benchmark,
    build_benchmark,
    coarse_counts,
    describe_benchmark,
    describe_counts,
    describe_tree,
    is_benchmark,
    list_benchmarks,
    read_facts,
)
from kinfold.benchmark._catalogue import BUILDERS, CATALOGUE, Builder, Entry, find_entry
from kinfold.benchmark._maps import (
    ClassMap,
    centered,
    cifar20,
    class_leaves,
    coarse,
    frequency_window,
    halve_odd,
    imbalanced,
    named_classes,
    odd_counts,
    random_classes,
    top_classes,
    union,
    wordnet_leaves,
)
from kinfold.benchmark._process import Answer, read_order, run_in_process
from kinfold.benchmark._reading import read_accuracies, read_counts, read_folder_labels, read_label_table
from kinfold.benchmark._suite_file import Suite, list_suites, read_suite
from kinfold.benchmark._suite_results import Results, Summary
from kinfold.benchmark._suite_running import SuiteRun, run_suite
from kinfold.benchmark._trees import (
    CLASS_LISTS,
    OpenedTree,
    class_list,
    open_tree,
    published_tree,
    read_class_list,
    read_tree_file,
)
from kinfold.labels import ClassCounts, LabelTable

__all__ = [
    "BUILDERS",
    "CATALOGUE",
    "CLASS_LISTS",
    "Answer",
    "Benchmark",
    "Builder",
    "ClassCounts",
    "ClassMap",
    "Entry",
    "LabelTable",
    "OpenedTree",
    "Results",
    "Suite",
    "SuiteRun",
    "Summary",
    "build_benchmark",
    "centered",
    "cifar20",
    "class_leaves",
    "class_list",
    "coarse",
    "coarse_counts",
    "describe_benchmark",
    "describe_counts",
    "describe_tree",
    "find_entry",
    "frequency_window",
    "halve_odd",
    "imbalanced",
    "is_benchmark",
    "list_benchmarks",
    "list_suites",
    "named_classes",
    "odd_counts",
    "open_tree",
    "published_tree",
    "random_classes",
    "read_accuracies",
    "read_class_list",
    "read_counts",
    "read_facts",
    "read_folder_labels",
    "read_label_table",
    "read_order",
    "read_suite",
    "read_tree_file",
    "run_in_process",
    "run_suite",
    "top_classes",
    "union",
    "wordnet_leaves",
]
