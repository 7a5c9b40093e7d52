"""Claims about ``kinfold.update``: what people said of an image is neither lost nor said of another one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading

import numpy as np
import pyarrow.parquet as pq
import pytest

import kinfold
from kinfold.corrections import Confirm, Corrections, Lock, Mark, Merge, Move, Rename, Split
from kinfold.errors import FormatError, InputError
from kinfold.features import FeatureStore
from kinfold.features.store import StoreManifest, is_feature_store
from kinfold.images import EXTENSIONS
from kinfold.run import Run, Stages, lock_directory
from kinfold.typicality import read_reference
from support.leveled import correct, name_groups, state_of
from support.updating import (
    N_IMAGES,
    K,
    add_images,
    contents_of,
    corrected,
    counting_backbone,
    make_folder_run,
    vectors_fit,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_folder_run(tmp_path_factory.mktemp("updating"))


@pytest.fixture
def home(made, tmp_path):
    home = shutil.copytree(made.path.parent, tmp_path / "home")
    file = home / "run" / "manifest.json"
    file.write_text(file.read_text().replace(str(made.path.parent), str(home)))
    return home


@pytest.fixture
def photos(home):
    return home / "photos"


@pytest.fixture
def run(home):
    return Run.open(home / "run")


def opened(run):
    return Run.open(run.path)


def row_of(run, key):
    table = opened(run).assignments
    return table["row"].to_pylist()[table["key"].to_pylist().index(key)]


def change_all(photos):
    """Rename a fifth, delete and replace a few, swap two, and add six."""
    files = sorted(photos.rglob("*.png"))
    for file in files[::5]:
        file.rename(file.with_name(f"renamed-{file.name}"))
    files[1].unlink()
    files[2].unlink()
    os.utime(files[8])
    files[3].write_bytes(files[4].read_bytes() + b"behind the end")
    a, b, aside = files[6], files[7], photos.parent / "aside.png"
    a.rename(aside)
    b.rename(a)
    aside.rename(b)
    return add_images(photos, 6, seed=1)


def test_only_new_content_is_embedded_and_every_row_keeps_its_image(run, photos):
    before, groups = contents_of(run, photos), corrected(run)
    change_all(photos)
    backbone, sizes = counting_backbone()
    done = kinfold.update(run, backbone=backbone, n_workers=1)
    expected = {"came": 6, "went": 2, "moved": 11, "changed": 1, "returned": 0, "unreadable": 0, "unread": 0}
    assert {what: done.counts[what] for what in expected} == expected
    assert sum(sizes) == done.counts["embedded"] == 7
    after = contents_of(run, photos)
    kept = before.keys() & after.keys()
    assert len(kept) == N_IMAGES - 3
    assert all(before[row] == after[row] for row in kept)
    assert sorted(after.keys() - before.keys()) == list(range(N_IMAGES, N_IMAGES + 7))
    assert {row: corrected(run)[row] for row in kept} == {row: groups[row] for row in kept}
    vectors_fit(run, photos)
    shown = opened(run)
    assert (shown.gone.num_rows, shown.skipped.num_rows) == (3, 0)
    assert kinfold.check(run.path).is_whole
    assert not kinfold.update(run).changed
    assert sum(group["came"] for group in done.groups) == 7
    assert sum(group["went"] for group in done.groups) == 3
    lines = pq.read_table(run.path / "updates.parquet").to_pylist()
    assert {line["what"] for line in lines} == {"came", "went", "moved", "changed"}
    # What only moved needs no backbone at all.
    (photos / "new.png").write_bytes(b"not an image")
    kinfold.update(run)
    (photos / "new.png").rename(photos / "newer.png")
    assert kinfold.update(run, backbone="nowhere").counts["embedded"] == 0


def test_nothing_new_writes_nothing(run, photos):
    os.utime(photos / "blue" / "0.png")
    before = {file: file.read_bytes() for file in run.path.glob("*") if file.is_file()}
    assert not kinfold.update(run).changed
    assert {file: file.read_bytes() for file in run.path.glob("*") if file.is_file()} == before
    moved = photos.rename(photos.with_name("elsewhere"))
    with pytest.raises(InputError, match=r"left as it was|left as it is.*if they were moved"):
        kinfold.update(run)
    assert not kinfold.update(run, moved).changed
    assert opened(run).images().uri == str(moved)
    assert not kinfold.update(run).changed


def test_corrections_stay_with_their_images(run, photos):
    blue, red = row_of(run, "blue/0.png"), row_of(run, "red/2.png")
    groups = dict(zip(run.assignments["row"].to_pylist(), run.labels.tolist(), strict=True))
    correct(
        run,
        Rename(groups[blue], "the blue ones"),
        Move([blue], groups[red]),
        Mark([row_of(run, "green/1.png"), row_of(run, "green/4.png")], "wrong"),
        Confirm([row_of(run, "green/7.png")]),
        Move([row_of(run, "blue/3.png"), row_of(run, "red/5.png")], None, "of my own"),
        Lock([groups[red]]),
    )
    before, contents = corrected(run), contents_of(run, photos)
    names = state_of(run).groups
    (photos / "blue" / "0.png").rename(photos / "red" / "0.png")
    (photos / "green" / "1.png").unlink()
    (photos / "green" / "7.png").write_bytes((photos / "green" / "10.png").read_bytes() + b" ")
    add_images(photos, 6, seed=2)
    kinfold.update(run, n_workers=1)
    after = corrected(run)
    kept = before.keys() & after.keys()
    assert len(kept) == N_IMAGES - 2
    assert all(before[row] == after[row] for row in kept)
    assert all(contents_of(run, photos)[row] == contents[row] for row in kept)
    assert not any(hand for row, (_, _, hand) in after.items() if row >= N_IMAGES)
    assert state_of(run).groups == names
    # Undoing and redoing them still works, also what is about images that are gone.
    with Corrections.open(opened(run)) as corrections:
        for _ in range(6):
            corrections.undo()
        assert not corrections.can_undo()
        np.testing.assert_array_equal(corrections.state.labels, opened(run).labels)
        for _ in range(6):
            corrections.redo()
    assert corrected(run) == after
    kinfold.export(opened(run), "csv", run.path.parent / "out.csv")
    text = (run.path.parent / "out.csv").read_text()
    assert "red/0.png" in text
    assert "green/1.png" not in text
    assert "the blue ones" in text
    # An image that comes back is the row that it was, with what was said of it.
    (photos / "green" / "back.png").write_bytes((run.path.parent / "photos/green/10.png").read_bytes())
    write_again(photos / "green" / "1.png")
    done = kinfold.update(run, n_workers=1)
    assert (done.counts["returned"], done.counts["came"]) == (1, 1)
    assert corrected(run)[row_of(run, "green/1.png")] == before[row_of(run, "green/1.png")]


def write_again(file):
    """Write an image of the folder again as it was at the beginning."""
    from support.image_folders import write_images

    first = file.parents[1].parent / "first"
    write_images(first, N_IMAGES)
    shutil.copy(first / file.parent.name / file.name, file)


def test_new_images_get_the_groups_that_predict_gives_through_merges_and_splits(run, photos, tmp_path):
    correct(run, Split(0, 2), Merge([1], 2), Rename(2, "both"))
    correct(run, Split(3, 2))
    keys = add_images(photos, 24, seed=3)
    table = kinfold.predict(run.path, photos, tmp_path / "p.parquet", n_workers=1)
    expected = dict(zip(table["key"].to_pylist(), table["cluster"].to_pylist(), strict=True))
    done = kinfold.update(run, n_workers=1)
    assert done.counts["came"] == 24
    state, keyed = state_of(run), opened(run).assignments["key"].to_pylist()
    found = dict(zip(keyed, state.labels.tolist(), strict=True))
    assert {key: found[key] for key in keys} == {key: expected[key] for key in keys}
    assert len({found[key] for key in keys}) > 2
    assert not state.by_hand.any()
    # An undone split takes its new images along, and brings them back.
    with Corrections.open(opened(run)) as corrections:
        for _ in range(4):
            corrections.undo()
        np.testing.assert_array_equal(corrections.state.labels, opened(run).labels)
        for _ in range(4):
            corrections.redo()
        np.testing.assert_array_equal(corrections.state.labels, state.labels)
    # Corrections that were put away take their splits with them.
    (run.path / "corrections.sqlite").rename(tmp_path / "away.sqlite")
    np.testing.assert_array_equal(state_of(run).labels, opened(run).labels)


def test_every_command_works_on_an_updated_run(run, photos, tmp_path):
    name_groups(run)
    correct(run, Confirm([0, 1, 16, 17, 31, 32]), Rename(1, "green"))
    change_all(photos)
    kinfold.update(run, n_workers=1)
    shown = opened(run)
    assert shown.assignments["name"].null_count == 0
    again = {"method": "kmeans", "backbone": "pixels", "out": run.path, "n_workers": 1, "report": False}
    before = (run.path / "assignments.parquet").read_bytes()
    kinfold.cluster(photos, K, **again)
    assert (run.path / "assignments.parquet").read_bytes() == before
    with pytest.raises(InputError, match="kinfold update"):
        kinfold.cluster(photos, K + 1, **again)
    assert kinfold.evaluate(run.path, "folder").accuracy > 0.9
    page = kinfold.report(run.path).read_text()
    assert f"{len(shown.labels)}" in page
    kinfold.refine(run.path)
    for form, out in (("folders", "folders"), ("imagefolder", "hugging")):
        done = kinfold.export(run.path, form, tmp_path / out)
        assert (done.n_images, done.missing) == (len(shown.labels), ())
    sizes = [len(list((tmp_path / "folders").rglob(f"*{ending}"))) for ending in EXTENSIONS]
    assert sum(sizes) == len(shown.labels)
    assert kinfold.level(run.path, 2).n_groups == 2
    correct(run, Rename(0, "coarse"))
    add_images(photos, 3, seed=4)
    assert kinfold.update(run.path, n_workers=1).counts["came"] == 3
    assert state_of(run).groups[0].name == "coarse"
    kinfold.level(run.path, None)
    assert state_of(run).groups[1].name == "green"
    table = kinfold.predict(run.path, photos, tmp_path / "p.parquet", n_workers=1)
    found = dict(zip(table["key"].to_pylist(), table["cluster"].to_pylist(), strict=True))
    keyed = zip(opened(run).assignments["key"].to_pylist(), opened(run).labels.tolist(), strict=True)
    assert found == dict(keyed)
    assert kinfold.check(run.path).is_whole
    next(photos.rglob("*.png")).unlink()
    with pytest.raises(InputError, match=r"images have changed.*1 went"):
        kinfold.cluster(photos, K, **again)
    forced = kinfold.cluster(photos, K, **again, force=True)
    assert forced.manifest.updates is None
    assert forced.gone.num_rows == 0
    assert (run.path / "corrections-1.sqlite").exists()


def test_updates_follow_one_another_and_the_last_one_is_taken_back(run, photos):
    correct(run, Rename(0, "zero"), Move([row_of(run, "red/2.png")], 0))
    files = ("assignments.parquet", "skipped.parquet", "levels.parquet")
    states, seen = [], []
    for seed in (5, 6, 7):
        states.append([(run.path / name).read_bytes() for name in files])
        seen.append(corrected(run))
        add_images(photos, 3, seed)
        next(iter(sorted((photos / "green").glob("*.png")))).unlink()
        done = kinfold.update(run, n_workers=1)
        assert (done.number, done.counts["came"], done.counts["went"]) == (seed - 4, 3, 1)
    assert len(contents_of(run, photos)) == N_IMAGES + 6
    assert sorted(path.name for path in run.path.glob("features*")) == ["features-2", "features-3"]
    late = max(corrected(run))
    correct(run, Mark([late, 0], "noise"), client="later")
    last = corrected(run)
    kinfold.undo_update(run)
    assert [(run.path / name).read_bytes() for name in files] == states[2]
    assert {row: one for row, one in corrected(run).items() if row} == {
        row: one for row, one in seen[2].items() if row
    }
    assert corrected(run)[0][1] == 2
    assert opened(run).manifest.updates["history"][-1]["undone"]
    assert sorted(path.name for path in run.path.glob("f*")) == ["features-2"]
    assert kinfold.check(run.path).is_whole
    with pytest.raises(InputError, match="only the last one can"):
        kinfold.undo_update(run)
    # What comes again has the rows that it had, with what was said of them.
    assert kinfold.update(run, n_workers=1).counts["returned"] == 3
    assert corrected(run) == last
    assert opened(run).manifest.updates["number"] == 4


def test_an_update_is_not_taken_back_at_another_level_nor_without_what_it_needs(run, photos):
    add_images(photos, 3, seed=5)
    kinfold.update(run, n_workers=1)
    kinfold.level(run.path, 2)
    with pytest.raises(InputError, match="-k fit"):
        kinfold.undo_update(run)
    kinfold.level(run.path, None)
    file = run.path / "former-1" / "assignments.parquet"
    whole = file.read_bytes()
    file.unlink()
    file.write_bytes(whole[:-1])
    with pytest.raises(FormatError, match="damaged"):
        kinfold.undo_update(run)
    shutil.rmtree(run.path / "former-1")
    with pytest.raises(InputError, match="was deleted"):
        kinfold.undo_update(run)


def test_copies_keep_their_rows_by_name_and_then_in_order(run, photos):
    data = (photos / "red" / "2.png").read_bytes()
    for name in ("a.png", "b.png", "c.png"):
        (photos / name).write_bytes(data)
    backbone, sizes = counting_backbone()
    assert kinfold.update(run, backbone=backbone, n_workers=1).counts["came"] == 3
    assert sizes == []
    a, b, c = (row_of(run, name) for name in ("a.png", "b.png", "c.png"))
    (photos / "b.png").unlink()
    (photos / "a.png").rename(photos / "z.png")
    done = kinfold.update(run)
    assert {row_of(run, "c.png"), row_of(run, "z.png")} == {a, c}
    assert [line["row"] for line in opened(run).gone.to_pylist()] == [b]
    assert (done.counts["moved"], done.counts["went"]) == (1, 1)


def test_what_can_not_be_read_is_told_and_shifts_nothing(run, photos):
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (photos / "notes.txt").write_text("no image")
    done = kinfold.update(run, n_workers=1)
    assert (done.counts["came"], done.counts["unreadable"]) == (0, 2)
    assert [line["key"] for line in opened(run).skipped.to_pylist()] == ["broken.png", "notes.txt"]
    if os.name == "posix" and os.getuid():
        (photos / "red" / "2.png").chmod(0)
        done = kinfold.update(run)
        assert (done.changed, done.counts["unread"]) == (False, 1)
        assert "red/2.png" in opened(run).assignments["key"].to_pylist()
    kinfold.update(run)
    (photos / "broken.png").write_bytes((photos / "blue" / "0.png").read_bytes() + b"more")
    assert kinfold.update(run, n_workers=1).counts["changed"] == 1


def test_an_empty_folder_or_half_a_folder_is_not_all_gone(run, photos, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no files"):
        kinfold.update(run, tmp_path / "empty")
    shutil.rmtree(photos / "blue")
    for file in sorted((photos / "red").glob("*.png"))[:10]:
        file.unlink()
    with pytest.raises(InputError, match=r"only 20 of the 45 images.*--force"):
        kinfold.update(run)
    assert len(opened(run).labels) == N_IMAGES
    assert kinfold.update(run, force=True).counts["went"] == 25


def test_what_knows_no_files_says_so(tmp_path, features_file, photos):
    ready = kinfold.cluster(features_file, K, method="kmeans", out=tmp_path / "ready", report=False)
    with pytest.raises(InputError, match=r"ready features.*kinfold predict"):
        kinfold.update(ready)
    archive = shutil.make_archive(str(tmp_path / "photos"), "zip", photos)
    packed = kinfold.cluster(
        archive, K, method="kmeans", backbone="pixels", out=tmp_path / "p", n_workers=1, report=False
    )
    with pytest.raises(InputError, match=r"archive.*kinfold predict"):
        kinfold.update(packed)


def test_a_run_of_a_feature_store_of_a_folder_is_updated_too(photos, tmp_path):
    store = kinfold.embed(photos, tmp_path / "vectors", backbone="pixels", n_workers=1)
    run = kinfold.cluster(store.path, K, method="kmeans", out=tmp_path / "run2", report=False)
    correct(run, Rename(0, "zero"))
    add_images(photos, 3, seed=1)
    assert kinfold.update(run, n_workers=1).counts["came"] == 3
    assert len(FeatureStore.open(store.path).rows) == N_IMAGES
    assert opened(run).manifest.features["path"] == "features-1"
    assert state_of(run).groups[0].name == "zero"
    vectors_fit(run, photos)
    kinfold.cluster(store.path, K, method="kmeans", out=run.path, report=False)
    assert len(opened(run).labels) == N_IMAGES + 3
    kinfold.undo_update(run)
    assert opened(run).manifest.features["path"] == str(store.path.absolute())
    assert store.path.is_dir()


@pytest.mark.parametrize("first", [True, False])
def test_a_correction_that_is_made_meanwhile_is_kept(run, photos, monkeypatch, first):
    if not first:
        correct(run, Rename(1, "one"))
    add_images(photos, 3, seed=1)
    replace = Stages.replace
    with Corrections.open(opened(run)) as corrections:

        def correcting(*arguments, **options):
            corrections.apply(Rename(0, "just now"))
            replace(*arguments, **options)

        monkeypatch.setattr(Stages, "replace", correcting)
        kinfold.update(run, n_workers=1)
        with pytest.raises(FormatError, match="updated"):
            corrections.apply(Rename(2, "too late"))
    names = {number: group.name for number, group in state_of(run).groups.items()}
    assert names == {0: "just now", 1: None if first else "one", 2: None}


def test_without_its_features_a_run_says_how_to_get_them_back(run, photos):
    add_images(photos, 3, seed=1)
    shutil.rmtree(run.path / "features")
    with pytest.raises(InputError, match="repeat the `kinfold cluster` command"):
        kinfold.update(run)


def test_a_second_writer_is_told(run, photos):
    add_images(photos, 3, seed=1)
    told = []

    def update_too():
        with pytest.raises(InputError) as found:
            kinfold.update(run.path)
        told.append(str(found.value))

    with lock_directory(run.path):
        other = threading.Thread(target=update_too)
        other.start()
        other.join()
    assert "is being written" in told[0]
    assert len(opened(run).labels) == N_IMAGES


# Loads everything once, then forks a process for each number that it reads. It updates the run, and kills
# itself before so many files were renamed, or brought to the disk.
SERVER = """
import os, signal, sys, traceback
import kinfold.levels, kinfold.methods, kinfold.pipeline

