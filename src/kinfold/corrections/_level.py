"""Another level of a run becomes its groups, with the names and corrections that hold there."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from dataclasses import replace as replace_in
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kinfold.compute import resolve_device
from kinfold.corrections._carry import Carried, carry, reshaped
from kinfold.corrections._corrections import Corrections
from kinfold.corrections._places import corrections_name, has_corrections, set_aside
from kinfold.corrections._state import State, first_state
from kinfold.errors import FormatError, InputError, OtherGroupsError, count_of
from kinfold.run import (
    ASSIGNMENTS_NAME,
    N_TOP,
    NAMES_NAME,
    Run,
    Stages,
    level_names_name,
    locate_whole,
    make_assignments,
    open_run_stages,
    read_level_names,
    write_level_names,
    write_named_assignments,
    write_names,
    write_table,
)

if TYPE_CHECKING:
    from kinfold.language import ClusterName, ClusterNames
    from kinfold.levels import Levels, RunLevels
    from kinfold.methods import TopClusters

logger = logging.getLogger(__name__)

_NOT_NAMED = "not named at this level yet: kinfold name"
_MEND = "name the groups anew: `kinfold name`"
_WORDS = {
    "names": ("name", ""),
    "locks": ("lock", ""),
    "marks": ("mark", ""),
    "moves": ("image", " placed by hand"),
    "proposals": ("proposal", " that was accepted"),
    "merges": ("merge", ""),
    "splits": ("split", ""),
    "groups": ("group", " made by hand"),
    "words": ("group", " named by kinfold name"),
}


@dataclass(frozen=True)
class LevelChange:
    """What switching to another level did.

    Attributes
    ----------
    path : Path
        The run.
    before, level : int or None
        Groups with images at the level that the run showed and at the one that it shows; None is that of the
        fit.
    n_groups : int
        Groups with images now.
    n_clusters : int
        Numbers of groups now, those of empty ones among them.
    carried, left : mapping of str to int
        Corrections that were carried over, and those that stay with the level that was left, where they are
        again when it is chosen again: names, locks, marks, moves (images placed or confirmed by hand),
        proposals; merges, splits and groups (made by hand) always stay; words are names that ``kinfold name``
        found.
    restored : bool
        Whether the new level had corrections of its own from earlier.
    changed : bool
        False where the run showed this level already, and nothing was done.
    """

    path: Path
    before: int | None
    level: int | None
    n_groups: int
    n_clusters: int
    carried: Mapping[str, int] = field(default_factory=dict)
    left: Mapping[str, int] = field(default_factory=dict)
    restored: bool = False
    changed: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        return {**vars(self), "path": str(self.path)}


def switch_level(
    run_path: str | Path, n_groups: int | None, *, features: str | Path | None = None
) -> LevelChange:
    """Make another level of a run its groups, in seconds.

    Interrupted anywhere, the run shows the old level or the new one. ``assignments.parquet`` is written anew.
    Corrections have a file for each level: those that hold at the new level are carried over, the others stay
    with theirs. What an evaluation found is dropped, and so is the record of the report page: a page that
    there is shows the other groups until the caller writes it anew.

    Parameters
    ----------
    run_path : path
        The run.
    n_groups : int or None
        How many groups with images; that number of the fit, or None, goes back to those of the fit.
    features : path, optional
        Where the run's features are now, if they were moved.

    Returns
    -------
    LevelChange

    Raises
    ------
    InputError
        There is no such level, the run has none, its features are gone, or another process writes into it.
    FormatError
        The levels, the model or the corrections are damaged; nothing was changed.
    """
    Run.open(run_path)  # refuses what isn't finished
    with open_run_stages(Path(run_path)) as stages:
        return change_level(stages, n_groups, features=features)


def change_level(stages: Stages, n_groups: int | None, *, features: str | Path | None = None) -> LevelChange:
    """Do what :func:`switch_level` does in a run whose stages are open."""
    from kinfold.levels import open_levels

    started = time.monotonic()
    run = Run(stages.path, stages.manifest)
    tree = open_levels(run)
    levels = tree.levels
    if n_groups is None:
        n_groups = levels.n_clusters
    levels.check(n_groups)
    section = levels.describe(n_groups)
    level = section["n_groups"] if section else None
    change = LevelChange(
        path=run.path,
        before=run.level,
        level=level,
        n_groups=section["n_groups"] if section else levels.n_live,
        n_clusters=section["n_clusters"] if section else levels.n_clusters,
    )
    if level == run.level:
        logger.info("%s shows these groups already", run.path)
        return replace_in(change, changed=False)
    assignments = _assign(run, tree, level, features)
    new = run.at_level(section, assignments)
    restored = has_corrections(run.path, level)
    carried, state = _carry(run, new, levels)
    words, n_left = _find_words(run, new, carried.same)
    _keep(stages, run, new, words, state, started)
    left = {**carried.left, **({"words": n_left} if n_left else {})}
    change = replace_in(change, carried=carried.carried, left=left, restored=restored)
    _tell(change)
    return change


def _assign(run: Run, tree: RunLevels, level: int | None, source: str | Path | None) -> pa.Table:
    """Return the assignments of a level."""
    from kinfold.methods import predict_top

    variant = run.manifest.features["variant"]
    features = run.features(source)
    features.verify(variant)
    matrix = features.matrix(variant)
    model = run.load_model(device=_device_of(run))
    if level is None:
        top = predict_top(model, matrix, n_top=N_TOP)
        labels = tree.levels.part_clusters[tree.parts]
    else:
        top = tree.levels.top(model, matrix, level, N_TOP)
        labels = tree.labels(level)
    keys = features.keys.take(pa.array(features.rows))
    return make_assignments(features.rows, keys, _settle(top, labels))


def _device_of(run: Run) -> str:
    """Return the device that the groups were found on: sums on another one end in other bits."""
    recorded = run.manifest.machine.get("device")
    try:
        return str(resolve_device(recorded if isinstance(recorded, str) else "auto"))
    except InputError:
        return "auto"


def _settle(top: TopClusters, labels: NDArray[np.int32]) -> TopClusters:
    """Put the recorded group of every image first.

    On another machine the model's sums may decide a tie otherwise, and corrections are of the recorded ones.
    """
    wrong = np.flatnonzero(top.clusters[:, 0] != labels)
    clusters, probabilities = top.clusters.copy(), top.probabilities.copy()
    for row in wrong.tolist():
        found = np.flatnonzero(clusters[row] == labels[row])
        place = int(found[0]) if len(found) else clusters.shape[1] - 1
        clusters[row, 1 : place + 1] = clusters[row, :place].copy()
        clusters[row, 0] = labels[row]
    return type(top)(clusters, probabilities)


def _carry(run: Run, new: Run, levels: Levels) -> tuple[Carried, State]:
    """Carry the corrections of a run to another level; return what became of them, and its state there."""
    from kinfold.levels import match_groups

    match = match_groups(levels, run.level or levels.n_clusters, new.level or levels.n_clusters)
    with ExitStack() as opened:
        old = None
        if has_corrections(run.path, run.level):
            try:
                old = opened.enter_context(Corrections.open(run, write=False))
            except OtherGroupsError as error:
                logger.warning("%s", error)
        if old is None and not has_corrections(run.path, new.level):
            return Carried({}, {}, match.same), first_state(new)
        target = opened.enter_context(_open_corrections(new))
        if old is None:
            changed = reshaped(target.state)
            same = {a: b for a, b in match.same.items() if b not in changed}
            return Carried({}, {}, same), target.state
        return carry(old, target, match), target.state


def _open_corrections(run: Run) -> Corrections:
    """Open the corrections of a level; those of groups that an earlier fit found are put aside."""
    try:
        return Corrections.open(run)
    except OtherGroupsError:
        kept = set_aside(run.path / corrections_name(run.level))
        logger.warning("the corrections of groups that are gone are kept as %s", kept)
        return Corrections.open(run)


@dataclass(frozen=True)
class _Words:
    """The names that ``kinfold name`` found, at the new level.

    Attributes
    ----------
    names : ClusterNames
        Of all its groups.
    naming : dict
        Section of the manifest.
    record : dict
        Of the stage: inputs, seconds.
    """

    names: ClusterNames
    naming: dict[str, Any]
    record: dict[str, Any]


def _find_words(run: Run, new: Run, same: Mapping[int, int]) -> tuple[_Words | None, int]:
    """Return the words of the new level, and how many groups' words stay with the old one.

    Words are what the new level had, with what was found of the same groups at the old one; where ``kinfold
    name`` named all of the new level, by the same rule, they are its own.
    """
    from kinfold.language import ClusterName, ClusterNames

    kept, naming = _read_kept(new), run.manifest.naming
    if (
        kept is not None
        and kept[1]["inputs"]
        and (naming is None or _rule(kept[1]["naming"]) == _rule(naming))
    ):
        return _Words(kept[0], kept[1]["naming"], kept[1]), 0
    n_left = sum(one.noun is not None and group not in same for group, one in run.names.items())
    named = dict(run.names) if naming is not None else {}
    words = {target: named[group] for group, target in same.items() if group in named}
    if kept is None and not words:
        return None, n_left
    before: Mapping[int, ClusterName] = kept[0] if kept is not None else {}
    groups = range(max([new.n_clusters, *(group + 1 for group in before)]))
    clusters = []
    for group in groups:
        found = words.get(group) or before.get(group) or ClusterName(group, reason=_NOT_NAMED)
        clusters.append(replace_in(found, cluster=group))
    if kept is not None and tuple(clusters) == kept[0].clusters:
        return _Words(kept[0], kept[1]["naming"], kept[1]), n_left
    facts = dict(naming or {})
    facts["n_named"] = sum(one.noun is not None for one in clusters)
    # No call of `kinfold name` would find just these, so its stage isn't current.
    names = ClusterNames(tuple(clusters), dict(facts.get("parameters", {})))
    return _Words(names, facts, {"inputs": "", "seconds": 0.0}), n_left


def _rule(naming: Mapping[str, Any]) -> dict[str, Any]:
    """Return how groups were named, without what was found."""
    return {fact: value for fact, value in naming.items() if fact != "n_named"}


def _read_kept(run: Run) -> tuple[ClusterNames, dict[str, Any]] | None:
    """Read the names that a level had when it was last shown."""
    name = level_names_name(run.level)
    if run.manifest.hash_of(name) is None:
        return None
    try:
        return read_level_names(locate_whole(run.path, run.manifest, name, _MEND), run.n_clusters)
    except FormatError as error:
        logger.warning("the names of this level are gone: %s", error)
        return None


def _keep(stages: Stages, run: Run, new: Run, words: _Words | None, state: State, started: float) -> None:
    """Put a level into the run, all at one moment."""
    from kinfold.methods import diagnose

    manifest = stages.manifest
    writers: dict[str, Callable[[Path], None]] = {
        ASSIGNMENTS_NAME: partial(write_table, table=new.assignments)
    }
    kept = {}
    if "name" in manifest.stages:
        record = manifest.stages["name"]
        facts = {"inputs": record["inputs"], "seconds": record["seconds"], "naming": manifest.naming or {}}
        names = cast("ClusterNames", run.names)  # of a named run
        writers[level_names_name(run.level)] = partial(write_level_names, names=names, record=facts)
    if words is not None:
        # The table has the method's groups: one that was merged away is called as what continues it.
        heirs = [state.follow(group) for group in range(new.n_clusters)]
        nouns = [words.names[heir].noun if heir in words.names else None for heir in heirs]
        writers[ASSIGNMENTS_NAME] = partial(write_named_assignments, assignments=new.assignments, nouns=nouns)
        writers[NAMES_NAME] = partial(write_names, names=words.names)
        kept["name"] = {
            "inputs": words.record["inputs"],
            "outputs": {NAMES_NAME: ""},  # until it is written
            "seconds": words.record["seconds"],
        }
    if manifest.metrics:
        logger.warning("what the evaluation found is of other groups and is dropped: evaluate again")
    section = new.manifest.level
    diagnosis = diagnose(new.labels, new.n_clusters).as_dict()
    stages.replace(
        "level",
        {"level": section, "levels": manifest.stages["levels"]["outputs"]},
        writers,
        started,
        kept=kept,
        level=section,
        naming=None if words is None else words.naming,
        metrics={},
        diagnosis=diagnosis,
    )
    if words is None:
        (stages.path / NAMES_NAME).unlink(missing_ok=True)
    for message in diagnosis["messages"]:
        logger.warning("%s", message)


def _tell(change: LevelChange) -> None:
    """Say what was carried and what wasn't."""
    if change.carried:
        logger.info("carried over: %s", tell_counts(change.carried))
    if change.left:
        where = "of the fit" if change.before is None else f"with {count_of(change.before, 'group')}"
        logger.warning(
            "%s can't be carried over and stay with the level %s, where they are again when it is chosen",
            tell_counts(change.left),
            where,
        )


def tell_counts(counts: Mapping[str, int]) -> str:
    """Return ``carried`` or ``left`` of a :class:`LevelChange` in words."""
    return ", ".join(count_of(n, _WORDS[what][0]) + _WORDS[what][1] for what, n in counts.items())
