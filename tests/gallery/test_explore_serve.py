"""Claims about ``kinfold explore``: it starts, says where, shows what is wrong, and ends without a trace."""

from __future__ import annotations

import http.client
import signal
import socket
import sys
from urllib.parse import urlsplit

import psutil
import pytest
from starlette.testclient import TestClient

from kinfold.cli import main
from kinfold.cli.results import read_size
from kinfold.errors import InputError
from kinfold.gallery.explore import Address, create_trouble_app
from kinfold.gallery.explore import _serve as serving
from support.galleries import make_gallery_run, served


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_gallery_run(tmp_path_factory.mktemp("serve"), n=30, graph=False)


def ask(address, path="/", **headers):
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def test_it_prints_its_address_serves_and_ends_cleanly_on_ctrl_c(run):
    with served(str(run.path)) as (address, process):
        assert address.startswith("http://127.0.0.1:")
        status, body = ask(address)
        assert status == 200
        assert b"<!doctype html>" in body.lower()
        assert ask(address, "/thumb/0")[0] == 200
        assert ask(address, "/api/run", Host="evil.example")[0] == 403
        workers = psutil.Process(process.pid).children(recursive=True)
        assert workers  # thumbnails are made elsewhere
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert process.returncode == 0
        assert "Traceback" not in out + err
        _, alive = psutil.wait_procs(workers, timeout=120)
        assert not alive
    assert not list(run.path.glob("*-wal"))


def test_a_damaged_corrections_file_gives_a_page_that_says_so(run):
    file = run.path / "corrections.sqlite"
    file.write_bytes(b"this is no database" * 500)
    before = file.read_bytes()
    try:
        app, trouble = serving._make_app(run.path, {"hosts": ["localhost"], "token": None}, images=None)
        assert file.read_bytes() == before
    finally:
        file.unlink()
    assert "corrections.sqlite" in trouble
    with TestClient(app, base_url="http://localhost") as client:
        answer = client.get("/")
        assert answer.status_code == 200
        assert "can't be shown" in answer.text
        assert "corrections.sqlite" in answer.text
        answer = client.get("/api/groups")
        assert answer.status_code == 503
        assert "corrections.sqlite" in answer.json()["error"]
        assert client.get("/", headers={"Host": "evil.example"}).status_code == 403


@pytest.mark.parametrize("name", ["assignments.parquet", "skipped.parquet"])
def test_damaged_tables_of_a_run_are_a_page_too(run, name):
    file = run.path / name
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    try:
        app, trouble = serving._make_app(run.path, {"hosts": ["localhost"], "token": None}, images=None)
    finally:
        file.write_bytes(whole)
    assert name in trouble
    assert app.title == "Kinfold"


def test_the_page_of_a_damaged_run_escapes_what_it_says():
    app = create_trouble_app("<script>1</script>", "<img src=x onerror=2> is damaged")
    with TestClient(app, base_url="http://localhost") as client:
        answer = client.get("/")
        assert "<script>" not in answer.text
        assert "<img" not in answer.text
        assert "default-src 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("what", ["nothing", "folder", "file"])
def test_where_there_is_no_run_it_ends_with_a_message(tmp_path, what):
    path = tmp_path / "there"
    if what == "folder":
        path.mkdir()
    elif what == "file":
        path.write_text("no run")
    with pytest.raises(InputError, match="there"):
        serving.serve(path, open_browser=False)


def test_the_command_ends_with_2_where_there_is_no_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["kinfold", "explore", str(tmp_path), "--no-browser"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "is no run of Kinfold" in capsys.readouterr().err


def test_a_taken_port_is_named(run):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port}"):
            serving.serve(run.path, port=port, open_browser=False)


def test_an_address_that_is_none_is_named(run):
    with pytest.raises(InputError, match=r"not\.an\.address\.invalid"):
        serving.serve(run.path, host="not.an.address.invalid", open_browser=False)


@pytest.mark.parametrize(
    ("host", "needs_token"),
    [("127.0.0.1", False), ("localhost", False), ("::1", False), ("0.0.0.0", True)],
)
def test_other_machines_need_a_token(run, monkeypatch, host, needs_token):
    if host == "::1" and not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    found = {}
    monkeypatch.setattr(serving, "_make_app", lambda path, access, **options: (found.update(access), ""))
    monkeypatch.setattr(serving, "_run", lambda app, listening, announce: announce())
    try:
        serving.serve(run.path, host=host, open_browser=False, on_ready=lambda one: found.update(address=one))
    except InputError:
        if host != "::1":
            raise
        pytest.skip("this machine has no IPv6")
    address = found["address"]
    assert isinstance(address, Address)
    assert bool(found["token"]) == needs_token
    assert ("?token=" in address.url) == needs_token
    assert address.url.startswith(
        {"::1": "http://[::1]:", "localhost": "http://localhost:"}.get(host, "http://127")
    )
    assert ("*" in found["hosts"]) == (host == "0.0.0.0")
    if needs_token:
        assert len(found["token"]) >= 32
        assert address.url.endswith(found["token"])


def test_sizes_are_read_as_people_write_them():
    assert read_size("500M", "--x") == 500 << 20
    assert read_size("1.5 GiB", "--x") == 3 << 29
    assert read_size("2g", "--x") == 2 << 30
    for wrong in ("", "0", "-1G", "1", "many", "1P", "nan"):
        with pytest.raises(InputError, match="--x"):
            read_size(wrong, "--x")
