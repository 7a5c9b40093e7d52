"""Claims about ``kinfold.level``: another level becomes the run's groups, whole, and back to the byte."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

import kinfold
from kinfold.corrections import Confirm, Lock, Mark, Rename
from kinfold.errors import FormatError, InputError
from kinfold.levels import open_levels
from kinfold.run import Run
from support.leveled import K, correct, make_run, name_groups, state_of

FINER, COARSER = 12, 4


@pytest.fixture(scope="module", params=["kmeans", "graph"])
def fitted(request, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("leveled"), request.param)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("leveled"), report=True)


@pytest.fixture
def home(made, tmp_path):
    home = shutil.copytree(made.path.parent, tmp_path / "home")
    file = home / "run" / "manifest.json"
    file.write_text(file.read_text().replace(str(made.path.parent), str(home)))
    return home


@pytest.fixture
def run(home):
    return Run.open(home / "run")


def again(run, **changes):
    """Repeat the command that made the run."""
    options = {"method": "kmeans", "out": run.path, "n_clusters": K, "report": True, **changes}
    return kinfold.cluster(run.path.parent / "digits.npy", **options)


def contents(run, *names):
    return [(run.path / name).read_bytes() for name in names]


def test_the_groups_of_a_level_are_those_of_the_tree_and_back_are_the_same_bytes(run):
    before = contents(run, "assignments.parquet", "model.safetensors", "levels.json")
    tree = open_levels(run)
    for n_groups in (FINER, COARSER, 1, tree.levels.n_parts):
        change = kinfold.level(run, n_groups)
        shown = Run.open(run.path)
        assert (shown.level, shown.n_clusters, change.n_groups) == (n_groups, n_groups, n_groups)
        np.testing.assert_array_equal(shown.labels, tree.labels(n_groups))
        assert shown.manifest.diagnosis["n_clusters"] == n_groups
        table = shown.assignments
        top = table["top_clusters"].to_pylist()
        assert [one[0] for one in top] == shown.labels.tolist()
        assert {len(one) for one in top} == {min(5, n_groups)}
        assert ((table["confidence"].to_numpy() >= 0) & (table["confidence"].to_numpy() <= 1)).all()
    assert kinfold.level(run, None).changed
    assert contents(run, "assignments.parquet", "model.safetensors", "levels.json") == before
    shown = Run.open(run.path)
    assert (shown.level, "level" in shown.manifest) == (None, False)
    assert kinfold.check(run.path).is_whole


def test_the_same_level_changes_nothing(run):
    kinfold.level(run, FINER)
    before = contents(run, "manifest.json", "assignments.parquet")
    assert not kinfold.level(run, FINER).changed
    assert contents(run, "manifest.json", "assignments.parquet") == before
    assert kinfold.level(run, K).changed
    assert not kinfold.level(run, None).changed


@pytest.mark.parametrize("n_groups", [True, 2.5, "12", 0])
def test_what_is_no_number_of_groups_is_refused(run, n_groups):
    with pytest.raises(InputError, match="n_groups"):
        kinfold.level(run, n_groups)


def test_clustering_again_keeps_the_level_and_another_fit_forgets_it(run, caplog):
    name_groups(run)
    kinfold.level(run, FINER)
    before = contents(run, "manifest.json", "assignments.parquet", "report.html")
    caplog.set_level(logging.INFO, "kinfold")
    assert again(run).level == FINER
    assert not [record for record in caplog.records if record.msg == "stage %s: starts"]
    assert contents(run, "manifest.json", "assignments.parquet", "report.html") == before
    assert list(run.path.glob("names-level-*"))
    fresh = again(run, n_clusters=5)
    assert (fresh.level, fresh.n_clusters, "level" in fresh.manifest.stages) == (None, 5, False)
    assert "those of the fit again" in caplog.text
    assert not list(run.path.glob("names-level-*"))


def test_a_check_knows_the_files_of_levels(run):
    name_groups(run)
    correct(run, Rename(0, "cats"), Confirm([0, 1, 2]))
    kinfold.refine(run)
    kinfold.level(run, FINER)
    correct(run, Rename(1, "dogs"))
    found = {file.name: file.state for file in kinfold.check(run.path).files}
    for name in ("corrections.sqlite", f"corrections-level-{FINER}.sqlite", "proposals.parquet"):
        assert found[name] == "readable"
    for name in ("names-level-fit.parquet", "levels.json", "levels.parquet", "levels.safetensors"):
        assert found[name] == "ok"
        whole = (run.path / name).read_bytes()
        (run.path / name).write_bytes(whole[:-1])
        assert not kinfold.check(run.path).is_whole
        (run.path / name).write_bytes(whole)
    assert kinfold.check(run.path).is_whole


def test_damaged_assignments_are_those_of_the_fit_again_and_damaged_levels_are_mended(run):
    before = contents(run, "assignments.parquet", "levels.json")
    kinfold.level(run, FINER)
    (run.path / "levels.json").write_bytes(b"{}")
    with pytest.raises(FormatError, match=r"levels\.json is damaged"):
        kinfold.level(run, COARSER)
    assert again(run).level == FINER
    assert contents(run, "levels.json") == before[1:]
    (run.path / "assignments.parquet").write_bytes(b"")
    assert again(run).level is None
    assert contents(run, "assignments.parquet", "levels.json") == before


def test_groups_of_a_tree_that_is_gone_are_not_shown_with_another_tree(run, monkeypatch, caplog):
    from kinfold.pipeline import _cluster

    before, build = contents(run, "assignments.parquet"), _cluster.build_levels
    kinfold.level(run, FINER)
    correct(run, Rename(0, "cats"))
    (run.path / "levels.json").unlink()
    monkeypatch.setattr(_cluster, "build_levels", lambda *given, **more: build(*given, **{**more, "seed": 9}))
    assert again(run).level is None
    assert "isn't the one" in caplog.text
    assert contents(run, "assignments.parquet") == before
    kinfold.level(run, FINER)
    assert "are kept as" in caplog.text
    assert (run.path / f"corrections-level-{FINER}-1.sqlite").exists()


def test_the_page_is_written_anew_and_figures_of_other_groups_are_dropped(run, caplog):
    labels = {str(row): str(row % 3) for row in range(len(run.labels))}
    kinfold.evaluate(run, labels)
    assert f"in {K} groups" in run.report_path.read_text()
    kinfold.level(run, FINER)
    assert f"in {FINER} groups" in run.report_path.read_text()
    assert "evaluate again" in caplog.text
    assert Run.open(run.path).metrics == {}
    kinfold.evaluate(run.path, labels)
    assert Run.open(run.path).metrics["n_groups"] == FINER
    run.report_path.unlink()
    kinfold.level(run, COARSER)
    assert not run.report_path.exists()


def test_a_run_that_was_corrected_at_another_level_is_not_replaced_unasked(run):
    kinfold.level(run, FINER)
    correct(run, Rename(0, "cats"))
    kinfold.level(run, None)
    with pytest.raises(InputError, match=r"\d corrections?\).*--force"):
        again(run, n_clusters=5)
    again(run, n_clusters=5, force=True)
    assert (run.path / f"corrections-level-{FINER}-1.sqlite").exists()
    assert kinfold.check(run.path).is_whole


def test_words_are_carried_where_groups_are_the_same_and_return_with_their_level(run):
    first = name_groups(run)
    before = contents(run, "assignments.parquet", "names.parquet")
    change = kinfold.level(run, FINER)
    fine = Run.open(run.path)
    words = {group: one.noun for group, one in fine.names.items()}
    kept = {noun for noun in words.values() if noun}
    assert 0 < len(kept) < K
    assert kept < set(first.nouns)
    assert change.left == {"words": K - len(kept)}
    assert fine.manifest.naming["n_named"] == len(kept)
    assert "kinfold name" in fine.names[max(fine.names)].reason
    assert fine.assignments["name"].to_pylist() == [words[group] for group in fine.labels.tolist()]
    record = read_inputs(run)
    assert kinfold.level(run, None).left == {}
    assert contents(run, "assignments.parquet", "names.parquet") == before
    assert read_inputs(run) != record  # that of the call that named them, which is up to date again
    second = name_groups(Run.open(run.path))
    assert second == first
    kinfold.level(run, FINER)
    name_groups(run)
    assert kinfold.level(run, K).left == {}  # of both levels all groups were named, by the same rule
    assert Run.open(run.path).names == first
    kinfold.level(run, FINER)
    name_groups(run, n_names=2)
    kinfold.level(run, K)
    names = Run.open(run.path).names
    assert {one.noun.split(" of ")[1] for one in names.values()} == {str(K), str(FINER)}
    assert kinfold.check(run.path).is_whole


def test_an_opened_run_stays_what_it_was_and_commands_take_it_as_it_is_now(run, tmp_path):
    unread, labels = Run.open(run.path), {str(row): str(row % 3) for row in range(len(run.labels))}
    kinfold.level(run, COARSER)
    assert (run.labels.max(), run.n_clusters) == (K - 1, K)
    with pytest.raises(InputError, match="open it again"):
        _ = unread.labels
    for one in (run, unread):
        assert kinfold.export(one, "csv", tmp_path / "groups.csv", force=True).n_groups == COARSER
        assert kinfold.evaluate(one, labels).n_groups == COARSER
        table = kinfold.predict(one, run.path.parent / "digits.npy", tmp_path / "p.parquet")
        assert len(set(table["cluster"].to_pylist())) == COARSER
        assert f"in {COARSER} groups" in kinfold.report(one).read_text()
        assert one.metrics == Run.open(run.path).metrics
    now = Run.open(run.path)
    assert Run.latest(now) is now


def test_figures_of_groups_that_were_replaced_meanwhile_are_not_kept(run, monkeypatch):
    from kinfold.pipeline import _evaluate

    judge = _evaluate._judge

    def switch(*arguments):
        kinfold.level(run.path, COARSER)
        return judge(*arguments)

    monkeypatch.setattr(_evaluate, "_judge", switch)
    with pytest.raises(InputError, match="evaluate again"):
        kinfold.evaluate(run, {str(row): str(row % 3) for row in range(len(run.labels))})
    assert Run.open(run.path).metrics == {}


def read_inputs(run):
    return Run.open(run.path).manifest.stages["name"]["inputs"]


def test_without_one_group_that_is_the_same_there_are_no_words(run):
    name_groups(run)
    before = contents(run, "names.parquet")
    kinfold.level(run, 1)
    coarse = Run.open(run.path)
    assert (coarse.names, coarse.manifest.naming) == ({}, None)
    assert not (run.path / "names.parquet").exists()
    assert coarse.assignments["name"].null_count == len(coarse.labels)
    kinfold.level(run, None)
    assert contents(run, "names.parquet") == before
    kept = run.path / "names-level-fit.parquet"
    kinfold.level(run, 1)
    kept.write_bytes(b"")
    kinfold.level(run, None)
    assert Run.open(run.path).names == {}


@pytest.mark.parametrize("levels", [(), (3, K, 20)])
def test_training_images_get_their_groups_at_every_level(fitted, tmp_path, levels):
    tree, vectors = open_levels(fitted), fitted.path.parent / "digits.npy"
    path = shutil.copytree(fitted.path, tmp_path / "run")
    manifest = (path / "manifest.json").read_text()
    (path / "manifest.json").write_text(manifest.replace('"digits.npy"', f'"{vectors}"'))
    for n_groups in (None, COARSER, 20):
        kinfold.level(path, n_groups)
        run = Run.open(path)
        table = kinfold.predict(run, vectors, tmp_path / "p.parquet", levels=levels[::-1])
        assert table.column_names[5:] == ["typicality", *(f"level_{k}" for k in levels)]
        np.testing.assert_array_equal(table["cluster"].to_numpy(), run.labels)
        np.testing.assert_array_equal(table["confidence"].to_numpy(), run.assignments["confidence"])
        for k in levels:
            np.testing.assert_array_equal(table[f"level_{k}"].to_numpy(), tree.labels(k))
        assert pq.read_table(tmp_path / "p.parquet").equals(table)


def test_predictions_of_a_level_follow_its_corrections(run, tmp_path):
    kinfold.level(run, FINER)
    correct(run, Rename(0, "cats"), Lock([1]))
    shown = Run.open(run.path)
    table = kinfold.predict(shown, run.path.parent / "digits.npy", tmp_path / "p.csv", levels=[2])
    assert set(table.filter(np.equal(table["cluster"], 0))["name"].to_pylist()) == {"cats"}
    # Earlier predictions with columns of levels are recognized, other tables are not.
    kinfold.predict(shown, run.path.parent / "digits.npy", tmp_path / "p.csv")
    with pytest.raises(InputError, match="none of 500"):
        kinfold.predict(shown, run.path.parent / "digits.npy", tmp_path / "p.csv", levels=[500])


# Loads everything once, then forks a process for each number that it reads. It switches the run, and kills
# itself before so many renames, or edits that are carried over.
SERVER = """
import os, signal, sys, traceback
import torch._dynamo, kinfold.gallery, kinfold.levels, kinfold.methods, kinfold.pipeline
import kinfold.corrections._level as module

