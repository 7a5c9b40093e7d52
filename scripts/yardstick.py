"""Prove that a refactoring changed nothing: record what Kinfold computes and offers, compare two records.

``python scripts/yardstick.py record FILE.json`` clusters scikit-learn's digits with every method, and 5,000
rows of CIFAR-10's features where the environment variable ``KINFOLD_DATA`` names a folder that holds
``cifar10_mobilenetv2_train.npz``. It writes SHA-256 hashes of all results, less what depends on the time, the
place, the machine or the version, and the public names and commands with their parameters.

``python scripts/yardstick.py compare BEFORE.json AFTER.json`` prints what differs. Its exit status is 1 when
a hash differs or is gone, or a public name is gone or lost a parameter (lines that begin with "!"); what was
added, and other kinds, places and defaults of parameters, are only told.

Both records must be made on the same machine with the same libraries. Only public doors are used, so modules
inside the package may move in between.
"""

from __future__ import annotations

import argparse
import dataclasses
import enum
import hashlib
import importlib
import inspect
import json
import logging
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

FORMAT_VERSION = 1
DATA_VARIABLE = "KINFOLD_DATA"
CIFAR_NAME = "cifar10_mobilenetv2_train.npz"
N_CIFAR_ROWS = 5_000
SEED = 0
N_CLUSTERS = 10
N_NEW_ROWS = 500

SUBPACKAGES = (
    "neighbors",
    "consensus",
    "metrics",
    "methods",
    "features",
    "images",
    "backbones",
    "hierarchy",
    "language",
    "probing",
    "benchmark",
    "corrections",
    "exports",
    "gallery",
    "pipeline",
    "run",
)

# Set before NumPy and PyTorch are imported: sums are added in another order by several threads.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
}

# Small on purpose: the code that runs is the same, the record has to be quick.
HEADS = {"n_heads": 4, "n_epochs": 3}
METHODS: dict[str, dict[str, Any]] = {
    "kmeans": {"n_init": 2, "max_iter": 30},
    "temi": HEADS,
    "scan": HEADS,
    "icce": HEADS,
    "turtle": {"n_steps": 30},
    "auto": {"parameters": {"kmeans": {"n_init": 2, "max_iter": 30}, "temi": HEADS, "icce": HEADS}},
    "tac": {"n_epochs": 3, "n_centres": 20},
}
HEAD_METHODS = ("temi", "scan", "icce")  # also recorded in bfloat16, slow on processors without units for it
GRAPHS: dict[str, dict[str, Any]] = {
    "fixed": {"n_neighbors": 20},
    "threshold": {"n_neighbors": 10, "threshold": "auto", "max_neighbors": 100},
    "faiss": {"n_neighbors": 20, "backend": "faiss"},
    "hnsw": {"n_neighbors": 20, "backend": "hnsw"},
}
NOUNS = [
    f"{size} {colour} {thing}"
    for size in ("large", "small")
    for colour in ("red", "green", "blue", "brown")
    for thing in ("cat", "dog", "horse", "ship", "truck", "fox", "crane", "hat")
]

# Of manifest.json and model.json, at any depth: when, where and with which versions.
_PASSING_KEYS = frozenset({"timings", "machine", "kinfold", "kinfold_version", "libraries"})
_PASSING_SETS = ("Time", "Machine")  # headings of report.html's facts
_PLACE = "[work]"
_PLACED = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")

Names = dict[str, dict[str, Any]]


@dataclasses.dataclass
class Record:
    """What one pass of the recorder found.

    Attributes
    ----------
    hashes : dict of str to str
        SHA-256 of every result, by data set, run and part.
    names : dict of str to dict
        ``kind``, ``parameters`` and, of constants, ``value`` of every public name and command.
    not_recorded : dict of str to str
        What could not be recorded, and why.
    seconds : dict of str to float
        How long each run took; not compared.
    environment : dict of str to str
        Versions of what the hashes depend on besides Kinfold.
    """

    hashes: dict[str, str] = dataclasses.field(default_factory=dict)
    names: Names = dataclasses.field(default_factory=dict)
    not_recorded: dict[str, str] = dataclasses.field(default_factory=dict)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    environment: dict[str, str] = dataclasses.field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write the record as JSON."""
        content = {"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}
        path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read a record that :meth:`write` wrote."""
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format_version") != FORMAT_VERSION:
            raise SystemExit(f"{path} is a record of another version of this script; record it again")
        return cls(**content)


