"""The file of corrections: durable, append-only, shared by processes, and never damaged further."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinfold import Run, cluster
from kinfold.corrections import Corrections, Mark, Move, Rename
from kinfold.corrections._store import Store, pack_labels, pack_rows, unpack_labels, unpack_rows
from kinfold.errors import FormatError, InputError, NewerFormatError
from kinfold.run import read_manifest, write_manifest
from support import corrections_writer

WRITER = [sys.executable, corrections_writer.__file__]
VIEWER = """
import os, sys
from kinfold.corrections import Corrections, Rename
from kinfold.run import Run
run = Run.open(sys.argv[1])
run.labels
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
with Corrections.open(run) as corrections:
    print(corrections.state.groups[0].name, corrections.state.version)
    try:
        corrections.apply(Rename(0, "dogs"))
    except Exception as error:
        print(type(error).__name__, error)
"""


@pytest.fixture
def file(path):
    """A file of a hundred edits, closed."""
    with Corrections.open(Run.open(path)) as corrections:
        rows = corrections.run.assignments["row"].to_numpy()
        for number in range(100):
            corrections.apply(Move(rows[number : number + 20], number % 4))
        corrections.apply(Rename(0, "cats"))
    return path / "corrections.sqlite"


def test_no_acknowledged_edit_is_lost_by_killing_its_process(path):
    found = subprocess.run(
        [*WRITER, "kill", str(path), "0", "40"], capture_output=True, text=True, check=True
    )
    acknowledged = dict(line.split(" ") for line in found.stdout.splitlines())
    assert len(acknowledged) >= 30
    with Corrections.open(Run.open(path)) as corrections:
        kept = {str(entry.id): entry.text.split("“")[1][:-1] for entry in corrections.history(limit=10**6)}
        assert acknowledged.items() <= kept.items()
        assert len(kept) - len(acknowledged) <= 40  # what was being acknowledged at the moment of a kill
        assert corrections.state.version == len(kept)
        corrections.apply(Rename(0, "goes on"))
    for left in path.glob(".partial-corrections.sqlite*"):
        left.unlink()
    assert not list(path.glob("corrections.sqlite-*"))


def test_a_hundred_clients_in_four_processes_lose_nothing_and_agree(path):
    writers = [
        subprocess.Popen(
            [*WRITER, "edit", str(path), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name in "abcd"
    ]
    versions = [int(version) for writer in writers for version in writer.stdout.readline().split()]
    digests = {writer.communicate("go\n")[0].strip() for writer in writers}
    assert len(versions) >= 4 * 25 * 3
    assert sorted(versions) == list(range(1, len(versions) + 1))
    with Corrections.open(Run.open(path)) as corrections:
        assert digests == {corrections_writer.digest(corrections)}
        assert len({entry.client for entry in corrections.history(limit=10**6)}) == 100


def damage(file, kind):
    data = file.read_bytes()
    if kind == "bit":  # in the middle of a name, where SQLite sees nothing wrong
        place = data.rindex(b"cats")
        changed = data[:place] + b"bats" + data[place + 4 :]
    elif kind == "page":
        changed = data[:8192] + b"\x55" * 4096 + data[12288:]
    elif kind == "head":
        changed = data[:100]
    else:
        changed = {"half": data[: len(data) // 2], "garbage": b"no database " * 1000, "empty": b""}[kind]
    file.write_bytes(changed)
    return changed


@pytest.mark.parametrize("kind", ["half", "garbage", "empty", "bit", "page", "head"])
def test_a_damaged_file_is_told_of_and_left_as_it_is(path, file, kind):
    changed = damage(file, kind)
    with pytest.raises(FormatError, match=r"(?s)corrections.sqlite.*(damaged|isn't).*restore it from a copy"):
        Corrections.open(Run.open(path))
    assert file.read_bytes() == changed


def test_a_log_whose_file_is_gone_is_told_of_and_never_taken_for_anothers(path):
    with Corrections.open(Run.open(path)) as corrections:
        corrections.apply(Rename(0, "cats"))
        for name in ("corrections.sqlite", "corrections.sqlite-wal"):
            shutil.copy(path / name, path / f"{name}.copy")
    (path / "corrections.sqlite").unlink()
    (path / "corrections.sqlite-wal.copy").rename(path / "corrections.sqlite-wal")
    for _ in range(2):
        with pytest.raises(FormatError, match=r"is missing, but corrections\.sqlite-wal is there"):
            Corrections.open(Run.open(path))
    (path / "corrections.sqlite.copy").rename(path / "corrections.sqlite")
    with Corrections.open(Run.open(path)) as corrections:
        assert corrections.state.groups[0].name == "cats"


def test_viewing_leaves_no_files_behind(path, file):
    before = sorted(path.iterdir())
    with Corrections.open(Run.open(path), write=False) as corrections:
        assert corrections.state.version == 101
    assert sorted(path.iterdir()) == before


def alter(file, *statements):
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("DROP TRIGGER IF EXISTS edits_are_never_removed")
        connection.execute("DROP TRIGGER IF EXISTS edits_are_never_changed")
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    return file.read_bytes()


@pytest.mark.parametrize(
    ("statement", "error", "words"),
    [
        ("UPDATE meta SET value='2' WHERE key='format_version'", NewerFormatError, "update Kinfold"),
        ("UPDATE meta SET value='x' WHERE key='format_version'", FormatError, "damaged"),
        ("UPDATE meta SET value='other' WHERE key='format'", FormatError, "Move it away"),
        ("UPDATE meta SET value='other' WHERE key='base'", FormatError, "clustered again"),
        ("DELETE FROM edits WHERE id = 50", FormatError, "restore it from a copy"),
        ("UPDATE edits SET kind='mark' WHERE id = 50", FormatError, "restore it from a copy"),
        ("UPDATE edits SET labels=x'00' WHERE id = 50", FormatError, "restore it from a copy"),
        ("DROP TABLE edits", FormatError, "isn't a file of Kinfold's"),
    ],
)
def test_what_isnt_ours_is_refused_with_what_to_do(path, file, statement, error, words):
    content = alter(file, statement)
    with pytest.raises(error, match=words):
        Corrections.open(Run.open(path))
    assert file.read_bytes() == content


def test_a_foreign_database_that_appears_later_is_refused_and_left(path):
    with Corrections.open(Run.open(path)) as corrections:
        with closing(sqlite3.connect(path / "corrections.sqlite")) as connection:
            connection.execute("CREATE TABLE photos (id INTEGER)")
            connection.commit()
        content = (path / "corrections.sqlite").read_bytes()
        with pytest.raises(FormatError, match="isn't a file of Kinfold's"):
            corrections.apply(Rename(0, "cats"))
    assert (path / "corrections.sqlite").read_bytes() == content


def test_a_foreign_database_is_refused(path):
    with closing(sqlite3.connect(path / "corrections.sqlite")) as connection:
        connection.execute("CREATE TABLE photos (id INTEGER)")
        connection.commit()
    with pytest.raises(FormatError, match="isn't a file of Kinfold's"):
        Corrections.open(Run.open(path))


def test_a_kind_of_edit_that_isnt_known_is_refused(path, file):
    from kinfold.corrections._store import EditRow, row_checksum

    with closing(sqlite3.connect(file)) as connection:
        (previous,) = connection.execute("SELECT checksum FROM edits WHERE id = 101").fetchone()
        row = EditRow(102, "now", "", "paint", "{}", None, None)
        values = (*vars(row).values(), row_checksum(row, previous))
        connection.execute("INSERT INTO edits VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
        connection.commit()
    with pytest.raises(FormatError, match=r"paint.*restore it from a copy"):
        Corrections.open(Run.open(path))


def test_corrections_of_a_run_that_was_clustered_anew_are_kept_apart(clustered, path, file):
    import kinfold

    content = file.read_bytes()
    features = clustered.parent / "features.npy"
    run = kinfold.cluster(features, 3, method="kmeans", out=path, random_state=1, report=False, force=True)
    assert (path / "corrections-1.sqlite").read_bytes() == content
    Corrections.open(run).close()
    shutil.move(path / "corrections-1.sqlite", file)  # as an older version left them
    with pytest.raises(FormatError, match=r"other groups.*move it away to start without"):
        Corrections.open(run)
    assert file.read_bytes() == content


def test_rows_can_only_be_added(file):
    with closing(sqlite3.connect(file)) as connection:
        for statement in ("UPDATE edits SET kind='x'", "DELETE FROM edits"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                connection.execute(statement)


@pytest.mark.parametrize("act", ["remove", "replace"])
def test_a_file_that_is_taken_away_while_in_use_is_told_of(path, file, act):
    with Corrections.open(Run.open(path)) as corrections:
        if act == "replace":
            shutil.copy(file, path / "copy")
            os.replace(path / "copy", file)
        else:
            file.unlink()
        with pytest.raises(FormatError, match="removed or replaced"):
            corrections.apply(Rename(0, "lost"))
        with pytest.raises(FormatError, match="removed or replaced"):
            corrections.sync()


def test_a_run_opened_for_viewing_refuses_edits(path, file):
    with Corrections.open(Run.open(path), write=False) as corrections:
        assert corrections.state.groups[0].name == "cats"
        for attempt in (
            lambda: corrections.apply(Mark([0], "noise")),
            corrections.undo,
            corrections.redo,
        ):
            with pytest.raises(InputError, match="read-only"):
                attempt()


@pytest.mark.skipif(os.name != "posix", reason="permissions of folders are POSIX's")
@pytest.mark.parametrize("left_open", [False, True])
def test_a_folder_that_cant_be_written_to_can_be_looked_at(path, left_open):
    with tempfile.TemporaryDirectory() as home:
        os.chmod(home, 0o755)
        corrections = Corrections.open(Run.open(path))
        corrections.apply(Rename(0, "cats"))
        if not left_open:
            corrections.close()
        place = Path(shutil.copytree(path, Path(home) / "run"))
        corrections.close()
        (place / "corrections.sqlite-shm").unlink(missing_ok=True)
        assert (place / "corrections.sqlite-wal").exists() == left_open
        before = sorted((file.name, file.stat().st_size) for file in place.iterdir())
        place.chmod(0o555)
        try:
            found = subprocess.run(
                [sys.executable, "-c", VIEWER, str(place)], capture_output=True, text=True, check=True
            )
        finally:
            place.chmod(0o755)
        state, refusal = found.stdout.splitlines()
        assert state == "cats 1"
        assert refusal.startswith("InputError")
        assert "can't be written to" in refusal
        assert sorted((file.name, file.stat().st_size) for file in place.iterdir()) == before


def test_a_full_disk_is_told_of_and_nothing_is_lost(path, file):
    with Corrections.open(Run.open(path)) as corrections:
        before = corrections.apply(Rename(1, "before"))
        writer = corrections._store._writer
        (pages,) = writer.execute("PRAGMA page_count").fetchone()
        writer.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(InputError, match="disk is full"):
            corrections.apply(Rename(1, "long " * 39), client="x" * 200) and [
                corrections.apply(Rename(1, f"{number} " + "long " * 38)) for number in range(100)
            ]
        assert corrections.state.groups[1].name != ""
        assert corrections.state.version >= before.version
    with Corrections.open(Run.open(path)) as again:
        again.apply(Rename(1, "after"))


def test_a_file_held_by_another_program_is_told_of(path, file, monkeypatch):
    monkeypatch.setattr("kinfold.corrections._store._WAIT_SECONDS", 0.05)
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with (
            Corrections.open(Run.open(path)) as corrections,
            pytest.raises(InputError, match="held by another program"),
        ):
            corrections.apply(Rename(0, "dogs"))


def test_who_reads_doesnt_wait_with_who_writes_for_another_program(path, file, monkeypatch):
    waits, held, hold = threading.Event(), [], Store.hold

    def hold_late(store):
        waits.set()
        hold(store)

    monkeypatch.setattr(Store, "hold", hold_late)
    with (
        Corrections.open(Run.open(path)) as corrections,
        closing(sqlite3.connect(file, isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        thread = threading.Thread(target=lambda: held.append(corrections.apply(Rename(0, "dogs"))))
        thread.start()
        assert waits.wait(30)
        before = corrections.state
        assert corrections.history()
        assert thread.is_alive()  # still waiting, while everything above was answered
        assert not held
        other.execute("ROLLBACK")
        thread.join(30)
        assert held[0].version == before.version + 1
        assert corrections.state.groups[0].name == "dogs"


def test_nothing_is_corrected_any_more_once_the_run_was_clustered_anew(path, file):
    features = Run.open(path).manifest["source"]["uri"]
    with Corrections.open(Run.open(path)) as corrections:
        edits = corrections.state.version
        cluster(features, 3, method="kmeans", out=path, random_state=1, report=False, force=True)
        for attempt in (
            lambda: corrections.apply(Rename(0, "lost")),
            corrections.undo,
            lambda: corrections.state,
        ):
            with pytest.raises(FormatError, match="clustered again while it was open"):
                attempt()
    with closing(sqlite3.connect(path / "corrections-1.sqlite")) as left:
        assert left.execute("SELECT count(*) FROM edits").fetchone() == (edits,)


def test_what_else_changes_in_a_run_disturbs_nobody(path):
    with Corrections.open(Run.open(path)) as corrections:
        manifest = read_manifest(path)
        write_manifest(path, {**manifest, "metrics": {"acc": 1.0}})
        assert corrections.apply(Rename(0, "cats")).version == 1


@given(st.sets(st.integers(0, 2**62), max_size=50))
def test_rows_come_back(rows):
    rows = np.array(sorted(rows), np.int64)
    assert unpack_rows(pack_rows(rows)).tolist() == rows.tolist()


@given(st.lists(st.integers(0, 2**31 - 1), max_size=50))
def test_labels_come_back(labels):
    found = unpack_labels(pack_labels(np.array(labels, np.int32)))
    assert found.tolist() == labels
    assert found.dtype == np.int32


def test_a_hundred_thousand_random_rows_take_less_than_a_byte_each():
    rows = np.sort(np.random.default_rng(0).choice(1_000_000, 100_000, replace=False))
    assert len(pack_rows(rows)) < 100_000


@pytest.mark.parametrize("data", [b"\x01", b"\x03" + bytes(8) + b"x", b"\x01" + bytes(8) + b"junk"])
def test_other_bytes_are_refused(data):
    with pytest.raises(ValueError, match=r"."):
        unpack_rows(data)
    with pytest.raises(ValueError, match=r"."):
        unpack_labels(data[-2:])
