"""Rules for single parameters, and the messages of their errors.

An estimator or a function has one table of rules, for :func:`check` or :func:`check_parameters`::

    constraints = {"n_heads": Integer(), "beta": Number(above=0, most=1), "device": Choice(DEVICES)}
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Protocol

import numpy as np

from kinfold.errors import InputError, nearest_name

MOST_SEED = 2**32 - 1  # NumPy's generators take no larger seed


class Constraint(Protocol):
    """What a parameter must be."""

    def allows(self, value: object) -> bool:
        """Tell whether a value keeps to the rule."""

    def describe(self) -> str:
        """Return the rule as it stands behind "must be"."""


@dataclass(frozen=True)
class Integer:
    """An integer from ``least`` to ``most``; booleans are none."""

    least: int = 1
    most: int | None = None

    def allows(self, value: object) -> bool:
        """Tell whether a value keeps to the rule."""
        if not isinstance(value, Integral) or isinstance(value, bool):
            return False
        return int(value) >= self.least and (self.most is None or int(value) <= self.most)

    def describe(self) -> str:
        """Return the rule as it stands behind "must be"."""
        if self.most is not None:
            return f"an integer from {self.least} to {self.most}"
        return f"an integer of at least {self.least}"


@dataclass(frozen=True)
class Number:
    """A finite real number: above ``above``, at least ``least``, at most ``most``, below ``below``."""

    above: float | None = None
    least: float | None = None
    most: float | None = None
    below: float | None = None

    def allows(self, value: object) -> bool:
        """Tell whether a value keeps to the rule."""
        if not isinstance(value, Real) or isinstance(value, bool):
            return False
        try:
            number = float(value)
        except OverflowError:  # an integer beyond the floats
            return False
        if not math.isfinite(number):
            return False
        return (
            (self.above is None or number > self.above)
            and (self.least is None or number >= self.least)
            and (self.most is None or number <= self.most)
            and (self.below is None or number < self.below)
        )

    def describe(self) -> str:
        """Return the rule as it stands behind "must be"."""
        low = self.above if self.above is not None else self.least
        high = self.below if self.below is not None else self.most
        if low is None and high is None:
            return "a finite number"
        if low is not None and high is not None:
            opening, closing = "(" if self.above is not None else "[", ")" if self.below is not None else "]"
            return f"a number in {opening}{low:g}, {high:g}{closing}"
        if low is not None:
            return f"a number {'above' if self.above is not None else 'of at least'} {low:g}"
        return f"a number {'below' if self.below is not None else 'of at most'} {high:g}"


@dataclass(frozen=True)
class Choice:
    """One of some names; a wrong one is answered with the nearest right one."""

    options: Sequence[str]

    def allows(self, value: object) -> bool:
        """Tell whether a value keeps to the rule."""
        return isinstance(value, str) and value in self.options

    def describe(self) -> str:
        """Return the rule as it stands behind "must be"."""
        if len(self.options) == 1:
            return repr(self.options[0])
        return "one of " + ", ".join(map(repr, self.options))


@dataclass(frozen=True)
class Flag:
    """True or False."""

    def allows(self, value: object) -> bool:
        """Tell whether a value keeps to the rule."""
        return isinstance(value, bool | np.bool_)

    def describe(self) -> str:
        """Return the rule as it stands behind "must be"."""
        return "True or False"


@dataclass(frozen=True)
class Nothing:
    """None, where that has a meaning of its own."""

    def allows(self, value: object) -> bool:
        """Tell whether a value keeps to the rule."""
        return value is None

    def describe(self) -> str:
        """Return the rule as it stands behind "must be"."""
        return "None"


@dataclass(frozen=True)
class Listed:
    """A sequence (list, tuple or array) of at least ``least`` values that keep to one rule."""

    of: Constraint
    least: int = 1
    example: str | None = None

    def allows(self, value: object) -> bool:
        """Tell whether a value keeps to the rule."""
        if not isinstance(value, Sequence | np.ndarray) or isinstance(
            value, str | bytes | bytearray | memoryview
        ):
            return False
        if isinstance(value, np.ndarray) and value.ndim == 0:
            return False  # it has no length
        return len(value) >= self.least and all(self.of.allows(one) for one in value)

    def describe(self) -> str:
        """Return the rule as it stands behind "must be"."""
        example = f", like {self.example}" if self.example else ""
        return f"a list of {self.least} or more values, each {self.of.describe()}{example}"


class Either:
    """Any of several rules.

    Parameters
    ----------
    *rules : Constraint
        In the order in which the message names them.
    """

    def __init__(self, *rules: Constraint) -> None:
        self.rules = rules

    def allows(self, value: object) -> bool:
        """Tell whether a value keeps to the rule."""
        return any(rule.allows(value) for rule in self.rules)

    def describe(self) -> str:
        """Return the rule as it stands behind "must be"."""
        return " or ".join(rule.describe() for rule in self.rules)


@dataclass(frozen=True)
class Rule:
    """Any other rule: a test, and how it reads behind "must be"."""

    test: Callable[[object], bool]
    description: str

    def allows(self, value: object) -> bool:
        """Tell whether a value keeps to the rule."""
        return self.test(value)

    def describe(self) -> str:
        """Return the rule as it stands behind "must be"."""
        return self.description


SEED = Integer(least=0, most=MOST_SEED)


def check(rules: Mapping[str, Constraint], **values: object) -> None:
    """Raise :class:`InputError` for the first value that breaks its rule.

    Parameters
    ----------
    rules : mapping of str to Constraint
        By the name of the parameter; there may be more than ``values``.
    **values : object
        The parameters.

    Raises
    ------
    InputError
        A value breaks its rule.
    KeyError
        A name has no rule: a mistake of the caller, not of the user.
    """
    for name, value in values.items():
        rule = rules[name]
        if not rule.allows(value):
            raise InputError(f"{name} must be {rule.describe()}; got {value!r}{_nearest(rule, value)}")


def check_integer(least: int = 1, most: int | None = None, /, **values: object) -> None:
    """Raise :class:`InputError` for the first value that is no integer from ``least`` to ``most``."""
    check(dict.fromkeys(values, Integer(least, most)), **values)


def check_choice(options: Sequence[str], /, **values: object) -> None:
    """Raise :class:`InputError`, with the nearest right name, for the first value that is no option."""
    check(dict.fromkeys(values, Choice(options)), **values)


def check_parameters(estimator: Any) -> None:
    """Raise :class:`InputError` for the first parameter of an estimator that breaks the class's rules.

    Parameters
    ----------
    estimator : estimator
        With ``constraints``, a mapping from the name of a parameter to its rule, on its class.
    """
    rules: Mapping[str, Constraint] = type(estimator).constraints
    check(rules, **{name: getattr(estimator, name) for name in rules})


def check_n_clusters(n_clusters: object, n_samples: int) -> None:
    """Raise :class:`InputError` unless 1 ≤ n_clusters ≤ n_samples."""
    check_integer(n_clusters=n_clusters)
    assert isinstance(n_clusters, Integral)
    if int(n_clusters) > n_samples:
        raise InputError(
            f"n_clusters={n_clusters} is more than n_samples={n_samples}: every cluster needs at least one "
            "sample. Ask for fewer clusters or give more images."
        )


def _nearest(rule: Constraint, value: object) -> str:
    rules = rule.rules if isinstance(rule, Either) else (rule,)
    options = [name for one in rules if isinstance(one, Choice) for name in one.options]
    return nearest_name(value, options) if options and isinstance(value, str) else ""