@dataclasses.dataclass(frozen=True)
class Difference:
    """One thing that is not as it was.

    Attributes
    ----------
    change : {"added", "removed", "changed"}
        What happened.
    name : str
        To what.
    detail : str
        How exactly; may be empty.
    fails : bool
        Whether behaviour that was there is gone or another one.
    """

    change: str
    name: str
    detail: str
    fails: bool

    def __str__(self) -> str:
        mark = "!" if self.fails else " "
        return f"{mark} {self.change:<8}{self.name}{f': {self.detail}' if self.detail else ''}"


def main(arguments: list[str] | None = None) -> int:
    """Record or compare, as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    recording = verbs.add_parser("record", help="record results and public names")
    recording.add_argument("file", type=Path, help="the JSON file to write")
    comparing = verbs.add_parser("compare", help="print what differs between two records")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    options = parser.parse_args(arguments)
    if options.verb == "compare":
        return tell(Record.read(options.before), Record.read(options.after))
    started = time.perf_counter()
    found = record()
    found.write(options.file)
    sys.stdout.write(
        f"{options.file}: {len(found.hashes):,} hashes, {len(found.names):,} names "
        f"in {time.perf_counter() - started:.0f} s\n"
    )
    for name, reason in sorted(found.not_recorded.items()):
        sys.stdout.write(f"  not recorded: {name}: {reason}\n")
    return 0


# --- comparing


def tell(before: Record, after: Record) -> int:
    """Print every difference, with "!" before those that fail, and return the exit status."""
    for key in sorted(before.environment.keys() | after.environment.keys()):
        old, new = before.environment.get(key), after.environment.get(key)
        if old != new:
            sys.stdout.write(f"  note: {key} is another one, so hashes may differ: {old} → {new}\n")
    for name in sorted(after.not_recorded.keys() - before.not_recorded.keys()):
        sys.stdout.write(f"  note: {name} was not recorded again: {after.not_recorded[name]}\n")
    differences = compare(before, after)
    for difference in differences:
        sys.stdout.write(f"{difference}\n")
    n_fatal = sum(difference.fails for difference in differences)
    sys.stdout.write(
        f"{len(before.hashes):,} hashes and {len(before.names):,} names compared: "
        f"{len(differences):,} differences, {n_fatal:,} of them failures\n"
    )
    return 1 if n_fatal else 0


def compare(before: Record, after: Record) -> list[Difference]:
    """Return the differences between two records, hashes first, each in the order of their names."""
    return [*_compare_hashes(before, after), *_compare_names(before.names, after.names)]


def _compare_hashes(before: Record, after: Record) -> Iterator[Difference]:
    for name in sorted(before.hashes.keys() | after.hashes.keys()):
        if name not in after.hashes:
            yield Difference("removed", name, "the hash is gone", True)
        elif name not in before.hashes:
            yield Difference("added", name, "", False)
        elif before.hashes[name] != after.hashes[name]:
            detail = f"{before.hashes[name][:12]} → {after.hashes[name][:12]}"
            yield Difference("changed", name, detail, True)


def _compare_names(before: Names, after: Names) -> Iterator[Difference]:
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            yield Difference("removed", name, before[name]["kind"], True)
        elif name not in before:
            yield Difference("added", name, after[name]["kind"], False)
        else:
            yield from _compare_parameters(name, before[name]["parameters"], after[name]["parameters"])
            for fact in ("kind", "value"):
                old, new = before[name].get(fact), after[name].get(fact)
                if old != new:
                    yield Difference("changed", name, f"{fact} {old} → {new}", False)


def _compare_parameters(
    name: str, before: Mapping[str, str], after: Mapping[str, str]
) -> Iterator[Difference]:
    for parameter in [*before, *(new for new in after if new not in before)]:
        full = f"{name}({parameter})"
        if parameter not in after:
            yield Difference("removed", full, before[parameter], True)
        elif parameter not in before:
            yield Difference("added", full, after[parameter], False)
        elif before[parameter] != after[parameter]:
            yield Difference("changed", full, f"{before[parameter]} → {after[parameter]}", False)


# --- recording


def record() -> Record:
    """Run everything and return what was found."""
    os.environ.update(ENVIRONMENT)
    os.environ.pop("KINFOLD_PRECISION", None)
    logging.getLogger("kinfold").setLevel(logging.ERROR)
    import torch

    torch.set_num_threads(1)
    found = Record(environment=_environment())
    found.names = public_names(found.not_recorded) | cli_names(found.not_recorded)
    with tempfile.TemporaryDirectory(prefix="yardstick-") as folder:
        work = Path(folder).resolve()
        os.environ["KINFOLD_CACHE"] = str(work / "cache")
        for name, (X, y) in _data_sets(found.not_recorded):
            _Recorder(found, name, X, y, work / name).record_all()
    return found


def _environment() -> dict[str, str]:
    import importlib.metadata

    libraries = ("numpy", "pyarrow", "safetensors", "scikit-learn", "scipy", "torch", "typer")
    versions = {library: importlib.metadata.version(library) for library in libraries}
    return {"python": platform.python_version(), "processor": platform.machine(), **versions}


def _data_sets(
    not_recorded: dict[str, str],
) -> Iterator[tuple[str, tuple[NDArray[np.generic], NDArray[np.int64]]]]:
    """Yield name, features and labels of what is there."""
    import numpy as np
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    yield "digits", (X.astype(np.float32), y.astype(np.int64))
    folder = os.environ.get(DATA_VARIABLE)
    path = Path(folder or ".") / CIFAR_NAME
    if not folder or not path.is_file():
        not_recorded["cifar10"] = f"{DATA_VARIABLE} names no folder with {CIFAR_NAME}"
        return
    with np.load(path) as arrays:
        features, labels = arrays["features"], arrays["labels"]
    chosen = np.sort(np.random.default_rng(SEED).choice(len(features), N_CIFAR_ROWS, replace=False))
    yield "cifar10", (features[chosen], labels[chosen].astype(np.int64))


class _Recorder:
    """Runs everything on one data set and keeps the hashes."""

    def __init__(
        self, found: Record, name: str, X: NDArray[np.generic], y: NDArray[np.int64], work: Path
    ) -> None:
        import numpy as np

        self.found = found
        self.name = name
        self.X = X
        self.truth = {str(row): int(label) for row, label in enumerate(y)}
        self.work = work
        work.mkdir()
        self.source, self.new = work / "rows.npy", work / "new.npy"
        np.save(self.source, X)
        halves = X[:N_NEW_ROWS].astype(np.float32), X[N_NEW_ROWS : 2 * N_NEW_ROWS].astype(np.float32)
        np.save(self.new, (halves[0] + halves[1]) / 2)  # rows that no fit has seen

    def record_all(self) -> None:
        """Record neighbours and every method in float32, then neighbours and heads in bfloat16."""
        for precision in ("float32", "bfloat16"):
            self._record_graphs(precision)
            for method in METHODS if precision == "float32" else HEAD_METHODS:
                self._attempt(f"{method}-{precision}", self._record_run, method, precision)

    def _attempt(self, part: str, action: Callable[..., None], *arguments: Any) -> None:
        """Do it; where that isn't possible the record says why, and goes on."""
        started = time.perf_counter()
        try:
            action(f"{self.name}/{part}", *arguments)
        except Exception as error:
            self.found.not_recorded[f"{self.name}/{part}"] = f"{type(error).__name__}: {error}"
        self.found.seconds[f"{self.name}/{part}"] = round(time.perf_counter() - started, 2)

    def _keep(self, name: str, content: bytes) -> None:
        self.found.hashes[name] = hashlib.sha256(content).hexdigest()

    def _record_graphs(self, precision: str) -> None:
        for kind, options in GRAPHS.items():
            if precision == "float32" or "backend" not in options:
                self._attempt(f"neighbors-{kind}-{precision}", self._record_graph, options, precision)

    def _record_graph(self, name: str, options: dict[str, Any], precision: str) -> None:
        from kinfold.neighbors import knn_graph

        graph = knn_graph(self.X, device="cpu", precision=precision, **options)
        for part in ("indptr", "indices", "similarities"):
            self._keep(f"{name}/{part}", array_bytes(getattr(graph, part)))
        self._keep(f"{name}/describe", canonical(graph.describe()))

    def _record_run(self, name: str, method: str, precision: str) -> None:
        import numpy as np

        import kinfold

        out = self.work / f"{method}-{precision}"
        words: dict[str, Any] = {}
        if method == "tac":
            words = {"nouns": NOUNS, "text_model": self._make_text_model()}
        run = kinfold.cluster(
            self.source,
            N_CLUSTERS,
            method=method,
            out=out,
            random_state=SEED,
            device="cpu",
            precision=precision,
            method_parameters=METHODS[method],
            **words,
        )
        self._keep(f"{name}/labels", array_bytes(run.labels))
        probabilities = run.model.predict_proba(self.X.astype(np.float32))
        self._keep(f"{name}/probabilities", array_bytes(probabilities))
        self._keep_files(name, out)
        if words:
            door("name")(run, device="cpu", **words)
            self._keep_table(f"{name}/names.parquet", out / "names.parquet")
        predictions = out.with_suffix(".parquet")
        table = door("predict")(out, self.new, predictions, device="cpu")
        self._keep(f"{name}/predict/bytes", predictions.read_bytes())
        self._keep_columns(f"{name}/predict", table)
        evaluation = door("evaluate")(out, self.truth)
        self._keep(f"{name}/evaluate", self._cleaned(dataclasses.asdict(evaluation)))
        manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
        self._keep(f"{name}/evaluate/manifest", self._cleaned(manifest["metrics"]))
        door("report")(out)
        self._keep_report(f"{name}/evaluate", out)

    def _make_text_model(self) -> Path:
        """Save a small CLIP of random weights that reads words into the space of the rows, once."""
        folder = self.work / "text-model"
        if not folder.exists():
            make_text_model(folder, int(self.X.shape[1]))
        return folder

    def _keep_files(self, name: str, out: Path) -> None:
        """Keep what a run's folder holds."""
        self._keep(f"{name}/model.safetensors", (out / "model.safetensors").read_bytes())
        model = json.loads((out / "model.json").read_text(encoding="utf-8"))
        self._keep(f"{name}/model.json", self._cleaned(model))
        for table in ("assignments", "skipped"):
            self._keep_table(f"{name}/{table}.parquet", out / f"{table}.parquet")
        manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
        report = manifest["stages"].get("report", {})
        report.pop("outputs", None)  # the hash of a page with dates in it
        for stage in manifest["stages"].values():
            stage.pop("inputs", None)  # hashes of absolute paths, among others
            if "model.json" in stage.get("outputs", {}):
                stage["outputs"]["model.json"] = "recorded by itself"
        for section, content in without_passing(manifest).items():
            self._keep(f"{name}/manifest.json/{section}", self._cleaned(content))
        self._keep_report(name, out)
        inside = sorted(path.relative_to(out).as_posix() for path in out.iterdir())
        self._keep(f"{name}/files", canonical(inside))

    def _keep_report(self, name: str, out: Path) -> None:
        page = self._without_place(clean_report((out / "report.html").read_text(encoding="utf-8")))
        self._keep(f"{name}/report.html", page.encode())
        self._keep(f"{name}/report.html/text", visible_text(page).encode())

    def _keep_table(self, name: str, path: Path) -> None:
        import pyarrow.parquet as pq

        self._keep_columns(name, pq.read_table(path))

    def _keep_columns(self, name: str, table: pa.Table) -> None:
        for column in table.column_names:
            content = [str(table.schema.field(column).type), table[column].to_pylist()]
            self._keep(f"{name}/{column}", canonical(content))

    def _cleaned(self, content: Any) -> bytes:
        return self._without_place(canonical(without_passing(content)).decode()).encode()

    def _without_place(self, text: str) -> str:
        return text.replace(str(self.work), _PLACE)


