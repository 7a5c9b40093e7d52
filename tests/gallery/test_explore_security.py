"""Claims about who may ask and what is given: attacks on every route."""

from __future__ import annotations

import json

import pytest
from starlette.testclient import TestClient

from kinfold.gallery.explore import create_app
from kinfold.gallery.explore._app import list_files
from kinfold.gallery.explore._security import HostRule, host_name
from support.galleries import HOST, make_gallery_run, opened

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u2028\u202e.png"
GETS = (
    "/",
    "/web/index.html",
    "/api/run",
    "/api/groups",
    "/api/groups/0",
    "/api/images",
    "/api/rows",
    "/api/images/0",
    "/api/images/0/neighbors",
    "/api/skipped",
    "/api/charts",
    "/api/history",
    "/api/version",
    "/api/refine",
    "/api/export/csv",
    "/api/map",
    "/thumb/0",
    "/image/0",
)
POSTS = ("/api/edits", "/api/undo", "/api/redo", "/api/refine", "/api/map", "/api/similar")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_gallery_run(tmp_path_factory.mktemp("security"), n=40)


@pytest.fixture(scope="module")
def tab(run):
    with opened(run) as tab:
        yield tab


@pytest.mark.parametrize("path", GETS)
def test_every_answer_forbids_what_a_page_could_do_with_it(tab, path):
    answer = tab.client.get(path)
    assert answer.status_code == 200, answer.text
    headers = answer.headers
    assert headers["x-content-type-options"] == "nosniff"
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in headers
    assert "no-" in headers["cache-control"]


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:80",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "evil.example/@127.0.0.1",
        "user@127.0.0.1",
        "127.0.0.1:99999999",
        "127.0.0.2",
        "0.0.0.0",
        "[::2]",
        "",
    ],
)
def test_another_host_is_refused(tab, host):
    for path in ("/", "/api/run", "/thumb/0", "/web/app.js"):
        answer = tab.client.get(path, headers={"Host": host})
        assert answer.status_code == 403
        assert "error" in answer.json()


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8123", "localhost:1", "LOCALHOST", "[::1]:8123", "[::1]"]
)
def test_this_machine_is_let_in_by_all_its_names(tab, host):
    assert tab.client.get("/api/version", headers={"Host": host}).status_code == 200


def test_a_host_in_numbers_is_let_in_only_where_all_may_come():
    assert HostRule(["localhost", "*"]).allows("192.168.1.7:80")
    assert HostRule(["*"]).allows("[fe80::1]:80")
    assert not HostRule(["*"]).allows("evil.example")
    assert not HostRule(["localhost"]).allows("192.168.1.7")
    assert host_name("a b") is None


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:81"},
        {"Origin": "file://127.0.0.1"},
        {"Origin": "http://["},
        {"Origin": "http://127.0.0.1/path"},
        {"Origin": "http://127.0.0.1", "Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
    ],
)
def test_writes_of_other_pages_are_refused(tab, headers):
    for path in POSTS:
        kind = "image/png" if path == "/api/similar" else "application/json"
        answer = tab.client.post(path, content=b"{}", headers={"Content-Type": kind, **headers})
        assert answer.status_code == 403, (path, headers)
    assert tab.get("/api/version")["version"] == 0


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "text/json"],
)
def test_what_a_form_of_another_page_could_send_is_refused(tab, kind):
    edit = json.dumps({"kind": "rename", "group": 0, "name": "theirs"})
    for path in POSTS:
        answer = tab.client.post(path, content=edit, headers={"Origin": HOST, "Content-Type": kind})
        assert answer.status_code == 415
    assert tab.get("/api/version")["version"] == 0


def test_reading_from_another_page_is_refused_but_a_link_to_the_gallery_works(tab):
    for site in ("cross-site", "same-site"):
        headers = {"Sec-Fetch-Site": site}
        assert tab.client.get("/image/0", headers=headers).status_code == 403
        assert tab.client.get("/api/run", headers=headers).status_code == 403
        assert tab.client.get("/", headers=headers).status_code == 200
    assert tab.client.get("/api/run", headers={"Origin": "http://evil.example"}).status_code == 403


