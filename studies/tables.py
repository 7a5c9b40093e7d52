"""All tables as data, in the order of their priority."""

from __future__ import annotations

from typing import Any, NamedTuple

from studies.cells import Row, Table
from studies.tac_tables import TAC_TABLES

STUDY = "cifar-10000"  # where methods are compared
NAMES = {
    "kmeans": "k-means",
    "temi": "TEMI",
    "scan": "SCANv2",
    "icce": "ICCE, heads alone",
    "turtle": "TURTLE",
}
# ICCE as the paper has it: the consensus is of heads alone.
HEADS_ALONE = {"graph_labelings": False}
BALANCES = (
    "digits",
    "digits-unbalanced-660",
    "digits-very-unbalanced-450",
    STUDY,
    "cifar-unbalanced-5000",
    "cifar-very-unbalanced-5000",
    "tiny-imagenet-odd-2500",
    "tiny-imagenet-odd-unbalanced-2500",
    "tiny-imagenet-odd-very-unbalanced-2200",
)
SMALL = ("cifar-500", "cifar-2000", "cifar-5000", "cifar-unbalanced-2000", "cifar-unbalanced-5000")
CALIBRATED = ("tiny-imagenet-odd-2500", "tiny-imagenet-odd-unbalanced-2500", "cifar-photographs-2500")
EIGHT_HEADS = {"n_heads": 8}
LADDER_CROSS_ENTROPY = 1.0  # the paper's values of these two are lost
LADDER_SMOOTHING = 4
PAPER_CHOICES: dict[str, Any] = {"head_choice": "loss", "consensus_shares": (1.0,), **HEADS_ALONE}
THRESHOLD_CAP = 4000


class Ground(NamedTuple):
    """Where ICCE's studies are made: a data set, the heads of a fit there, and thresholds.

    Thresholds are given by the share of all pairs that are more similar: from a twentieth of a class, which
    holds the share 1 / K of all samples, to three classes.
    """

    data: str
    n_heads: int
    shares: tuple[float, ...]


PHOTOGRAPHS = Ground("tiny-imagenet-6000", 6, (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02))
GROUNDS = (
    PHOTOGRAPHS,
    Ground(STUDY, 8, (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3)),
    Ground("digits", 8, (0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2)),
)
# Neighbours made of the classes: a sixth of a class, and two thirds, near the 941 of 1,285 that the paper's
# threshold lets in.
# Of the teacher, with Sinkhorn–Knopp: the student's, and one that the papers of self-distillation take.
TEACHER_TEMPERATURES = (0.1, 0.05)
MADE_COUNTS, MADE_PURITIES = (10, 40), (1.0, 0.9, 0.5)


def _row(data: str, method: str, **parameters: Any) -> Row:
    """Return a method by its own name, ICCE as the paper has it; TEMI with 8 heads says so."""
    heads = f", {parameters['n_heads']} heads" if "n_heads" in parameters else ""
    return Row(NAMES[method] + heads, data, method, parameters | (HEADS_ALONE if method == "icce" else {}))


def _balance(data: str) -> tuple[Row, ...]:
    """Return what the default is judged beside on one data set."""
    return (
        Row("k-means", data, "kmeans"),
        Row("Ward", data, "ward"),
        Row("UMAP + k-means", data, "umap-kmeans"),
        Row("TEMI", data, "temi", EIGHT_HEADS if data == STUDY else {}),
        _row(data, "icce"),
        Row("graph clustering", data, "graph"),
        Row("ICCE", data, "icce"),
    )


def _methods(data: str) -> tuple[Row, ...]:
    """Return the rows of a comparison of all methods on CIFAR-10 features."""
    return (
        _row(data, "kmeans"),
        _row(data, "temi", **EIGHT_HEADS),
        _row(data, "scan"),
        _row(data, "icce"),
        _row(data, "turtle"),
    )


def _calibrated(data: str) -> tuple[Row, ...]:
    """Return the methods whose confidence is judged on one data set."""
    rows = [_row(data, method) for method in ("kmeans", "temi", "icce")]
    return (*rows, Row("graph clustering", data, "graph"), Row("ICCE", data, "icce"))