def door(name: str) -> Callable[..., Any]:
    """Return a verb of the product from wherever it is public."""
    for home in ("kinfold", "kinfold.pipeline", "kinfold.verbs"):
        try:
            found = getattr(importlib.import_module(home), name, None)
        except ModuleNotFoundError:
            continue
        if callable(found):
            return found  # type: ignore[no-any-return]
    raise LookupError(f"Kinfold has no public verb {name!r}")


def make_text_model(folder: Path, dim: int) -> None:
    """Save a small CLIP of random weights that reads words into ``dim`` dimensions, alike in every process.

    Its tokenizer splits words into bytes: a trained one numbers its vocabulary in an order that changes from
    process to process.
    """
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

    start, end, length = "<|startoftext|>", "<|endoftext|>", 48
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), start, end]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    core = Tokenizer(models.BPE(vocabulary, [], end_of_word_suffix="</w>", unk_token=end))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    core.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, vocabulary[start]), (end, vocabulary[end])]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_max_length=length,
        bos_token=start,
        eos_token=end,
        pad_token=end,
        unk_token=end,
    )
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {
        "vocab_size": len(vocabulary),
        "max_position_embeddings": length,
        "bos_token_id": vocabulary[start],
        "eos_token_id": vocabulary[end],
        "pad_token_id": vocabulary[end],
    }
    config = CLIPConfig(
        text_config={**shape, **text},
        vision_config={**shape, "image_size": 32, "patch_size": 8},
        projection_dim=dim,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = CLIPModel(config).eval()
        with torch.no_grad():
            for value in model.parameters():  # fresh ones hardly tell one word from another
                value.add_(0.1 * torch.randn(value.shape))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


# --- what is hashed


def array_bytes(array: NDArray[np.generic]) -> bytes:
    """Return an array's type, shape and values as bytes."""
    import numpy as np

    values = np.ascontiguousarray(array)
    return f"{values.dtype.str} {values.shape}\n".encode() + values.tobytes()


def canonical(content: Any) -> bytes:
    """Return content as JSON that is equal exactly if the content is."""
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def without_passing(content: Any) -> Any:
    """Return JSON content without times, versions and facts of the machine, at any depth."""
    if isinstance(content, Mapping):
        return {
            key: without_passing(value)
            for key, value in content.items()
            if key not in _PASSING_KEYS and not (isinstance(key, str) and key.endswith("seconds"))
        }
    if isinstance(content, list | tuple):
        return [without_passing(value) for value in content]
    return content


def clean_report(page: str) -> str:
    """Return ``report.html`` without durations, dates, versions and facts of the machine."""
    for heading in _PASSING_SETS:
        page = re.sub(rf"<div><h3>{heading}</h3>.*?</div>", "", page, flags=re.DOTALL)
    page = re.sub(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d)?(\.\d+)?)?(Z|\+\d\d:\d\d)?", "[date]", page)
    return re.sub(r"Kinfold \d+(\.\w+)+", "Kinfold [version]", page)