def work(step, path):
    left = [step]

    def count(call):
        def counting(*arguments, **options):
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return call(*arguments, **options)
        return counting

    os.replace, os.fsync = count(os.replace), count(os.fsync)
    kinfold.pipeline.update(path, n_workers=1)

for line in sys.stdin:
    step, path = line.rstrip("\\n").split("\\t")
    pid = os.fork()
    if pid == 0:
        try:
            work(int(step), path)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
@pytest.mark.parametrize("stride", [29, pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_at_any_moment_leaves_the_old_run_or_the_new(run, photos, tmp_path, stride):
    correct(run, Split(0, 2), Rename(0, "zero"), Move([0, 20], 1), Mark([7], "wrong"))
    change_all(photos)
    whole = shutil.copytree(run.path, tmp_path / "whole")
    kinfold.update(whole, n_workers=1)
    files = ("assignments.parquet", "skipped.parquet", "levels.parquet")
    old, new = ([(place / name).read_bytes() for name in files] for place in (run.path, whole))
    groups = {len(old[0]): corrected(run), len(new[0]): corrected(Run.open(whole))}
    seen = []
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as server:
        for step in range(0, 200, stride):
            path = shutil.copytree(run.path, tmp_path / "attempt")
            server.stdin.write(f"{step}\t{path}\n")
            code = int(server.stdout.readline())
            assert code in (0, -signal.SIGKILL)
            found = Run.open(path)
            is_new = found.manifest.updates is not None
            seen.append(is_new)
            assert found.features().n_rows == len(found.labels) + found.gone.num_rows + found.skipped.num_rows
            np.testing.assert_array_equal(found.features().rows, found.assignments["row"].to_numpy())
            assert corrected(found) == groups[len((new if is_new else old)[0])]
            store = path / "features-1"
            ready = any(store.glob("unfinished/0*.parquet")) or (
                is_feature_store(store) and StoreManifest.read(store).complete
            )
            backbone, sizes = counting_backbone()
            kinfold.update(path, backbone=backbone, n_workers=1)
            assert sum(sizes) == (0 if ready else 7)
            assert [(path / name).read_bytes() for name in files] == new
            assert kinfold.check(path).is_whole
            assert not (path / ".next").exists()
            assert sorted(one.name for one in path.glob("f*-*")) == ["features-1", "former-1"]
            shutil.rmtree(path)
            if code == 0:
                break
        server.stdin.close()
    assert code == 0
    assert seen == sorted(seen)
    assert {False, True} == set(seen)
    assert len(seen) * stride >= 30


def test_typicality_covers_new_images_and_follows_the_undo(run, photos):
    before = opened(run)
    old = dict(zip(before.assignments["row"].to_pylist(), before.closeness.tolist(), strict=True))
    add_images(photos, 6, seed=3)
    kinfold.update(run)
    after = opened(run)
    closeness = dict(zip(after.assignments["row"].to_pylist(), after.closeness.tolist(), strict=True))
    assert {row: closeness[row] for row in old} == old
    features, fresh = after.features(), sorted(set(closeness) - set(old))
    X = features.matrix(after.manifest.features["variant"])[np.searchsorted(features.rows, fresh)]
    assert len(fresh) == 6
    np.testing.assert_array_equal(
        np.float32([closeness[row] for row in fresh]), read_reference(after).closeness(X)
    )
    assert not np.isnan(after.typicality).any()
    kinfold.undo_update(run)
    np.testing.assert_array_equal(opened(run).closeness, before.closeness)