def ladder(ground: Ground) -> tuple[Row, ...]:
    """Return the rungs of ICCE's Table 1: each adds one part of stage 1 to all before."""
    parameters: dict[str, Any] = {
        "similarity_threshold": None,
        "batch_norm": False,
        "sinkhorn": False,
        "cross_entropy_weight": 0.0,
        "smoothing_neighbors": 1,
        "n_heads": ground.n_heads,
        **PAPER_CHOICES,
    }
    rungs: list[tuple[str, dict[str, Any]]] = [("TEMI baseline", {})]
    rungs += [("+ batch norm", {"batch_norm": True})]
    rungs += [("+ adaptive neighbours", {"similarity_threshold": "auto"})]
    rungs += [("+ Sinkhorn–Knopp", {"sinkhorn": True})]
    rungs += [("+ cross-entropy", {"cross_entropy_weight": LADDER_CROSS_ENTROPY})]
    rungs += [("+ smoothing", {"smoothing_neighbors": LADDER_SMOOTHING})]
    rows = []
    for name, change in rungs:
        parameters = {**parameters, **change}
        rows.append(Row(name, ground.data, "icce", parameters))
    return tuple(rows)


def _balances(ground: Ground) -> tuple[Row, ...]:
    """Return the rung before Sinkhorn–Knopp, and that rung as views and the teacher's temperature vary."""
    before = ladder(ground)[2].parameters
    return tuple(
        Row(
            f"{views}, τ = {temperature:g}",
            ground.data,
            "icce",
            {**before, "sinkhorn": sinkhorn, "teacher_temperature": temperature},
        )
        for temperature in TEACHER_TEMPERATURES
        for views, sinkhorn in (("none", False), ("one view", True), ("both views", "joint"))
    )


def _thresholds(ground: Ground) -> tuple[Row, ...]:
    common = {"n_heads": ground.n_heads, **PAPER_CHOICES}
    without = {**common, "similarity_threshold": None}
    rows = [Row("least neighbours, no threshold", ground.data, "icce", without)]
    for share in ground.shares:
        parameters = {**common, "max_neighbors": THRESHOLD_CAP}
        name = f"{100 * share:g} % of pairs above"
        rows.append(Row(name, ground.data, "icce", parameters, {"similar_share": share}))
    return tuple(rows)


def _made_neighbors() -> tuple[Row, ...]:
    parameters = ladder(PHOTOGRAPHS)[0].parameters
    return tuple(
        Row(
            f"{count} neighbours, {purity:.0%} of the class",
            PHOTOGRAPHS.data,
            "icce",
            parameters,
            {"same_label": count, "purity": purity},
        )
        for purity in MADE_PURITIES
        for count in MADE_COUNTS
    )


def _heads(data: str, *numbers: int) -> tuple[Row, ...]:
    return tuple(Row(f"{n} heads", data, "icce", {"n_heads": n, **HEADS_ALONE}) for n in numbers)


