"""Claims about cells: what makes two fits the same, and in which order they come."""

from __future__ import annotations

from itertools import pairwise

import pytest

from kinfold import SphericalKMeans
from studies import cells
from studies.baselines import Baseline
from studies.cells import Row, Table, make_cells
from studies.data import DATA_SETS
from studies.tables import TABLES

KMEANS = Row("k-means", "digits", "kmeans")


class OtherDefault(SphericalKMeans):
    def __init__(self, *, n_clusters=8, n_init=5, max_iter=100, tol=1e-6, device="auto", random_state=None):
        super().__init__(
            n_clusters=n_clusters, n_init=n_init, max_iter=max_iter, tol=tol, random_state=random_state
        )


class OneMoreParameter(SphericalKMeans):
    def __init__(
        self,
        *,
        n_clusters=8,
        n_init="auto",
        max_iter=100,
        tol=1e-6,
        temperature=0.1,
        sharp=False,
        device="auto",
        precision="auto",
        random_state=None,
    ):
        super().__init__(
            n_clusters=n_clusters,
            n_init=n_init,
            max_iter=max_iter,
            tol=tol,
            temperature=temperature,
            device=device,
            precision=precision,
            random_state=random_state,
        )
        self.sharp = sharp


def renewed() -> Row:
    """Return the row without a key that was computed before."""
    return Row("k-means", "digits", "kmeans")


def test_the_name_of_a_row_is_no_part_of_its_fit():
    assert Row("another name", "digits", "kmeans").key == KMEANS.key


@pytest.mark.parametrize(
    "other",
    [
        Row("k-means", "cifar-500", "kmeans"),
        Row("k-means", "digits", "turtle"),
        Row("k-means", "digits", "kmeans", {"max_iter": 7}),
        Row("k-means", "digits", "kmeans", graph={"same_label": 5}),
    ],
)
def test_whatever_decides_the_fit_changes_the_key(other):
    assert other.key != KMEANS.key


def test_a_changed_default_changes_the_key(monkeypatch):
    monkeypatch.setitem(cells.METHODS, "kmeans", OtherDefault)
    assert renewed().key != KMEANS.key


def test_what_an_open_parameter_becomes_changes_the_key(monkeypatch):
    monkeypatch.setattr(SphericalKMeans, "_resolve_n_init", lambda self, n_samples: 77)
    assert renewed().key != KMEANS.key


def test_a_later_parameter_at_its_neutral_value_does_not_count(monkeypatch):
    monkeypatch.setitem(cells.METHODS, "kmeans", OneMoreParameter)
    assert renewed().key != KMEANS.key
    known = cells.LATER_PARAMETERS["kmeans"]
    monkeypatch.setattr(cells, "LATER_PARAMETERS", {"kmeans": {**known, "sharp": False}})
    assert renewed().key == KMEANS.key
    monkeypatch.setattr(cells, "LATER_PARAMETERS", {"kmeans": {**known, "sharp": True}})
    assert renewed().key != KMEANS.key


def test_a_default_that_changes_no_label_keeps_the_lines_that_were_recorded_with_the_old_one():
    assert Row("k-means", "digits", "kmeans", {"temperature": 0.1}).key == KMEANS.key
    assert Row("k-means", "digits", "kmeans", {"temperature": 0.2}).key != KMEANS.key


def test_a_raised_revision_changes_the_key(monkeypatch):
    monkeypatch.setattr(cells, "REVISIONS", {"kmeans": 1000})
    assert renewed().key != KMEANS.key


def test_cells_come_by_table_then_seed_then_row_and_each_fit_once():
    a, b, c = (Row(str(n), "digits", "kmeans", {"max_iter": n}) for n in (1, 2, 3))
    tables = [Table("first", "", (a, b)), Table("second", "", (b, c))]
    found = [(cell.table, cell.row.name, cell.seed) for cell in make_cells(tables, (0, 1))]
    assert found == [
        ("first", "1", 0),
        ("first", "2", 0),
        ("first", "1", 1),
        ("first", "2", 1),
        ("second", "3", 0),
        ("second", "3", 1),
    ]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_row_can_be_fitted_and_stands_once(table):
    for row in table.rows:
        estimator = row.make_estimator(0)
        if not isinstance(estimator, Baseline):  # these have no rules
            estimator.check_parameters()
        assert row.data in DATA_SETS
    assert len({row.key for row in table.rows}) == len(table.rows)


def test_every_rung_of_the_ladder_changes_one_parameter():
    rows = next(table for table in TABLES if table.name == "ladder").rows
    for lower, upper in pairwise(rows):
        if lower.data != upper.data:
            continue  # the next data set's ladder begins
        changed = [name for name in upper.parameters if upper.parameters[name] != lower.parameters[name]]
        assert len(changed) == 1


def test_tables_made_of_other_lines_name_no_fit_of_their_own():
    fits = {row.key for table in TABLES if table.runs for row in table.rows}
    for table in TABLES:
        if not table.runs:
            assert {row.key for row in table.rows} <= fits
