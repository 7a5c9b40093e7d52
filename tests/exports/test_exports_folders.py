"""Folders of groups, read back by walking them; the originals, looked at before and after."""

from __future__ import annotations

import csv
import os
import shutil
import unicodedata
from pathlib import Path

import pytest

import kinfold
from kinfold.errors import InputError
from kinfold.exports._takeaway import FreeNames, safe_name, tell_apart
from support.export_runs import HOSTILE, expected

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
