"""Claims about the tables: means and deviations, dashes, old lines left out, a page that keeps its text."""

from __future__ import annotations

import pytest

from studies.cells import Row, Table
from studies.choices import choose_head
from studies.report import BEGIN, END, MISSING, render, spread, write_page
from studies.results import Results

KMEANS = Row("k-means", "digits", "kmeans")
ICCE = Row("ICCE", "digits", "icce", {"n_heads": 2})


def scores(acc):
    return {"acc": acc, "nmi": acc / 2, "ari": acc / 4}


def criteria(neighbors, live=10):
    return {
        "n_clusters": 10,
        "live_clusters": live,
        "largest_share": 0.2,
        "neighbor_agreement": neighbors,
        "cross_validated_accuracy": 1 - neighbors,
    }


def measured(row, seed, acc, **more):
    return {
        "key": row.key,
        "seed": seed,
        "seconds": {"wall": 10.0, "cpu": 20.0, "neighbors": 1.0},
        "peak_mib": 2048.0,
        "machine": {"threads": 2, "cores": 4, "bfloat16": False, "torch": "2"},
        "stages": {"labels": {"train": scores(acc), "criteria": criteria(acc)}},
        **more,
    }


@pytest.fixture
def results(tmp_path):
    return Results(tmp_path / "lines.jsonl")


def row_of(text, name):
    return next(line for line in text.splitlines() if line.startswith(f"| {name} |"))


def test_spread_is_mean_and_deviation_of_the_sample():
    assert spread([0.4, 0.5, 0.6]) == "0.500 ± 0.100"
    assert spread([0.4]) == "0.400"
    assert spread([None, 0.4]) == "0.400"
    assert spread([]) == spread([None]) == MISSING
    assert spread([1234.0, 1236.0], 0) == "1,235 ± 1"


def test_rows_show_the_mean_over_their_seeds_and_dashes_where_nothing_was_run(results):
    for seed, acc in enumerate((0.4, 0.5, 0.6)):
        results.append(measured(KMEANS, seed, acc))
    text = render([Table("t", "Title", (KMEANS, ICCE))], results)
    assert "## Title" in text
    assert "0.500 ± 0.100" in row_of(text, "k-means")
    assert row_of(text, "k-means").endswith("| 3 |")
    assert row_of(text, "ICCE").count(MISSING) >= 3
    assert row_of(text, "ICCE").endswith("| 0 |")


def test_lines_of_other_parameters_and_failures_stay_out(results):
    results.append({**measured(KMEANS, 0, 0.9), "key": "that of old defaults"})
    results.append({"key": KMEANS.key, "seed": 0, "failed": "out of memory"})
    text = render([Table("t", "Title", (KMEANS,))], results)
    assert "0.900" not in text
    assert row_of(text, "k-means").endswith("| 0 |")


def test_every_stage_has_its_line(results):
    stages = {
        "labels": {"train": scores(0.8), "criteria": criteria(0.8)},
        "best head": {"train": scores(0.6), "criteria": criteria(0.6)},
        "mean head": {"train": scores(0.5)},
        "oracle head": {"train": scores(0.7)},
        "consensus": {"train": scores(0.75), "criteria": criteria(0.75)},
        "classifier": {"train": scores(0.8)},
    }
    results.append({**measured(ICCE, 0, 0.8), "stages": stages, "epochs": [12, 20]})
    lines = render([Table("t", "Title", (ICCE,))], results).splitlines()
    table = [line.split(" | ") for line in lines if line.startswith("| ICCE") or line.startswith("|  |")][1:]
    assert [line[2] for line in table] == ["0.600", "0.500", "0.700", "0.750", "0.800"]
    assert "12 of 20" in lines[-5]


def test_heads_are_chosen_by_the_lowest_loss_or_the_highest_agreement():
    heads = {"loss": [-1.0, -3.0, -2.0], "mean_nmi": [0.5, 0.2, 0.6]}
    assert choose_head(heads, "loss") == 1
    assert choose_head(heads, "mean_nmi") == 2


def test_the_choice_among_methods_stands_beside_the_oracles(results):
    results.append(measured(KMEANS, 0, 0.4))
    results.append(measured(ICCE, 0, 0.6))
    results.append(measured(ICCE, 1, 0.7))  # k-means lacks this seed
    text = render([Table("a", "Auto", (KMEANS, ICCE), view="auto")], results)
    neighbors, validated = (line for line in text.splitlines() if line.startswith("| digits, "))
    assert "| ICCE | 0.600 | 0.600 | 0.000 |" in neighbors
    assert "| k-means | 0.400 | 0.600 | 0.200 |" in validated


def test_only_the_part_between_the_markers_is_written_anew(tmp_path, results):
    page = tmp_path / "page.md"
    tables = [Table("t", "Title", (KMEANS,))]
    write_page(page, tables, results)
    first = page.read_text("utf-8")
    page.write_text(f"My words.\n{first}\nMore words.\n", "utf-8")
    results.append(measured(KMEANS, 0, 0.5))
    write_page(page, tables, results)
    again = page.read_text("utf-8")
    assert again.startswith("My words.\n")
    assert again.endswith("More words.\n")
    assert again.count(BEGIN) == again.count(END) == 1
    assert "0.500" in again
    assert "0.500" not in first


def test_a_page_without_markers_is_left_alone(tmp_path, results):
    page = tmp_path / "page.md"
    page.write_text("Something else", "utf-8")
    with pytest.raises(ValueError, match="markers"):
        write_page(page, [], results)
    assert page.read_text("utf-8") == "Something else"


def test_methods_are_compared_set_by_set_with_what_auto_would_take(results):
    rows = tuple(
        Row(name, "digits", method, parameters)
        for name, method, parameters in (
            ("k-means", "kmeans", {}),
            ("TEMI", "temi", {}),
            ("heads alone", "icce", {"graph_labelings": False}),
            ("graph", "graph", {}),
            ("ICCE", "icce", {}),
        )
    )
    accuracies = {"k-means": 0.5, "TEMI": 0.6, "heads alone": 0.9, "graph": 0.8, "ICCE": 0.7}
    for row in rows:
        for seed in (0, 1):
            results.append(measured(row, seed, accuracies[row.name] + 0.01 * seed))
    text = render([Table("t", "Title", rows, view="balance")], results)
    # Neighbours agree most in the heads alone, which are no candidate: the default of each method is.
    cells = [cell.strip() for cell in row_of(text, "digits").strip("|").split("|")]
    assert cells[1] == "50.5 ± 0.7 / 25.2 ± 0.4"
    assert cells[-1] == cells[4] == "80.5 ± 0.7 / 40.2 ± 0.4"
    assert row_of(text, "mean").count("/") == 6


def test_a_mean_over_sets_is_shown_where_all_of_them_are_measured(results):
    rows = (KMEANS, Row("k-means", "cifar-2000", "kmeans"))
    results.append(measured(KMEANS, 0, 0.5))
    before = render([Table("t", "Title", rows, view="balance")], results)
    assert "/" not in row_of(before, "mean")
    results.append(measured(rows[1], 0, 0.6))
    after = render([Table("t", "Title", rows, view="balance")], results)
    assert "55.0 / 27.5" in row_of(after, "mean")
