from __future__ import annotations

import io
import os
import pickle
import socket
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kinfold.errors import InputError
from kinfold.images import (
    ImageSource,
    SkipReason,
    UnusableImage,
    decode_key,
    natural_key,
    open_source,
)
from support import hostile_files
from support.hostile_files import encode, photo

PICTURE = encode(photo(8, 8), "PNG")


def write(folder: Path, *names: str) -> Path:
    """Write files whose content is their own name."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def contents(source: ImageSource) -> dict[str, bytes]:
    return {key: source.read(row) for row, key in enumerate(source.keys)}


def trouble(source: ImageSource, key: str) -> UnusableImage:
    with pytest.raises(UnusableImage) as found:
        source.read(list(source.keys).index(key))
    return found.value


def rows_by_reader(source: ImageSource) -> list[bytes]:
    """Read everything the way a worker process does."""
    reader = pickle.loads(pickle.dumps(source.reader()))
    return [reader.read(pickle.loads(pickle.dumps(source.locate(row)))) for row in range(len(source))]


class TestFolder:
    def test_every_file_at_any_depth_is_a_row_in_natural_order(self, tmp_path):
        deep = "/".join(f"d{level}" for level in range(300))
        names = ["a/2.jpg", "a/10.jpg", "a b.png", "b", f"{deep}/x.webp", "z.txt"]
        source = open_source(write(tmp_path, *names))
        assert source.kind == "folder"
        assert source.uri == str(tmp_path)
        assert list(source.keys) == sorted(names, key=natural_key)
        assert list(source.keys)[:2] == ["a/2.jpg", "a/10.jpg"]
        assert contents(source) == {name: name.encode() for name in names}
        assert [source.path(row) for row in range(len(source))] == [tmp_path / key for key in source.keys]

    def test_hidden_names_and_clutter_are_ignored(self, tmp_path):
        clutter = [
            ".DS_Store",
            "a/Thumbs.db",
            "desktop.ini",
            "__MACOSX/x.jpg",
            ".git/x.jpg",
            "a/.x.jpg",
            "._x.jpg",
        ]
        assert list(open_source(write(tmp_path, "a/x.jpg", *clutter)).keys) == ["a/x.jpg"]

    def test_runs_and_feature_stores_below_the_folder_are_ignored(self, tmp_path):
        write(tmp_path, "a/x.jpg", "run/thumb.jpg", "run/features/y.npy", "b/z.jpg")
        (tmp_path / "run/manifest.json").write_text('{\n  "format": "kinfold-run",')
        (tmp_path / "b/manifest.json").write_text('{"format": "another"}')
        assert list(open_source(tmp_path).keys) == ["a/x.jpg", "b/manifest.json", "b/z.jpg"]

    def test_a_pipe_that_is_named_as_a_manifest_is_not_waited_for(self, tmp_path):
        write(tmp_path, "a/x.jpg")
        os.mkfifo(tmp_path / "a" / "manifest.json")
        source = open_source(tmp_path)
        assert list(source.keys) == ["a/manifest.json", "a/x.jpg"]
        assert trouble(source, "a/manifest.json").reason is SkipReason.NOT_A_FILE

    def test_a_run_beside_shards_leaves_them_shards(self, tmp_path):
        for number in range(2):
            with tarfile.open(tmp_path / f"{number}.tar", "w") as archive:
                info = tarfile.TarInfo("x.jpg")
                info.size = 3
                archive.addfile(info, io.BytesIO(b"abc"))
        write(tmp_path, "run/manifest.json").joinpath("run/manifest.json").write_text(
            '{"format": "kinfold-run"'
        )
        source = open_source(tmp_path)
        assert source.kind == "webdataset"
        assert list(source.keys) == ["0.tar/x.jpg", "1.tar/x.jpg"]

    def test_names_of_any_bytes_are_found_again(self, tmp_path):
        for number, raw in enumerate(hostile_files.odd_names()):
            path = os.path.join(os.fsencode(tmp_path), raw.split(b"\0")[0])
            Path(os.fsdecode(path)).write_bytes(str(number).encode())
        source = open_source(tmp_path)
        assert len(source) == len(hostile_files.odd_names())
        for row, key in enumerate(source.keys):
            number = int(source.read(row))
            raw, _, other = hostile_files.odd_names()[number].partition(b"\0")
            assert decode_key(key) == raw
            assert key == (other or raw).decode()
            assert source.path(row).read_bytes() == str(number).encode()

    def test_links_are_followed(self, tmp_path):
        inside, outside = tmp_path / "in", write(tmp_path / "out", "1.jpg", "deeper/2.jpg")
        inside.mkdir()
        (inside / "folder").symlink_to(outside)
        (inside / "again").symlink_to(outside)
        (inside / "file.jpg").symlink_to(outside / "1.jpg")
        keys = ["again/1.jpg", "again/deeper/2.jpg", "file.jpg", "folder/1.jpg", "folder/deeper/2.jpg"]
        assert list(open_source(inside).keys) == keys

    @pytest.mark.parametrize("through_a_link", [False, True])
    def test_a_link_to_above_the_source_brings_in_nothing_from_beside_it(self, tmp_path, through_a_link):
        write(tmp_path, "beside.jpg", "other/x.jpg", "deep/weird/sub/a.jpg", "deep/next.jpg")
        weird = tmp_path / "deep" / "weird"
        (weird / "loop").symlink_to("..")
        (weird / "sub" / "far").symlink_to(tmp_path)
        (weird / "beside").symlink_to(tmp_path / "other")
        (tmp_path / "entry").symlink_to(weird)
        source = open_source(tmp_path / "entry" if through_a_link else weird)
        assert list(source.keys) == ["beside/x.jpg", "loop", "sub/a.jpg", "sub/far"]
        for key in ("loop", "sub/far"):
            assert trouble(source, key).reason is SkipReason.DIRECTORY_LOOP
            assert "above the source" in trouble(source, key).detail

    def test_crossed_links_end_and_lose_no_file(self, tmp_path):
        for one in range(12):
            write(tmp_path, f"{one}/picture.jpg")
            for other in range(12):
                (tmp_path / str(one) / f"to {other}").symlink_to(f"../{other}")
        source = open_source(tmp_path)
        assert {f"{one}/picture.jpg" for one in range(12)} <= set(source.keys)
        assert len(source) < 10_000

    def test_what_is_no_file_is_a_row_with_its_reason(self, tmp_path):
        expected = {
            key: reason
            for group in (hostile_files._links, hostile_files._specials)
            for key, reason in group(tmp_path).items()
        }
        source = open_source(tmp_path)
        assert {key: trouble(source, key).reason for key in source.keys} == expected

    def test_a_file_that_turns_into_a_pipe_is_not_waited_for(self, tmp_path):
        source = open_source(write(tmp_path, "a.jpg", "b.jpg", "c.jpg"))
        for key in source.keys:
            (tmp_path / key).unlink()
        os.mkfifo(tmp_path / "a.jpg")
        (tmp_path / "b.jpg").mkdir()
        assert trouble(source, "a.jpg").reason is SkipReason.NOT_A_FILE
        assert trouble(source, "b.jpg").reason is SkipReason.NOT_A_FILE
        assert trouble(source, "c.jpg").reason is SkipReason.MISSING

    @pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may open everything")
    def test_what_may_not_be_opened_is_unreadable(self, tmp_path):
        expected = hostile_files._forbidden(tmp_path)
        source = open_source(tmp_path)
        assert {key: trouble(source, key).reason for key in source.keys} == expected

    def test_what_the_system_refuses_is_unreadable(self, tmp_path, monkeypatch):
        source = open_source(write(tmp_path, "a.jpg"))

        def refuse(path, flags):
            raise PermissionError(13, "Permission denied", path)

        monkeypatch.setattr(os, "open", refuse)
        assert str(trouble(source, "a.jpg")) == "unreadable: Permission denied"

    def test_a_folder_that_the_system_refuses_is_a_row(self, tmp_path, monkeypatch):
        write(tmp_path, "a/1.jpg", "b/2.jpg", "c.jpg")
        scan = os.scandir

        def refuse(path):
            if os.fsencode(path).endswith(b"/a"):
                raise PermissionError(13, "Permission denied", path)
            return scan(path)

        monkeypatch.setattr(os, "scandir", refuse)
        source = open_source(tmp_path)
        assert list(source.keys) == ["a", "b/2.jpg", "c.jpg"]
        assert str(trouble(source, "a")) == "unreadable: the folder can't be opened: Permission denied"

    def test_huge_files_that_are_no_images_are_not_read(self, tmp_path):
        with (tmp_path / "video.mp4").open("wb") as stream:
            stream.truncate(1 << 40)
        with (tmp_path / "sparse.png").open("wb") as stream:
            stream.write(PICTURE)
            stream.truncate(1 << 40)
        source = open_source(tmp_path)
        assert trouble(source, "video.mp4").reason is SkipReason.NOT_AN_IMAGE
        assert trouble(source, "sparse.png").reason is SkipReason.TOO_LARGE

    def test_the_fingerprint_follows_names_sizes_and_times_but_not_the_place(self, tmp_path):
        folder = write(tmp_path / "one", "a.jpg", "b/c.jpg")
        first = open_source(folder).fingerprint()
        assert open_source(folder).fingerprint() == first
        folder = folder.rename(tmp_path / "two")
        assert open_source(folder).fingerprint() == first
        os.utime(folder / "a.jpg", (1, 1))
        second = open_source(folder).fingerprint()
        (folder / "b" / "c.jpg").rename(folder / "b" / "d.jpg")
        assert len({first, second, open_source(folder).fingerprint()}) == 3

    def test_a_source_can_be_pickled(self, tmp_path):
        source = open_source(write(tmp_path, "a.jpg"))
        source.read(0)
        again = pickle.loads(pickle.dumps(source))
        assert contents(again) == contents(source)
        assert again.fingerprint() == source.fingerprint()

    def test_an_empty_folder_is_refused(self, tmp_path):
        write(tmp_path, ".hidden")
        with pytest.raises(InputError, match="holds no files"):
            open_source(tmp_path)

    def test_one_image_is_a_source_too(self, tmp_path):
        write(tmp_path, "a[1].jpg", "b.jpg")
        source = open_source(tmp_path / "a[1].jpg")
        assert contents(source) == {"a[1].jpg": b"a[1].jpg"}


class TestGlob:
    NAMES = ("a/1.jpg", "a/2.PNG", "a/b/3.jpg", "c/4.jpg", "c/x{1}.gif", "5.jpg")

    @pytest.mark.parametrize(
        ("pattern", "keys"),
        [
            ("*.jpg", ["5.jpg"]),
            ("**/*.jpg", ["5.jpg", "a/1.jpg", "a/b/3.jpg", "c/4.jpg"]),
            ("*/*.jpg", ["a/1.jpg", "c/4.jpg"]),
            ("a/**/*.jpg", ["1.jpg", "b/3.jpg"]),
            ("a/**", ["1.jpg", "2.PNG", "b/3.jpg"]),
            ("{a,c}/?.jpg", ["a/1.jpg", "c/4.jpg"]),
            ("a/{1..2}.*", ["1.jpg", "2.PNG"]),
            ("a/[!1].*", ["2.PNG"]),
            ("a/[0-9].jpg", ["1.jpg"]),
        ],
    )
    def test_patterns_match_as_in_a_shell(self, tmp_path, pattern, keys):
        source = open_source(f"{write(tmp_path, *self.NAMES)}/{pattern}")
        assert source.kind == "glob"
        assert sorted(source.keys) == keys
        assert list(source.keys) == sorted(source.keys, key=natural_key)
        assert all(source.path(row).read_bytes() == source.read(row) for row in range(len(source)))

    def test_a_pattern_without_matches_is_refused(self, tmp_path):
        with pytest.raises(InputError, match="matches no file"):
            open_source(f"{write(tmp_path, 'a.jpg')}/*.png")

    @pytest.mark.parametrize("pattern", ["[z-a].jpg", "{0..99999999999}.jpg", "no/such/*.jpg", "none.jpg"])
    def test_impossible_patterns_and_paths_are_refused(self, tmp_path, pattern):
        with pytest.raises(InputError):
            open_source(f"{write(tmp_path, 'a.jpg')}/{pattern}")

    def test_a_folder_whose_name_looks_like_a_pattern_is_a_folder(self, tmp_path):
        folder = write(tmp_path / "trip [2024] {a}", "x.jpg")
        assert contents(open_source(folder)) == {"x.jpg": b"x.jpg"}

    def test_a_loop_below_a_pattern_ends(self, tmp_path):
        write(tmp_path, "a/1.jpg")
        (tmp_path / "a" / "loop.jpg").symlink_to("..")
        source = open_source(f"{tmp_path}/**/*.jpg")
        assert trouble(source, "a/loop.jpg").reason is SkipReason.DIRECTORY_LOOP
        assert len(source) == 2


class TestZip:
    def zip(self, path: Path, *names: str, method: int = zipfile.ZIP_DEFLATED) -> Path:
        with zipfile.ZipFile(path, "w", method) as archive:
            for name in names:
                archive.writestr(name, name.encode() * 100)
        return path

    @pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
    def test_members_are_rows_in_natural_order(self, tmp_path, method):
        names = ["b/10.jpg", "b/9.jpg", "ü/ж 🐈\n.jpg", "a.jpg"]
        clutter = ["__MACOSX/b/._9.jpg", ".DS_Store", "b/Thumbs.db", "folder/"]
        source = open_source(self.zip(tmp_path / "photos.zip", *names, *clutter, method=method))
        assert source.kind == "zip"
        assert list(source.keys) == sorted(names, key=natural_key)
        assert contents(source) == {name: name.encode() * 100 for name in names}
        assert rows_by_reader(source) == list(contents(source).values())
        assert source.path(0) is None

    def test_names_in_unmarked_utf8_and_in_cp437_are_read(self, tmp_path):
        path = self.zip(tmp_path / "a.zip", "ab.jpg", "cd.jpg")
        data = path.read_bytes().replace(b"ab.jpg", "ü.jpg".encode()).replace(b"cd.jpg", b"\x81d.jpg")
        path.write_bytes(data)
        assert sorted(open_source(path).keys) == ["ü.jpg", "üd.jpg"]

    @pytest.mark.filterwarnings("ignore:Duplicate name")
    def test_repeated_names_become_different(self, tmp_path):
        source = open_source(self.zip(tmp_path / "a.zip", "a.jpg", "a.jpg"))
        assert list(source.keys) == ["a.jpg", "a.jpg#2"]

    def test_damaged_members_cost_only_themselves(self, tmp_path):
        path = self.zip(tmp_path / "a.zip", "a.jpg", "b.jpg", "c.jpg", method=zipfile.ZIP_STORED)
        data = bytearray(path.read_bytes())
        data[data.index(b"a.jpga.jpg") + 10] ^= 255
        data[data.index(b"PK\x03\x04", 100) : data.index(b"b.jpg")] = bytes(30)
        path.write_bytes(data)
        source = open_source(path)
        assert trouble(source, "a.jpg").reason is SkipReason.CORRUPT
        assert trouble(source, "b.jpg").reason is SkipReason.UNREADABLE
        assert source.read(2) == b"c.jpg" * 100

    def test_a_member_that_unpacks_to_far_more_is_not_unpacked(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("bomb.png", bytes(200 << 20))
        assert trouble(open_source(tmp_path / "a.zip"), "bomb.png").reason is SkipReason.NOT_AN_IMAGE

    def test_links_and_encrypted_members_are_listed(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            link = zipfile.ZipInfo("link.jpg")
            link.external_attr = 0o120777 << 16
            archive.writestr(link, "target.jpg")
            archive.writestr("secret.jpg", "x")
        data = bytearray((tmp_path / "a.zip").read_bytes())
        data[data.rindex(b"PK\x01\x02") + 8] |= 1
        (tmp_path / "a.zip").write_bytes(data)
        source = open_source(tmp_path / "a.zip")
        assert trouble(source, "link.jpg").reason is SkipReason.NOT_A_FILE
        assert str(trouble(source, "secret.jpg")) == "unreadable: it is encrypted"

    def test_what_is_no_zip_is_refused(self, tmp_path):
        (tmp_path / "a.zip").write_bytes(b"no archive")
        with pytest.raises(InputError, match=r"a\.zip can't be read as a zip"):
            open_source(tmp_path / "a.zip")

    def test_the_fingerprint_follows_the_content(self, tmp_path):
        first = open_source(self.zip(tmp_path / "a.zip", "a.jpg", "b.jpg")).fingerprint()
        assert open_source(self.zip(tmp_path / "b.zip", "a.jpg", "b.jpg")).fingerprint() == first
        assert open_source(self.zip(tmp_path / "c.zip", "a.jpg", "c.jpg")).fingerprint() != first


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


class TestWebDataset:
    def test_images_are_rows_and_their_annotations_are_not(self, tmp_path):
        members = {
            "a/2.jpg": b"two",
            "a/2.cls": b"5",
            "a/2.json": b"{}",
            "a/10.left.png": b"ten",
            "a/10.right.png": b"also ten",
            "a/10.txt": b"caption",
            "readme.txt": b"no image",
            "./b.webp": b"dot",
            "._b.webp": b"clutter",
        }
        source = open_source(write_tar(tmp_path / "x.tar", members))
        assert source.kind == "webdataset"
        assert contents(source) == {
            "a/2.jpg": b"two",
            "a/10.left.png": b"ten",
            "a/10.right.png": b"also ten",
            "b.webp": b"dot",
            "readme.txt": b"no image",
        }
        assert list(source.keys) == sorted(source.keys, key=natural_key)
        assert rows_by_reader(source) == list(contents(source).values())

    @pytest.mark.parametrize(
        "spec", ["shards/train-{0..2}.tar", "shards/*.tar", "shards", "shards/train-{0,1,2}.tar"]
    )
    def test_keys_of_several_shards_begin_with_the_shard(self, tmp_path, spec):
        for shard in range(3):
            write_tar(tmp_path / "shards" / f"train-{shard}.tar", {"0.jpg": b"%d" % shard})
        write(tmp_path / "shards", "README.md")
        source = open_source(f"{tmp_path}/{spec}")
        assert contents(source) == {f"train-{shard}.tar/0.jpg": b"%d" % shard for shard in range(3)}

    def test_many_shards_are_read_with_few_open_files(self, tmp_path):
        for shard in range(30):
            write_tar(tmp_path / f"{shard}.tar", {"0.jpg": b"%d" % shard})
        source = open_source(tmp_path)
        source.read(0)
        before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        assert [int(source.read(row)) for row in range(30)] == list(range(30))
        if before:
            assert len(os.listdir("/proc/self/fd")) < before + 10

    def test_a_shard_that_ends_early_is_told_and_the_rest_is_there(self, tmp_path):
        whole = write_tar(tmp_path / "a.tar", {"0.jpg": b"x" * 2000, "1.jpg": b"y" * 2000})
        write_tar(tmp_path / "b.tar", {"0.jpg": b"z"})
        whole.write_bytes(whole.read_bytes()[: 512 + 2048 + 512 + 1000])
        source = open_source(tmp_path)
        assert source.read(0) == b"x" * 2000
        assert trouble(source, "a.tar/1.jpg").reason is SkipReason.TRUNCATED
        assert source.read(list(source.keys).index("b.tar/0.jpg")) == b"z"

    def test_a_damaged_listing_is_a_row(self, tmp_path):
        path = write_tar(tmp_path / "a.tar", {"0.jpg": b"x", "1.jpg": b"y", "2.jpg": b"z"})
        data = bytearray(path.read_bytes())
        data[1024:1536] = b"\xee" * 512
        path.write_bytes(data)
        source = open_source(path)
        assert list(source.keys) == ["0.jpg", "a.tar"]
        assert trouble(source, "a.tar").reason in (SkipReason.CORRUPT, SkipReason.UNREADABLE)

    def test_links_inside_are_listed(self, tmp_path):
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            info = tarfile.TarInfo("0.jpg")
            archive.addfile(info)
            for kind, name in ((tarfile.SYMTYPE, "soft.jpg"), (tarfile.FIFOTYPE, "pipe.jpg")):
                info = tarfile.TarInfo(name)
                info.type, info.linkname = kind, "0.jpg"
                archive.addfile(info)
        source = open_source(tmp_path / "a.tar")
        assert source.read(0) == b""
        assert trouble(source, "soft.jpg").reason is SkipReason.NOT_A_FILE
        assert trouble(source, "pipe.jpg").reason is SkipReason.NOT_A_FILE

    def test_hard_links_inside_are_followed(self, tmp_path):
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            info = tarfile.TarInfo("0.jpg")
            info.size = 3
            archive.addfile(info, io.BytesIO(b"abc"))
            info = tarfile.TarInfo("same.jpg")
            info.type, info.linkname = tarfile.LNKTYPE, "0.jpg"
            archive.addfile(info)
        assert contents(open_source(tmp_path / "a.tar")) == {"0.jpg": b"abc", "same.jpg": b"abc"}

    @pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tgz"])
    def test_compressed_shards_are_refused_with_advice(self, tmp_path, name):
        with tarfile.open(tmp_path / name, "w:gz") as archive:
            archive.addfile(tarfile.TarInfo("0.jpg"))
        with pytest.raises(InputError, match="unpack it"):
            open_source(tmp_path / name)

    def test_what_is_no_tar_is_refused(self, tmp_path):
        (tmp_path / "a.tar").write_bytes(b"no archive at all" * 100)
        with pytest.raises(InputError, match="tar file"):
            open_source(tmp_path / "a.tar")

    def test_undecodable_names_are_escaped(self, tmp_path):
        with tarfile.open(tmp_path / "a.tar", "w", encoding="utf-8", errors="surrogateescape") as archive:
            archive.addfile(tarfile.TarInfo("caf\udce9.jpg"))
        assert list(open_source(tmp_path / "a.tar").keys) == ["caf%E9.jpg"]

    def test_the_source_can_be_pickled_and_has_a_fingerprint(self, tmp_path):
        source = open_source(write_tar(tmp_path / "a.tar", {"0.jpg": b"abc"}))
        again = pickle.loads(pickle.dumps(source))
        assert contents(again) == {"0.jpg": b"abc"}
        assert again.fingerprint() == source.fingerprint()
        write_tar(tmp_path / "a.tar", {"0.jpg": b"abcd"})
        assert open_source(tmp_path / "a.tar").fingerprint() != source.fingerprint()


class TestPathTable:
    ROWS = ("sub/a.jpg", "with, comma.jpg", "new\nline.jpg", "gone.jpg", "0012.jpg")

    def table(self, folder: Path, kind: str, paths=ROWS, column: str = "path") -> Path:
        write(folder, *[path for path in paths if path != "gone.jpg"])
        table = pa.table({"label": list(range(len(paths))), column: list(paths)})
        path = folder / f"list.{kind}"
        if kind == "parquet":
            pq.write_table(table, path)
        else:
            delimiter = "\t" if kind == "tsv" else ","
            rows = [("label", column), *enumerate(paths)]
            text = "".join(f'"{a}"{delimiter}"{b}"\n' for a, b in rows)
            path.write_text(text, encoding="utf-8-sig")
        return path

    @pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
    def test_rows_keep_the_order_of_the_table_and_paths_begin_at_it(self, tmp_path, kind, monkeypatch):
        path = self.table(tmp_path / "data", kind)
        monkeypatch.chdir(tmp_path)
        source = open_source(path.relative_to(tmp_path))
        monkeypatch.chdir("/")
        assert source.kind == "table"
        assert tuple(source.keys) == self.ROWS
        assert [source.read(row) for row in (0, 1, 2, 4)] == [self.ROWS[row].encode() for row in (0, 1, 2, 4)]
        assert trouble(source, "gone.jpg").reason is SkipReason.MISSING
        assert source.path(0) == tmp_path / "data" / "sub" / "a.jpg"
        assert pickle.loads(pickle.dumps(source)).fingerprint() == source.fingerprint()

    def test_absolute_paths_stay(self, tmp_path):
        write(tmp_path / "elsewhere", "a.jpg")
        path = self.table(tmp_path / "data", "csv")
        path.write_text(f"path\n{tmp_path}/elsewhere/a.jpg\n")
        assert open_source(path).read(0) == b"a.jpg"

    def test_the_column_is_found_or_asked_for(self, tmp_path):
        assert len(open_source(self.table(tmp_path / "a", "csv", column="filename"))) == 5
        odd = self.table(tmp_path / "b", "csv", column="where it is")
        with pytest.raises(InputError, match="which column"):
            open_source(odd)
        assert tuple(open_source(odd, path_column="where it is").keys) == self.ROWS
        with pytest.raises(InputError, match="did you mean 'where it is'"):
            open_source(odd, path_column="where it was")

    def test_repeated_paths_get_keys_of_their_own(self, tmp_path):
        source = open_source(self.table(tmp_path, "csv", ["a.jpg", "b.jpg", "a.jpg"]))
        assert list(source.keys) == ["a.jpg", "b.jpg", "a.jpg#2"]
        assert source.read(2) == b"a.jpg"

    @pytest.mark.parametrize("kind", ["csv", "parquet"])
    def test_keys_may_have_a_column_but_must_differ(self, tmp_path, kind):
        source = open_source(self.table(tmp_path, kind), key_column="label")
        assert list(source.keys) == ["0", "1", "2", "3", "4"]
        assert source.read(0) == b"sub/a.jpg"
        (tmp_path / "twice.csv").write_text("path,id\na.jpg,7\nb.jpg,7\n")
        with pytest.raises(InputError, match=r"rows 0 and 1 .* same key '7'"):
            open_source(tmp_path / "twice.csv", key_column="id")

    def test_a_column_of_something_else_is_refused_and_one_of_categories_is_not(self, tmp_path):
        with pytest.raises(InputError, match="holds int64, not paths"):
            open_source(self.table(tmp_path, "parquet"), path_column="label")
        pq.write_table(pa.table({"path": pa.array(["a", "b"]).dictionary_encode()}), tmp_path / "b.parquet")
        assert list(open_source(tmp_path / "b.parquet").keys) == ["a", "b"]

    def test_rows_without_a_path_are_listed(self, tmp_path):
        pq.write_table(pa.table({"path": ["a.jpg", None, ""]}), tmp_path / "a.parquet")
        source = open_source(tmp_path / "a.parquet")
        assert [trouble(source, key).reason for key in source.keys] == [SkipReason.MISSING] * 3

    def test_impossible_paths_are_listed(self, tmp_path):
        pq.write_table(pa.table({"path": ["nul\0.jpg", "x" * 5000, "."]}), tmp_path / "a.parquet")
        source = open_source(tmp_path / "a.parquet")
        reasons = [trouble(source, key).reason for key in source.keys]
        assert reasons == [SkipReason.UNREADABLE, SkipReason.UNREADABLE, SkipReason.NOT_A_FILE]
        assert source.fingerprint()

    @pytest.mark.parametrize("content", [b"", b"path,label\na.jpg\n\xff\xfe,3,4,5\n"])
    def test_damaged_tables_are_refused(self, tmp_path, content):
        for name in ("a.csv", "a.parquet"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(InputError):
                open_source(tmp_path / name)

    def test_a_table_without_rows_is_refused(self, tmp_path):
        (tmp_path / "a.csv").write_text("path,label\n")
        with pytest.raises(InputError, match="holds no files"):
            open_source(tmp_path / "a.csv")


class TestImageTable:
    def write(self, path: Path, start: int, count: int, paths: bool = True) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        numbers = range(start, start + count)
        rows = [{"bytes": b"%d" % n, "path": f"{n}.png" if paths else None} for n in numbers]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        table = pa.table({"image": pa.array(rows, kind), "label": list(numbers)})
        pq.write_table(table, path, row_group_size=40)
        return path

    def test_the_layout_of_hugging_face_is_read(self, tmp_path):
        source = open_source(self.write(tmp_path / "a.parquet", 0, 100))
        assert source.kind == "table"
        assert list(source.keys) == [f"{n}.png" for n in range(100)]
        assert rows_by_reader(source) == [b"%d" % n for n in range(100)]

    @pytest.mark.parametrize("spec", ["data", "data/*.parquet", "data/train-{0..2}.parquet"])
    def test_several_files_are_shards(self, tmp_path, spec):
        for shard in range(3):
            self.write(tmp_path / "data" / f"train-{shard}.parquet", 50 * shard, 50)
        source = open_source(f"{tmp_path}/{spec}")
        assert [int(source.read(row)) for row in range(150)] == list(range(150))
        assert list(source.keys) == [f"{n}.png" for n in range(150)]

    def test_rows_can_be_read_in_any_order(self, tmp_path):
        source = open_source(self.write(tmp_path / "a.parquet", 0, 100))
        for row in (99, 0, 39, 40, 38, 79, 99, 1):
            assert source.read(row) == b"%d" % row

    def test_rows_without_a_path_are_named_by_shard_and_row(self, tmp_path):
        for shard in range(2):
            self.write(tmp_path / f"{shard}.parquet", shard * 2, 2, paths=False)
        assert list(open_source(tmp_path).keys) == [
            "0.parquet/0",
            "0.parquet/1",
            "1.parquet/0",
            "1.parquet/1",
        ]

    def test_equal_paths_in_two_shards_get_keys_of_their_own(self, tmp_path):
        self.write(tmp_path / "0.parquet", 0, 2)
        self.write(tmp_path / "1.parquet", 0, 2)
        assert list(open_source(tmp_path).keys) == ["0.png", "1.png", "0.png#2", "1.png#2"]

    def test_plain_binary_columns_and_key_columns_are_read(self, tmp_path):
        table = pa.table({"id": ["x", "y", "z"], "photo": pa.array([b"1", None, b""], pa.large_binary())})
        pq.write_table(table, tmp_path / "a.parquet")
        source = open_source(tmp_path / "a.parquet", key_column="id")
        assert list(source.keys) == ["x", "y", "z"]
        assert source.read(0) == b"1"
        assert trouble(source, "y").reason is SkipReason.MISSING
        assert source.read(2) == b""
        assert list(open_source(tmp_path / "a.parquet").keys) == [f"a.parquet/{row}" for row in range(3)]

    def test_structs_without_bytes_are_read_from_their_path(self, tmp_path):
        write(tmp_path / "data", "x.jpg")
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        rows = pa.array([{"bytes": None, "path": "x.jpg"}, {"bytes": None, "path": None}, None], kind)
        pq.write_table(pa.table({"image": rows}), tmp_path / "data" / "a.parquet")
        source = open_source(tmp_path / "data" / "a.parquet")
        assert source.read(0) == b"x.jpg"
        assert trouble(source, "a.parquet/1").reason is SkipReason.MISSING
        assert trouble(source, "a.parquet/2").reason is SkipReason.MISSING

    def test_a_damaged_row_group_costs_only_its_rows(self, tmp_path):
        path = tmp_path / "a.parquet"
        table = pa.table({"image": pa.array([os.urandom(2000) for _ in range(80)], pa.binary())})
        pq.write_table(table, path, row_group_size=40, use_dictionary=False)
        column = pq.ParquetFile(path).metadata.row_group(0).column(0)
        data = bytearray(path.read_bytes())
        data[column.data_page_offset : column.data_page_offset + 2000] = b"\xff" * 2000
        path.write_bytes(data)
        source = open_source(path)
        assert trouble(source, "a.parquet/3").reason is SkipReason.UNREADABLE
        assert source.read(41) == table["image"][41].as_py()

    def test_wrong_columns_are_refused(self, tmp_path):
        path = self.write(tmp_path / "a.parquet", 0, 2)
        with pytest.raises(InputError, match="did you mean 'image'"):
            open_source(path, image_column="imag")
        with pytest.raises(InputError, match="not image bytes"):
            open_source(path, image_column="label")
        with pytest.raises(InputError, match="not both"):
            open_source(path, image_column="image", path_column="label")

    def test_the_source_can_be_pickled_and_has_a_fingerprint(self, tmp_path):
        source = open_source(self.write(tmp_path / "a.parquet", 0, 100))
        source.read(5)
        again = pickle.loads(pickle.dumps(source))
        assert again.read(6) == b"6"
        assert again.fingerprint() == source.fingerprint()


class TestOpenSource:
    def test_what_does_not_exist_is_refused_by_name(self, tmp_path):
        with pytest.raises(InputError, match=r"nowhere.* doesn't exist"):
            open_source(tmp_path / "nowhere")

    def test_features_and_unknown_files_are_refused_with_advice(self, tmp_path):
        write(tmp_path, "a.npy", "a.xyz")
        with pytest.raises(InputError, match="holds features"):
            open_source(tmp_path / "a.npy")
        with pytest.raises(InputError, match=r"no source that is known; use a folder"):
            open_source(tmp_path / "a.xyz")

    def test_a_pipe_and_a_socket_are_refused_at_once(self, tmp_path, monkeypatch):
        os.mkfifo(tmp_path / "pipe.tar")
        monkeypatch.chdir(tmp_path)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("socket.zip")
        for name in ("pipe.tar", "socket.zip"):
            with pytest.raises(InputError, match="neither a folder nor a file"):
                open_source(tmp_path / name)

    def test_columns_for_what_is_no_table_are_refused(self, tmp_path):
        with pytest.raises(InputError, match="path_column is for tables"):
            open_source(write(tmp_path, "a.jpg"), path_column="x")

    def test_a_folder_of_images_and_archives_is_a_folder(self, tmp_path):
        source = open_source(write(tmp_path, "a.jpg", "b.tar"))
        assert source.kind == "folder"
        assert list(source.keys) == ["a.jpg", "b.tar"]

    def test_home_is_found(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(write(tmp_path, "photos/a.jpg")))
        assert list(open_source("~/photos").keys) == ["a.jpg"]
