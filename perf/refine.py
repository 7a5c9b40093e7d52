"""What fifty corrections are worth: handwritten digits, an oracle that corrects, and ``refine``.

The 1,797 digits of scikit-learn are embedded and grouped by spherical k-means, as the demo does. An oracle,
which alone knows the true digits, takes the images closest to a border between two groups (the smallest gap
between their first two probabilities; or with --order confidence the least confident) and puts each into the
group that stands for its digit: the one where it is most frequent, of those where it leads. A digit without
such a group gets a new one. Then the classifier learns the corrections, and its proposals are all accepted.
Beside it stands how many of the corrections are found again when a fifth of them is held out in turn, which
needs no other labels.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
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

COUNTS = (0, 10, 20, 30, 40, 50)
N_PARTS = 5


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


def hold_out(run: Run, state: State, seed: int) -> float:
    """Return how many of the corrections are found when a fifth of them is taken back, in turn."""
    by_hand = np.random.default_rng(seed).permutation(np.flatnonzero(state.by_hand))
    found = 0
    for part in np.array_split(by_hand, N_PARTS):
        labels, hand = state.labels.copy(), state.by_hand.copy()
        labels[part], hand[part] = run.labels[part], False
        held = State(state.version, labels, state.marks, hand, state.groups)
        found += int((_apply(run, held, seed)[part] == state.labels[part]).sum())
    return found / max(1, len(by_hand))


def _apply(run: Run, state: State, seed: int) -> NDArray[np.int32]:
    proposals = refine(run, state, random_state=seed)
    labels = state.labels.copy()
    labels[np.searchsorted(run.assignments["row"].to_numpy(), proposals.rows)] = proposals.groups
    return labels


def measure(
    path: Path, truth: NDArray[np.int64], count: int, order: str, seed: int
) -> tuple[float, float, float]:
    """Return ACC after so many corrections, after learning them too, and the share found when held out."""
    run = Run.open(path)
    for file in path.glob("corrections.sqlite*"):
        file.unlink()
    with Corrections.open(run) as corrections:
        state = correct(corrections, truth, rank_by_doubt(run, order)[:count])
        held = hold_out(run, state, seed) if count == max(COUNTS) else 0.0
        corrected = clustering_accuracy(truth, state.labels)
        proposals = refine(run, state, random_state=seed)
        if len(proposals):
            state = corrections.apply(proposals.select())
        return corrected, clustering_accuracy(truth, state.labels), held


def main(arguments: list[str] | None = None) -> Table:
    """Measure, and return the table; ``--figure`` draws it too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--backbone", default="pixels")
    parser.add_argument("--order", choices=("borders", "confidence"), default="borders")
    parser.add_argument("--figure", type=Path, help="a PNG file to draw")
    parser.add_argument("--learning-rate", type=float, help="of the classifier, instead of its own")
    options = parser.parse_args(arguments)
    if options.learning_rate is not None:
        _opinions.LEARNING_RATE = options.learning_rate
    truth = load_digits().target.astype(np.int64)
    table = Table(
        f"Refine: digits, {options.backbone}, k-means, {options.seeds} seeds, by {options.order}",
        ("corrections", "ACC with them alone", "ACC with refine", "gain alone", "gain with refine"),
    )
    found: dict[int, list[tuple[float, float, float]]] = {count: [] for count in COUNTS}
    with tempfile.TemporaryDirectory(prefix="kinfold-perf-") as folder:
        home = Path(folder)
        write_digits(home)
        embed(home / "images", home / "features", backbone=options.backbone, n_workers=1)
        for seed in range(options.seeds):
            out = home / f"run-{seed}"
            cluster(home / "features", 10, method="kmeans", out=out, random_state=seed, report=False)
            for count in COUNTS:
                found[count].append(measure(out, truth, count, options.order, seed))
            shutil.rmtree(out)
    means = {count: [mean(column) for column in zip(*found[count], strict=True)] for count in COUNTS}
    start = means[0][0]
    for count, (corrected, refined, _) in means.items():
        gains = (f"{corrected - start:+.3f}", f"{refined - start:+.3f}")
        table.add(str(count), f"{corrected:.3f}", f"{refined:.3f}", *gains)
    table.notes.append(f"Held out, {means[max(COUNTS)][2]:.0%} of {max(COUNTS)} corrections are found again.")
    if options.figure is not None:
        draw(means, options.figure)
    return table


def draw(means: dict[int, list[float]], path: Path) -> None:
    """Draw the two curves, as a small PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 3.0), dpi=110, layout="constrained")
    axes = figure.subplots()
    counts = list(means)
    axes.plot(counts, [means[n][1] for n in counts], "o-", color="#0072B2", label="corrections and refine")
    axes.plot(counts, [means[n][0] for n in counts], "s--", color="#D55E00", label="corrections alone")
    axes.set_xlabel("images corrected by hand, of 1,797")
    axes.set_ylabel("ACC")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")
    figure.savefig(path, metadata={"Software": None})


if __name__ == "__main__":
    print(main().markdown())
