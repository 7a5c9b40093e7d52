"""Claims about archives, tables and folders as other programs leave them."""

from __future__ import annotations

import io
import json
import logging
import os
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kinfold.errors import InputError
from kinfold.images import SkipReason, UnusableImage, open_source


def write_tar(path: Path, *names: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 3
            archive.addfile(info, io.BytesIO(b"abc"))
    return path


def write_zip(path: Path, *names: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, name)
    return path


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


NAMES = ("./a.png", "/b.png", "x//c.png", "../d.png", "x/../e.png", "../..", "./f.png", "f.png")
KEYS = ["a.png", "b.png", "d.png", "e.png", "f.png", "f.png#2", "unnamed", "x/c.png"]


def test_no_name_in_a_zip_makes_its_image_vanish(tmp_path):
    source = open_source(write_zip(tmp_path / "a.zip", *NAMES, "y\\g.png"))
    assert list(source.keys) == [*KEYS, "y/g.png"]
    assert sorted(source.read(row) for row in range(len(source))) == sorted(
        name.encode() for name in (*NAMES, "y\\g.png")
    )


def test_no_name_in_a_tar_makes_its_image_vanish(tmp_path):
    source = open_source(write_tar(tmp_path / "a.tar", *NAMES, "y\\g.png"))
    assert list(source.keys) == [*KEYS, "y/g.png"]


def test_several_zips_are_one_source_and_a_broken_one_is_a_row(tmp_path):
    write_zip(tmp_path / "t" / "takeout-2.zip", "Takeout/2.png")
    write_zip(tmp_path / "t" / "takeout-10.zip", "Takeout/1.png", "./Takeout/x.json")
    (tmp_path / "t" / "takeout-11.zip").write_bytes(b"PK\x03\x04 cut")
    for spec in (tmp_path / "t", tmp_path / "t" / "takeout-*.zip"):
        source = open_source(spec)
        assert list(source.keys) == [
            "takeout-2.zip/Takeout/2.png",
            "takeout-10.zip/Takeout/1.png",
            "takeout-10.zip/Takeout/x.json",
            "takeout-11.zip",
        ]
        assert source.read(1) == b"Takeout/1.png"
        with pytest.raises(UnusableImage) as found:
            source.read(3)
        assert found.value.reason is SkipReason.UNREADABLE
        assert source.fingerprint()


def test_the_folder_of_img2dataset_is_its_tar_files(tmp_path):
    for number in range(2):
        write_tar(tmp_path / f"{number:05d}.tar", "0.jpg", "0.json", "0.txt")
        pq.write_table(pa.table({"key": ["0"], "status": ["success"]}), tmp_path / f"{number:05d}.parquet")
        write(tmp_path, f"{number:05d}_stats.json")
    assert list(open_source(tmp_path).keys) == ["00000.tar/0.jpg", "00001.tar/0.jpg"]


def test_shards_in_folders_below_are_found(tmp_path):
    write_tar(tmp_path / "a" / "0.tar", "x.jpg")
    write_tar(tmp_path / "b" / "c" / "0.TAR", "x.jpg")
    write(tmp_path, "README.md", "LICENSE")
    assert list(open_source(tmp_path).keys) == ["a/0.tar/x.jpg", "b/c/0.TAR/x.jpg"]


def test_a_data_set_as_the_hub_has_it_is_its_parquet_files_of_images(tmp_path):
    (tmp_path / "data").mkdir()
    for number in range(2):
        table = pa.table({"image": [{"bytes": b"abc", "path": f"{number}.png"}]})
        pq.write_table(table, tmp_path / "data" / f"train-{number}-of-2.parquet")
    pq.write_table(pa.table({"n": [1]}), tmp_path / "metadata.parquet")
    write(tmp_path, "README.md", "dataset_infos.json", ".gitattributes")
    assert list(open_source(tmp_path).keys) == ["0.png", "1.png"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["0.tar.gz", "1.tar.gz"], "compressed .* unpack them first"),
        (["a/0.tgz"], "compressed"),
        (["data-00000-of-00001.arrow", "state.json", "dataset_info.json"], "load_from_disk"),
        (["img_emb/0.npy", "text_emb/0.npy", "metadata/x.json"], r"holds features.*\*\.npy"),
        (["a.npz", "b.txt"], "holds features"),
    ],
)
def test_folders_that_cannot_be_read_say_what_lies_there_and_how_to_give_it(tmp_path, names, words):
    write(tmp_path, *names)
    with pytest.raises(InputError, match=words):
        open_source(tmp_path)


def test_tars_and_zips_together_are_asked_about(tmp_path):
    write_tar(tmp_path / "0.tar", "x.jpg")
    write_zip(tmp_path / "0.zip", "x.jpg")
    with pytest.raises(InputError, match=r"tar files and zip files.*0\.tar.*0\.zip"):
        open_source(tmp_path)


def test_containers_among_images_are_rows_and_told(tmp_path, caplog):
    write_zip(write(tmp_path, "a.jpg") / "b.zip", "x.jpg")
    with caplog.at_level(logging.WARNING):
        assert list(open_source(tmp_path).keys) == ["a.jpg", "b.zip"]
    assert "b.zip" in caplog.text


