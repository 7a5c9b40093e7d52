"""A process that opens damaged files through the verbs, one order per line, and says what came of each.

``python -m support.fuzz_worker make HOME`` writes sound files of all formats; without arguments it reads
orders ``{"kind", "path"}`` and answers ``{"digest" or "refused" or "bug", "peak"}``.
"""

from __future__ import annotations

import hashlib
import io
import json
import resource
import sys
import tarfile
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

N, K, DIM = 40, 3, 5


def make(home: Path) -> None:
    """Write a sound file or folder of every format below ``home``, a folder per kind."""
    from PIL import Image
    from safetensors.numpy import save_file

    from kinfold import cluster
    from kinfold.corrections import Confirm, Corrections, Merge, Move, Rename, refine, write_proposals
    from kinfold.language import ClusterName, ClusterNames, Name
    from kinfold.language.cache import NounCache, NounKey
    from kinfold.neighbors import knn_graph
    from kinfold.run import read_manifest, write_manifest, write_names
    from kinfold.storage import hash_json

    rng = np.random.default_rng(0)
    X = (np.repeat(np.eye(K, DIM), [14, 13, 13], axis=0) + rng.normal(0, 0.1, (N, DIM))).astype(np.float32)
    for kind in KINDS:
        (home / kind).mkdir(parents=True)
    images = home / "images"
    images.mkdir()
    for row in range(N):
        shade = np.full((8, 8, 3), 60 * (row % K) + 40, np.uint8)
        Image.fromarray(shade + rng.integers(0, 20, shade.shape, dtype=np.uint8)).save(
            images / f"{row:02}.png"
        )
    run = cluster(
        images, K, method="kmeans", backbone="pixels", out=home / "run/run", random_state=0, report=False
    )
    words = [ClusterName(c, (Name(f"n{c}", -1.0, 0.3, 0.9, None, ()),), "") for c in range(K)]
    write_names(run.path / "names.parquet", ClusterNames(tuple(words), {}))
    manifest = read_manifest(run.path)
    manifest.stages["name"] = {"inputs": "0", "outputs": {}, "seconds": 0.0}
    manifest.naming = {"parameters": {}}
    write_manifest(run.path, manifest)
    run = type(run).open(run.path)
    with Corrections.open(run) as corrections:
        corrections.apply(Move(list(range(12)), 1))
        corrections.apply(Rename(1, "x"))
        corrections.apply(Merge([2], 0))
        corrections.undo()
        corrections.apply(Confirm([20, 21]))
        write_proposals(run, refine(run, corrections.state, random_state=0))
    import shutil

    shutil.copytree(run.path / "features", home / "store/store")
    knn_graph(X, 4).save(home / "graph/graph")
    np.save(home / "npy/x.npy", X)
    keys = np.array([f"k{row}" for row in range(N)])
    np.savez_compressed(home / "npz/x.npz", features=X, keys=keys)
    save_file({"features": X}, home / "safetensors/x.safetensors")
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(X.reshape(-1)), DIM)
    pq.write_table(pa.table({"key": keys, "vector": vectors}), home / "vectors/x.parquet")
    files = sorted(images.glob("*.png"))[:6]
    with zipfile.ZipFile(home / "zip/x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, f"a/{file.name}")
    with tarfile.open(home / "tar/x.tar", "w") as archive:
        for file in files:
            archive.add(file, f"a/{file.name}")
    listed = "".join(f"{file},{row}\n" for row, file in enumerate(files))
    (home / "csv/x.csv").write_text("path,label\n" + listed)
    blobs = [file.read_bytes() for file in files]
    pq.write_table(pa.table({"image": blobs, "key": [file.name for file in files]}), home / "blobs/x.parquet")
    (home / "labels/x.csv").write_text(
        "key,label\n" + "".join(f"{key},{i % 3}\n" for i, key in enumerate(keys))
    )
    pq.write_table(pa.table({"key": keys, "label": pa.array(range(N))}), home / "labels_parquet/x.parquet")
    (home / "tree/x.csv").write_text("child,parent\nroot,\na,root\nb,root\nc,a\nd,a\n")
    pq.write_table(
        pa.table({"child": ["r", "a", "b"], "parent": [None, "r", "r"]}), home / "tree_parquet/x.parquet"
    )
    (home / "suite/x.toml").write_text(SUITE)
    lines = [json.dumps({"key": "a", "seed": seed, "figures": {"acc": 0.5}}) for seed in range(3)]
    (home / "results/x.jsonl").write_text("\n".join(lines) + "\n")
    nouns = [f"noun {i}" for i in range(6)]
    key = NounKey("e", ("{}",), hash_json(nouns), len(nouns), DIM, 512)
    entry = NounCache(home / "nouns/nouns").entry(key)
    with entry.writing("m", nouns):
        entry.write_part(0, X[:6])
        entry.finish("m")
    import torch

    tree = {
        "class_list": ["a", "b"],
        "class_tree_list": [[0, 1], [1]],
        "class_description": {"a": "A", "b": "B"},
    }
    torch.save(tree, home / "pth/x.pth")


SUITE = """
name = "s"
[features.digits]
builtin = "digits"
[methods.kmeans]
method = "kmeans"
[benchmarks.all]
k = 10
labels = "column:label"
"""


def _run(path: Path) -> list[Any]:
    from kinfold import Run, export, predict
    from kinfold.corrections import Corrections, read_proposals

    run = Run.open(path / "run")
    found: list[Any] = [run.labels, run.assignments["key"].to_pylist(), run.skipped.num_rows]
    found.append(sorted((number, one.noun) for number, one in run.names.items()))
    with Corrections.open(run, write=False) as corrections:
        found.append(corrections.state.labels)
        list(corrections.history())
    proposals = read_proposals(run)
    found.append(None if proposals is None else [proposals.rows, proposals.groups])
    out = path / "out"
    out.mkdir()
    predict(run, path / "run/features", out=out / "p.parquet")
    found.append(pq.read_table(out / "p.parquet")["cluster"].to_pylist())
    export(run, "csv", out / "x.csv")
    return [*found, (out / "x.csv").read_bytes()]


def _features(path: Path) -> list[Any]:
    import torch

    from kinfold.features import open_features
    from kinfold.rows.readers import UnitRows

    features = open_features(path)
    matrix = features.matrix()
    rows = UnitRows(matrix, torch.device("cpu")).read(0, matrix.shape[0])
    return [
        features.keys.to_pylist(),
        features.rows,
        rows.numpy(),
        features.skipped.num_rows,
        features.fingerprint(),
    ]


def _store(path: Path) -> list[Any]:
    from kinfold.features import FeatureStore

    store = FeatureStore.open(path / "store")
    found = _features(path / "store")
    store.verify()
    return found


def _graph(path: Path) -> list[Any]:
    from kinfold.neighbors import NeighborGraph

    graph = NeighborGraph.open(path / "graph")
    NeighborGraph.verify(path / "graph")
    return [graph.indptr, graph.indices, graph.similarities]


def _source(path: Path) -> list[Any]:
    from kinfold.images import UnusableImage, decode_image, open_source

    source = open_source(path)
    found: list[Any] = [list(source.keys)]
    for row in range(len(source)):
        try:
            found.append(np.asarray(decode_image(source.read(row))))
        except UnusableImage as error:
            found.append(error.reason.value)
    return found


def _labels(path: Path) -> list[Any]:
    from kinfold.labels import LabelTable

    table = LabelTable.read(path)
    return [table.keys.to_pylist(), list(table.labels)]


def _tree(path: Path) -> list[Any]:
    from kinfold.hierarchy import ClassTree

    return [list(ClassTree.from_table(path).ids)]


def _pth(path: Path) -> list[Any]:
    from kinfold.benchmark import read_tree_file

    return [list(read_tree_file(path).ids)]


def _suite(path: Path) -> list[Any]:
    from kinfold.benchmark import read_suite

    return [repr(read_suite(path))]


def _results(path: Path) -> list[Any]:
    from kinfold.benchmark import Results

    return [sorted(map(repr, Results(path).read().items()))]


def _nouns(path: Path) -> list[Any]:
    from kinfold.language.cache import NounCache, read_entry

    entries = NounCache(path / "nouns").list()
    words, features, _ = read_entry(entries[0].path) if entries else ((), np.zeros(0), "")
    return [words, np.array(features)]


def _one(function: Callable[[Path], list[Any]]) -> Callable[[Path], list[Any]]:
    return lambda folder: function(next(folder.glob("x.*")))


KINDS: dict[str, Callable[[Path], list[Any]]] = {
    "run": _run,
    "store": _store,
    "graph": _graph,
    "nouns": _nouns,
    **dict.fromkeys(("npy", "npz", "safetensors", "vectors"), _one(_features)),
    **dict.fromkeys(("zip", "tar", "csv", "blobs"), _one(_source)),
    **dict.fromkeys(("labels", "labels_parquet"), _one(_labels)),
    **dict.fromkeys(("tree", "tree_parquet"), _one(_tree)),
    "pth": _one(_pth),
    "suite": _one(_suite),
    "results": _one(_results),
}


def digest(content: Any) -> str:
    """Return a hash of arrays, texts and lists of these."""
    found = hashlib.sha256()

    def add(one: Any) -> None:
        if isinstance(one, np.ndarray):
            found.update(f"{one.shape}".encode() + np.ascontiguousarray(one).tobytes())
        elif isinstance(one, list | tuple):
            for item in one:
                add(item)
        else:
            found.update(one if isinstance(one, bytes) else repr(one).encode())

    add(content)
    return found.hexdigest()


def peak() -> int:
    """Return the most bytes of memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Answer orders until there are none."""
    import warnings

    import torch

    from kinfold.errors import KinfoldError

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    answers, sys.stdout = sys.stdout, io.StringIO()
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer: dict[str, Any] = {"digest": digest(KINDS[order["kind"]](Path(order["path"])))}
        except KinfoldError as error:
            answer = {"refused": str(error)}
        except BaseException:
            answer = {"bug": traceback.format_exc()}
        answers.write(json.dumps({**answer, "peak": peak()}) + "\n")
        answers.flush()


if __name__ == "__main__":
    make(Path(sys.argv[2])) if sys.argv[1:2] == ["make"] else main()
