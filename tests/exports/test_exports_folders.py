"""Folders, imagefolder, COCO and FiftyOne, read back by the programs that they are for."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import kinfold
from kinfold.errors import InputError
from kinfold.exports import export
from kinfold.exports._takeaway import FreeNames, safe_name, tell_apart
from support.export_runs import HOSTILE, expected, group_names, make_clustered

DEVICES = {"con", "prn", "aux", "nul", "com1", "lpt9"}


def walk(top: Path) -> dict[str, bytes]:
    """Return all files below a folder with what they hold."""
    return {
        os.path.relpath(os.path.join(folder, name), top): Path(folder, name).read_bytes()
        for folder, _, files in os.walk(top)
        for name in files
    }


def read_labels(top: Path) -> list[dict[str, str]]:
    with (top / "labels.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def look(folder: Path) -> dict[str, tuple]:
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_size, path.stat().st_mode, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("link", ["auto", "hard", "symlink", "copy"])
def test_every_image_is_in_the_folder_of_its_group(run, photos, tmp_path, link):
    before = look(photos)
    found = kinfold.export(run, "folders", tmp_path / "sorted", link=link)
    assert found.missing == ()
    files, labels = walk(found.path), read_labels(found.path)
    wanted = expected(run)
    images = {name: data for name, data in files.items() if "/" in name}
    assert set(files) - set(images) == {"labels.csv", "manifest.json"}
    assert set(images) == {line["file"] for line in labels}
    assert len(images) == len(wanted)
    folders: dict[int, set[str]] = {}
    for line, record in zip(labels, wanted, strict=True):
        assert (int(line["row"]), line["key"], int(line["cluster"])) == (
            record["row"],
            record["key"],
            record["cluster"],
        )
        source = run.images().path(record["row"])
        assert images[line["file"]] == source.read_bytes()
        target = found.path / line["file"]
        assert os.path.samefile(target, source) == (link != "copy")
        assert target.is_symlink() == (link == "symlink")
        folders.setdefault(record["cluster"], set()).add(line["file"].split("/")[0])
    assert all(len(names) == 1 for names in folders.values())
    assert folders[-1] == {"unsorted"}
    assert len(set.union(*folders.values())) == len(folders)
    assert look(photos) == before


def check_portable(names: list[str]) -> None:
    """Check the parts of paths against what Windows, macOS and Linux can't take."""
    for part in {part for name in names for part in name.split("/")}:
        assert part.encode()
        assert len(part.encode()) <= 200
        assert not set(part) & set('<>:"\\|?*')
        assert all(unicodedata.category(char) not in ("Cc", "Cs") for char in part)
        assert "\u202e" not in part
        assert not part.endswith((".", " "))
        assert not part.startswith((".", "-", " "))
        assert part.split(".")[0].casefold() not in DEVICES
    folded = [unicodedata.normalize("NFC", name).casefold() for name in names]
    assert len(set(folded)) == len(folded)


def test_names_suit_every_file_system(run, archived, tmp_path):
    for number, one in enumerate((run, archived)):
        found = kinfold.export(one, "folders", tmp_path / f"sorted{number}")
        names = [line["file"] for line in read_labels(found.path)]
        check_portable(names)
        assert all((found.path / name).resolve().is_file() for name in names)