TABLES: tuple[Table, ...] = (
    Table(
        "digits",
        "Digits: all methods",
        tuple(_row("digits", method) for method in NAMES),
        "scikit-learn's digits, 1,797 samples of 64 pixels, all at their defaults. There is no test set.",
    ),
    Table(
        "small",
        "Small folders",
        tuple(_row(data, method) for data in SMALL for method in ("kmeans", "temi", "icce")),
        "Random draws of the CIFAR-10 features, all at their defaults; of the unbalanced ones the class "
        "sizes fall geometrically from 10 to 1, and the seed draws which class is large.",
    ),
    Table(
        "balance",
        "Even and uneven kinds: the defaults beside simple methods",
        tuple(row for data in BALANCES for row in _balance(data)),
        "ACC / NMI of the training set in percent. The unbalanced sets have class sizes that fall "
        "geometrically from 10 to 1, the very unbalanced ones from 50 to 1; Tiny-ImageNet's are of the half "
        "of its classes that chose nothing. *ICCE, heads alone* is the paper's consensus, *auto* what "
        "`--method auto` would take of k-means, graph clustering, TEMI and ICCE, by the same criterion. Ward "
        "is scikit-learn's; UMAP is umap-learn's, 10 dimensions, 15 neighbours, min_dist 0, cosine.",
        view="balance",
    ),
    Table(
        "subset",
        "10,000 of the CIFAR-10 features: all methods",
        _methods(STUDY),
        "Fitted on 10,000 samples drawn by the seed; the test set is CIFAR-10's own, 10,000 samples.",
    ),
    Table(
        "ladder",
        "The ladder of stage 1 (ICCE, Tables 1 and 5)",
        tuple(row for ground in GROUNDS for row in ladder(ground)),
        "Each rung adds one part to all before, and stages 2 and 3 follow every rung; *of the class* is "
        "the share of its neighbours that are of their sample's class, which the fit doesn't know. "
        "Tiny-ImageNet: 6,000 photographs of 100 classes, embedded by efficientnet-lite0 and projected to "
        "the 256 directions along which rows are longest, 6 heads; its test set are the 3,000 validation "
        "images. CIFAR-10 and digits: 8 heads. Feature enrichment has no counterpart here: all these "
        "features lack patch tokens. The change of features from DINO to DINOv2 has none either. The weight "
        "of the cross-entropy is "
        f"{LADDER_CROSS_ENTROPY:g}, smoothing takes {LADDER_SMOOTHING} neighbours.",
        view="neighbors",
    ),
    Table(
        "sinkhorn",
        "What Sinkhorn–Knopp is given",
        tuple(row for ground in GROUNDS for row in _balances(ground)),
        "The ladder's rung of Sinkhorn–Knopp (one view, τ = 0.1) and the one before (none, τ = 0.1), beside "
        "the rows of both views balanced together and a sharper teacher; the student's temperature is 0.1.",
    ),
    Table(
        "ground-truth",
        "Neighbours of the same class (ICCE, Table 4)",
        (
            Row(
                "adaptive neighbours",
                PHOTOGRAPHS.data,
                "icce",
                {"n_heads": PHOTOGRAPHS.n_heads, **HEADS_ALONE},
            ),
            Row(
                "44 neighbours of the same class",
                PHOTOGRAPHS.data,
                "icce",
                {"n_heads": PHOTOGRAPHS.n_heads, **HEADS_ALONE},
                {"same_label": 44},
            ),
            Row("adaptive neighbours", STUDY, "icce", HEADS_ALONE),
            Row("50 neighbours of the same class", STUDY, "icce", HEADS_ALONE, {"same_label": 50}),
        ),
        "An upper bound, no clustering: its second part has seen the classes through its neighbours.",
        view="neighbors",
    ),
    Table(
        "test-consensus",
        "Consensus of the test set (ICCE, Table 10)",
        (
            _row(STUDY, "temi", **EIGHT_HEADS),
            _row(STUDY, "icce"),
            _row("cifar", "temi", **EIGHT_HEADS),
            _row("cifar", "icce"),
        ),
        "All heads label the test set; the last column is the consensus of these labelings, without stage 3.",
        view="test consensus",
        runs=False,
    ),
    Table(
        "threshold",
        "The similarity threshold (ICCE, Table 11)",
        tuple(row for ground in GROUNDS for row in _thresholds(ground)),
        "Thresholds are quantiles of the similarity of random pairs, read without labels; at most "
        f"{THRESHOLD_CAP:,} neighbours, and where there is none the least number, which the others have "
        f"too. {PHOTOGRAPHS.n_heads} heads on Tiny-ImageNet, 8 elsewhere. A class holds 1 % of "
        "Tiny-ImageNet, 10 % of the others.",
        view="neighbors",
    ),
    Table(
        "made-neighbors",
        "More neighbours at the same purity",
        _made_neighbors(),
        "No clustering: the neighbours are made of the classes, so that their number and the share of them "
        "that are of the class vary apart. Those of the class are drawn at random, the others are the most "
        "similar samples of other classes. All parts of the ladder are off.",
        view="neighbors",
    ),
    Table(
        "calibration",
        "Confidence before and after it is calibrated",
        tuple(row for data in CALIBRATED for row in _calibrated(data)),
        "Photographs embedded by efficientnet-lite0, none of which chose the rule: 2,500 of the half of "
        "Tiny-ImageNet's classes that chose nothing (tested on their 1,500 validation images), the same with "
        "class sizes that fall geometrically from 10 to 1, and 2,500 of CIFAR-10's images (tested on 1,000). "
        "*Estimated* is the accuracy that the fit expects of itself, to which its mean confidence is set; "
        "ECE is over 15 bins.",
        view="calibration",
    ),
    Table(
        "heads",
        "The number of heads (ICCE, Table 12)",
        (*_heads(PHOTOGRAPHS.data, 10, 20, 40), *_heads(STUDY, 10, 20, 40, 80)),
    ),
    Table(
        "full",
        "All CIFAR-10 features: all methods",
        _methods("cifar"),
        "Fitted on all 50,000 training samples, which are the same for every seed.",
    ),
    Table(
        "auto",
        "The label-free choice beside the oracle's",
        (
            *(_row("digits", method) for method in NAMES),
            *(_row(data, method) for data in SMALL for method in ("kmeans", "temi", "icce")),
            *_methods(STUDY),
            *_methods("cifar"),
        ),
        "Computed from the lines of the other tables, of the seeds for which all candidates are there.",
        view="auto",
        runs=False,
    ),
    *TAC_TABLES,
)
