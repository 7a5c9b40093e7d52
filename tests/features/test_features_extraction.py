"""Claims about extraction: rows never shift, interruptions leave no trace, errors are clear."""

from __future__ import annotations

import errno
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kinfold import storage
from kinfold.backbones import Backbone
from kinfold.errors import FormatError, InputError
from kinfold.features import FeatureStore, extract_features, is_features, open_features
from kinfold.features.extraction import _Speed
from kinfold.images import open_source


def small(image):
    return np.asarray(image.resize((4, 4)), dtype=np.float32)


class MadeBackbone(Backbone):
    """Vectors that are easy to foresee, and a count of what was asked."""

    def __init__(self, seed=0, batch_size=4):
        self.variants = {"cls": 6, "last4": 9}
        self.transform = small
        self.min_side = None
        self.seed = seed
        self.batch_size = batch_size
        self.batches = []
        self.searches = 0

    def embed(self, images, variants=("cls",)):
        self.batches.append(len(images))
        flat = images.reshape(len(images), -1)
        maps = {
            name: np.random.default_rng(self.seed).normal(size=(48, dim))
            for name, dim in self.variants.items()
        }
        return {name: (flat @ maps[name]).astype(np.float32) for name in variants}

    def find_batch_size(self):
        self.searches += 1
        return self.batch_size

    def describe(self):
        return {"card": {"name": "made"}, "precision": "float32"}

    def fingerprint(self):
        return f"made-{self.seed}"


