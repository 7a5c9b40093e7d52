"""What fifty corrections are worth: an oracle that corrects, and ``refine``.

The 1,797 digits of scikit-learn are embedded and grouped by spherical k-means, as the demo does; with --data
5,000 random images of CIFAR-10 stand in for them, whose features are weak. An oracle, which alone knows the
true classes, takes the images closest to a border between two groups (the smallest gap between their first
two probabilities; or with --order confidence the least confident) and puts each into the group that stands
for its class: the one where it is most frequent, of those where it leads. A class without such a group gets a
new one. Then the classifier learns the corrections, and its proposals are all accepted. Beside it stands what
it says of itself, and what is true: how sure it is of its proposals, how many of the images placed by hand it
finds when they are left out, and how many of its proposals are right.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from dataclasses import astuple, dataclass
from pathlib import Path
from statistics import mean

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from kinfold import Run, cluster
from kinfold.corrections import Corrections, Edit, Move, State, _opinions, refine
from kinfold.metrics import clustering_accuracy
from kinfold.pipeline import embed
from kinfold.pipeline.demo import write_digits
from perf.table import Table
from studies.data import load_data

COUNTS = (0, 10, 20, 30, 40, 50)
_SAID = ("proposals", "sure of them", "right", "right before", "found again")


def find_owners(labels: NDArray[np.int32], truth: NDArray[np.int64]) -> dict[int, int]:
    """Return the group that stands for each digit, of those that have one."""
    counts = np.zeros((labels.max() + 1, truth.max() + 1), np.int64)
    np.add.at(counts, (labels, truth), 1)
    owners: dict[int, int] = {}
    for group, leading in enumerate(counts.argmax(axis=1).tolist()):
        if leading not in owners or counts[group, leading] > counts[owners[leading], leading]:
            owners[leading] = group
    return owners


def rank_by_doubt(run: Run, order: str) -> NDArray[np.int64]:
    """Return the places of all images, the most doubtful first."""
    best = np.array([row[:2] for row in run.assignments["top_probabilities"].to_pylist()])
    return np.argsort(best[:, 0] - best[:, 1] if order == "borders" else best[:, 0], kind="stable")


def correct(corrections: Corrections, truth: NDArray[np.int64], doubtful: NDArray[np.int64]) -> State:
    """Let the oracle place the doubtful images."""
    run = corrections.run
    owners = find_owners(run.labels, truth)
    for place in doubtful.tolist():
        digit, row = int(truth[place]), run.assignments["row"][place].as_py()
        before = set(corrections.state.groups)
        edit: Edit = Move([row], owners.get(digit))
        state = corrections.apply(edit)
        owners.setdefault(digit, max(set(state.groups) - before, default=-1))
    return corrections.state


@dataclass(frozen=True)
class Found:
    """What came of so many corrections; shares are of the proposals, but for ``again``."""

    corrected: float
    refined: float
    n_proposals: int
    confidence: float
    right: float
    was_right: float
    again: float


def measure(path: Path, truth: NDArray[np.int64], count: int, order: str, seed: int) -> Found:
    """Correct so many images, learn them, and take all proposals over."""
    run = Run.open(path)
    for file in path.glob("corrections.sqlite*"):
        file.unlink()
    with Corrections.open(run) as corrections:
        state = correct(corrections, truth, rank_by_doubt(run, order)[:count])
        corrected = clustering_accuracy(truth, state.labels)
        proposals = refine(run, state, random_state=seed)
        places = np.searchsorted(run.assignments["row"].to_numpy(), proposals.rows)
        leading = {group: int(np.bincount(truth[state.labels == group]).argmax()) for group in state.alive}
        groups = (proposals.groups, proposals.from_groups)
        right, was_right = (truth[places] == [leading[one] for one in part.tolist()] for part in groups)
        if len(proposals):
            state = corrections.apply(proposals.select())
        return Found(
            corrected,
            clustering_accuracy(truth, state.labels),
            len(proposals),
            float(proposals.confidences.mean()) if len(proposals) else 0.0,
            float(right.mean()) if len(proposals) else 0.0,
            float(was_right.mean()) if len(proposals) else 0.0,
            proposals.facts["found_by_hand"] or 0.0,
        )


def main(arguments: list[str] | None = None) -> Table:
    """Measure, and return the table; ``--figure`` draws it too."""
    options = _parse(arguments)
    if options.learning_rate is not None:
        _opinions.LEARNING_RATE = options.learning_rate
    table = Table(
        f"Refine: {options.data}, k-means, {options.seeds} seeds, by {options.order}",
        ("corrections", "ACC with them alone", "ACC with refine", *_SAID),
    )
    found: dict[int, list[Found]] = {count: [] for count in COUNTS}
    with tempfile.TemporaryDirectory(prefix="kinfold-perf-") as folder:
        home = Path(folder)
        features, truth = _prepare(options, home)
        for seed in range(options.seeds):
            out = home / f"run-{seed}"
            cluster(features, 10, method="kmeans", out=out, random_state=seed, report=False)
            for count in COUNTS:
                found[count].append(measure(out, truth, count, options.order, seed))
            shutil.rmtree(out)
    means = {
        count: [mean(column) for column in zip(*map(astuple, found[count]), strict=True)] for count in COUNTS
    }
    for count, (corrected, refined, n_proposals, *shares) in means.items():
        said = (f"{share:.2f}" if count else "" for share in shares)
        table.add(str(count), f"{corrected:.3f}", f"{refined:.3f}", f"{n_proposals:.0f}", *said)
    if options.figure is not None:
        draw(means, options.figure)
    return table


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=("digits", "cifar"), default="digits")
    parser.add_argument("--folder", help="where the features of CIFAR-10 are; KINFOLD_DATA if not given")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--backbone", default="pixels", help="of the digits")
    parser.add_argument("--order", choices=("borders", "confidence"), default="borders")
    parser.add_argument("--figure", type=Path, help="a PNG file to draw")
    parser.add_argument("--learning-rate", type=float, help="of the classifier, instead of its own")
    options = parser.parse_args(arguments)
    if options.data != "digits" and not (options.folder or os.environ.get("KINFOLD_DATA")):
        parser.error("it needs the folder of the CIFAR-10 features: --folder, or KINFOLD_DATA")
    return options


def _prepare(options: argparse.Namespace, home: Path) -> tuple[Path, NDArray[np.int64]]:
    """Return features to group, and the true classes, which only the oracle and the judge read."""
    if options.data == "digits":
        write_digits(home)
        embed(home / "images", home / "features", backbone=options.backbone, n_workers=1)
        return home / "features", load_digits().target.astype(np.int64)
    split = load_data("cifar-5000", 0, Path(options.folder or os.environ["KINFOLD_DATA"])).train
    np.save(home / "features.npy", split.X)
    return home / "features.npy", split.y.astype(np.int64)


def draw(means: dict[int, list[float]], path: Path) -> None:
    """Draw the two curves, as a small PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 3.0), dpi=110, layout="constrained")
    axes = figure.subplots()
    counts = list(means)
    axes.plot(counts, [means[n][1] for n in counts], "o-", color="#0072B2", label="corrections and refine")
    axes.plot(counts, [means[n][0] for n in counts], "s--", color="#D55E00", label="corrections alone")
    axes.set_xlabel("images corrected by hand")
    axes.set_ylabel("ACC")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")
    figure.savefig(path, metadata={"Software": None})


if __name__ == "__main__":
    print(main().markdown())
