"""All tables as data, in the order of their priority."""

from __future__ import annotations

from typing import Any

from studies.cells import Row, Table
from studies.tac_tables import TAC_TABLES

NAMES = {"kmeans": "k-means", "temi": "TEMI", "scan": "SCANv2", "icce": "ICCE", "turtle": "TURTLE"}
SMALL = ("cifar-500", "cifar-2000", "cifar-5000", "cifar-unbalanced-2000", "cifar-unbalanced-5000")
EIGHT_HEADS = {"n_heads": 8}
STUDY = "cifar-10000"  # where ICCE's studies are made
LADDER_CROSS_ENTROPY = 1.0  # the paper's values of these two are lost
LADDER_SMOOTHING = 4
PAPER_CHOICES: dict[str, Any] = {"n_heads": 8, "head_choice": "loss", "consensus_shares": (1.0,)}
THRESHOLD_CAP = 4000
# Share of all pairs that are more similar than the threshold; a class holds a tenth of all samples.
PAIR_SHARES = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3)


def _row(data: str, method: str, **parameters: Any) -> Row:
    """Return a method by its own name; TEMI with 8 heads says so."""
    heads = f", {parameters['n_heads']} heads" if "n_heads" in parameters else ""
    return Row(NAMES[method] + heads, data, method, parameters)


def _methods(data: str) -> tuple[Row, ...]:
    """Return the rows of a comparison of all methods on CIFAR-10 features."""
    return (
        _row(data, "kmeans"),
        _row(data, "temi", **EIGHT_HEADS),
        _row(data, "scan"),
        _row(data, "icce"),
        _row(data, "turtle"),
    )


def _ladder() -> tuple[Row, ...]:
    """Return the rungs of ICCE's Table 1: each adds one part of stage 1 to all before."""
    parameters: dict[str, Any] = {
        "similarity_threshold": None,
        "batch_norm": False,
        "sinkhorn": False,
        "cross_entropy_weight": 0.0,
        "smoothing_neighbors": 1,
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
        rows.append(Row(name, STUDY, "icce", parameters))
    return tuple(rows)


def _thresholds() -> tuple[Row, ...]:
    common = PAPER_CHOICES
    rows = [Row("50 neighbours, no threshold", STUDY, "icce", {**common, "similarity_threshold": None})]
    for share in PAIR_SHARES:
        parameters = {**common, "max_neighbors": THRESHOLD_CAP}
        rows.append(Row(f"{share:.1%} of pairs above", STUDY, "icce", parameters, {"similar_share": share}))
    return tuple(rows)


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
        "subset",
        "10,000 of the CIFAR-10 features: all methods",
        _methods(STUDY),
        "Fitted on 10,000 samples drawn by the seed; the test set is CIFAR-10's own, 10,000 samples.",
    ),
    Table(
        "ladder",
        "The ladder of stage 1 (ICCE, Tables 1 and 5)",
        _ladder(),
        "Each rung adds one part to all before, and stages 2 and 3 follow every rung. Feature enrichment has "
        "no counterpart here: these features are pooled activations without patch tokens. The change of "
        "features from DINO to DINOv2 has none either. The weight of the cross-entropy is "
        f"{LADDER_CROSS_ENTROPY:g}, smoothing takes {LADDER_SMOOTHING} neighbours.",
    ),
    Table(
        "ground-truth",
        "Neighbours of the same class (ICCE, Table 4)",
        (
            Row("adaptive neighbours", STUDY, "icce"),
            Row("50 neighbours of the same class", STUDY, "icce", graph={"same_label": 50}),
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
        _thresholds(),
        "Thresholds are quantiles of the similarity of random pairs, read without labels; at most "
        f"{THRESHOLD_CAP:,} neighbours, {PAPER_CHOICES['n_heads']} heads. A class holds 10 % of all samples.",
        view="neighbors",
    ),
    Table(
        "heads",
        "The number of heads (ICCE, Table 12)",
        tuple(Row(f"{n} heads", STUDY, "icce", {"n_heads": n}) for n in (10, 20, 40, 80)),
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