def test_other_ways_of_asking_are_refused(tab):
    headers = {"Origin": HOST, "Content-Type": "application/json"}
    for way in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        answer = tab.client.request(way, "/api/edits", headers=headers, content=b"{}")
        assert answer.status_code == 405, way


TRAVERSALS = (
    "../_app.py",
    "..%2f_app.py",
    "%2e%2e/_app.py",
    "%2e%2e%2f%2e%2e%2f__init__.py",
    "..%5c_app.py",
    "....//_app.py",
    "%252e%252e%252f_app.py",
    "index.html%00",
    "index.html/../../_app.py",
    "/etc/passwd",
    "%2fetc%2fpasswd",
    "C:%5cwindows%5cwin.ini",
    "file:///etc/passwd",
    "index.html;.js",
    "INDEX.HTML",
    ".",
    "..",
    "",
    "%ff%fe",
    "index.html%0d%0aX: y",
)


@pytest.mark.parametrize(
    "place", ["/web/", "/thumb/", "/image/", "/api/images/", "/api/groups/", "/api/export/", "/api/", "/"]
)
def test_no_path_leads_out(tab, place):
    for name in TRAVERSALS:
        if place + name == "/":
            continue
        status, body = ask_raw(tab.client.app, (place + name).encode())
        assert status in (400, 403, 404), (place, name, status)
        assert b"root:" not in body
        assert b"import" not in body


def test_a_page_that_goes_away_while_it_sends_is_no_bug(run, caplog):
    own = [(b"origin", HOST.encode()), (b"content-type", b"application/json")]
    app = create_app(run)
    status, _ = ask_raw(app, b"/api/edits", method="POST", headers=own, goes=True)
    app.state.current.explorer.close()
    assert status == 499
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def ask_raw(app, path, *, method="GET", headers=(), goes=False):
    """Ask as no client would: with a path neither normalised nor checked, or by going away (``goes``)."""
    import asyncio
    from urllib.parse import unquote_to_bytes

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote_to_bytes(path).decode("utf-8", "replace"),
        "raw_path": path,
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1"), *headers],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    status, body = [], []

    async def send(message):
        if message["type"] == "http.response.start":
            status.append(message["status"])
        else:
            body.append(message.get("body", b""))

    async def receive():
        if not goes:
            await asyncio.sleep(3600)
        return {"type": "http.disconnect"}

    asyncio.run(app(scope, receive, send))
    return status[0], b"".join(body)


def test_links_and_foreign_files_beside_the_pages_own_are_not_served(tmp_path):
    (tmp_path / "app.js").write_text("1")
    (tmp_path / "secret.key").write_text("2")
    (tmp_path / "link.js").symlink_to("/etc/passwd")
    (tmp_path / "folder.js").mkdir()
    assert list(list_files(tmp_path)) == ["app.js"]


def test_skipped_and_unlisted_rows_have_no_picture(tab, run):
    for row in (4, 9, 21, 40, 41, 10**6):
        for place in ("/thumb/", "/image/", "/api/images/"):
            assert tab.client.get(f"{place}{row}").status_code == 404


