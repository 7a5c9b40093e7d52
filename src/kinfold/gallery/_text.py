"""Numbers, names and the facts of a manifest as text for people."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_JOINERS = "\u200c\u200d"  # part of Persian words and of emoji

_TITLES = {
    "source": "Source",
    "backbone": "Backbone",
    "parameters": "Grouping",
    "neighbors": "Neighbours",
    "criteria": "Without labels",
    "naming": "Names",
    "metrics": "Against labels",
    "timings": "Time",
    "machine": "Machine",
    "versions": "Versions",
}
_NAMES = {
    "uri": "where",
    "n_rows": "found",
    "n_usable": "usable",
    "n_skipped": "skipped",
    "n_classes": "classes",
    "n_groups": "groups",
    "n_matched": "labeled images",
    "n_without_label": "images without label",
    "n_without_image": "labels without image",
    "accuracy_majority": "accuracy, many to one",
    "nmi": "NMI",
    "ari": "ARI",
    "n_named": "named groups",
    "n_names": "words per group",
    "n_candidates": "words looked at",
    "n_rivals": "groups beside it",
    "n_words": "nouns",
    "min_separation": "least separation",
    "n_init": "starts",
    "n_epochs": "epochs",
    "n_clusters": "groups",
    "n_samples": "samples",
    "n_heads": "heads",
    "n_neighbors": "neighbours",
    "neighbor_agreement": "agreement of neighbours",
    "cross_validated_accuracy": "groups found again by a classifier",
    "live_clusters": "groups with images",
    "head_nmi": "NMI between heads",
    "consensus_nmi": "NMI of groups and heads",
    "best_head_loss": "loss of the best head",
    "mean_head_loss": "mean loss of heads",
    "random_state": "seed",
    "memory_bytes": "memory",
    "torch": "PyTorch",
    "python": "Python",
    "kinfold": "Kinfold",
    "gpu": "GPU",
    "dim": "dimension",
}
_HIDDEN = (
    "fingerprint",
    "hash",
    "sha256",
    "path",
    "workers",
    "spec",
    "images",
    "adapter",
    "shape",
    "has_text",
)
_TABLES = ("variants", "preprocessing", "classes")
_FIRST = ("name", "method", "uri", "kind")
_MOST_FACTS = 24  # of one section; more would push the others off the screen

# measures by their key in the manifest, with the name to show, most common first
METRICS = {
    "accuracy": "accuracy",
    "nmi": "NMI",
    "ari": "ARI",
    "ami": "AMI",
    "f1": "F1",
}


def show_name(name: str, limit: int = 160) -> str:
    """Return a name without invisible characters, shortened in its middle to ``limit`` characters.

    Control characters, line breaks, lone surrogates and marks that change the direction of writing are
    written as escapes, so that a name can neither hide a part of itself nor break its line. The template
    escapes the result for HTML.
    """
    # first to 4 × limit, so that a name of megabytes isn't looked through character by character
    shown = "".join(_visible(character) for character in _shorten(name, 4 * limit))
    return _shorten(shown, limit)


def _shorten(name: str, limit: int) -> str:
    if len(name) <= limit:
        return name
    head = limit * 2 // 3  # both ends matter: folders come first, number and suffix last
    return f"{name[:head]}…{name[len(name) - (limit - head - 1) :]}"


def show_count(number: int) -> str:
    """Return ``1,234,567``."""
    return f"{number:,}"


def show_share(share: float) -> str:
    """Return a fraction in [0, 1] as percentage with one decimal: ``10.1 %``."""
    return f"{100 * share:.1f} %"


def show_confidence(value: float) -> str:
    """Return a confidence with two decimals, never rounded up to 1: 0.999 is ``0.99``."""
    return "1.00" if value >= 0.9995 else f"{min(value, 0.99):.2f}"


def show_seconds(seconds: float) -> str:
    """Return a duration: ``0.4 s``, ``12 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _visible(character: str) -> str:
    if character in _SHORT:
        return _SHORT[character]
    if character in _JOINERS:
        return character
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
        code = ord(character)
        return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
    return character


@dataclass(frozen=True)
class Fact:
    """A name and a value, as they are shown."""

    name: str
    value: str


@dataclass(frozen=True)
class FactSet:
    """Facts under one title."""

    title: str
    facts: list[Fact]


def collect_facts(manifest: Mapping[str, Any]) -> list[FactSet]:
    """Return the sections of a manifest that matter to readers, with readable names and values.

    Unknown entries are shown under their own keys, so that a new stage needs no change here. Hashes, paths of
    caches and nested tables are left out.
    """
    sets = []
    for section, title in _TITLES.items():
        content = manifest.get(section)
        if isinstance(content, Mapping):
            facts = [
                Fact(_show_key(key), text)
                for key, value in _flatten(content)
                if (text := _show_value(section, key, value))
            ]
            if facts:
                sets.append(FactSet(title, facts[:_MOST_FACTS]))
    return sets


def collect_warnings(manifest: Mapping[str, Any]) -> list[str]:
    """Return the warnings of the diagnosis and of all stages, each with its advice."""
    found: list[str] = []
    diagnosis = manifest.get("diagnosis")
    for home in (diagnosis, manifest):
        if isinstance(home, Mapping):
            for name in ("messages", "warnings"):
                listed = home.get(name)
                if isinstance(listed, Sequence) and not isinstance(listed, str):
                    found += [show_name(str(entry), 600) for entry in listed]
    return list(dict.fromkeys(found))


def collect_metrics(manifest: Mapping[str, Any]) -> list[Fact]:
    """Return the measures against labels, accuracy first; empty where the run wasn't evaluated."""
    metrics = manifest.get("metrics")
    if not isinstance(metrics, Mapping):
        return []
    return [
        Fact(title, f"{float(metrics[name]):.3f}")
        for name, title in METRICS.items()
        if isinstance(metrics.get(name), (int, float))
    ]


def _flatten(content: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the scalars of a section and of the mappings in it, under distinct names."""
    flat = dict(content)
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat.pop(key)
            for inner, scalar in value.items() if key not in _TABLES else ():
                flat.setdefault(inner if inner not in content else f"{key} {inner}", scalar)
    return sorted(flat.items(), key=lambda item: _FIRST.index(item[0]) if item[0] in _FIRST else len(_FIRST))


def _show_key(key: str) -> str:
    return show_name(_NAMES.get(key, key.removesuffix("_seconds").replace("_", " ")), 40)


def _show_value(section: str, key: str, value: Any) -> str:
    if value is None or any(word in key for word in _HIDDEN):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key.endswith("_bytes") and isinstance(value, int):
        return f"{value / 2**30:.1f} GiB"
    if isinstance(value, (int, float)) and (section == "timings" or key.endswith("seconds")):
        return show_seconds(float(value))
    if isinstance(value, int):
        return str(value) if key in ("random_state", "seed") else show_count(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str):
        return show_name(value, 240)
    if isinstance(value, Sequence) and value and all(isinstance(entry, (str, int, float)) for entry in value):
        return show_name(", ".join(str(entry) for entry in value), 240)
    return ""
