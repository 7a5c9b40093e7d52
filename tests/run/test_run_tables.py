from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kinfold.errors import FormatError
from kinfold.run import (
    is_predictions,
    is_skipped,
    read_table,
    write_assignments,
    write_predictions,
    write_skipped,
)
from kinfold.run.tables import ASSIGNMENTS_SCHEMA, SKIPPED_SCHEMA


@dataclass
class Top:
    clusters: np.ndarray
    probabilities: np.ndarray


@pytest.fixture
def top():
    rng = np.random.default_rng(0)
    probabilities = -np.sort(-rng.random((7, 3)).astype(np.float32), axis=1)
    return Top(rng.integers(0, 4, (7, 3)).astype(np.int32), probabilities)


ROWS = np.array([0, 1, 3, 4, 5, 8, 9])
KEYS = pa.array(["a b.png", "ünï/ç.png", "line\nbreak", "%ff.png", "e", "f", "g"])


def test_assignments_come_back_as_they_were_written(tmp_path, top):
    write_assignments(tmp_path / "a.parquet", ROWS, KEYS, top)
    table = read_table(tmp_path / "a.parquet", ASSIGNMENTS_SCHEMA, "")
    assert table.schema == ASSIGNMENTS_SCHEMA
    assert table["row"].to_pylist() == ROWS.tolist()
    assert table["key"].to_pylist() == KEYS.to_pylist()
    assert table["cluster"].to_pylist() == top.clusters[:, 0].tolist()
    np.testing.assert_array_equal(table["confidence"].to_numpy(), top.probabilities[:, 0])
    assert table["top_clusters"].to_pylist() == top.clusters.tolist()
    np.testing.assert_array_equal(
        np.array(table["top_probabilities"].to_pylist(), np.float32), top.probabilities
    )


def test_columns_have_the_promised_types_for_every_reader(tmp_path, top):
    write_assignments(tmp_path / "a.parquet", ROWS, KEYS, top)
    schema = pq.read_table(tmp_path / "a.parquet").schema
    assert schema.names == [
        "row",
        "key",
        "cluster",
        "confidence",
        "top_clusters",
        "top_probabilities",
        "name",
    ]
    assert [schema.field(i).type for i in range(4)] == [pa.int64(), pa.string(), pa.int32(), pa.float32()]
    assert schema.field(4).type.value_type == pa.int32()
    assert schema.field(5).type.value_type == pa.float32()


def test_the_same_content_gives_the_same_bytes(tmp_path, top):
    write_assignments(tmp_path / "a.parquet", ROWS, KEYS, top)
    chunked = pa.chunked_array([KEYS[:3], KEYS[3:]])
    strided = Top(np.asfortranarray(top.clusters), np.asfortranarray(top.probabilities))
    write_assignments(tmp_path / "b.parquet", ROWS, chunked, strided)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_a_run_without_usable_rows_or_skips_still_has_its_columns(tmp_path):
    empty = Top(np.zeros((0, 3), np.int32), np.zeros((0, 3), np.float32))
    write_assignments(tmp_path / "a.parquet", np.zeros(0, np.int64), pa.array([], pa.string()), empty)
    assert read_table(tmp_path / "a.parquet", ASSIGNMENTS_SCHEMA, "").num_rows == 0
    write_skipped(tmp_path / "s.parquet", SKIPPED_SCHEMA.empty_table())
    assert read_table(tmp_path / "s.parquet", SKIPPED_SCHEMA, "").num_rows == 0


def test_skipped_rows_keep_their_numbers_keys_and_reasons(tmp_path):
    skipped = pa.table({"reason": ["empty"], "key": ["x.jpg"], "row": pa.array([7], pa.int32()), "more": [1]})
    write_skipped(tmp_path / "s.parquet", skipped)
    assert pq.read_table(tmp_path / "s.parquet").to_pylist() == [
        {"row": 7, "key": "x.jpg", "reason": "empty"}
    ]


def test_predictions_have_four_columns(tmp_path, top):
    table = write_predictions(tmp_path / "p.parquet", ROWS, KEYS, top)
    assert table.column_names == ["row", "key", "cluster", "confidence"]
    assert pq.read_table(tmp_path / "p.parquet").to_pylist() == table.to_pylist()


@pytest.mark.parametrize("content", [b"", b"PAR1 nonsense PAR1", None])
def test_a_damaged_table_names_itself_and_the_mend(tmp_path, content):
    path = tmp_path / "a.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FormatError, match=r"a\.parquet is .*; do this"):
        read_table(path, ASSIGNMENTS_SCHEMA, "do this")


def test_a_table_with_other_columns_is_refused(tmp_path):
    pq.write_table(pa.table({"row": [1]}), tmp_path / "a.parquet")
    with pytest.raises(FormatError, match=r"a\.parquet is damaged"):
        read_table(tmp_path / "a.parquet", ASSIGNMENTS_SCHEMA, "do this")


def test_a_failed_write_leaves_the_old_file(tmp_path, top):
    write_predictions(tmp_path / "p.parquet", ROWS, KEYS, top)
    before = (tmp_path / "p.parquet").read_bytes()
    with pytest.raises(pa.ArrowInvalid):
        write_predictions(tmp_path / "p.parquet", ROWS, KEYS[:3], top)
    assert (tmp_path / "p.parquet").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["p.parquet"]


def test_our_tables_are_known_by_exactly_their_columns(tmp_path, top):
    write_predictions(tmp_path / "p.parquet", ROWS, KEYS, top)
    write_assignments(tmp_path / "a.parquet", ROWS, KEYS, top)
    skipped = pa.table({"row": [1], "key": ["a"], "reason": ["empty"]})
    write_skipped(tmp_path / "s.parquet", skipped)
    (tmp_path / "text.parquet").write_text("precious")
    names = sorted(file.name for file in tmp_path.iterdir())
    assert [name for name in names if is_predictions(tmp_path / name)] == ["p.parquet"]
    assert [name for name in names if is_skipped(tmp_path / name)] == ["s.parquet"]
    assert not is_predictions(tmp_path / "nowhere.parquet")
