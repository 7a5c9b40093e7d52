"""Claims about pictures: made once, newest first, within a limit, and never the cause of a failure."""

from __future__ import annotations

import asyncio
import io
import os
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from kinfold.gallery.explore._pictures import Originals, ThumbnailCache, Thumbnails
from kinfold.images import ThumbnailMaker, UnusableImage, describe_image
from support.drawn_images import Noting, encoded
from support.galleries import make_gallery_run, opened


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_gallery_run(tmp_path_factory.mktemp("pictures"), n=230)


@pytest.fixture
def tab(run):
    for left in run.path.glob("thumbnails.sqlite*"):
        left.unlink()
    with opened(run) as tab:
        yield tab


def picture(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def test_a_thumbnail_is_a_small_webp_of_its_own_image(tab, run):
    for row in (0, 1, 2, 50):
        answer = tab.client.get(f"/thumb/{row}?side=128")
        assert answer.headers["content-type"] == "image/webp"
        shown = np.asarray(picture(answer.content).convert("RGB"), float).mean(axis=(0, 1))
        source = Image.open(Path(run.manifest["source"]["images"]) / f"{row:03d}.png")
        assert np.abs(shown - np.asarray(source, float).mean(axis=(0, 1))).max() < 12
    assert tab.client.get("/thumb/0?side=100").status_code == 400


def test_a_page_of_two_hundred_is_answered_side_by_side(tab):
    rows = tab.get("/api/rows")["rows"][:200]
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda row: tab.client.get(f"/thumb/{row}"), rows))
    assert {one.status_code for one in answers} == {200}
    assert all(picture(one.content).size == (32, 24) for one in answers)


def test_what_was_made_is_kept_for_the_next_server(run, tab):
    first = {row: tab.client.get(f"/thumb/{row}").content for row in (0, 1, 2)}
    tab.client.app.state.current.explorer.close()
    images = Path(run.manifest["source"]["images"])
    images.rename(images.with_name("away"))
    try:
        with opened(run, images=images.with_name("away")) as again:
            maker = again.client.app.state.current.explorer.thumbnails
            maker._make = None  # nothing may be made any more
            assert {row: again.client.get(f"/thumb/{row}").content for row in first} == first
    finally:
        images.with_name("away").rename(images)