NUMBERS = (
    "-1",
    "1e3",
    "0x1",
    "1.5",
    "nan",
    "٣",
    "9" * 15,
    "9" * 19,
    "9" * 400,
    "9" * 5000,
    " 1",
    "1 ",
    "+1",
    "1_0",
)


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_out_of_range_are_wrong_and_never_a_bug(tab, number):
    for place in ("/thumb/{}", "/image/{}", "/api/images/{}", "/api/images/{}/neighbors", "/api/groups/{}"):
        answer = tab.client.get(place.format(number))
        assert answer.status_code == 404, (place, number, answer.text)
    for question in ("offset", "limit", "group", "second"):
        answer = tab.client.get("/api/images", params={question: number})
        assert answer.status_code < 500, (question, answer.text)
    for path, question in (("/api/groups", "limit"), ("/api/history", "before"), ("/thumb/0", "side")):
        answer = tab.client.get(path, params={question: number})
        assert answer.status_code < 500, (path, answer.text)
    for name in ("rows", "group"):
        for value in (number, [number]):
            answer = tab.send("/api/edits", {"kind": "move", "rows": [0], "group": 1, name: value})
            assert 400 <= answer.status_code < 500, answer.text


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"rename"',
        b'{"kind": "rename"}',
        b'{"kind": "nothing"}',
        b'{"kind": ["rename"]}',
        b'{"kind": "move", "rows": [NaN], "group": 0}',
        b'{"kind": "move", "rows": [1e400], "group": 0}',
        b'{"kind": "move", "rows": [0.5], "group": 0}',
        b'{"kind": "move", "rows": [true], "group": 0}',
        b'{"kind": "move", "rows": [[0]], "group": 0}',
        b'{"kind": "move", "rows": "0", "group": 0}',
        b'{"kind": "move", "rows": {"0": 1}, "group": 0}',
        b'{"kind": "move", "rows": [9223372036854775808], "group": 0}',
        b'{"kind": "move", "rows": [0], "group": 1e3}',
        b'{"kind": "move", "rows": [0], "group": -1}',
        b'{"kind": "move", "rows": [0], "group": 99999999999999999999}',
        b'{"kind": "merge", "groups": [0, 99999999999999999999], "into": 1}',
        b'{"kind": "split", "group": 0, "n_clusters": 1000000000}',
        b'{"kind": "split", "group": 0, "n_clusters": "2"}',
        b'{"kind": "rename", "group": 0, "name": 7}',
        b'{"kind": "rename", "group": 0, "name": {"a": 1}}',
        b'{"kind": "rename", "group": 0, "name": "\\ud800"}',
        b'{"kind": "rename", "group": 0, "name": "a\\u0000b"}',
        b'{"kind": "mark", "rows": [0], "mark": "bad"}',
        b'{"kind": "lock", "groups": [0], "locked": "yes"}',
        b'{"kind": "accept", "rows": [0, 1], "groups": [1]}',
        b'{"kind": "rename", "group": 0, "name": "x", "extra": 1}',
        b'{"a":' * 100_000,
        b"\xff\xfe\x00",
    ],
)
def test_edits_that_are_none_are_refused_and_leave_nothing(tab, body):
    headers = {"Origin": HOST, "Content-Type": "application/json"}
    answer = tab.client.post("/api/edits", content=body, headers=headers)
    assert 400 <= answer.status_code < 500, (body[:60], answer.status_code, answer.text)
    assert answer.json()["error"]
    assert tab.get("/api/version")["version"] == 0


def test_too_much_is_refused_before_it_is_read(tab):
    headers = {"Origin": HOST, "Content-Type": "application/json", "Content-Length": str((16 << 20) + 1)}
    assert tab.client.post("/api/edits", content=b"{}", headers=headers).status_code == 413
    headers = {"Origin": HOST, "Content-Type": "image/png", "Content-Length": str((32 << 20) + 1)}
    assert tab.client.post("/api/similar", content=b"x", headers=headers).status_code == 413
    for length in ("-1", "1e3", "9" * 30, "x"):
        headers = {"Origin": HOST, "Content-Type": "application/json", "Content-Length": length}
        assert tab.client.post("/api/edits", content=b"{}", headers=headers).status_code in (400, 413)


def test_too_much_is_refused_while_it_comes_in_pieces(tab, monkeypatch):
    from kinfold.gallery.explore import _security

    monkeypatch.setattr(_security, "IMAGE_LIMIT", 1000)
    headers = {"Origin": HOST, "Content-Type": "image/png"}
    answer = tab.client.post("/api/similar", content=(b"x" * 100 for _ in range(20)), headers=headers)
    assert answer.status_code == 413


def test_too_much_json_is_refused_while_it_comes_in_pieces(tab, monkeypatch):
    from kinfold.gallery.explore import _security

    monkeypatch.setattr(_security, "JSON_LIMIT", 1000)
    headers = {"Origin": HOST, "Content-Type": "application/json"}
    for path in ("/api/edits",):
        answer = tab.client.post(path, content=(b" " * 100 for _ in range(20)), headers=headers)
        assert answer.status_code == 413


