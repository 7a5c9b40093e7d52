"""Claims about ``kinfold explore``: it starts, says where, shows what is wrong, and ends without a trace."""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import signal
import socket
import stat
import sys
import threading
from urllib.parse import urlsplit

import psutil
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from kinfold.cli import main
from kinfold.cli.explore import read_size
from kinfold.errors import InputError
from kinfold.gallery.explore import Address, create_trouble_app
from kinfold.gallery.explore import _serve as serving
from kinfold.gallery.explore._serve import find_environment, is_in_text, open_in_browser
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
    assert address.local.startswith(
        {"::1": "http://[::1]:", "localhost": "http://localhost:"}.get(host, "http://127")
    )
    assert (address.url == address.local) == (host != "0.0.0.0" or "127.0.0.1" in address.url)
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


def test_the_address_for_others_is_one_of_an_interface_where_there_is_a_network(run):
    with served(str(run.path), "--host", "0.0.0.0") as (address, process):
        name = urlsplit(address).hostname
        own = {one.address for many in psutil.net_if_addrs().values() for one in many}
        assert name in own
        outside = own - {"127.0.0.1"} and serving._interface_address(socket.AF_INET)
        assert name == (outside or "127.0.0.1")
        assert ask(address, f"/?{urlsplit(address).query}")[0] == 200
        process.send_signal(signal.SIGINT)
        assert "http://127.0.0.1:" in process.communicate(timeout=60)[1] or not outside


@pytest.mark.parametrize("name", ["", "*", "a b", "a/b", "user@box"])
def test_a_host_that_is_no_name_is_refused_with_the_option(run, name):
    with pytest.raises(InputError, match="--allow-host"):
        serving.serve(run.path, allow_hosts=[name], open_browser=False)


@pytest.mark.parametrize("path", ["user/ann", "/a?b", "/a#b", "//evil.example", "/a/../b", "/<b>", "/a b\n"])
def test_a_root_path_that_is_none_is_refused_with_the_option(run, path):
    with pytest.raises(InputError, match="--root-path"):
        serving.serve(run.path, root_path=path, open_browser=False)


@pytest.mark.parametrize("way", ["thread", "route"])
def test_ctrl_c_waits_for_no_thread_whatever_it_decodes(capfd, way):
    begun, free = threading.Event(), threading.Event()
    ended = []

    def decode():
        begun.set()
        ended.append(free.wait(120))

    async def slow(request):
        await run_in_threadpool(decode)
        return Response()

    def plain(request):
        decode()
        return Response()

    app = Starlette(routes=[Route("/", slow if way == "thread" else plain)])
    listening = serving._listen("127.0.0.1", 0)

    def visit():
        connection = http.client.HTTPConnection("127.0.0.1", listening_port, timeout=120)
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/")
            connection.getresponse()
        connection.close()

    listening_port = listening.getsockname()[1]
    visitor = threading.Thread(target=visit, daemon=True)

    def press():
        visitor.start()
        assert begun.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    serving._run(app, listening, lambda: threading.Thread(target=press, daemon=True).start())
    assert ended == []  # the server has ended, and the thread goes on
    free.set()
    visitor.join(60)
    assert "Traceback" not in "".join(capfd.readouterr())


def test_ctrl_c_ends_the_command_in_order_while_a_dropped_image_is_decoded(run):
    stream = io.BytesIO()
    Image.new("RGB", (7900, 7900)).save(stream, "PNG")
    with served(str(run.path)) as (address, process):
        parts = urlsplit(address)
        headers = {"Content-Type": "image/png", "Origin": f"http://{parts.netloc}"}
        connections = [http.client.HTTPConnection(parts.hostname, parts.port, timeout=60) for _ in range(3)]
        for connection in connections:
            connection.request("POST", "/api/similar", body=stream.getvalue(), headers=headers)
        assert ask(address, "/api/version")[0] == 200
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        for connection in connections:
            connection.close()
        assert process.returncode == 0
        assert "Traceback" not in out + err


SCREEN = {"DISPLAY": ":0", "TERM": "xterm", "PATH": "/nowhere"}


@pytest.mark.parametrize(
    ("environment", "platform"),
    [
        ({"TERM": "xterm"}, "linux"),
        ({"TERM": "xterm", "BROWSER": "w3m"}, "linux"),
        ({"SSH_CONNECTION": "1 2 3 4"}, "darwin"),
        ({**SCREEN, "BROWSER": "w3m"}, "linux"),
        ({**SCREEN, "BROWSER": "/usr/bin/lynx %s:links -g"}, "linux"),
        ({**SCREEN, "BROWSER": "xterm -e elinks %s"}, "linux"),
        ({**SCREEN, "BROWSER": "www-browser"}, "darwin"),
    ],
)
def test_without_a_browser_with_windows_none_is_started(environment, platform):
    assert find_environment(environment, platform) is None


def test_a_browser_with_windows_is_started_and_never_one_in_text():
    assert find_environment(SCREEN, "linux") == {"DISPLAY": ":0", "PATH": "/nowhere"}
    found = find_environment({**SCREEN, "BROWSER": os.pathsep.join(["w3m", "firefox"])}, "linux")
    assert found["BROWSER"] == "firefox"
    far = {"SSH_CONNECTION": "1 2 3 4", "BROWSER": "/opt/editor/browser.sh"}
    assert find_environment({**far, "TERM": "xterm"}, "linux") == far
    assert find_environment({"WAYLAND_DISPLAY": "wayland-0"}, "linux") is not None
    assert find_environment({}, "win32") == {}
    assert find_environment({}, "darwin") == {}


def test_a_link_to_a_browser_in_text_is_one(tmp_path):
    program = tmp_path / "w3m"
    program.write_text("#!/bin/sh\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "x-www-browser").symlink_to(program)
    assert is_in_text(str(tmp_path / "x-www-browser"))
    assert is_in_text("w3m 'unclosed")
    assert not is_in_text("firefox")


def test_a_browser_is_started_without_the_terminal(tmp_path, monkeypatch):
    told = tmp_path / "told"
    os.mkfifo(told)
    for name in ("firefox", "w3m"):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\n(tty; echo {name} "$@") >{told}\n')
        program.chmod(0o755)
    for name, value in {**SCREEN, "PATH": f"{tmp_path}:/usr/bin:/bin"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("BROWSER", f"{tmp_path}/w3m:{tmp_path}/firefox")
    assert open_in_browser("http://127.0.0.1:1/?token=x")
    assert told.read_text() == "not a tty\nfirefox http://127.0.0.1:1/?token=x\n"