def test_the_browser_is_told_that_it_has_it_already(tab):
    first = tab.client.get("/thumb/0")
    again = tab.client.get("/thumb/0", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert tab.client.get("/thumb/1", headers={"If-None-Match": first.headers["etag"]}).status_code == 200


def test_a_damaged_cache_is_begun_anew(run):
    (run.path / "thumbnails.sqlite").write_bytes(b"SQLite format 3\0 and then nonsense" * 1000)
    with opened(run) as tab:
        assert tab.client.get("/thumb/0").status_code == 200
    with sqlite3.connect(run.path / "thumbnails.sqlite") as kept:
        assert kept.execute("SELECT count(*) FROM thumbnails").fetchone() == (1,)


def test_where_nothing_can_be_kept_thumbnails_are_shown_all_the_same(run):
    for left in run.path.glob("thumbnails.sqlite*"):
        left.unlink()
    (run.path / "thumbnails.sqlite").mkdir()
    try:
        with opened(run) as tab:
            assert tab.client.get("/thumb/0").status_code == 200
    finally:
        (run.path / "thumbnails.sqlite").rmdir()


def test_missing_and_broken_originals_say_so(tmp_path):
    run = make_gallery_run(tmp_path, n=12, graph=False)
    images = tmp_path / "images"
    with opened(run) as tab:
        tab.get("/api/run")
        tab.client.get("/thumb/5")
        (images / "000.png").unlink()
        (images / "001.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 100)
        (images / "002.png").unlink()
        (images / "002.png").symlink_to("/etc/passwd")
        (images / "003.png").unlink()
        os.mkfifo(images / "003.png")
        for row, word in ((0, "missing"), (1, ""), (2, "not an image"), (3, "not a regular file")):
            for place in ("/thumb/", "/image/"):
                if (row, place) == (1, "/image/"):
                    continue  # its first bytes are an image's: the browser finds out
                answer = tab.client.get(f"{place}{row}")
                assert answer.status_code == 404, (row, place)
                assert word in answer.headers["x-reason"]
                assert b"root:" not in answer.content
            facts = tab.get(f"/api/images/{row}")
            assert row == 1 or word in facts["missing"]
        assert tab.client.get("/thumb/5").status_code == 200


def test_where_the_images_are_now_goes_into_the_commands_and_what_is_wrong_is_said(tmp_path, caplog):
    run = make_gallery_run(tmp_path, n=12, graph=False)
    moved = (tmp_path / "images").rename(tmp_path / "images elsewhere")
    with opened(run, images=str(moved), features="f.npy") as tab:
        assert tab.client.get("/thumb/0").status_code == 200
        commands = tab.get("/api/run")["commands"]
    assert commands["export"].endswith(f" --source '{moved}' --to")
    assert commands["refine"].endswith(" --source f.npy")
    assert "no pictures" not in caplog.text
    with opened(run) as tab:
        assert tab.client.get("/thumb/0").status_code == 404
        assert "--source" not in str(tab.get("/api/run")["commands"])
    assert "no pictures: the images of this run can't be opened" in caplog.text


def test_a_run_without_images_works_without_pictures(make_run):
    run = make_run(source={"kind": "features", "uri": "/x.npy", "images": None, "n_rows": 60})
    with opened(run) as tab:
        assert not tab.get("/api/run")["has_images"]
        answer = tab.client.get("/thumb/0")
        assert answer.status_code == 404
        assert "ready features" in answer.headers["x-reason"]
        assert "ready features" in tab.get("/api/images/0")["missing"]
        assert tab.get("/api/groups")["total"] == 3
        assert tab.get("/api/images")["total"] == 60
        tab.edit("move", rows=[0], group=None)
        assert tab.client.get("/api/images?group=0&sort=distance").status_code == 503
        assert tab.client.get("/api/images/0/neighbors").status_code == 503


@pytest.mark.parametrize(
    ("kind", "given", "size"),
    [("PNG", "image/png", (40, 30)), ("GIF", "image/gif", (40, 30)), ("TIFF", "image/webp", (40, 30))],
)
def test_an_original_is_given_as_a_browser_can_show_it(tmp_path, kind, given, size):
    run = make_gallery_run(tmp_path, n=6, graph=False)
    (tmp_path / "images" / "000.png").write_bytes(encoded(kind))
    with opened(run) as tab:
        answer = tab.client.get("/image/0")
        assert answer.headers["content-type"] == given
        assert picture(answer.content).size == size


def test_markup_is_never_passed_through(tmp_path):
    run = make_gallery_run(tmp_path, n=6, graph=False)
    markup = (b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>", b"<html><script>1")
    for row, content in enumerate(markup):
        (tmp_path / "images" / f"{row:03d}.png").write_bytes(content)
    with opened(run) as tab:
        for row in range(len(markup)):
            for place in ("/image/", "/thumb/"):
                answer = tab.client.get(f"{place}{row}")
                assert answer.status_code == 404
                assert answer.headers["content-type"] == "application/json"


def test_facts_of_a_file_leave_out_where_it_was_taken():
    exif = Image.Exif()
    exif[0x010F], exif[0x0110], exif[0x0112], exif[0x0132] = (
        "Maker",
        "<b>Model</b>\0x",
        6,
        "2024:01:02 03:04:05",
    )
    exif.get_ifd(0x8769)[0x829A] = IFDRational(1, 250)
    exif.get_ifd(0x8825)[2] = (52.0, 30.0, 0.0)
    found = describe_image(encoded("JPEG", exif=exif))
    assert (found.format, found.width, found.height) == ("JPEG", 30, 40)  # as it is shown
    assert found.metadata["camera"] == "<b>Model</b> x"
    assert found.metadata["orientation"] == "turned left"
    assert found.metadata["exposure"] == "1/250 s"
    assert "52" not in " ".join(found.metadata.values())


def test_facts_of_hostile_bytes_are_a_reason():
    for data in (
        b"",
        b"<svg/>",
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"RIFF\0\0\0\0WEBPVP8 ",
        b"BM" + b"\0" * 60,
    ):
        with pytest.raises(UnusableImage):
            describe_image(data)


def test_the_last_asked_for_is_made_first_and_what_nobody_awaits_is_not_made():
    source = Noting(1000)
    maker = ThumbnailMaker(source, n_workers=1)
    taken = []
    maker._pool.submit = taken.append  # workers that never come to an end
    futures = [maker.make(row, 128) for row in range(20)]
    assert source.asked == [0, 1]  # two are at the only worker
    again = maker.make(4, 128)
    for row in (3, 18, 19):
        assert futures[row].cancel()
    for number in range(40):
        item = taken[number].items[0] if number < len(taken) else None
        if item is None:
            break
        maker._receive([(item, np.frombuffer(b"webp", np.uint8))])
    assert source.asked == [0, 1, 4, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 2]
    assert again.result(1).data == futures[4].result(1).data == b"webp"
    assert futures[7].result(1).reason.startswith("missing")
    assert all(one.done() for one in futures)
    maker.close()


def test_the_same_thumbnail_is_made_once_for_all_who_ask():
    source = Noting(10)
    maker = ThumbnailMaker(source, n_workers=1)
    futures = [maker.make(1, 128) for _ in range(50)]
    assert {future.result(30).data[:4] for future in futures} == {b"RIFF"}
    assert source.asked == [1]
    maker.close()
    assert maker.make(2, 128).result(1).reason


def test_who_waits_when_the_maker_closes_hears_of_it():
    maker = ThumbnailMaker(Noting(10), n_workers=1)
    maker._pool.submit = lambda task: None
    future = maker.make(1, 128)
    maker.close()
    assert "closing" in future.result(1).reason


def test_the_cache_keeps_to_its_limit_and_the_longest_unused_go(tmp_path):
    data = os.urandom(20_000)
    limit = 3 << 20
    cache = ThumbnailCache(tmp_path, "base", limit)
    for row in range(60):
        cache.put(row, 128, data)
    cache.close()
    cache = ThumbnailCache(tmp_path, "base", limit)
    for row in range(20):
        assert cache.get(row, 128) == data  # used again: these stay
    for row in range(60, 160):
        cache.put(row, 128, data)
    cache.close()
    cache = ThumbnailCache(tmp_path, "base", limit)
    kept = {row for row in range(160) if cache.get(row, 128) is not None}
    cache.close()
    assert (tmp_path / "thumbnails.sqlite").stat().st_size <= limit
    assert len(kept) > 80
    gone = set(range(160)) - kept
    assert gone == set(range(20, 20 + len(gone)))  # never used again, the first written first
    assert 0 < len(gone) < 40


def test_thumbnails_of_other_images_are_thrown_away(tmp_path):
    first = ThumbnailCache(tmp_path, "these", 1 << 24)
    first.put(1, 128, b"one")
    first.put(1, 256, b"large")
    assert first.get(1, 128) == b"one"
    first.close()
    same = ThumbnailCache(tmp_path, "these", 1 << 24)
    assert (same.get(1, 128), same.get(1, 256), same.get(2, 128)) == (b"one", b"large", None)
    same.close()
    other = ThumbnailCache(tmp_path, "others", 1 << 24)
    assert other.get(1, 128) is None
    other.close()


def test_threads_write_and_read_the_cache_at_once(tmp_path):
    cache = ThumbnailCache(tmp_path, "base", 1 << 24)
    wrong = []

    def work(start):
        for row in range(start, start + 100):
            cache.put(row, 128, str(row).encode())
            if cache.get(row, 128) != str(row).encode():
                wrong.append(row)

    threads = [threading.Thread(target=work, args=(100 * k,)) for k in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not wrong
    assert all(cache.get(row, 128) == str(row).encode() for row in range(800))
    cache.close()


def test_a_request_that_is_gone_leaves_the_queue(run):
    thumbnails = Thumbnails(Originals(run, Noting(10)), None, "base", 1 << 24, 1)
    thumbnails._open_now()
    thumbnails._maker._pool.submit = lambda task: None

    async def scroll():
        waiting = [asyncio.ensure_future(thumbnails.get(row, 128)) for row in (0, 1, 2, 3)]
        while len(thumbnails._maker._jobs) < len(waiting):
            await asyncio.sleep(0.005)
        for one in waiting[2:]:
            one.cancel()
        await asyncio.gather(*waiting[2:], return_exceptions=True)
        return waiting

    async def check():
        waiting = await scroll()
        jobs = thumbnails._maker._jobs
        wanted = {key[0] for key, job in jobs.items() if job.is_wanted}
        for one in waiting:
            one.cancel()
        return wanted

    assert len(asyncio.run(check())) == 2
    thumbnails.close()
