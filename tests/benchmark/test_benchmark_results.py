"""Claims about the file of lines: nothing is lost, nothing half-written is read."""

from __future__ import annotations

from kinfold.benchmark import Results


def line(key="a", seed=0, **more):
    return {"key": key, "seed": seed, **more}


def test_a_file_that_is_not_there_holds_nothing(tmp_path):
    assert Results(tmp_path / "none.jsonl").read() == {}


def test_the_newest_line_of_a_cell_counts(tmp_path):
    results = Results(tmp_path / "lines.jsonl")
    results.append(line(value=1))
    results.append(line(value=2))
    results.append(line(seed=1, value=3))
    assert {key: found["value"] for key, found in results.read().items()} == {("a", 0): 2, ("a", 1): 3}


def test_half_a_line_is_passed_over_and_the_next_one_starts_afresh(tmp_path):
    results = Results(tmp_path / "lines.jsonl")
    results.append(line(value=1))
    with results.path.open("ab") as stream:
        stream.write(b'{"key": "b", "seed": 0, "val')
    results.append(line("c", value="– ±"))
    assert [found["value"] for found in results.read().values()] == [1, "– ±"]


def test_a_failure_never_hides_a_success_but_a_success_a_failure(tmp_path):
    results = Results(tmp_path / "lines.jsonl")
    results.append(line(failed="first"))
    results.append(line(value=1))
    results.append(line(failed="later"))
    results.append(line("b", failed="first"))
    results.append(line("b", failed="second"))
    found = results.read()
    assert found["a", 0]["value"] == 1
    assert found["b", 0]["failed"] == "second"
