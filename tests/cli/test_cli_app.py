from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from kinfold import pipeline
from kinfold.backbones import DEFAULT_BACKBONE
from kinfold.cli import _app, main, predict
from kinfold.cli._app import read_parameters
from kinfold.compute import DEVICES, ENGINES, PRECISIONS
from kinfold.errors import InputError
from kinfold.methods import METHODS, PRESETS
from kinfold.validation import MOST_SEED


@pytest.mark.parametrize(("given", "expected"), [(None, "1"), ("0", "0")])
def test_large_tensors_get_huge_pages_unless_the_user_says_otherwise(monkeypatch, given, expected):
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    if given is not None:
        monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", given)
    monkeypatch.setattr(sys, "argv", ["kinfold", "--version"])
    with pytest.raises(SystemExit):
        main()
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == expected
    if given is None:
        del os.environ["THP_MEM_ALLOC_ENABLE"]


def test_bad_input_is_one_message_and_exit_code_2(tmp_path, monkeypatch, capfd):
    words = ("cluster", tmp_path / "nowhere", "-k", 3, "--out", tmp_path / "run")
    monkeypatch.setattr(sys, "argv", ["kinfold", *map(str, words)])
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    with pytest.raises(SystemExit) as ended:
        main()
    done = capfd.readouterr()
    assert ended.value.code == 2
    assert done.out == ""
    assert "nowhere" in done.err
    assert "Traceback" not in done.err
    assert len(done.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("clutser",),
        ("cluster",),
        ("cluster", "x", "-k", "many"),
        ("cluster", "x", "-k", "0"),
        ("cluster", "x", "-k", "3", "--seed", str(2**32)),
        ("demo", "--out", "x", "--seed", "-1"),
    ],
)
def test_bad_usage_is_exit_code_2(kinfold, words):
    assert kinfold(*words).exit_code == 2
    if words:
        result = kinfold(*words, "--json")
        assert result.exit_code == 2
        assert list(json.loads(result.stdout)) == ["error"]
        assert result.stderr


def test_a_failure_is_json_on_stdout_too_where_json_was_asked_for(kinfold, tmp_path):
    words = ("cluster", tmp_path / "nowhere", "-k", 3, "--out", tmp_path / "run", "--json")
    result = kinfold(*words)
    assert result.exit_code == 2
    (message,) = json.loads(result.stdout).values()
    assert "nowhere doesn't exist" in message
    assert message == result.stderr.strip()


def test_unknown_names_get_the_nearest(kinfold, photos, tmp_path):
    words = ("cluster", photos / "photos", "-k", 3, "--out", tmp_path / "run")
    result = kinfold(*words, "-b", "pixel")
    assert result.exit_code == 2
    assert "did you mean 'pixels'?" in result.stderr
    result = kinfold(*words, "-b", "pixels", "--method", "tem")
    assert result.exit_code == 2
    assert "did you mean 'temi'?" in result.stderr


def test_a_bug_is_exit_code_1_with_a_traceback_and_a_request(monkeypatch, capfd):
    def fail(*_, **__):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(pipeline, "report", fail)
    monkeypatch.setattr(sys, "argv", ["kinfold", "report", "x"])
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    said = capfd.readouterr().err
    assert "ZeroDivisionError: oops" in said
    assert "bug in Kinfold" in said


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), "disk is full (/x/y)"),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), "/x/y: Permission denied"),
        (MemoryError(), "not enough memory"),
    ],
)
def test_what_the_machine_refuses_is_exit_code_2(kinfold, monkeypatch, error, words):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(pipeline, "report", fail)
    result = kinfold("report", "x")
    assert result.exit_code == 2
    assert words in result.stderr


