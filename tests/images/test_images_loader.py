from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from kinfold.backbones import load_backbone
from kinfold.compute import cpu_count
from kinfold.errors import InputError, KinfoldError
from kinfold.images import ImageLoader, ImageSource, SkipReason, count_workers, decode_image, open_source
from support import hostile_files, transforms

N_PLAIN = 23
RED_ROWS = (5, 14)
DIED = "unreadable: the decoder process died"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of which rows 5 and 14 are marked red."""
    path = tmp_path_factory.mktemp("photos")
    for number in range(N_PLAIN):
        image = hostile_files.photo(40, 30, seed=number)
        if number in RED_ROWS:
            image.paste((255, 0, 0), (0, 0, 40, 30))
        image.save(path / f"{number}.png")
    return path


@pytest.fixture(scope="module")
def source(folder: Path) -> ImageSource:
    return open_source(folder)


def load(source: ImageSource, transform, rows=None, batch_size=4, **options):
    rows = range(len(source)) if rows is None else rows
    with ImageLoader(source, transform, **options) as loader:
        return list(loader.batches(rows, batch_size))


def expected(source: ImageSource, rows) -> np.ndarray:
    return np.stack([transforms.shrink(decode_image(source.read(row))) for row in rows])


@pytest.mark.parametrize("transform", [transforms.shrink, transforms.standardize])
@pytest.mark.parametrize("n_workers", [1, 3])
def test_results_do_not_depend_on_the_number_of_workers(source, transform, n_workers):
    alone = load(source, transform, n_workers=0)
    many = load(source, transform, n_workers=n_workers)
    assert [batch.rows.tolist() for batch in alone] == [batch.rows.tolist() for batch in many]
    for one, other in zip(alone, many, strict=True):
        assert one.images.dtype == other.images.dtype
        np.testing.assert_array_equal(one.images, other.images)


@pytest.mark.parametrize("n_workers", [0, 2])
def test_batches_hold_consecutive_members_of_rows_in_order(source, n_workers):
    rows = [7, 3, 3, 22, 0, 5, 11]
    batches = load(source, transforms.shrink, rows, batch_size=3, n_workers=n_workers)
    assert [batch.rows.tolist() for batch in batches] == [[7, 3, 3], [22, 0, 5], [11]]
    np.testing.assert_array_equal(np.concatenate([b.images for b in batches]), expected(source, rows))


def test_results_are_the_same_without_shared_memory(source, monkeypatch):
    monkeypatch.setattr("kinfold.images._pool.create_shared_file", lambda: None)
    (batch,) = load(source, transforms.shrink, batch_size=N_PLAIN, n_workers=2)
    np.testing.assert_array_equal(batch.images, expected(source, range(N_PLAIN)))


def test_batches_stay_valid_after_the_next_is_asked_for(source):
    with ImageLoader(source, transforms.shrink, n_workers=2) as loader:
        kept = list(loader.batches(range(len(source)), 2))
        again = list(loader.batches(range(len(source)), 2))
    for first, second in zip(kept, again, strict=True):
        np.testing.assert_array_equal(first.images, second.images)


def test_workers_are_kept_over_calls_and_larger_batches_fit(source):
    with ImageLoader(source, transforms.tell_process, n_workers=1) as loader:
        seen = {
            int(pid)
            for size in (1, 2, 23)
            for batch in loader.batches(range(23), size)
            for pid in batch.images[:, 0]
        }
    assert len(seen) == 1
    assert os.getpid() not in seen


@pytest.mark.parametrize("n_workers", [0, 2])
def test_rows_never_shift_when_files_are_bad(tmp_path, n_workers):
    reasons = hostile_files.write_hostile_files(tmp_path)
    good = hostile_files.write_odd_but_good_files(tmp_path)
    source = open_source(tmp_path)
    assert len(reasons) >= 60
    assert sorted(source.keys) == sorted([*reasons, *good])
    batches = load(source, transforms.shrink, batch_size=16, n_workers=n_workers)
    skipped = {source.keys[row]: text for batch in batches for row, text in batch.skipped}
    assert {key: text.split(":")[0] for key, text in skipped.items()} == {
        key: reason.value for key, reason in reasons.items()
    }
    usable = [int(row) for batch in batches for row in batch.rows]
    assert [source.keys[row] for row in usable] == [key for key in source.keys if key in set(good)]
    images = np.concatenate([b.images for b in batches if len(b.rows)])
    np.testing.assert_array_equal(images, expected(source, usable))


@pytest.mark.parametrize("n_workers", [0, 1])
def test_batches_without_any_usable_image_come_too(tmp_path, n_workers):
    for number in range(5):
        (tmp_path / f"{number}.jpg").write_bytes(b"")
    batches = load(open_source(tmp_path), transforms.shrink, batch_size=2, n_workers=n_workers)
    assert [batch.skipped for batch in batches] == [
        [(0, "empty"), (1, "empty")],
        [(2, "empty"), (3, "empty")],
        [(4, "empty")],
    ]
    assert all(len(batch.images) == len(batch.rows) == 0 for batch in batches)


@pytest.mark.parametrize("n_workers", [0, 2])
@pytest.mark.parametrize(
    ("transform", "reason"),
    [
        (transforms.fail_on_red, "corrupt: it can't be prepared: ZeroDivisionError: the image is red"),
        (transforms.run_out_of_memory_on_red, "unreadable: there isn't enough memory to prepare it"),
    ],
)
def test_errors_in_the_transform_cost_only_their_image(source, transform, reason, n_workers):
    batches = load(source, transform, n_workers=n_workers)
    assert [pair for batch in batches for pair in batch.skipped] == [(row, reason) for row in RED_ROWS]
    assert sum(len(batch.rows) for batch in batches) == N_PLAIN - len(RED_ROWS)


def test_an_image_that_kills_every_worker_is_skipped_alone(source):
    batches = load(source, transforms.die_on_red, batch_size=16, n_workers=2)
    assert [pair for batch in batches for pair in batch.skipped] == [(row, DIED) for row in RED_ROWS]
    usable = [row for row in range(N_PLAIN) if row not in RED_ROWS]
    assert [int(row) for batch in batches for row in batch.rows] == usable
    images = np.concatenate([b.images for b in batches if len(b.rows)])
    np.testing.assert_array_equal(images, expected(source, usable))


def test_a_transform_that_always_kills_does_not_end_the_run(source):
    batches = load(source, transforms.always_die, rows=range(3), n_workers=2)
    assert [batch.skipped for batch in batches] == [[(row, DIED) for row in range(3)]]


def test_a_worker_that_dies_once_costs_no_image(source, tmp_path):
    batches = load(source, transforms.DieOnce(tmp_path / "mark"), n_workers=2)
    assert (tmp_path / "mark").exists()
    assert [int(row) for batch in batches for row in batch.rows] == list(range(N_PLAIN))
    assert not any(batch.skipped for batch in batches)


def test_workers_killed_from_outside_cost_no_image(source):
    rows = list(range(N_PLAIN)) * 40
    with ImageLoader(source, transforms.shrink, n_workers=2) as loader:
        batches = []
        for batch in loader.batches(rows, 32):
            batches.append(batch)
            if len(batches) % 8 == 1:
                for pid in children():
                    os.kill(pid, signal.SIGKILL)
    assert [int(row) for batch in batches for row in batch.rows] == rows
    assert not any(batch.skipped for batch in batches)
    np.testing.assert_array_equal(np.concatenate([b.images for b in batches]), expected(source, rows))


def test_an_image_that_never_ends_is_skipped(source):
    batches = load(source, transforms.hang_on_red, rows=range(4, 8), n_workers=1, timeout=0.5)
    reason = "unreadable: decoding took longer than 0.5 seconds"
    assert [pair for batch in batches for pair in batch.skipped] == [(5, reason)]
    assert batches[0].rows.tolist() == [4, 6, 7]


def test_no_process_is_left_after_closing(source):
    before = children()
    with ImageLoader(source, transforms.shrink, n_workers=2) as loader:
        next(loader.batches(range(N_PLAIN), 4))
        assert len(children()) == len(before) + 2
    assert children() == before


@pytest.mark.slow
def test_no_process_is_left_when_the_loader_is_forgotten(source):
    before = children()
    loader = ImageLoader(source, transforms.shrink, n_workers=2)
    next(loader.batches(range(N_PLAIN), 4))
    del loader
    gc.collect()
    assert children() == before


def test_leaving_an_iterator_early_spoils_nothing(source):
    with ImageLoader(source, transforms.shrink, n_workers=2) as loader:
        for start in range(6):
            for batch in loader.batches(range(start, N_PLAIN), 4):
                assert batch.rows[0] == start
                np.testing.assert_array_equal(batch.images, expected(source, range(start, start + 4)))
                break
        (whole,) = loader.batches(range(N_PLAIN), N_PLAIN)
    np.testing.assert_array_equal(whole.images, expected(source, range(N_PLAIN)))


def test_a_second_iterator_at_the_same_time_is_refused(source):
    with ImageLoader(source, transforms.shrink, n_workers=1) as loader:
        first = loader.batches(range(N_PLAIN), 4)
        next(first)
        with pytest.raises(RuntimeError, match="still in use"):
            next(loader.batches(range(N_PLAIN), 4))
        first.close()
        assert next(loader.batches(range(N_PLAIN), 4)).rows.tolist() == [0, 1, 2, 3]


def test_a_closed_loader_is_refused(source):
    loader = ImageLoader(source, transforms.shrink, n_workers=1)
    loader.close()
    with pytest.raises(RuntimeError, match="closed"):
        next(loader.batches([0], 1))


@pytest.mark.parametrize("n_workers", [0, 1])
def test_images_of_different_shapes_are_refused_with_the_row(tmp_path, n_workers):
    Image.new("RGB", (4, 4)).save(tmp_path / "0.png")
    Image.new("RGB", (5, 4)).save(tmp_path / "1.png")
    with pytest.raises(InputError, match=r"\(4, 5, 3\) uint8 of row 1"):
        load(open_source(tmp_path), transforms.keep_shape, n_workers=n_workers)


@pytest.mark.parametrize(("option", "value"), [("n_workers", -1), ("batch_size", 0)])
def test_impossible_numbers_are_refused(source, option, value):
    with pytest.raises(InputError, match=option):
        load(source, transforms.shrink, **{"n_workers": 0, option: value})


def test_a_transform_that_cannot_be_sent_is_refused_with_advice(source):
    with pytest.raises(InputError, match="n_workers=0"):
        ImageLoader(source, lambda image: np.asarray(image), n_workers=1)
    assert load(source, lambda image: np.asarray(image), rows=[0], n_workers=0)[0].images.shape == (
        1,
        30,
        40,
        3,
    )


def test_a_transform_that_cannot_be_imported_is_refused_with_advice(source):
    transforms.__dict__["gone"] = gone = type("gone", (), {"__call__": lambda self, image: image})
    gone.__module__ = transforms.__name__
    gone.__qualname__ = "gone"
    try:
        with pytest.raises(InputError, match="n_workers=0"):
            load(source, gone(), n_workers=1)
    finally:
        del transforms.__dict__["gone"]


@pytest.mark.parametrize("name", ["pixels", "hog"])
def test_the_transforms_of_backbones_bring_no_torch_into_workers(source, name):
    transform = transforms.ThenListLoaded(load_backbone(name).transform)
    (loaded,) = load(source, transform, rows=[0], n_workers=1)
    assert loaded.images.tolist() == [[False, False, False]]


@pytest.mark.parametrize("program", ["/bin/false", "/no/such/python"])
def test_workers_that_cannot_start_are_told_and_not_waited_for(source, monkeypatch, program):
    monkeypatch.setattr(sys, "executable", program)
    with pytest.raises(KinfoldError, match="no decoder process can be started"):
        load(source, transforms.shrink, n_workers=2)


def test_workers_do_not_import_torch_and_run_at_lower_priority(source):
    (loaded,) = load(source, transforms.list_loaded, rows=[0], n_workers=1)
    assert loaded.images.tolist() == [[False, False, False]]
    (told,) = load(source, transforms.tell_process, rows=[0], n_workers=1, niceness=3)
    assert told.images[0, 1] == os.nice(0) + 3


def test_images_larger_than_the_limit_are_skipped_everywhere(source):
    for n_workers in (0, 1):
        (batch,) = load(source, transforms.shrink, rows=[0], n_workers=n_workers, pixel_limit=1199)
        assert batch.skipped[0][1].startswith(SkipReason.TOO_LARGE.value)


def test_a_loader_may_live_in_a_thread_that_ends(source):
    found: list[int] = []
    loader = ImageLoader(source, transforms.shrink, n_workers=1)

    def work() -> None:
        found.extend(len(batch.rows) for batch in loader.batches(range(N_PLAIN), 10))

    for _ in range(2):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    loader.close()
    assert found == [10, 10, 3] * 2


SCRIPT = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let jobs in the background ignore it
sys.path.insert(0, {tests!r})
from kinfold.images import ImageLoader, open_source
from support import transforms
transform = getattr(transforms, sys.argv[2])
with ImageLoader(open_source(sys.argv[1]), transform, n_workers=2, timeout=None) as loader:
    while True:  # no __main__ guard on purpose: workers must not run this script again
        for batch in loader.batches(range({rows}), 4):
            print("batch", flush=True)
"""


