from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import write_images
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from kinfold.errors import InputError
from kinfold.pipeline import cluster, evaluate, report
from kinfold.run import Run


@pytest.fixture(scope="module")
def made(tmp_path_factory, features_file):
    """A run of images in 3 groups, and one of 90 rows of ready features in 3 groups, in 4 clusters."""
    home = tmp_path_factory.mktemp("made")
    write_images(home / "photos")
    cluster(home / "photos", 3, out=home / "run", method="kmeans", backbone="pixels", n_workers=0)
    cluster(features_file, 4, out=home / "plain", method="kmeans", report=False)
    return home


@pytest.fixture
def photos(made, tmp_path):
    return shutil.copytree(made / "photos", tmp_path / "photos")


@pytest.fixture
def run(made, tmp_path):
    return Run.open(shutil.copytree(made / "run", tmp_path / "run"))


@pytest.fixture
def plain(made, tmp_path):
    return Run.open(shutil.copytree(made / "plain", tmp_path / "plain"))


def write_csv(path, rows, header=("key", "label")):
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def truth(keys):
    return {key: "abc"[int(key) // 30] for key in keys}


def test_folder_names_can_be_the_labels(run):
    found = evaluate(run, "folder")
    assert (found.accuracy, found.nmi, found.ari) == (1.0, 1.0, 1.0)
    assert (found.n_classes, found.n_groups, found.n_matched) == (3, 3, 45)
    assert sorted(found.classes.values()) == ["blue", "green", "red"]


def test_figures_agree_with_scikit_learn(plain):
    keys = plain.assignments["key"].to_pylist()
    rng = np.random.default_rng(0)
    labels = {key: int(rng.integers(0, 5)) for key in keys}
    found = evaluate(plain, labels)
    y_true = [labels[key] for key in keys]
    assert found.nmi == pytest.approx(normalized_mutual_info_score(y_true, plain.labels))
    assert found.ari == pytest.approx(adjusted_rand_score(y_true, plain.labels))


def test_both_conventions_are_given_where_there_are_more_groups_than_classes(plain):
    found = evaluate(plain, truth(plain.assignments["key"].to_pylist()))
    assert found.accuracy < found.accuracy_majority <= 1.0
    assert len(found.classes) == 3


@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_a_csv_is_joined_by_key_whatever_its_order_and_other_columns(plain, tmp_path, bom):
    keys = plain.assignments["key"].to_pylist()
    expected = evaluate(plain, truth(keys))
    rows = [(label, "more", key) for key, label in sorted(truth(keys).items(), reverse=True)]
    path = write_csv(tmp_path / "labels.csv", rows, header=(f"{bom}label", "other", "key"))
    assert evaluate(plain, path) == expected
    table = pa.table({"key": keys, "label": list(truth(keys).values())})
    pq.write_table(table, tmp_path / "labels.parquet")
    assert evaluate(str(plain.path), str(tmp_path / "labels.parquet")) == expected


def test_images_and_labels_without_a_partner_are_counted_and_left_out(plain, tmp_path):
    known = truth(plain.assignments["key"].to_pylist())
    rows = [(key, label) for key, label in known.items() if int(key) % 3]
    rows += [("0", ""), ("nobody", "a"), ("no one", "b")]
    found = evaluate(plain, write_csv(tmp_path / "labels.csv", rows))
    assert (found.n_matched, found.n_without_label, found.n_without_image) == (60, 30, 2)
    assert found.labels_without_image == ("nobody", "no one")
    rows += [(f"more {i}", "a") for i in range(10)]
    found = evaluate(plain, write_csv(tmp_path / "labels.csv", rows))
    assert (found.n_without_image, len(found.labels_without_image)) == (12, 3)


def test_keys_with_commas_newlines_and_umlauts_are_joined(tmp_path, photos):
    for number, name in enumerate(["a,b.png", "ü ß.png", 'q"q.png']):
        (photos / "red" / f"{3 * number + 2}.png").rename(photos / "red" / name)
    run = cluster(photos, 3, out=tmp_path / "out", method="kmeans", backbone="pixels", n_workers=0)
    keys = run.assignments["key"].to_pylist()
    path = write_csv(tmp_path / "labels.csv", [(key, key.split("/")[0]) for key in keys])
    assert evaluate(run, path).n_matched == 45


def test_the_figures_are_kept_and_nothing_else_is_touched(run):
    before = {f.name: f.read_bytes() for f in run.path.iterdir() if f.is_file()}
    found = evaluate(run, "folder")
    after = {f.name: f.read_bytes() for f in run.path.iterdir() if f.is_file()}
    assert {name for name in after if after[name] != before.get(name)} == {"manifest.json"}
    assert Run.open(run.path).metrics == run.metrics == json.loads(json.dumps(found.as_dict()))
    assert run.metrics["accuracy"] == 1.0


def test_evaluation_makes_no_stage_but_the_report_run_again(run, photos, caplog):
    evaluate(run, "folder")
    caplog.set_level("INFO", "kinfold.pipeline")
    again = cluster(photos, 3, out=run.path, method="kmeans", backbone="pixels", n_workers=0)
    assert [r.args[0] for r in caplog.records if r.msg == "stage %s: starts"] == ["report"]
    assert again.metrics["accuracy"] == 1.0


def test_new_groups_have_no_old_figures(run, photos):
    evaluate(run, "folder")
    again = cluster(photos, 4, out=run.path, method="kmeans", backbone="pixels", n_workers=0)
    assert again.metrics == {}


def test_the_report_shows_the_figures_once_it_is_written_again(run):
    assert "NMI" not in run.report_path.read_text(encoding="utf-8")
    evaluate(run, "folder")
    assert report(run) == run.report_path
    assert "NMI" in run.report_path.read_text(encoding="utf-8")


def test_the_report_goes_without_images_that_are_gone_unless_they_were_named(photos, tmp_path, caplog):
    run = cluster(photos, 3, out=tmp_path / "out", method="kmeans", backbone="pixels", n_workers=0)
    moved = photos.rename(photos.with_name("moved"))
    report(run)
    assert "the report will show no pictures" in caplog.text
    assert report(run, source=moved).stat().st_size > 0
    with pytest.raises(InputError, match="nowhere"):
        report(run, source=photos.with_name("nowhere"))


def test_one_key_with_two_labels_is_refused(plain, tmp_path):
    path = write_csv(tmp_path / "labels.csv", [("1", "a"), ("1", "a"), ("1", "b")])
    with pytest.raises(InputError, match="gives '1' two labels, 'a' and 'b'"):
        evaluate(plain, path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", r"labels\.csv is empty; it needs a first line key,label"),
        ("\n  \n\n", r"labels\.csv is empty; it needs a first line key,label"),
        ("a,b\n1,2\n", "has no column 'key' and no column 'label'"),
        ("key,class\n1,a\n", "has no column 'label'"),
        ("key,label\n", r"labels\.csv holds no labels"),
        ("key,label\n1,\n2, \n", "all its labels are empty"),
        (
            "key,label\nx.png,a\n",
            r"no label is about .* labels are for 'x\.png', images are '0', '1', '2', …",
        ),
    ],
)
def test_unusable_label_files_say_what_is_wrong(plain, tmp_path, content, words):
    path = tmp_path / "labels.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=words):
        evaluate(plain, path)
    assert Run.open(plain.path).metrics == {}


def test_missing_binary_and_folderless_labels_are_refused(plain, tmp_path):
    with pytest.raises(InputError, match="there are no labels at"):
        evaluate(plain, tmp_path / "nowhere.csv")
    (tmp_path / "image.csv").write_bytes(b"\x89PNG\xff\xfe\x00")
    with pytest.raises(InputError, match="no CSV file in UTF-8"):
        evaluate(plain, tmp_path / "image.csv")
    (tmp_path / "labels.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="no Parquet file"):
        evaluate(plain, tmp_path / "labels.parquet")
    with pytest.raises(InputError, match="needs images in folders"):
        evaluate(plain, "folder")