def picture(number):
    pixels = np.random.default_rng(number).integers(0, 256, size=(8, 8, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def make_folder(path, n=23, bad=(0, 5, 6, 7, 8, 9, 22)):
    path.mkdir()
    for number in range(n):
        content = b"" if number in bad else picture(number)
        (path / f"{number:03d}.png").write_bytes(content)
    return open_source(path)


@pytest.fixture(name="source")
def made_source(tmp_path):
    return make_folder(tmp_path / "photos")


def extract(source, out, backbone=None, **options):
    options = {"n_workers": 0, "shard_rows": 4, **options}
    return extract_features(source, backbone or MadeBackbone(), out, **options)


def content(path):
    return {
        str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()
    }


def expected(source, rows, variant="cls"):
    images = np.stack([small(Image.open(io.BytesIO(source.read(row))).convert("RGB")) for row in rows])
    return MadeBackbone().embed(images, [variant])[variant]


def test_rows_never_shift_when_files_are_bad(source, tmp_path):
    store = extract(source, tmp_path / "f", variants=("cls", "last4"))
    usable = [row for row in range(23) if row not in (0, 5, 6, 7, 8, 9, 22)]
    assert store.n_rows == 23
    assert store.rows.tolist() == usable
    assert store.keys.to_pylist() == list(source.keys)
    assert store.variants == ("cls", "last4")
    for variant in store.variants:
        np.testing.assert_allclose(store.matrix(variant)[:], expected(source, usable, variant), rtol=1e-5)
    assert store.skipped.column("row").to_pylist() == [0, 5, 6, 7, 8, 9, 22]
    assert all(reason.startswith("empty") for reason in store.skipped.column("reason").to_pylist())
    assert store.skipped.column("key").to_pylist()[1] == "005.png"


def test_an_opened_store_is_the_one_extracted(source, tmp_path):
    store = extract(source, tmp_path / "f")
    opened = FeatureStore.open(tmp_path / "f")
    opened.verify()
    assert is_features(tmp_path / "f")
    assert isinstance(open_features(str(tmp_path / "f")), FeatureStore)
    assert opened.fingerprint() == store.fingerprint()
    assert opened.source_uri == source.uri
    assert opened.neighbors_path == tmp_path / "f" / "neighbors"
    assert opened.backbone["precision"] == "float32"
    assert opened.matrix().dtype == np.float32
    assert opened.skipped.schema.names == ["row", "key", "reason"]


def test_the_store_holds_only_what_its_format_names(source, tmp_path):
    extract(source, tmp_path / "f")
    names = [
        "contents.parquet",
        "index.parquet",
        "manifest.json",
        *(f"variants/cls/{i:05d}.npy" for i in range(6)),
    ]
    assert list(content(tmp_path / "f")) == names
    manifest = json.loads((tmp_path / "f" / "manifest.json").read_text())
    assert manifest["format"] == "kinfold-features"
    assert (manifest["complete"], manifest["batch_size"], manifest["shard_rows"]) == (True, 4, 4)
    assert (manifest["n_rows"], manifest["n_usable"]) == (23, 16)
    assert manifest["source"]["kind"] == "folder"


def test_a_shard_without_any_usable_row_is_empty(source, tmp_path):
    store = extract(source, tmp_path / "f", batch_size=2, shard_rows=2)
    assert [shard.rows for shard in store.manifest.variants["cls"].shards][3] == 0
    assert len(store.matrix()[:]) == 16


@pytest.mark.parametrize(
    "options", [{"batch_size": 1}, {"shard_rows": 100}, {"n_workers": 2}, {"batch_size": 50}]
)
def test_neither_batches_nor_shards_nor_workers_change_the_rows(source, tmp_path, options):
    store = extract(source, tmp_path / "f", **options)
    plain = extract(source, tmp_path / "g")
    np.testing.assert_allclose(store.matrix()[:], plain.matrix()[:], rtol=1e-5)
    assert store.rows.tolist() == plain.rows.tolist()


def test_shards_are_whole_batches(source, tmp_path):
    backbone = MadeBackbone(batch_size=3)
    store = extract(source, tmp_path / "f", backbone, shard_rows=7)
    assert store.manifest.shard_rows == 9
    assert backbone.batches == [2, 2, 2, 3, 3, 3, 1]


def test_vectors_without_direction_are_skipped_in_all_variants(source, tmp_path):
    class Odd(MadeBackbone):
        def embed(self, images, variants=("cls",)):
            vectors = super().embed(images, variants)
            if len(self.batches) == 2:
                vectors["cls"][0] = np.nan
            if len(self.batches) == 4:
                vectors["last4"][1] = 0
            return vectors

    plain = extract(source, tmp_path / "plain", variants=("cls", "last4"))
    store = extract(source, tmp_path / "f", Odd(), variants=("cls", "last4"))
    assert sorted(set(plain.rows) - set(store.rows)) == [4, 13]
    reasons = dict(zip(*(store.skipped.column(name).to_pylist() for name in ("row", "reason")), strict=True))
    assert (reasons[4], reasons[13]) == ("not finite", "all zero")
    kept = np.isin(plain.rows, store.rows)
    for variant in store.variants:
        np.testing.assert_allclose(store.matrix(variant)[:], plain.matrix(variant)[:][kept], rtol=1e-5)


class Stop(BaseException):
    """As abrupt as a kill, as far as files go."""


def test_interrupted_at_any_file_the_store_ends_the_same(source, tmp_path, monkeypatch):
    extract(source, tmp_path / "whole")
    whole = content(tmp_path / "whole")
    replace = os.replace
    for last in range(1, 40):
        out = tmp_path / f"stopped-{last}"
        left = [last]

        def stopping(*names, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise Stop
            replace(*names)

        monkeypatch.setattr(storage.os, "replace", stopping)
        try:
            extract(source, out)
            monkeypatch.setattr(storage.os, "replace", replace)
            break
        except Stop:
            monkeypatch.setattr(storage.os, "replace", replace)
        with pytest.raises(FormatError):
            FeatureStore.open(out)
        assert content(extract(source, out).path) == whole
    assert last > 10


def test_going_on_repeats_no_finished_shard_and_keeps_the_batch_size(source, tmp_path):
    class Stopping(MadeBackbone):
        def embed(self, images, variants=("cls",)):
            if len(self.batches) == 3:
                raise Stop
            return super().embed(images, variants)

    with pytest.raises(Stop):
        extract(source, tmp_path / "f", Stopping(batch_size=2))
    with pytest.raises(FormatError, match="unfinished"):
        FeatureStore.open(tmp_path / "f")
    assert is_features(tmp_path / "f")
    (tmp_path / "f" / "variants" / "cls" / ".partial-00001.npy").write_bytes(b"half")
    again = MadeBackbone(batch_size=8)
    store = extract(source, tmp_path / "f", again)
    assert store.manifest.batch_size == 2
    assert again.searches == 0
    assert content(store.path) == content(extract(source, tmp_path / "g", MadeBackbone(batch_size=2)).path)
    assert sum(again.batches) == 16 - 4


def test_a_finished_store_is_not_extracted_again(source, tmp_path):
    extract(source, tmp_path / "f")
    before = content(tmp_path / "f")
    backbone = MadeBackbone()
    extract(source, tmp_path / "f", backbone, batch_size=9, shard_rows=None)
    assert backbone.batches == []
    assert content(tmp_path / "f") == before


def test_another_batch_size_starts_an_unfinished_store_over(source, tmp_path):
    class Stopping(MadeBackbone):
        def embed(self, images, variants=("cls",)):
            if len(self.batches) == 3:
                raise Stop
            return super().embed(images, variants)

    with pytest.raises(Stop):
        extract(source, tmp_path / "f", Stopping())
    store = extract(source, tmp_path / "f", batch_size=2)
    assert store.manifest.batch_size == 2
    assert content(store.path) == content(extract(source, tmp_path / "g", batch_size=2).path)


def test_nothing_stale_is_kept_when_source_backbone_or_variants_change(source, tmp_path):
    out = tmp_path / "f"
    first = extract(source, out)
    (out / "neighbors").mkdir()
    (out / "neighbors" / "old").write_text("x")
    second = extract(source, out, MadeBackbone(seed=1))
    assert second.fingerprint() != first.fingerprint()
    assert content(out) == content(extract(source, tmp_path / "g", MadeBackbone(seed=1)).path)
    extract(source, out, variants=("last4",))
    assert content(out) == content(extract(source, tmp_path / "h", variants=("last4",)).path)
    (tmp_path / "photos" / "003.png").write_bytes(picture(77))
    changed = open_source(tmp_path / "photos")
    assert extract(changed, out).fingerprint() != first.fingerprint()


def test_images_that_can_not_be_used_at_all_are_an_error_with_the_reasons(tmp_path):
    source = make_folder(tmp_path / "photos", n=7, bad=range(7))
    for _ in range(2):
        with pytest.raises(InputError, match=r"none of the 7 images .* empty \(7\)"):
            extract(source, tmp_path / "f")


def test_a_place_that_holds_something_else_is_refused_and_left(source, tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("x")
    for out in (tmp_path / "docs", tmp_path / "docs" / "a.txt"):
        with pytest.raises(InputError, match="something else"):
            extract(source, out)
    assert content(tmp_path / "docs") == {"a.txt": b"x"}
    (tmp_path / "empty").mkdir()
    assert extract(source, tmp_path / "empty").n_rows == 23


@pytest.mark.parametrize(
    "options",
    [
        {"variants": ()},
        {"variants": "cls"},
        {"variants": ("cls", "cls")},
        {"batch_size": 0},
        {"shard_rows": 0},
    ],
)
def test_parameters_out_of_range_are_refused(source, tmp_path, options):
    with pytest.raises(InputError):
        extract(source, tmp_path / "f", **options)
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize(
    ("number", "message"),
    [(errno.ENOSPC, "disk is full"), (errno.EROFS, "written to"), (errno.EACCES, "written to")],
)
def test_a_disk_that_is_full_or_read_only_is_told(source, tmp_path, monkeypatch, number, message):
    save = np.save

    def failing(file, array, **options):
        if len(list((tmp_path / "f" / "unfinished").glob("0*"))) == 2:
            raise OSError(number, os.strerror(number))
        save(file, array, **options)

    monkeypatch.setattr(np, "save", failing)
    with pytest.raises(InputError, match=message):
        extract(source, tmp_path / "f")
    monkeypatch.setattr(np, "save", save)
    assert content(extract(source, tmp_path / "f").path) == content(extract(source, tmp_path / "g").path)


def test_a_damaged_store_names_the_file(source, tmp_path):
    extract(source, tmp_path / "f")
    for name, whole in content(tmp_path / "f").items():
        file = tmp_path / "f" / name
        altered = whole[:-1] + bytes([whole[-1] ^ 1])
        for damaged in (None, whole[:-9], altered):
            if damaged is None:
                file.unlink()
            else:
                file.write_bytes(damaged)
            with pytest.raises(FormatError, match=file.name):
                FeatureStore.open(tmp_path / "f").verify()
        file.write_bytes(whole)
    FeatureStore.open(tmp_path / "f").verify()


def test_a_damaged_store_is_extracted_again(source, tmp_path):
    before = content(extract(source, tmp_path / "f").path)
    (tmp_path / "f" / "variants" / "cls" / "00002.npy").unlink()
    assert content(extract(source, tmp_path / "f").path) == before


def test_a_newer_store_is_refused_and_left(source, tmp_path):
    extract(source, tmp_path / "f")
    file = tmp_path / "f" / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format_version": 99}))
    before = content(tmp_path / "f")
    for act in (lambda: FeatureStore.open(tmp_path / "f"), lambda: extract(source, tmp_path / "f")):
        with pytest.raises(FormatError, match="update Kinfold"):
            act()
    assert content(tmp_path / "f") == before


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": "kinfold-features", "format_version": 1}'])
def test_a_foreign_or_damaged_manifest_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(FormatError, match=r"manifest\.json"):
        FeatureStore.open(tmp_path)


def test_a_folder_without_a_manifest_is_no_store(tmp_path):
    with pytest.raises(FormatError, match="not a feature store"):
        open_features(tmp_path)


def test_a_moved_source_leaves_the_features_readable(source, tmp_path):
    extract(source, tmp_path / "f")
    (tmp_path / "photos").rename(tmp_path / "elsewhere")
    store = FeatureStore.open(tmp_path / "f")
    assert len(store.matrix()[:]) == 16
    assert Path(store.source_uri) == tmp_path / "photos"


class Recorder:
    """A progress that remembers."""

    def __init__(self):
        self.total, self.done, self.figures = None, 0, []

    def task(self, description, total, unit=""):
        self.total, self.unit = total, unit
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return False

    def advance(self, n=1, **figures):
        self.done += n
        self.figures.append(figures)


def test_progress_counts_all_images_and_shows_the_speed(source, tmp_path):
    progress = Recorder()
    extract(source, tmp_path / "f", progress=progress)
    assert (progress.total, progress.done, progress.unit) == (23, 23, "images")
    assert progress.figures[-1]["images/s"] > 0


def test_the_speed_is_that_of_the_last_batches(monkeypatch):
    clock = iter([0.0, 1.0, 3.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    task = Recorder()
    speed = _Speed(task)
    speed.advance(10)
    speed.advance(20)
    assert [figures["images/s"] for figures in task.figures] == [10.0, 10.0]


SCRIPT = """
import sys
sys.path.insert(0, {here!r})
from test_features_extraction import MadeBackbone, extract, open_source
extract(open_source(sys.argv[1]), sys.argv[2], n_workers=1)
"""


@pytest.mark.slow
class RunBackbone(MadeBackbone):
    """A backbone that an engine runs."""

    def __init__(self, engine):
        super().__init__()
        self.engine = engine

    def describe(self):
        return {**super().describe(), "engine": self.engine}


def test_an_unfinished_store_of_another_engine_starts_over(source, tmp_path):
    class Stopping(RunBackbone):
        def embed(self, images, variants=("cls",)):
            if len(self.batches) == 3:
                raise Stop
            return super().embed(images, variants)

    with pytest.raises(Stop):
        extract(source, tmp_path / "f", Stopping("openvino"))
    other, same = RunBackbone("torch"), RunBackbone("torch")
    store = extract(source, tmp_path / "f", other)
    extract(source, tmp_path / "fresh", same)
    assert other.batches == same.batches
    assert store.backbone["engine"] == "torch"
    assert content(tmp_path / "f") == content(tmp_path / "fresh")


def test_a_finished_store_of_another_engine_is_taken_as_it_is(source, tmp_path):
    before = extract(source, tmp_path / "f", RunBackbone("openvino"))
    other = RunBackbone("torch")
    after = extract(source, tmp_path / "f", other)
    assert other.batches == []
    assert after.backbone["engine"] == "openvino"
    assert after.fingerprint() == before.fingerprint()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_at_random_moments_the_store_ends_the_same(tmp_path):
    source = make_folder(tmp_path / "photos", n=300)
    extract(source, tmp_path / "whole")
    script = SCRIPT.format(here=str(Path(__file__).parent))
    command = [sys.executable, "-c", script, source.uri, str(tmp_path / "f")]
    parts = tmp_path / "f" / "unfinished"
    chance = random.Random(0)
    for _ in range(4):
        before = len(list(parts.glob("0*")))
        process = subprocess.Popen(command)
        deadline = time.monotonic() + 60
        while (
            len(list(parts.glob("0*"))) == before and process.poll() is None and time.monotonic() < deadline
        ):
            time.sleep(0.005)
        time.sleep(chance.random() * 0.1)
        process.kill()
        process.wait()
    subprocess.run(command, check=True)
    assert content(tmp_path / "f") == content(tmp_path / "whole")