@pytest.mark.parametrize("piece", [b"{},", b"[],", b'"",', b"[[],[{", b'{"":'])
def test_what_would_take_far_more_memory_than_its_text_is_refused_before_it_is_parsed(
    tab, monkeypatch, piece
):
    from kinfold.gallery.explore import _answers

    body = b'{"kind": "move", "group": 1, "rows": [' + piece * 20_000 + b"0]}"
    monkeypatch.setattr(_answers.json, "loads", lambda *a, **k: pytest.fail("it was parsed"))
    answer = tab.client.post(
        "/api/edits", content=body, headers={"Origin": HOST, "Content-Type": "application/json"}
    )
    assert answer.status_code == 400
    assert "too many" in answer.text


def test_an_edit_of_a_million_rows_is_no_longer_than_allowed():
    from kinfold.gallery.explore import _security

    assert len(json.dumps({"kind": "confirm", "rows": [9_999_999] * 1_500_000})) < _security.JSON_LIMIT


def test_a_dropped_image_of_too_many_pixels_is_refused_before_it_is_decoded(tab):
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    head = struct.pack(">IIBBBBB", 13_000, 13_000, 8, 2, 0, 0, 0)
    body = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    answer = tab.client.post(
        "/api/similar", content=body, headers={"Origin": HOST, "Content-Type": "image/png"}
    )
    assert answer.status_code == 400
    assert "13,000" in answer.json()["error"]


def test_a_hostile_client_name_is_refused(tab):
    for name in ("x" * 101, "a\tb", "\x7f"):
        answer = tab.client.get("/api/history", headers={"X-Client": name})
        assert answer.status_code == 400


def test_names_of_files_and_groups_are_data_and_nothing_else(make_run):
    run = make_run(keys=[HOSTILE, "b.png", "c.png"], k=2, skipped=[(HOSTILE, f"not an image: {HOSTILE}")])
    with opened(run) as tab:
        tab.edit("rename", group=0, name=HOSTILE[:40])
        for path in ("/api/images", "/api/groups", "/api/skipped", "/api/history", "/api/images/0"):
            answer = tab.client.get(path)
            assert answer.headers["content-type"] == "application/json"
            assert "\u2028" not in answer.text  # line separators, and all else beyond ASCII, are escaped
            assert answer.text.isascii()
        keys = [one["key"] for one in tab.get("/api/images", sort="row")["images"]]
        assert keys[0] == HOSTILE
        answer = tab.client.get("/api/export/csv")
        assert answer.headers["content-type"].startswith("text/csv")
        assert answer.headers["content-disposition"].startswith("attachment")


@pytest.fixture(scope="module")
def stranger(run):
    """Another machine's browser, before it knows the token."""
    app = create_app(run, token="s3cret-token", hosts=["*", "gallery.local"])
    with TestClient(app, base_url="http://192.168.1.5:8000") as client:
        yield client


@pytest.fixture
def client(stranger):
    stranger.cookies.clear()
    return stranger


def test_nothing_is_given_without_the_token(client):
    for path in (*GETS, "/api/run?token=s3cret-token"):
        answer = client.get(path)
        assert answer.status_code == 403
        assert "token" in answer.json()["error"]


def test_a_wrong_token_opens_nothing(client):
    for given in ("", "s3cret", "s3cret-tokenx", "S3CRET-TOKEN", "é", "s3cret-token&token=x"):
        assert client.get(f"/?token={given}").status_code == 403
    cookie = "kinfold-00000000=s3cret-token"
    assert client.get("/", headers={"Cookie": cookie}).status_code == 403


def test_the_token_is_given_once_and_then_lives_in_a_cookie_that_no_script_reads(client):
    answer = client.get("/?token=s3cret-token")
    assert answer.status_code == 200
    assert "s3cret" not in answer.text
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert client.get("/").status_code == 200
    assert client.get("/api/run").status_code == 200
    assert client.get("/api/run", headers={"Host": "gallery.local"}).status_code == 200


