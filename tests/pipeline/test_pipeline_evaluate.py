from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from kinfold import metrics
from kinfold.errors import InputError
from kinfold.hierarchy import ClassTree
from kinfold.pipeline import cluster, evaluate, report
from kinfold.run import Run
from support.image_folders import write_images


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
    caplog.set_level("INFO", "kinfold")
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
        ("", r"labels\.csv is empty and can't be read; it needs a first line"),
        ("\n  \n\n", r"labels\.csv is empty and can't be read; it needs a first line"),
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
    with pytest.raises(InputError, match=r"image\.csv is no table of text"):
        evaluate(plain, tmp_path / "image.csv")
    (tmp_path / "labels.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="no Parquet file"):
        evaluate(plain, tmp_path / "labels.parquet")
    with pytest.raises(InputError, match="needs images in folders"):
        evaluate(plain, "folder")


def noisy(keys):
    """Labels in five classes that know nothing of the groups."""
    rng = np.random.default_rng(0)
    return {key: "abcde"[rng.integers(0, 5)] for key in keys}


def test_every_measure_is_given_and_is_that_of_the_metrics(plain):
    keys = plain.assignments["key"].to_pylist()
    labels = noisy(keys)
    y_true = [labels[key] for key in keys]
    found, expected = evaluate(plain, labels), metrics.compare(y_true, plain.labels)
    for name in ("accuracy", "accuracy_majority", "nmi", "ami", "ari", "purity"):
        assert getattr(found, name) == getattr(expected, name)
    by_class = metrics.per_class_accuracy(y_true, plain.labels)
    assert found.mean_class_accuracy == by_class.mean_accuracy
    top = np.array(plain.assignments["top_clusters"].to_pylist())
    assert found.top_k == {k: metrics.top_k_accuracy(y_true, top, k) for k in (1, 2, 3, 4)}
    assert found.top_k[1] == found.accuracy
    right = np.array([expected.match.mapping.get(g) == t for g, t in zip(plain.labels, y_true, strict=True)])
    confidences = plain.assignments["confidence"].to_numpy()
    assert found.calibration_error == metrics.expected_calibration_error(confidences, right)
    assert found.several is None
    assert found.by_depth == ()


def test_a_run_with_fewer_ranks_than_groups_says_so_by_its_ks(features_file, tmp_path):
    run = cluster(features_file, 2, out=tmp_path / "two", method="kmeans", report=False)
    found = evaluate(run, truth(run.assignments["key"].to_pylist()))
    assert sorted(found.top_k) == [1, 2]
    assert (found.n_groups, found.n_classes) == (2, 3)
    assert found.accuracy <= found.top_k[2]


def several(keys):
    """One to three labels per image, none for every tenth."""
    rng = np.random.default_rng(1)
    sets = {key: sorted(rng.choice(list("abcde"), rng.integers(1, 4), replace=False)) for key in keys}
    return {key: [str(label) for label in some] for key, some in sets.items() if int(key) % 10}


def test_several_labels_are_read_alike_from_everywhere(plain, tmp_path):
    sets = several(plain.assignments["key"].to_pylist())
    found = evaluate(plain, sets)
    rows = [(key, label) for key, some in sets.items() for label in some]
    assert evaluate(plain, write_csv(tmp_path / "several.csv", rows), multi_label=True) == found
    table = pa.table({"key": list(sets), "label": list(sets.values())})
    pq.write_table(table, tmp_path / "lists.parquet")
    assert evaluate(plain, tmp_path / "lists.parquet") == found
    rows = pa.table({"key": [key for key, _ in rows], "label": [label for _, label in rows]})
    pq.write_table(rows, tmp_path / "rows.parquet")
    assert evaluate(plain, tmp_path / "rows.parquet", multi_label=True) == found
    assert (found.n_matched, found.n_without_label, found.n_without_image) == (81, 9, 0)
    assert (found.accuracy, found.nmi, found.top_k, found.classes) == (None, None, {}, {})
    assert found.n_classes == 5


def test_drawn_maps_give_mean_and_deviation_of_the_metrics(plain):
    keys = plain.assignments["key"].to_pylist()
    sets = several(keys)
    found = evaluate(plain, sets, n_draws=7, random_state=3).several
    places = [row for row, key in enumerate(keys) if key in sets]
    top = np.array(plain.assignments["top_clusters"].to_pylist())[places]
    expected = metrics.drawn_label_accuracy(
        metrics.LabelSets.from_lists(sets[keys[row]] for row in places),
        top,
        ks=(1, 2, 3, 4),
        n_draws=7,
        random_state=3,
    )
    assert (found.kind, found.n_draws) == ("drawn", 7)
    assert (found.accuracies, found.deviations) == (expected.means, expected.deviations)
    assert found.mean_labels == pytest.approx(np.mean([len(sets[keys[row]]) for row in places]))


def test_lists_beside_a_label_forgive_but_the_label_maps(plain, tmp_path):
    keys = plain.assignments["key"].to_pylist()
    known = truth(keys)
    pairs = [[known[key], "abc"[(int(key) // 30 + 1) % 3]] for key in keys]
    table = {"key": keys, "label": list(known.values()), "split": ["val"] * len(keys), "labels": pairs}
    (tmp_path / "benchmark").mkdir()
    pq.write_table(pa.table(table), tmp_path / "benchmark" / "labels.parquet")
    found = evaluate(plain, tmp_path / "benchmark")
    alone = evaluate(plain, known)
    assert found.several.kind == "listed"
    assert found.several.mean_labels == 2
    assert found.accuracy == alone.accuracy
    assert found.several.accuracies[1] >= found.accuracy
    sets = metrics.LabelSets.from_lists(pairs)
    top = np.array(plain.assignments["top_clusters"].to_pylist())
    assert found.several.accuracies == metrics.multi_label_accuracy(
        list(known.values()), sets, top, ks=(1, 2, 3, 4)
    )


TREE = {"thing": None, "a": "thing", "b": "a", "c": "a", "z": "thing"}


def test_a_tree_makes_ancestors_right_and_tells_depths(plain, tmp_path):
    keys = plain.assignments["key"].to_pylist()
    known = truth(keys)
    path = write_csv(
        tmp_path / "tree.csv", [(c, p or "") for c, p in TREE.items()], header=("child", "parent")
    )
    found = evaluate(plain, known, tree=path)
    assert found == evaluate(plain, known, tree=ClassTree(TREE))
    assert found.several.kind == "ancestors"
    assert found.several.mean_labels == pytest.approx((30 * 2 + 60 * 3) / 90)
    names = found.classes
    right = [names.get(group) for group in plain.labels.tolist()]
    own = np.mean([name == known[key] for name, key in zip(right, keys, strict=True)])
    up = np.mean([name in (known[key], "a") for name, key in zip(right, keys, strict=True)])
    assert (found.accuracy, found.several.accuracies[1]) == (pytest.approx(own), pytest.approx(up))
    assert [(line.depth, line.n_classes, line.n_images) for line in found.by_depth] == [
        (1, 1, 30),
        (2, 2, 60),
    ]
    for column, total in (("accuracy", own), ("accuracy_ancestors", up)):
        shares = sum(getattr(line, column) * line.n_images for line in found.by_depth)
        assert shares / 90 == pytest.approx(total)


def test_synsets_hang_below_one_another_as_in_wordnet(plain):
    synsets = {"a": "n02084071", "b": "n02085374", "c": "n02121620"}  # dog, toy dog, cat
    keys = plain.assignments["key"].to_pylist()
    found = evaluate(plain, {key: synsets[label] for key, label in truth(keys).items()}, tree="wordnet")
    assert [(line.depth, line.n_classes) for line in found.by_depth] == [(0, 2), (1, 1)]
    assert found.several.mean_labels == pytest.approx(4 / 3)


def test_labels_that_can_not_be_used_so_are_refused(plain, tmp_path):
    keys = plain.assignments["key"].to_pylist()
    with pytest.raises(InputError, match="'b' is not in the class tree"):
        evaluate(plain, truth(keys), tree=ClassTree({"a": None, "c": None}))
    with pytest.raises(InputError, match="there is no class tree at"):
        evaluate(plain, truth(keys), tree=tmp_path / "nowhere.csv")
    with pytest.raises(InputError, match="don't go together"):
        evaluate(plain, several(keys), tree=ClassTree(TREE))
    with pytest.raises(InputError, match="n_draws"):
        evaluate(plain, several(keys), n_draws=0)
    with pytest.raises(InputError, match="holds no labels"):
        evaluate(plain, {key: [] for key in keys})
    with pytest.raises(InputError, match="one label; several need a file"):
        evaluate(plain, "folder", multi_label=True)
    assert Run.open(plain.path).metrics == {}


def test_all_figures_are_json_whatever_was_measured(plain):
    keys = plain.assignments["key"].to_pylist()
    for labels, tree in ((several(keys), None), (truth(keys), ClassTree(TREE))):
        found = evaluate(plain, labels, tree=tree).as_dict()
        assert json.loads(json.dumps(found)) == found == Run.open(plain.path).metrics
        report(plain)