def test_ctrl_c_is_130_and_says_how_to_go_on(kinfold, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "cluster", stop)
    result = kinfold("cluster", "x", "-k", 3)
    assert result.exit_code == 130
    assert "run the same command again" in result.stderr


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_real_ctrl_c_ends_without_a_traceback_and_the_rest_is_done_later(kinfold, photos, tmp_path):
    words = ("embed", photos / "photos", "-b", "pixels", "-o", tmp_path / "features", "--workers", "2")
    command = [sys.executable, "-m", "kinfold", *map(str, words)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not (tmp_path / "features").exists() and process.poll() is None:
        time.sleep(0.005)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode in (0, 130), said
    assert "Traceback" not in said
    assert kinfold(*words).exit_code == 0


def test_help_loads_no_heavy_library():
    code = (
        "import sys; sys.argv = ['kinfold', '--help']\n"
        "from kinfold.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'pyarrow', 'sklearn', 'transformers', 'PIL'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_version_is_shown(kinfold):
    assert kinfold("--version").stdout.startswith("kinfold 0")


def test_completion_knows_commands_backbones_and_methods():
    def complete(line):
        variables = {"_KINFOLD_COMPLETE": "complete_bash", "COMP_WORDS": line}
        count = {"COMP_CWORD": str(len(line.split(" ")) - 1)}
        done = subprocess.run(
            [sys.executable, "-c", "from kinfold.cli import app; app(prog_name='kinfold')"],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **variables, **count},
        )
        return done.stdout.split()

    assert complete("kinfold clu") == ["cluster"]
    assert complete("kinfold cluster --method k") == ["kmeans"]
    assert complete("kinfold cluster --backbone ho") == ["hog"]
    assert complete("kinfold cluster --preset imagenet2") == ["imagenet21k"]


def test_what_is_said_twice_is_the_same():
    assert _app.DEFAULT_BACKBONE == DEFAULT_BACKBONE
    assert set(_app.METHODS) == set(METHODS)
    assert set(_app.PRESETS) == {name for method in METHODS for name in PRESETS.get(method, {})}
    assert _app.DEVICES == DEVICES
    assert _app.PRECISIONS == PRECISIONS
    assert _app.ENGINES == ENGINES
    assert _app.MOST_SEED == MOST_SEED
    assert predict.FORMS == pipeline.PREDICTED_FORMS


@pytest.mark.parametrize(("rank", "says"), [("0", True), ("1", False)])
def test_of_several_processes_the_first_alone_writes_errors_to_stdout(kinfold, monkeypatch, rank, says):
    monkeypatch.setenv("RANK", rank)
    result = kinfold("report", "nowhere", "--json")
    assert result.exit_code == 2
    assert bool(result.stdout) == says
    assert "nowhere" in result.stderr


def test_settings_are_read_as_json_or_text():
    assert read_parameters(["a=1", "b=0.5", "c=true", "d=null", "e=word", "f=x=y"]) == {
        "a": 1,
        "b": 0.5,
        "c": True,
        "d": None,
        "e": "word",
        "f": "x=y",
    }
    with pytest.raises(InputError, match="NAME=VALUE"):
        read_parameters(["a"])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("8,8", [8, 8]),
        ("8, 8", [8, 8]),
        ("[8,8]", [8, 8]),
        ("8,", [8]),
        ("1.0,0.5", [1.0, 0.5]),
        ("kmeans,icce", ["kmeans", "icce"]),
        ("none", None),
        ("None", None),
        ("True", True),
        ("False", False),
    ],
)
def test_lists_and_nothing_may_be_written_without_json(value, expected):
    assert read_parameters([f"a={value}"]) == {"a": expected}


@pytest.mark.parametrize("value", ["1,,2", ",1", "1,,", ","])
def test_lists_with_gaps_are_refused(value):
    with pytest.raises(InputError, match="nothing between two commas"):
        read_parameters([f"a={value}"])


@pytest.mark.parametrize("value", ["[8,8", '{"icce": {"n_heads": 32}', '["kmeans", icce]'])
def test_what_begins_as_json_and_is_not_is_told(value):
    with pytest.raises(InputError, match=r"no valid JSON.*\[8, 8\]"):
        read_parameters([f"a={value}"])


def test_ctrl_c_that_a_library_turned_into_its_own_error_is_no_bug(monkeypatch, capsys):
    def interrupted():
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise ImportError("initialization failed") from error

    monkeypatch.setattr(_app, "app", interrupted)
    with pytest.raises(SystemExit) as stopped:
        _app.main()
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "Stopped.\n"


def test_an_error_of_another_kind_still_is_a_bug(monkeypatch, capsys):
    monkeypatch.setattr(_app, "app", lambda: 1 / 0)
    with pytest.raises(SystemExit) as stopped:
        _app.main()
    assert stopped.value.code == 1
    assert "This is a bug in Kinfold" in capsys.readouterr().err