@pytest.mark.parametrize("folder", ["trip [2023]", "a{b,c}", "what?", "[ab]"])
def test_a_folder_that_is_there_is_no_pattern(tmp_path, folder):
    write(tmp_path, f"{folder}/1.png", f"{folder}/x [1]/2.png")
    assert list(open_source(tmp_path / folder / "*.png").keys) == ["1.png"]
    assert list(open_source(tmp_path / folder / "**" / "*.png").keys) == ["1.png", "x [1]/2.png"]
    assert list(open_source(tmp_path / "*" / "x [1]" / "*.png").keys) == [f"{folder}/x [1]/2.png"]


def table(folder: Path, line: str, head: str = "path\n") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "list.csv").write_text(head + "".join(line.format(n) + "\n" for n in range(3)))
    return folder / "list.csv"


@pytest.mark.parametrize(
    ("place", "line", "head"),
    [
        (".", "photos/{} x.png", ""),
        ("lists", "..\\photos\\{} x.png", "path\n"),
        ("lists", "../photos/{} x.png;a", "path;label\n"),
        ("lists", "photos/{} x.png", "path\n"),
        ("photos", "photos/{} x.png", "path\n"),
        (".", "{} x.png", "path\n"),
        ("lists", "file://HERE/photos/{}%20x.png", "path\n"),
        ("far/away", "photos/{} x.png", "path\n"),
    ],
)
def test_paths_are_found_for_the_common_reasons_that_they_are_not(tmp_path, monkeypatch, place, line, head):
    write(tmp_path, *[f"photos/{n} x.png" for n in range(3)])
    monkeypatch.chdir(tmp_path)
    source = open_source(table(tmp_path / place, line.replace("HERE", str(tmp_path)), head))
    assert [source.read(row) for row in range(3)] == [f"photos/{n} x.png".encode() for n in range(3)]
    monkeypatch.chdir("/")
    assert source.read(0) == b"photos/0 x.png"
    again = open_source(source.uri, base=source.base)
    assert [again.read(row) for row in range(3)] == [source.read(row) for row in range(3)]


def test_one_path_that_is_there_settles_where_paths_begin(tmp_path):
    write(tmp_path, "lists/0.png", "0.png", "1.png", "2.png")
    source = open_source(table(tmp_path / "lists", "{}.png"))
    assert source.read(0) == b"lists/0.png"
    with pytest.raises(UnusableImage, match=r"there is no file .*lists/1\.png"):
        source.read(1)


def test_paths_that_are_nowhere_are_shown_as_they_were_looked_for(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        source = open_source(table(tmp_path / "lists", "nowhere/{}.png"))
    assert f"{tmp_path}/lists/nowhere/0.png" in caplog.text
    with pytest.raises(UnusableImage, match=f"{tmp_path}/lists/nowhere/0.png") as found:
        source.read(0)
    assert found.value.reason is SkipReason.MISSING


def test_addresses_on_the_web_are_not_looked_for(tmp_path):
    source = open_source(table(tmp_path, "https://example.org/{}.png"))
    with pytest.raises(UnusableImage, match="fetch the images first"):
        source.read(0)


def test_a_path_that_is_not_utf8_is_found_from_a_table_that_is_not(tmp_path):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")).write_bytes(b"x")
    (tmp_path / "a.csv").write_bytes(b"path\ncaf\xe9.png\n")
    assert open_source(tmp_path / "a.csv").read(0) == b"x"


@pytest.mark.parametrize("kind", [pa.string_view(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())])
def test_paths_of_every_type_of_string_are_read(tmp_path, kind):
    write(tmp_path, "a.png")
    column = pa.array(["a.png"]).cast(kind) if pa.types.is_dictionary(kind) else pa.array(["a.png"], kind)
    pq.write_table(pa.table({"path": column, "note": ["x"]}), tmp_path / "a.PQ")
    assert open_source(tmp_path / "a.PQ").read(0) == b"a.png"
    assert list(open_source(tmp_path / "a.PQ", path_column="path", key_column="note").keys) == ["x"]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(3)])
def test_images_of_every_type_of_bytes_are_read(tmp_path, kind):
    data = pa.array([b"abc", b"def"], kind)
    pq.write_table(pa.table({"image": data}), tmp_path / "a.parquet")
    text = pa.string_view()
    struct = pa.StructArray.from_arrays([data, pa.array(["p", "q"], text)], names=["bytes", "path"])
    pq.write_table(pa.table({"image": struct}), tmp_path / "b.parquet")
    for name, keys in (("a", ["a.parquet/0", "a.parquet/1"]), ("b", ["p", "q"])):
        source = open_source(tmp_path / f"{name}.parquet")
        assert list(source.keys) == keys
        assert [source.read(row) for row in (0, 1)] == [b"abc", b"def"]


def test_a_name_that_is_not_there_is_told_with_the_nearest(tmp_path):
    write(tmp_path, "photos/a.png")
    with pytest.raises(InputError, match=r"no 'fotos' in .*did you mean 'photos'"):
        open_source(tmp_path / "fotos" / "deeper")


def test_notes_alone_are_files_of_a_folder(tmp_path):
    write(tmp_path, "a.json").joinpath("b.txt").write_text(json.dumps({}))
    assert list(open_source(tmp_path).keys) == ["a.json", "b.txt"]