def start_script(folder: Path, transform: str = "shrink", rows: int = N_PLAIN) -> subprocess.Popen:
    code = textwrap.dedent(SCRIPT).format(tests=str(Path(__file__).parents[1]), rows=rows)
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder), transform], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.mark.parametrize("transform", ["shrink", "hang_on_red"])
def test_no_process_outlives_a_killed_parent(folder, transform):
    process = start_script(folder, transform)
    assert process.stdout.readline() == b"batch\n"
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) == 2
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(workers, timeout=120)
    assert not alive


def test_ctrl_c_ends_cleanly(folder):
    process = start_script(folder)
    assert process.stdout.readline() == b"batch\n"
    workers = psutil.Process(process.pid).children(recursive=True)
    for target in (*workers, process):  # a terminal sends it to the whole group
        target.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert errors.count(b"Traceback") == 1
    assert errors.rstrip().endswith(b"KeyboardInterrupt")
    _, alive = psutil.wait_procs(workers, timeout=120)
    assert not alive


def children() -> list[int]:
    """Return the ids of running children; the dead that other tests never asked for don't count."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.status() != psutil.STATUS_ZOMBIE:
                found.append(child.pid)
    return sorted(found)


def test_there_are_never_more_workers_than_images_or_four_per_core(tmp_path):
    cores = cpu_count()
    assert count_workers(None, 1000) <= min(cores, 32)
    assert count_workers(100_000, 10**6) == 4 * cores
    assert count_workers(100_000, 3) == min(3, 4 * cores)
    assert count_workers(0, 3) == 0
    assert count_workers(1, 0) == 1
    with pytest.raises(InputError, match="n_workers must be an integer of at least 0; got -1"):
        count_workers(-1, 3)


def test_a_huge_number_of_workers_starts_few(source):
    with ImageLoader(source, transforms.shrink, n_workers=1_000_000) as loader:
        assert loader.n_workers == count_workers(1_000_000, len(source))
