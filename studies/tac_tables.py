"""The tables of TAC: real joint spaces, and the paper's Tables 4 to 6, Figure 5 and Appendix B."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from studies.cells import Row, Table
from studies.data import DATA_SETS

GLOSSES = "artifact-glosses"  # where the studies of parts are made, beside the made spaces
WITH_PARTS = (GLOSSES, "made-joint", "made-joint-100")
LOSSES: Mapping[str, Mapping[str, Any]] = {
    "distillation": {"confidence": False, "balance_weight": 0.0},
    "confidence": {"distillation": "none", "balance_weight": 0.0},
    "balance": {"distillation": "none", "confidence": False},
    "distillation + confidence": {"balance_weight": 0.0},
    "distillation + balance": {"confidence": False},
    "confidence + balance": {"distillation": "none"},
    "all three": {},
}
DIRECTIONS: Mapping[str, Mapping[str, Any]] = {
    "image → text": {"distillation": "image_to_text"},
    "text → image": {"distillation": "text_to_image"},
    "both": {},
}
AUTHORS: Mapping[str, Mapping[str, Any]] = {
    "moments apart": {"separate_moments": True},
    "truncated normal weights": {"initialization": "truncated_normal"},
}
NETWORKS: Mapping[str, Mapping[str, Any]] = {
    "ours": {},
    **AUTHORS,
    "both, as the authors": {name: value for change in AUTHORS.values() for name, value in change.items()},
}
CENTRES: Mapping[str, Mapping[str, Any]] = {
    "k-means": {},
    "agglomerative": {"centres": "agglomerative"},
    "spectral": {"centres": "spectral"},
    "DBSCAN": {"centres": "dbscan"},
    **{
        f"Louvain, resolution {resolution:g}": {"centres": "louvain", "resolution": resolution}
        for resolution in (1.0, 5.0, 10.0)
    },
    "none: all nouns": {"centres": "none"},
}
# What the defaults become on these glosses stands in the note; the first three are those of Figure 5.
SWEEPS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "samples per centre": {
        str(size): {"n_centres": round(DATA_SETS[GLOSSES].n_samples / size)}
        for size in (25, 50, 100, 200, 500, 800)
    },
    "nouns per centre": {str(n): {"nouns_per_centre": n} for n in (1, 3, 10, 20, 50)},
    "neighbours": {str(n): {"n_neighbors": n} for n in (5, 10, 20, 100, 200)},
    "retrieval temperature": {str(t): {"retrieval_temperature": t} for t in (0.001, 0.02, 0.05, 0.1)},
    "weight of balance": {f"{a:g}": {"balance_weight": a} for a in (1.0, 2.0, 10.0)},
    "temperature": {f"{t:g}": {"temperature": t} for t in (0.1, 1.0, 5.0)},
}

RETRIEVAL_OF_HALF_A = 0.05  # by the purity of counterparts and ACC in the table "word-space-choice"


def _methods(domain: str) -> tuple[Row, ...]:
    """Return all methods on one domain of glosses, TAC with and without the categories' own words."""
    named, unnamed = f"{domain}-glosses", f"{domain}-glosses-unnamed"
    return (
        Row("k-means", named, "kmeans"),
        Row("TEMI, 8 heads", named, "temi", {"n_heads": 8}),
        Row("TAC without training", named, "tac", {"train": False}),
        Row("TAC", named, "tac"),
        Row("TAC without training", unnamed, "tac", {"train": False}),
        Row("TAC", unnamed, "tac"),
        Row("zero-shot with the names", named, "zero-shot"),
    )


def _photographs() -> tuple[Row, ...]:
    """Return all methods on photographs with words among them, the judged half of the classes last."""
    no_training: dict[str, Any] = {"train": False}
    chosen: dict[str, Any] = {"retrieval_temperature": RETRIEVAL_OF_HALF_A}
    added = f", retrieval at {RETRIEVAL_OF_HALF_A:g}"
    told = "zero-shot with the names"
    return (
        Row("k-means", "tiny-raw", "kmeans"),
        Row(told, "tiny-raw", "zero-shot"),
        Row("k-means", "tiny-nouns", "kmeans"),
        Row("TAC without training", "tiny-nouns", "tac", no_training),
        Row("TAC", "tiny-nouns", "tac"),
        Row(f"TAC without training{added}", "tiny-nouns", "tac", no_training | chosen),
        Row(told, "tiny-nouns", "zero-shot"),
        Row("TAC without training", "tiny-nouns-unnamed", "tac", no_training),
        Row("TAC without training", "tiny-definitions", "tac", no_training),
        Row(f"TAC without training{added}", "tiny-definitions", "tac", no_training | chosen),
        Row(f"TAC{added}", "tiny-definitions", "tac", chosen),
        Row(told, "tiny-definitions", "zero-shot"),
        Row("TAC without training", "tiny-rows", "tac", no_training),
        Row("TAC", "tiny-rows", "tac"),
        Row("zero-shot with the rows", "tiny-rows", "zero-shot"),
        Row("k-means", "tiny-nouns-b", "kmeans"),
        Row("TAC", "tiny-nouns-b", "tac"),
        Row(told, "tiny-nouns-b", "zero-shot"),
        Row("TAC", "tiny-definitions-b", "tac"),
        Row(f"TAC{added}", "tiny-definitions-b", "tac", chosen),
        Row(told, "tiny-definitions-b", "zero-shot"),
    )


