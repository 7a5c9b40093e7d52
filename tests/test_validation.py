"""Claims about the rules for parameters and what their errors say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kinfold.errors import InputError
from kinfold.validation import (
    SEED,
    Choice,
    Either,
    Flag,
    Integer,
    Listed,
    Nothing,
    Number,
    Rule,
    check,
    check_choice,
    check_integer,
    check_n_clusters,
    check_parameters,
)

UNIT = Number(above=0, most=1)


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (Integer(), [1, np.int32(7), 10**30], [0, -1, 1.0, True, np.True_, "1", None]),
        (Integer(0, 5), [0, 5, np.uint8(3)], [-1, 6, math.inf]),
        (SEED, [0, 2**32 - 1], [-1, 2**32]),
        (Number(), [0, -1.5, np.float32(2)], [10**400, math.nan, math.inf, True, "0", None, 1j]),
        (UNIT, [1e-9, 1], [0, 1.0001, -1]),
        (Number(least=0, below=1), [0, 0.5], [1, -0.1]),
        (Choice(("a", "b")), ["a"], ["c", None, 1]),
        (Flag(), [True, False, np.True_], [0, 1, "true", None]),
        (Nothing(), [None], [0, "", False]),
        (Listed(Integer()), [[1], (2, 3), np.array([4, 5])], [[], [0], "12", 3, [1.5], np.array(3), b"abc"]),
        (Either(Nothing(), Integer()), [None, 3], [0, "3"]),
        (Rule(lambda value: value == 7, "seven"), [7], [8]),
    ],
)
def test_a_rule_allows_what_it_says_and_nothing_else(rule, good, bad):
    assert [value for value in good if not rule.allows(value)] == []
    assert [value for value in bad if rule.allows(value)] == []


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Integer(), "x must be an integer of at least 1; got 'y'"),
        (Integer(2, 5), "x must be an integer from 2 to 5; got 'y'"),
        (Number(), "x must be a finite number; got 'y'"),
        (UNIT, r"x must be a number in \(0, 1\]; got 'y'"),
        (Number(above=0), "x must be a number above 0; got 'y'"),
        (Number(least=0), "x must be a number of at least 0; got 'y'"),
        (Number(most=3), "x must be a number of at most 3; got 'y'"),
        (Number(below=3), "x must be a number below 3; got 'y'"),
        (Choice(("auto", "yes")), "x must be one of 'auto', 'yes'; got 'y'"),
        (Either(Integer(), Choice(["auto"])), "x must be an integer of at least 1 or 'auto'; got 'y'"),
        (Listed(Integer(), example="[8, 8]"), "like \\[8, 8\\]; got 'y'"),
        (Flag(), "x must be True or False; got 'y'"),
        (Nothing(), "x must be None; got 'y'"),
    ],
)
def test_an_error_names_the_parameter_the_rule_and_the_value(rule, message):
    with pytest.raises(InputError, match=message):
        check({"x": rule}, x="y")


def test_a_name_that_is_nearly_right_is_answered_with_the_right_one():
    with pytest.raises(InputError, match="did you mean 'bfloat16'"):
        check_choice(("float32", "bfloat16"), precision="bfloat1")


def test_the_first_of_several_is_named():
    with pytest.raises(InputError, match="second must be"):
        check_integer(first=1, second=0, third=-1)


def test_an_estimators_table_is_applied_to_its_parameters():
    class Made:
        constraints = {"n_heads": Integer(), "beta": UNIT}  # noqa: RUF012

        def __init__(self, n_heads, beta):
            self.n_heads, self.beta = n_heads, beta

    check_parameters(Made(3, 0.5))
    with pytest.raises(InputError, match="beta must be"):
        check_parameters(Made(3, 2))


def test_there_are_no_more_clusters_than_samples():
    check_n_clusters(5, 5)
    with pytest.raises(InputError, match="n_clusters=6 is more than n_samples=5"):
        check_n_clusters(6, 5)
    with pytest.raises(InputError, match="n_clusters must be an integer of at least 1; got 0"):
        check_n_clusters(0, 5)
