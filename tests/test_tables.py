"""Claims about tables as people save them: dialects of CSV, types of Parquet columns, names of files."""

from __future__ import annotations

import logging

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinfold.errors import InputError
from kinfold.paths import normalize_keys, normalize_name, strip_uri
from kinfold.tables import TextTable, as_strings, is_bytes, is_text

ROWS = [["photos/a.png", "Kätzchen"], ["photos/b.png", "dog"], ["photos/c, d.png", 'a "b"']]


def write(path, encoding="utf-8", delimiter=",", end="\n", header=("path", "class")):
    quoted = [delimiter.join('"' + cell.replace('"', '""') + '"' for cell in row) for row in ROWS]
    lines = [delimiter.join(header)] * bool(header) + quoted
    path.write_bytes((end.join(lines) + end).encode(encoding))
    return path


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "windows-1252"]
)
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_what_spreadsheets_and_scripts_write_is_read(tmp_path, encoding, delimiter, end):
    for name in ("a.csv", "b.tsv", "c.TXT"):
        table = TextTable.open(write(tmp_path / name, encoding, delimiter, end))
        assert table.names == ("path", "class")
        assert list(table.rows(strict=True)) == ROWS


def test_a_header_in_western_letters_is_read_and_told(tmp_path, caplog):
    path = write(tmp_path / "a.csv", "latin-1", header=("path", "catégorie"))
    with caplog.at_level(logging.WARNING):
        assert TextTable.open(path).names == ("path", "catégorie")
    assert "not in UTF-8" in caplog.text


@pytest.mark.parametrize(
    "lines", ["a.png\nb.png\n", "a, b.png\nc.png\n", "x; y/1.png\nx; y/2.png\n", "a.png"]
)
def test_a_list_of_paths_without_a_header_loses_none(tmp_path, lines, caplog):
    path = tmp_path / "list.csv"
    path.write_text(lines)
    with caplog.at_level(logging.WARNING):
        table = TextTable.open(path)
    assert table.names == ("path",)
    assert [row[0] for row in table.rows(strict=True)] == [line for line in lines.split("\n") if line]
    assert "has no header" in caplog.text


def test_without_a_header_the_other_of_two_columns_is_the_label(tmp_path):
    (tmp_path / "a.csv").write_text("cat,1.png\ndog,2.png\n")
    table = TextTable.open(tmp_path / "a.csv")
    assert table.names == ("label", "path")
    assert list(table.rows()) == [["cat", "1.png"], ["dog", "2.png"]]


def test_the_line_with_which_excel_names_its_separator_is_obeyed(tmp_path):
    (tmp_path / "a.csv").write_text("sep=;\r\npath;n\r\na,b.png;1\r\n")
    table = TextTable.open(tmp_path / "a.csv")
    assert (table.names, list(table.rows())) == (("path", "n"), [["a,b.png", "1"]])


def test_commas_in_a_table_of_one_column_belong_to_the_path(tmp_path):
    (tmp_path / "a.csv").write_text("path\na, b.png\n")
    assert list(TextTable.open(tmp_path / "a.csv").rows(strict=True)) == [["a, b.png"]]


def test_short_and_blank_lines_are_filled_and_too_long_ones_refused_where_asked(tmp_path):
    (tmp_path / "a.csv").write_text("path,n\na.png\n\nb.png,1,,\nc, d.png,2\n")
    table = TextTable.open(tmp_path / "a.csv")
    assert list(table.rows()) == [["a.png", ""], ["b.png", "1"], ["c", " d.png"]]
    with pytest.raises(InputError, match=r"line 5 .* has 3 cells, but there are 2 columns"):
        list(table.rows(strict=True))


@pytest.mark.parametrize("content", [b"", b"\n", b"PK\x03\x04" + bytes(40), bytes(range(256)) * 4])
def test_what_is_no_table_is_refused(tmp_path, content):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.csv"):
        list(TextTable.open(tmp_path / "a.csv").rows())


@pytest.mark.parametrize(
    ("name", "tidy"),
    [
        ("./a.png", "a.png"),
        ("/a.png", "a.png"),
        ("a//b.png", "a/b.png"),
        ("a\\b.png", "a/b.png"),
        ("..\\..\\b.png", "b.png"),
        ("a/../b.png", "b.png"),
        ("a/./b..png", "a/b..png"),
        ("file:///a/b%20c.png", "a/b c.png"),
        ("..", ""),
        ("", ""),
    ],
)
def test_names_mean_what_they_would_unpacked(name, tidy):
    assert normalize_name(name) == tidy
    assert normalize_keys(pa.array([None, name, "x"], pa.large_string())).to_pylist() == [None, tidy, "x"]


@given(st.lists(st.sampled_from(["a", ".", "..", "", "b.png", "\\", "%20"]), max_size=6).map("/".join))
def test_tidy_names_are_left_alone_and_lead_nowhere_else(name):
    tidy = normalize_name(name)
    assert normalize_name(tidy) == tidy
    assert not {"", ".", ".."} & set(tidy.split("/")) or tidy == ""


def test_addresses_of_files_become_paths():
    assert strip_uri("file:///a/b%20c.png") == "/a/b c.png"
    assert strip_uri("FILE://localhost/a.png") == "/a.png"
    assert strip_uri("file:///C:/a.png") == "C:/a.png"
    assert strip_uri("a%20b.png") == "a%20b.png"


def test_all_types_of_strings_and_bytes_are_known():
    for kind in (pa.string(), pa.large_string(), pa.string_view()):
        column = pa.array(["a", None], kind)
        assert is_text(kind)
        assert as_strings(column).to_pylist() == ["a", None]
        assert as_strings(pa.chunked_array([column])).type == pa.large_string()
    assert is_text(pa.dictionary(pa.int8(), pa.string()))
    assert as_strings(pa.array(["a", "b", "a"]).dictionary_encode()).to_pylist() == ["a", "b", "a"]
    assert as_strings(pa.array([1, 2])).to_pylist() == ["1", "2"]
    for kind in (pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(4)):
        assert is_bytes(kind)
        assert not is_text(kind)
