"""Files that are whole or not there."""

from __future__ import annotations

import errno
import io
import os
import socket
import stat
from pathlib import Path

import numpy as np
import pytest

from kinfold.errors import FormatError, InputError
from kinfold.locks import lock_output
from kinfold.storage import (
    atomic_directory,
    atomic_file,
    check_own,
    hash_file,
    hold_output,
    is_plain_name,
    read_json,
    remove_partials,
    write_array,
    write_json,
)


@pytest.mark.parametrize("shape", [(0, 3), (5, 3), (4,), (70_000, 40)])
def test_arrays_are_written_to_the_byte_as_numpy_does(tmp_path, shape):
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    with (tmp_path / "a.npy").open("wb") as stream:
        write_array(stream, array)
    expected = io.BytesIO()
    np.save(expected, array)
    assert (tmp_path / "a.npy").read_bytes() == expected.getvalue()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which only Linux has")
@pytest.mark.parametrize("rows", [100, 100_000])
def test_a_full_disk_says_so_while_an_array_is_written(rows):
    with pytest.raises(OSError, match="space") as caught, open("/dev/full", "wb") as stream:
        write_array(stream, np.ones((rows, 40), np.float32))
    assert caught.value.errno == errno.ENOSPC


def test_a_file_is_never_written_through_a_link(tmp_path, monkeypatch):
    (tmp_path / "precious").write_text("precious")
    token = iter(["taken", "free"])
    monkeypatch.setattr("kinfold.storage.secrets.token_hex", lambda n: next(token))
    (tmp_path / ".partial-taken-a.json").symlink_to(tmp_path / "precious")
    with pytest.raises(FileExistsError):
        write_json(tmp_path / "a.json", {})
    (tmp_path / ".partial-a.json").symlink_to(tmp_path / "precious")
    write_json(tmp_path / "a.json", {"a": 1})
    assert read_json(tmp_path / "a.json") == {"a": 1}
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_link_in_the_place_of_a_file_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "a.json").symlink_to(tmp_path / "precious")
    write_json(tmp_path / "a.json", {})
    assert not (tmp_path / "a.json").is_symlink()
    assert (tmp_path / "precious").read_text() == "precious"


def test_two_writers_of_one_file_never_share_a_temporary_one(tmp_path):
    with atomic_file(tmp_path / "a") as first, atomic_file(tmp_path / "a") as second:
        first.write_text("first, which is longer")
        second.write_text("second")
    assert (tmp_path / "a").read_text() == "first, which is longer"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("name", ["a", "ä" * 127, "x" * 251 + ".csv"])
def test_names_of_any_length_are_written(tmp_path, name):
    with atomic_file(tmp_path / name) as partial:
        partial.write_text("text")
    with atomic_directory(tmp_path / name[::-1]) as folder:
        (folder / "a").write_text("text")
    assert sorted(os.listdir(tmp_path)) == sorted(
        {name, name[::-1]} | ({name} if name == name[::-1] else set())
    )


def test_files_get_the_rights_that_the_user_gives_all_files(tmp_path):
    (tmp_path / "plain").write_text("")
    write_json(tmp_path / "a.json", {})
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == stat.S_IMODE(
        (tmp_path / "plain").stat().st_mode
    )


def test_leftovers_are_removed_and_what_they_lead_to_stays(tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "precious").write_text("precious")
    home = tmp_path / "home"
    (home / ".partial-folder").mkdir(parents=True)
    (home / ".partial-file").write_text("")
    (home / ".partial-link").symlink_to(other)
    (home / ".partial-dangling").symlink_to(tmp_path / "nothing")
    remove_partials(home)
    assert os.listdir(home) == []
    assert (other / "precious").read_text() == "precious"


def test_what_a_killed_writer_of_a_place_left_goes_and_that_of_others_stays(tmp_path):
    for name in (
        ".partial-0123456789ab-out",
        ".partial-out",
        ".partial-0123456789ab-other-out",
        ".partial-x",
    ):
        (tmp_path / name).mkdir()
    with hold_output(tmp_path / "out"):
        pass
    assert sorted(os.listdir(tmp_path)) == [".partial-0123456789ab-other-out", ".partial-x"]