def test_images_inside_an_archive_are_written_out(archived, tmp_path):
    found = kinfold.export(archived, "folders", tmp_path / "sorted")
    source = archived.images()
    for line, record in zip(read_labels(found.path), expected(archived), strict=True):
        assert line["key"] == record["key"]
        assert (found.path / line["file"]).read_bytes() == source.read(record["row"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sorted"]


def test_missing_originals_are_listed_and_the_rest_is_there(photos, run, tmp_path):
    source = shutil.copytree(photos, tmp_path / "photos")
    gone = {"7.png", "8.png"}
    (source / "7.png").unlink()
    (source / "8.png").unlink()
    (source / "8.png").mkdir()
    (source / "8.png" / "x").symlink_to("nowhere")
    images = run.images(photos)
    images._root = os.fsencode(source)
    from kinfold.exports import export

    found = export(run, "folders", tmp_path / "sorted", images=images)
    assert {one.key for one in found.missing} == gone
    with (found.path / "missing.csv").open(newline="", encoding="utf-8") as stream:
        listed = list(csv.DictReader(stream))
    assert {line["key"] for line in listed} == gone
    assert {line["reason"].split(":")[0] for line in listed} == {"missing", "not a regular file"}
    labels = read_labels(found.path)
    assert {line["key"] for line in labels if not line["file"]} == gone
    assert len(walk(found.path)) == len(labels) - 2 + 3


def test_names_of_groups_never_meet():
    names = {0: "a/b", 1: "a_b", 2: "A_B", 3: "unsorted", 4: "a_b (1)", 5: "x"}
    found = tell_apart({key: safe_name(name) for key, name in names.items()}, reserved=("unsorted",))
    assert len({name.casefold() for name in found.values()} | {"unsorted"}) == 7
    assert found[5] == "x"


@pytest.mark.parametrize(
    "text",
    [
        *HOSTILE,
        "",
        " ",
        ".",
        "..",
        "...",
        "COM1.tar.gz",
        "lpt¹",
        "a" * 300,
        "é" * 200,
        "x. .",
        "\x00\x1f",
        "//",
        "Aux ",
    ],
)
def test_any_text_becomes_a_name_that_is_taken_everywhere(text, tmp_path):
    name = safe_name(text)
    check_portable([name])
    assert len(name.encode()) <= 120
    (tmp_path / name).write_text("")
    assert safe_name(name) == name


def test_files_of_one_name_are_numbered():
    free = FreeNames()
    taken = [free.take(stem, ".png") for stem in ("a", "A", "a", "a-2", "a", "a-2")]
    assert taken == ["a.png", "A-2.png", "a-3.png", "a-2-2.png", "a-4.png", "a-2-3.png"]
    assert len({name.casefold() for name in taken}) == len(taken)


def test_an_unknown_way_of_linking_is_refused(run, tmp_path):
    with pytest.raises(InputError, match="symlink"):
        kinfold.export(run, "folders", tmp_path / "x", link="symlnk")


def read_pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def check_labels(run, labels: dict[int, str | None]) -> None:
    """Check labels by row: one per group, like its name, and none for what is in no group."""
    of_group = {}
    names = group_names(run)
    for record in expected(run):
        label, cluster = labels[record["row"]], record["cluster"]
        assert (label is None) == (cluster == -1)
        if label is not None:
            assert of_group.setdefault(cluster, label) == label
            assert label.startswith(names[cluster] or f"group {cluster}")
    assert len({label.casefold() for label in of_group.values()}) == len(of_group) == len(set(names))


@pytest.mark.parametrize("which", ["run", "archived"])
def test_datasets_loads_the_image_folder(which, request, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")
    run = request.getfixturevalue(which)
    found = kinfold.export(run, "imagefolder", tmp_path / "for test use", link="symlink")
    loaded = datasets.load_dataset("imagefolder", data_dir=str(found.path), cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["train"]
    lines, images, wanted = list(loaded["train"]), run.images(), expected(run)
    assert len(lines) == len(wanted)
    for line, record in zip(sorted(lines, key=lambda line: line["row"]), wanted, strict=True):
        assert {name: line[name] for name in record} == record
        pixels = np.asarray(line["image"].convert("RGB"))
        assert np.array_equal(pixels, read_pixels(images.read(record["row"])))
    check_labels(run, {line["row"]: line["label"] for line in lines})


def test_the_metadata_have_a_line_for_every_image_that_is_there(run, tmp_path):
    images = run.images()
    gone = [record["row"] for record in expected(run)[::5]]
    images.path = lambda row, path=images.path: path(row).with_name("gone") if row in gone else path(row)
    found = export(run, "imagefolder", tmp_path / "folder", images=images)
    assert [one.row for one in found.missing] == gone
    lines = [json.loads(line) for line in (found.path / "metadata.jsonl").read_text().splitlines()]
    rest = [record for record in expected(run) if record["row"] not in gone]
    assert [{name: line[name] for name in rest[0]} for line in lines] == rest
    files = {path.relative_to(found.path).as_posix() for path in (found.path / "images").rglob("*")}
    assert files == {line["file_name"] for line in lines}
    for line in lines:
        assert (found.path / line["file_name"]).read_bytes() == images.read(line["row"])


def check_coco(coco: dict, run, folder) -> None:
    images = {image["id"]: image for image in coco["images"]}
    categories = {category["id"]: category for category in coco["categories"]}
    annotations = {annotation["image_id"]: annotation for annotation in coco["annotations"]}
    assert len(images) == len(coco["images"])
    assert len(annotations) == len(coco["annotations"])
    assert 0 not in categories
    assert 0 not in {annotation["id"] for annotation in annotations.values()}
    for record in expected(run):
        image = images[record["row"]]
        assert (image["key"], image["mark"]) == (record["key"], record["mark"])
        with Image.open(folder / "images" / image["file_name"]) as opened:
            assert opened.size == (image["width"], image["height"])
        assert (record["row"] in annotations) == (record["cluster"] >= 0)
        if record["cluster"] >= 0:
            annotation = annotations[record["row"]]
            assert categories[annotation["category_id"]]["cluster"] == record["cluster"]
            assert annotation["score"] == pytest.approx(record["confidence"])
            assert annotation["bbox"] == [0, 0, image["width"], image["height"]]
    rows = [record["row"] for record in expected(run)]
    labels = dict.fromkeys(rows)
    for row, annotation in annotations.items():
        labels[row] = categories[annotation["category_id"]]["name"]
    check_labels(run, labels)


@pytest.mark.parametrize("which", ["run", "archived"])
def test_coco_is_complete(which, request, tmp_path):
    run = request.getfixturevalue(which)
    found = export(run, "coco", tmp_path / "coco", images=run.images())
    assert {path.name for path in found.path.iterdir()} == {"annotations.json", "images", "manifest.json"}
    check_coco(json.loads((found.path / "annotations.json").read_text()), run, found.path)


def test_pycocotools_opens_it(run, tmp_path):
    module = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    found = export(run, "coco", tmp_path / "coco", images=run.images())
    coco = module.COCO(str(found.path / "annotations.json"))
    check_coco(coco.dataset, run, found.path)
    wanted = expected(run)
    for category in coco.loadCats(coco.getCatIds()):
        rows = set(coco.getImgIds(catIds=[category["id"]]))
        assert rows == {record["row"] for record in wanted if record["cluster"] == category["cluster"]}
    ids = coco.getAnnIds(areaRng=[1, 1e9], iscrowd=False)
    assert len(ids) == sum(record["cluster"] >= 0 for record in wanted)


def test_coco_lists_what_has_no_size_any_more(run, photos, tmp_path):
    source = shutil.copytree(photos, tmp_path / "photos")
    (source / "9.png").write_bytes(b"no image")
    images = run.images(source)
    found = export(run, "coco", tmp_path / "coco", images=images)
    (missing,) = found.missing
    assert missing.key == "9.png"
    assert missing.reason.startswith("corrupt")
    coco = json.loads((found.path / "annotations.json").read_text())
    assert len(coco["images"]) == len(expected(run)) - 1
    assert missing.row not in {image["id"] for image in coco["images"]}
    assert len(list((found.path / "images").iterdir())) == len(coco["images"])


def check_fiftyone(samples: dict[int, dict | None], run) -> None:
    for record in expected(run):
        sample = samples[record["row"]]
        assert sample["confidence"] == pytest.approx(record["confidence"])
        for name in record.keys() - {"confidence"}:
            assert sample[name] == record[name]
    labels = {row: sample["label"] for row, sample in samples.items()}
    check_labels(run, {row: None if label == "unsorted" else label for row, label in labels.items()})


@pytest.mark.parametrize("which", ["run", "archived"])
def test_fiftyone_labels_name_files_by_the_documented_rules(which, request, tmp_path):
    run = request.getfixturevalue(which)
    found = kinfold.export(run, "fiftyone", tmp_path / "fiftyone")
    content = json.loads((found.path / "labels.json").read_text())
    files = {path.stem: path for path in (found.path / "data").iterdir()}
    assert files.keys() == content["labels"].keys()
    samples, images = {}, run.images()
    for stem, target in content["labels"].items():
        label = target["label"] if isinstance(target["label"], str) else content["classes"][target["label"]]
        row = target["attributes"]["row"]
        samples[row] = {"label": label, "confidence": target["confidence"], **target["attributes"]}
        assert files[stem].read_bytes() == images.read(row)
    check_fiftyone(samples, run)


def test_fiftyone_imports_it(run, tmp_path):
    importers = pytest.importorskip("fiftyone.utils.data.importers", reason="fiftyone is not installed")
    found = kinfold.export(run, "fiftyone", tmp_path / "fiftyone")
    importer = importers.FiftyOneImageClassificationDatasetImporter(dataset_dir=str(found.path))
    importer.setup()
    samples, images = {}, run.images()
    for path, _, label in importer:
        samples[label["row"]] = label
        with open(path, "rb") as stream:
            assert stream.read() == images.read(label["row"])
    check_fiftyone(samples, run)


class Drawn:
    """Images out of nowhere, without files."""

    def __init__(self, n: int) -> None:
        self.keys = [f"{i}.png" for i in range(n)]

    def path(self, row):
        return None

    def read(self, row):
        return b"an image"


def test_large_sets_are_in_subfolders(made_run, tmp_path, monkeypatch):
    monkeypatch.setattr("kinfold.exports._job._SHARD", 100)
    images = Drawn(201)
    run = made_run(images.keys, np.zeros(201, np.int64), 1)
    found = export(run, "fiftyone", tmp_path / "fiftyone", images=images)
    counts = {folder.name: len(list(folder.iterdir())) for folder in (found.path / "data").iterdir()}
    assert counts == {"0": 100, "1": 100, "2": 1}
    content = json.loads((found.path / "labels.json").read_text())
    assert content["labels"].keys() == {f"{row // 100}/{row:03d}" for row in range(201)}


def test_coco_has_the_size_of_every_image_that_the_run_could_read(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    photos = tmp_path / "photos"
    photos.mkdir()
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 40, 3)).astype(np.uint8))
    pillow_heif.from_pillow(picture).save(photos / "a.HEIC")
    picture.save(photos / "b.jp2")
    picture.save(photos / "c.ppm")
    picture.convert("L").save(photos / "d.pgm")
    picture.save(photos / "e.jpg")
    run = make_clustered(tmp_path, photos)
    found = export(run, "coco", tmp_path / "coco", images=run.images())
    written = json.loads((tmp_path / "coco" / "annotations.json").read_text())["images"]
    assert [(image["width"], image["height"]) for image in written] == [(40, 24)] * 5
    assert not found.missing