def test_with_the_token_any_name_is_let_in_and_without_it_none(client):
    for name in ("mybox.local", "gpu.lan.example:8000", "[fe80::1]:8000"):
        client.cookies.clear()
        assert client.get("/api/run", headers={"Host": name}).status_code == 403
        answer = client.get("/?token=s3cret-token", headers={"Host": name})
        assert answer.status_code == 200
        cookie = {"Cookie": answer.headers["set-cookie"].partition(";")[0], "Host": name}
        assert client.get("/api/run", headers=cookie).status_code == 200
        other = {**cookie, "Origin": "http://evil.example", "Content-Type": "application/json"}
        assert client.post("/api/undo", headers=other, content=b"{}").status_code == 403
    for name in ("", "a/b", "a b", "user@box"):
        assert client.get("/?token=s3cret-token", headers={"Host": name}).status_code == 403


def test_a_name_is_let_in_once_it_is_allowed_and_the_refusal_names_the_option(run):
    with opened(run, allowed=["hub.example"]) as tab:
        refused = tab.client.get("/", headers={"Host": "gpu.lan.example:8000"})
        assert refused.status_code == 403
        assert "--allow-host gpu.lan.example" in refused.json()["error"]
        assert tab.client.get("/", headers={"Host": "HUB.example:443"}).status_code == 200
        for host in ("hub.example", "127.0.0.1:8000"):  # a proxy may write its own Host
            headers = {"Host": host, "Origin": "https://hub.example", "Content-Type": "application/json"}
            assert tab.client.post("/api/undo", headers=headers, content=b"{}").status_code == 409
            for origin in ("https://evil.example", "https://hub.example.evil", "ftp://hub.example", "null"):
                other = {**headers, "Origin": origin}
                assert tab.client.post("/api/undo", headers=other, content=b"{}").status_code == 403


def test_below_the_path_of_a_proxy_that_passes_it_on_or_takes_it_off(run):
    place = "/user/ann/proxy/8000"
    with opened(run, root_path=place) as tab:
        for prefix in (place, ""):
            assert tab.client.get(f"{prefix}/").status_code == 200
            assert tab.client.get(f"{prefix}/web/app.js").status_code == 200
            assert tab.client.get(f"{prefix}/api/run").status_code == 200
            assert tab.client.get(f"{prefix}/thumb/0").status_code == 200
        answer = tab.client.get(f"{place}?token=x", follow_redirects=False)
        assert answer.status_code == 307
        assert answer.headers["location"] == f"{place}/?token=x"
        for other in ("/user/bob/", place + "x/", place + "/.." + place + "/"):
            assert tab.client.get(other, follow_redirects=False).status_code in (404, 200)
        headers = {"Origin": HOST, "Content-Type": "image/png", "Content-Length": str((32 << 20) + 1)}
        answer = tab.client.post(f"{place}/api/similar", content=b"x", headers=headers)
        assert answer.status_code == 413  # limits go by the path behind the proxy
    app = create_app(run, token="s3cret-token", root_path=place)
    with TestClient(app, base_url="http://192.168.1.5:8000") as client:
        answer = client.get(f"{place}/?token=s3cret-token")
        assert f"Path={place}/" in answer.headers["set-cookie"]
        assert 'url=./"' in answer.text


def test_the_page_names_nothing_by_an_absolute_path():
    for name, file in list_files().items():
        text = file.content.decode("utf-8")
        for quote in "\"'`":
            for place in ("web/", "api/", "thumb/", "image/"):
                assert f"{quote}/{place}" not in text, (name, place)


@pytest.mark.parametrize("other", ['json={"a": "b"}', 'open="', "no value", "=", "naïve=é"])
def test_cookies_of_other_programs_at_the_same_address_dont_lock_anyone_out(client, other):
    own = client.get("/?token=s3cret-token").headers["set-cookie"].partition(";")[0]
    client.cookies.clear()
    for cookies in (f"{other}; {own}", f"{own}; {other}"):
        assert client.get("/api/version", headers={"Cookie": cookies.encode()}).status_code == 200
    assert client.get("/api/version", headers={"Cookie": other.encode()}).status_code == 403