def _sweep() -> tuple[Row, ...]:
    """Return the defaults, and every other value of every sweep."""
    return (
        Row("defaults", GLOSSES, "tac"),
        *(
            Row(f"{what}: {value}", GLOSSES, "tac", parameters)
            for what, values in SWEEPS.items()
            for value, parameters in values.items()
        ),
    )


_KEY = (
    "*Purity*: the share of the 10 closest neighbours that are of their sample's class, among the rows and "
    "among their text counterparts; it reads the classes."
)

TAC_TABLES: tuple[Table, ...] = (
    Table(
        "tac",
        "Words as guides: a real joint space (TAC)",
        (*_methods("artifact"), *_methods("organism")),
        "Glosses of WordNet's synsets in the space of all-MiniLM-L6-v2, their categories fixed by a rule "
        "before anything was fitted (`studies/glosses.py`); nouns are all of WordNet's, of *unnamed* less "
        "those that call the categories. Zero-shot classification is told the names, the others are not. "
        "TEMI, which learns from neighbours without words, was added when the others were known. "
        f"{_KEY}",
        view="words",
    ),
    Table(
        "tac-styles",
        "Words as guides: made spaces (TAC)",
        tuple(
            Row(name, data, method, parameters)
            for data in ("made-joint", "made-styled-named", "made-styled")
            for name, method, parameters in (
                ("k-means", "kmeans", {}),
                ("TAC without training", "tac", {"train": False}),
                ("TAC", "tac", {}),
            )
        ),
        "`studies/made.py`: images vary by class and by styles that all classes share. In the *styled* spaces"
        " styles are three times as strong as in the first; only in the last one no noun names a style.",
        view="words",
    ),
    Table(
        "tac-losses",
        "The three terms of the loss (TAC, Table 4)",
        tuple(Row(name, data, "tac", p) for data in WITH_PARTS for name, p in LOSSES.items()),
        f"The made spaces are those of `studies/made.py`. {_KEY}",
        view="words",
    ),
    Table(
        "tac-directions",
        "The direction of distillation (TAC, Table 5)",
        tuple(Row(name, data, "tac", p) for data in WITH_PARTS for name, p in DIRECTIONS.items()),
        view="words",
    ),
    Table(
        "tac-networks",
        "Batch normalisation and initial weights as in the authors' code (TAC)",
        tuple(Row(name, data, "tac", p) for data in WITH_PARTS[:2] for name, p in NETWORKS.items()),
        "Ours takes the moments of samples and of their neighbours together, and PyTorch's uniform weights.",
        view="words",
    ),
    Table(
        "tac-spaces",
        "The way to centres (TAC, Table 6)",
        tuple(
            Row(f"{name}{title}", data, "tac", {**p, **train})
            for data in WITH_PARTS[:2]
            for title, train in (("; no training", {"train": False}), ("", {}))
            for name, p in CENTRES.items()
        ),
        "DBSCAN comes as near to the number of centres as it can; Louvain's number follows its resolution.",
        view="words",
    ),
    Table(
        "tac-sweep",
        "Sweeps (TAC, Figure 5)",
        _sweep(),
        "The first three are the paper's. The defaults: 300 samples per centre, 5 nouns per centre, 50 "
        "neighbours, retrieval at 0.005, balance 5, temperature 0.5.",
        view="words",
    ),
    Table(
        "tac-nouns",
        "The surest nouns (TAC, Appendix B)",
        tuple(
            Row("TAC", data, "tac") for data in DATA_SETS if data.endswith(("-glosses", "-glosses-unnamed"))
        ),
        "The 30 that were kept with the highest confidence, of the first seed.",
        view="nouns",
        runs=False,
    ),
    Table(
        "word-space",
        "Words among photographs (TAC)",
        _photographs(),
        "Tiny-ImageNet's validation images in the space of EfficientNet-Lite0, words put there by a ridge "
        "regression that never saw a judged class (`studies/word_space.py`). *nouns*: all of WordNet's as "
        "they are, of *unnamed* less those that call the classes; *definitions*: kinds of physical entities, "
        "read with their definitions; *rows*: the classifier's own rows of 1,000 classes in place of words, "
        "an upper bound; *b*: images of every second class, the judged half. Zero-shot classification is "
        f"told what the classes are called, the others are not. {_KEY}",
        view="words",
    ),
    Table(
        "word-space-choice",
        "Words among photographs: what half A chose",
        tuple(
            Row(
                f"retrieval at {t:g}",
                f"tiny-{reading}-a",
                "tac",
                {"train": False, "retrieval_temperature": t},
            )
            for reading in ("nouns", "definitions")
            for t in (0.005, 0.02, 0.05, 0.1)
        ),
        "Images of the other half of the classes, TAC without training.",
        view="words",
    ),
    Table(
        "word-space-names",
        "Words among photographs: names of groups",
        tuple(row for row in _photographs() if row.data != "tiny-raw"),
        "What the names are to the class that most images of a group have: a word for it, or by its sense a "
        "hypernym or a hyponym in WordNet. *The classes themselves*: the true classes as groups.",
        view="names",
        runs=False,
    ),
    Table(
        "word-space-hzr",
        "Words among photographs: refining labels (HZR)",
        tuple(row for row in _photographs() if row.method == "zero-shot" and row.data != "tiny-raw"),
        "Images labelled with the parent of their class, or with the root, are refined down the tree of the "
        "classes (`studies/refining.py`). *Above*: they end at a class above their own. *Taken out*: every "
        "second class is missing from the tree; its images should stay at the parent, the others move to "
        "their class.",
        view="refining",
        runs=False,
    ),
)