class _TextReader(HTMLParser):
    """Collects the text of a page that people see."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        """Note where scripts and styles begin."""
        self._hidden += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        """Note where they end."""
        self._hidden -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        """Keep text between them."""
        if not self._hidden and data.strip():
            self.parts.append(" ".join(data.split()))


def visible_text(page: str) -> str:
    """Return the text of a page, without its styles and scripts."""
    reader = _TextReader()
    reader.feed(page)
    return "\n".join(reader.parts)


# --- public names


def public_names(not_recorded: dict[str, str]) -> Names:
    """Return everything in ``__all__`` of Kinfold and its public subpackages, with methods and parameters."""
    names: Names = {}
    for room in ("kinfold", *(f"kinfold.{name}" for name in SUBPACKAGES)):
        try:
            module = importlib.import_module(room)
        except ModuleNotFoundError as error:
            not_recorded[room] = str(error)
            continue
        for name in getattr(module, "__all__", ()):
            names |= describe(f"{room}.{name}", getattr(module, name))
    return names


def describe(name: str, thing: Any) -> Names:
    """Return what is recorded of one public thing, and of the public members of a class, by full names."""
    if inspect.ismodule(thing):
        return {name: {"kind": "module", "parameters": {}}}
    if inspect.isclass(thing):
        found = {name: {"kind": "class", "parameters": _parameters(thing)}}
        if issubclass(thing, enum.Enum):
            found |= {f"{name}.{one.name}": _constant(one.value) for one in thing}
        for member, value in _members(thing):
            found[f"{name}.{member}"] = value
        return found
    if callable(thing):
        return {name: {"kind": "function", "parameters": _parameters(thing)}}
    return {name: _constant("any" if name.endswith("__version__") else thing)}


def _members(owner: type[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the public methods and properties of a class, less those of Python's own classes."""
    for attribute in inspect.classify_class_attrs(owner):
        public = not attribute.name.startswith("_")
        if not public or attribute.defining_class.__module__ in ("builtins", "enum", "abc", "typing"):
            continue
        if attribute.kind == "data" and not callable(attribute.object):
            continue  # fields stand among the parameters of the class
        if callable(getattr(owner, attribute.name, None)):
            method = getattr(owner, attribute.name)
            yield attribute.name, {"kind": attribute.kind, "parameters": _parameters(method)}
        else:
            yield attribute.name, {"kind": "property", "parameters": {}}