def test_a_folder_is_replaced_whole_and_only_by_who_holds_its_place(tmp_path):
    for text in ("first", "second"):
        with atomic_directory(tmp_path / "out") as folder:
            (folder / text).write_text(text)
    assert os.listdir(tmp_path / "out") == ["second"]
    with pytest.raises(FileNotFoundError), atomic_directory(tmp_path / "out") as folder:
        (folder / "nothing" / "third").write_text("half")
    assert os.listdir(tmp_path / "out") == ["second"]
    assert os.listdir(tmp_path) == ["out"]
    with lock_output(tmp_path / "out"), atomic_directory(tmp_path / "out"):
        assert (tmp_path / ".lock-out").exists()


REFUSALS = [(errno.EIO, True), (errno.EIO, False), (errno.EINVAL, False)]  # number, of folders


def refuse_sync(monkeypatch, number, folders):
    real = os.fsync

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) == folders:
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr("kinfold.storage.os.fsync", fsync)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.ENOSYS])
def test_a_folder_that_cant_be_synced_counts_as_done(tmp_path, monkeypatch, number):
    refuse_sync(monkeypatch, number, folders=True)
    write_json(tmp_path / "a.json", {})
    with atomic_directory(tmp_path / "out") as folder:
        (folder / "deep").mkdir()
    assert sorted(os.listdir(tmp_path)) == ["a.json", "out"]


@pytest.mark.parametrize(
    ("number", "folders"), [(errno.EIO, True), (errno.EIO, False), (errno.EINVAL, False)]
)
def test_any_other_error_of_a_sync_names_the_file_and_leaves_nothing(tmp_path, monkeypatch, number, folders):
    refuse_sync(monkeypatch, number, folders)
    with pytest.raises(OSError, match=str(tmp_path)) as caught:
        write_json(tmp_path / "a.json", {})
    assert caught.value.errno == number
    assert caught.value.filename == str(tmp_path if folders else tmp_path / "a.json")
    assert not list(tmp_path.glob(".partial-*"))


def make_strange(path, kind):
    """Put what is no regular file at a path."""
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as one:
            here = os.getcwd()
            os.chdir(path.parent)  # the names of sockets are short
            one.bind(path.name)
            os.chdir(here)
    else:
        path.symlink_to({"link": path.parent.parent / "precious", "folder link": path.parent.parent}[kind])


@pytest.mark.parametrize("kind", ["fifo", "socket", "link", "folder link"])
@pytest.mark.parametrize("where", ["strange", "a/b/strange"])
def test_a_folder_of_ours_holds_files_and_folders_alone(tmp_path, kind, where):
    (tmp_path / "precious").write_text("")
    home = tmp_path / "home"
    (home / "a" / "b").mkdir(parents=True)
    check_own(home, depth=3)
    make_strange(home / where, kind)
    with pytest.raises(InputError, match=f"{where} is (a link|no regular file)"):
        check_own(home, depth=3)
    check_own(tmp_path / "nothing")


@pytest.mark.parametrize("read", [read_json, hash_file])
@pytest.mark.parametrize("kind", ["fifo", "socket"])
def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(tmp_path, read, kind):
    make_strange(tmp_path / "a.json", kind)
    with pytest.raises(FormatError, match=r"a\.json is no regular file, but a pipe, socket or device"):
        read(tmp_path / "a.json")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "/a", "a\\b", "..\\a", "C:a", "a\0", None, 1, ["a"]]
)
def test_a_name_that_leads_elsewhere_is_not_plain(name):
    assert not is_plain_name(name)


@pytest.mark.parametrize("name", ["a", "a.b", "...", "..a", "a..", "größe", ".next"])
def test_a_name_of_one_file_is_plain(name):
    assert is_plain_name(name)
