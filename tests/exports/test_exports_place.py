"""Where exports may go: nothing foreign is touched, nothing is half there."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import kinfold
from kinfold.errors import InputError
from kinfold.exports import FORMATS, find_format, is_csv_of
from kinfold.images import open_source

FILES = [name for name, form in FORMATS.items() if form.endings]
FOLDERS = [name for name, form in FORMATS.items() if not form.endings]


def place(home: Path, to: str) -> Path:
    endings = FORMATS[to].endings
    return home / f"out{endings[0] if endings else ''}"


def snapshot(home: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(home.rglob("*"))}


@pytest.mark.parametrize("to", FORMATS)
def test_an_earlier_export_is_replaced_by_force_alone(run, tmp_path, to):
    out = place(tmp_path, to)
    kinfold.export(run, to, out)
    first = snapshot(tmp_path)
    with pytest.raises(InputError, match="--force"):
        kinfold.export(run, to, out)
    assert snapshot(tmp_path) == first
    kinfold.export(run, to, out, force=True)
    assert snapshot(tmp_path) == first  # the same run gives the same bytes, and nothing is left beside


@pytest.mark.parametrize("to", FORMATS)
def test_nothing_foreign_is_ever_replaced(run, photos, tmp_path, to):
    out = place(tmp_path, to)
    if to in FILES:
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "notes.txt").write_text("mine")
    before = snapshot(tmp_path)
    for force in (False, True):
        with pytest.raises(InputError, match=r"left as it is"):
            kinfold.export(run, to, out, force=force)
        assert snapshot(tmp_path) == before


@pytest.mark.parametrize("to", FORMATS)
def test_a_link_is_not_followed(run, tmp_path, to):
    out, target = place(tmp_path, to), tmp_path / "elsewhere"
    kinfold.export(run, to, place(target, to))
    out.symlink_to(place(target, to))
    before = snapshot(tmp_path)
    with pytest.raises(InputError):
        kinfold.export(run, to, out, force=True)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("to", FOLDERS)
@pytest.mark.parametrize("change", ["added", "taken", "added below"])
def test_an_export_that_someone_works_in_is_left_alone(run, tmp_path, to, change):
    out = tmp_path / "out"
    kinfold.export(run, to, out, link="copy")
    below = next(path for path in sorted(out.iterdir()) if path.is_dir())
    if change == "taken":
        next(path for path in sorted(below.iterdir())).unlink()
    else:
        ((below if change == "added below" else out) / "notes.txt").write_text("mine")
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match="added or removed"):
        kinfold.export(run, to, out, force=True)
    assert snapshot(tmp_path) == before


def test_clutter_of_systems_is_no_work(run, tmp_path):
    out = kinfold.export(run, "coco", tmp_path / "out").path
    (out / "images" / ".DS_Store").write_bytes(b"")
    kinfold.export(run, "coco", out, force=True)
    assert not (out / "images" / ".DS_Store").exists()


def test_an_empty_folder_is_taken(run, tmp_path):
    (tmp_path / "out").mkdir()
    found = kinfold.export(run, "folders", tmp_path / "out")
    assert (found.path / "labels.csv").exists()


@pytest.mark.parametrize("to", FORMATS)
def test_nothing_is_written_into_the_run(run, to):
    before = sorted(map(str, run.path.rglob("*")))
    for out in (run.path, place(run.path, to), run.path / "deep" / place(Path(), to)):
        with pytest.raises(InputError, match=r"inside the run|is a folder"):
            kinfold.export(run, to, out, force=True)
    with pytest.raises(InputError):
        kinfold.export(run, to, run.path.parent, force=True)
    assert sorted(map(str, run.path.rglob("*"))) == before


def test_a_wrong_ending_or_kind_of_place_is_refused(run, tmp_path):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").write_text("")
    for to, out in (("csv", "x.parquet"), ("csv", "folder.csv"), ("folders", "file"), ("csv", "file/x.csv")):
        with pytest.raises(InputError):
            kinfold.export(run, to, tmp_path / out)
    with pytest.raises(InputError, match="did you mean 'parquet'"):
        find_format("parket")


def test_an_export_inside_the_source_is_no_image_of_it(run, photos, tmp_path):
    import shutil

    source = shutil.copytree(photos, tmp_path / "photos")
    n_rows = len(open_source(source))
    kinfold.export(run, "folders", source / "sorted", source=source)
    assert len(open_source(source)) == n_rows


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_what_fails_leaves_nothing(run, tmp_path, monkeypatch, to, error):
    out = place(tmp_path, to)
    kinfold.export(run, to, out)
    before = snapshot(tmp_path)

    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr("kinfold.storage.os.replace", fail)
    with pytest.raises(type(error)):
        kinfold.export(run, to, out, force=True)
    assert snapshot(tmp_path) == before


def test_a_killed_export_leaves_no_folder_and_the_next_one_clears_up(made_run, tmp_path):
    made_run([f"{i}.png" for i in range(1200)], np.zeros(1200, np.int64), 1)
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from kinfold.exports import export\n"
        "from kinfold.run import Run\n"
        "class Slow:\n"
        "    keys = [f'{i}.png' for i in range(1200)]\n"
        "    def path(self, row): return None\n"
        "    def read(self, row):\n"
        "        time.sleep(0.002 if len(sys.argv) > 1 else 0)\n"
        "        return b'an image'\n"
        f"home = Path({str(tmp_path)!r})\n"
        "export(Run.open(home / 'made'), 'folders', home / 'out', images=Slow())\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, "slow"])
    until = time.monotonic() + 60
    while not list(tmp_path.glob(".partial-*-out/*/*")) and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    (tmp_path / ".partial-out").mkdir()  # as versions named it that had one name for all writers
    assert len(list(tmp_path.glob(".partial-*"))) == 2
    subprocess.run([sys.executable, "-c", script], check=True)
    assert len(os.listdir(tmp_path / "out" / "group 0")) == 1200
    assert not list(tmp_path.glob(".partial-*"))
    assert not list(tmp_path.glob(".lock*"))


def test_the_folder_says_what_it_is(run, tmp_path):
    out = kinfold.export(run, "folders", tmp_path / "out").path
    content = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert (content["format"], content["to"], content["n_images"]) == ("kinfold-export", "folders", 40)
    assert [group["id"] for group in content["groups"]] == [0, 1, 2, 4]
    assert content["corrections"] == 6


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_is_no_earlier_table_and_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    # Held open and with a header in it, so that a reader would neither wait nor find nothing.
    descriptor = os.open(tmp_path / "pipe.csv", os.O_RDWR)
    try:
        os.write(descriptor, b"row,key\n")
        assert not is_csv_of(tmp_path / "pipe.csv", ("row", "key"))
        assert os.read(descriptor, 100) == b"row,key\n"
    finally:
        os.close(descriptor)