def _parameters(thing: Any) -> dict[str, str]:
    """Return kind, place and default of every parameter by its name; annotations may change on purpose."""
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):  # classes written in C
        return {}
    found = {}
    named = [one for one in signature.parameters.values() if one.name != "self"]
    for number, parameter in enumerate(named, start=1):
        place = f" {number}" if parameter.kind in _PLACED else ""
        default = "" if parameter.default is parameter.empty else f" = {_shown(parameter.default)}"
        found[parameter.name] = f"{parameter.kind.description}{place}{default}"
    return found


def _constant(value: Any) -> dict[str, Any]:
    shown = ", ".join(sorted(map(str, value))) if isinstance(value, Mapping) else _shown(value)
    return {"kind": "constant", "parameters": {}, "value": shown}


def _shown(value: Any) -> str:
    """Return ``repr`` without what differs between processes or when a module moves."""
    if inspect.isclass(value) or inspect.isroutine(value):
        return str(value.__qualname__)
    if isinstance(value, frozenset | set):
        return f"{{{', '.join(sorted(map(_shown, value)))}}}"
    text = _ADDRESS.sub("", repr(value)).replace(str(Path.home()), "~")
    return re.sub(r"\bkinfold(\.\w+)+\.(\w+)", r"\2", text)


def cli_names(not_recorded: dict[str, str]) -> Names:
    """Return every command of the command line, with its options and arguments."""
    try:
        from typer.main import get_command

        from kinfold.cli import app
    except ImportError as error:
        not_recorded["command line"] = str(error)
        return {}
    return dict(_walk_commands("$ kinfold", get_command(app)))


def _walk_commands(name: str, command: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    parameters: dict[str, str] = {}
    for parameter in command.params:
        parts = [parameter.param_type_name]
        parts += [word for word in ("required", "multiple", "is_flag") if getattr(parameter, word, False)]
        parts.append(f"nargs={parameter.nargs}")
        text = f"{' '.join(parts)} = {_shown(parameter.default)}"
        is_option = parameter.param_type_name == "option"
        for spelling in [*parameter.opts, *parameter.secondary_opts] if is_option else [parameter.name]:
            parameters[str(spelling)] = text
    yield name, {"kind": "command", "parameters": parameters}
    for part, inner in getattr(command, "commands", {}).items():
        yield from _walk_commands(f"{name} {part}", inner)


if __name__ == "__main__":
    sys.exit(main())