replace, apply = os.replace, module.Corrections.apply

def work(step, path):
    left = [step]

    def count(call):
        def counting(*arguments, **options):
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return call(*arguments, **options)
        return counting

    os.replace, module.Corrections.apply = count(replace), count(apply)
    kinfold.pipeline.level(path, 12)

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
@pytest.mark.parametrize("stride", [12, pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_at_any_moment_leaves_the_old_level_or_the_new(run, tmp_path, stride):
    name_groups(run)
    correct(run, *(Rename(group, f"name {group}") for group in range(K)), Mark([0, 1], "noise"), Lock([2, 3]))
    whole = shutil.copytree(run.path, tmp_path / "whole")
    kinfold.level(whole, FINER)
    files = ("assignments.parquet", "names.parquet")
    old, new = contents(run, *files), contents(Run.open(whole), *files)
    groups, seen = {None: state_of(run).groups, FINER: state_of(Run.open(whole)).groups}, []
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as server:
        for step in range(0, 80, stride):
            path = shutil.copytree(run.path, tmp_path / "attempt")
            server.stdin.write(f"{step}\t{path}\n")
            code = int(server.stdout.readline())
            assert code in (0, -signal.SIGKILL)
            found = Run.open(path)
            seen.append(found.level)
            names = [None if found.names[c].noun is None else found.names[c].noun for c in found.labels]
            assert found.assignments["name"].to_pylist() == names
            assert state_of(found).groups == groups[found.level]
            kinfold.level(path, FINER)
            assert contents(Run.open(path), *files) == new
            assert state_of(found).groups == groups[FINER]
            assert not (path / ".next").exists()
            kinfold.level(path, None)
            assert contents(Run.open(path), *files) == old
            shutil.rmtree(path)
            if code == 0:
                break
        server.stdin.close()
    assert code == 0
    assert seen == sorted(seen, key=lambda level: level is not None)
    assert {None, FINER} == set(seen)
    assert len(seen) * stride > 10
