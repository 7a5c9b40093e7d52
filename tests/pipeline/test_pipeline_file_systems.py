"""File systems that refuse what others offer: folder sync, shared maps, locks, links."""

from __future__ import annotations

import errno
import json
import shutil

import numpy as np
import pytest

from kinfold import Run, cluster
from kinfold.corrections import Corrections, Rename
from support.file_systems import build_shim, run_python
from support.image_folders import write_images

CLUSTER = """
import sys
from kinfold.cli import main
source, out = sys.argv[1:]
sys.argv = ["kinfold", *f"cluster {source} -k 3 -m kmeans -b pixels -o {out} -q".split()]
main()
"""
RENAME = """
import sys
from kinfold import Run
from kinfold.corrections import Corrections, Rename
from kinfold.errors import KinfoldError
try:
    with Corrections.open(Run.open(sys.argv[1])) as corrections:
        print(corrections.state.groups[0].name)
        corrections.apply(Rename(0, sys.argv[2]))
        print(corrections.state.groups[0].name)
    with Corrections.open(Run.open(sys.argv[1])) as corrections:
        print(corrections.state.groups[0].name)
except KinfoldError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    return build_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder of images, and a run of it that nobody may change."""
    home = tmp_path_factory.mktemp("home")
    write_images(home / "photos")
    cluster(home / "photos", 3, method="kmeans", backbone="pixels", out=home / "run", report=False)
    return home


@pytest.fixture
def run_path(home, tmp_path):
    return shutil.copytree(home / "run", tmp_path / "run")


def labels_of(path):
    return Run.open(path).labels.tolist()


def test_a_drive_without_folder_sync_maps_locks_and_links_holds_a_run(shim, home, tmp_path):
    refusals = {"NO_FOLDER_SYNC": errno.EINVAL, "NO_LOCKS": errno.ENOLCK, "NO_LINKS": errno.EPERM}
    done = run_python(shim, CLUSTER, home / "photos", tmp_path / "run", NO_MAPS_BELOW=tmp_path, **refusals)
    assert done.returncode == 0, done.stderr
    assert labels_of(tmp_path / "run") == labels_of(home / "run")
    assert not [file.name for file in (tmp_path / "run").iterdir() if file.name.startswith(".")]


def test_any_other_error_of_a_sync_names_the_place(shim, home, tmp_path):
    done = run_python(shim, CLUSTER, home / "photos", tmp_path / "run", NO_FOLDER_SYNC=errno.EIO)
    assert done.returncode == 2
    assert str(tmp_path / "run") in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_system_without_links_holds_a_run_an_export_and_corrections(shim, run_path, home, tmp_path):
    export = "import sys, kinfold\nprint(kinfold.export(*sys.argv[1:4], source=sys.argv[4]).n_images)"
    words = (run_path, "folders", tmp_path / "out", home / "photos")
    done = run_python(shim, export, *words, NO_LINKS=errno.EPERM)
    assert done.stdout.strip() == str(len(Run.open(run_path).labels)), done.stderr
    done = run_python(shim, RENAME, run_path, "cats", NO_LINKS=errno.EPERM)
    assert done.stdout.split("\n")[1:3] == ["cats", "cats"], done.stderr


def test_corrections_do_without_shared_memory(shim, run_path):
    done = run_python(shim, RENAME, run_path, "cats", NO_MAPS_BELOW=run_path)
    assert done.stdout.split("\n")[1:3] == ["cats", "cats"], done.stdout + done.stderr
    assert [file.name for file in run_path.glob("corrections*")] == ["corrections.sqlite"]


def test_corrections_made_elsewhere_go_on_without_shared_memory(shim, run_path):
    with Corrections.open(Run.open(run_path)) as corrections:
        corrections.apply(Rename(0, "dogs"))
    done = run_python(shim, RENAME, run_path, "cats", NO_MAPS_BELOW=run_path)
    assert done.stdout.split("\n")[:3] == ["dogs", "cats", "cats"], done.stdout + done.stderr


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_a_place_without_locks_says_that_it_cant_hold_corrections(shim, run_path, number):
    done = run_python(shim, RENAME, run_path, "cats", NO_LOCKS=number)
    assert "can't hold corrections (it has no locks); copy the run to a local disk" in done.stdout, (
        done.stderr
    )
    assert "damaged" not in done.stdout
    assert not list(run_path.glob("corrections*"))


def test_corrections_made_elsewhere_are_seen_without_locks(shim, run_path):
    with Corrections.open(Run.open(run_path)) as corrections:
        corrections.apply(Rename(0, "dogs"))
    done = run_python(shim, RENAME, run_path, "cats", NO_LOCKS=errno.ENOLCK)
    assert done.stdout.startswith("dogs\n"), done.stderr
    assert "can't hold corrections" in done.stdout


def test_a_graph_is_read_where_it_cant_be_mapped(shim, tmp_path):
    from kinfold.neighbors import knn_graph

    rng = np.random.default_rng(0)
    knn_graph(rng.normal(size=(40, 4)), 3).save(tmp_path / "graph")
    script = (
        "import sys, json\nfrom kinfold.neighbors import NeighborGraph\n"
        "NeighborGraph.verify(sys.argv[1])\n"
        "print(json.dumps(NeighborGraph.open(sys.argv[1]).describe()['degree']))"
    )
    done = run_python(shim, script, tmp_path / "graph", NO_MAPS_BELOW=tmp_path)
    assert json.loads(done.stdout)["mean"] == 3.0, done.stderr
