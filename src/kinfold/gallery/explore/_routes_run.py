"""Answers about the run as a whole: what it is, its charts, what was skipped, its table."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from fastapi import APIRouter, Query, Response
from fastapi.responses import FileResponse
from starlette.background import BackgroundTask

from kinfold.corrections import corrected_table
from kinfold.gallery._facts import collect_facts
from kinfold.gallery.explore._answers import MOST_NUMBER, answer
from kinfold.gallery.explore._errors import NotFoundError
from kinfold.gallery.explore._explorer import Explorer
from kinfold.gallery.explore._summaries import N_BINS

EXPORT_FORMATS = ("csv", "parquet")
_KINDS = {"csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet"}

Offset = Annotated[int, Query(ge=0, le=MOST_NUMBER)]
Limit = Annotated[int, Query(ge=0, le=5000)]


def router(explorer: Explorer) -> APIRouter:
    """Return the routes of the run."""
    routes = APIRouter(prefix="/api")

    @routes.get("/run")
    def run() -> Response:
        return answer(describe_run(explorer))

    @routes.get("/version")
    def version() -> Response:
        return answer({"version": explorer.state.version})

    @routes.get("/charts")
    def charts() -> Response:
        state = explorer.state
        found = explorer.summaries.of(state)
        histogram = np.sum([one.histogram for one in found.values()] or [(0,) * N_BINS], axis=0)
        return answer(
            {
                "version": state.version,
                "sizes": [{"id": group, "size": one.size} for group, one in found.items()],
                "histogram": histogram.tolist(),
            }
        )

    @routes.get("/skipped")
    def skipped(offset: Offset = 0, limit: Limit = 200) -> Response:
        return answer(list_skipped(explorer, offset, limit))

    @routes.get("/export/{kind}")
    def export(kind: str) -> Response:
        return give_table(explorer, kind)

    return routes


def describe_run(explorer: Explorer) -> dict[str, Any]:
    """Return what the page says of the run."""
    run, state = explorer.run, explorer.state
    manifest = run.manifest
    facts = [
        {"section": one.title, "name": f"{one.title}: {fact.name}", "value": fact.value}
        for one in collect_facts(manifest)
        for fact in one.facts
    ]
    card = (manifest.backbone or {}).get("card", {})
    path = shlex.quote(str(run.path))
    images, features = (
        f" --source {shlex.quote(moved)}" if moved else ""
        for moved in (explorer.moved_images, explorer.moved_features)
    )
    return {
        "title": run.path.resolve().name,
        "path": str(run.path),
        "method": manifest.parameters.get("method"),
        "backbone": card.get("name"),
        "seed": manifest.parameters.get("random_state"),
        "n_images": len(explorer.columns),
        "n_groups": len(state.alive),
        "n_skipped": explorer.skipped.num_rows,
        "facts": facts,
        "metrics": {name: value for name, value in run.metrics.items() if _is_number(value)},
        "version": state.version,
        "has_images": explorer.originals.are_there,
        "images_trouble": explorer.originals.trouble,
        "has_features": explorer.vectors.are_there,
        "has_map": explorer.map_job.map is not None,
        "can_search_by_image": explorer.nearest.can_embed,
        "read_only": explorer.corrections.refusal is not None,
        "export_formats": list(EXPORT_FORMATS),
        "commands": {
            "refine": f"kinfold refine {path}{features}",
            "export": f"kinfold export {path}{images} --to",
        },
    }


def list_skipped(explorer: Explorer, offset: int, limit: int) -> dict[str, Any]:
    """Return some of the skipped images, and how many there are of each kind."""
    table = explorer.skipped
    kinds = pc.value_counts(pc.list_element(pc.split_pattern(table["reason"], ":", max_splits=1), 0))
    counted = sorted(
        ((one["counts"], one["values"]) for one in kinds.to_pylist()), key=lambda one: (-one[0], one[1])
    )
    return {
        "total": table.num_rows,
        "kinds": [{"reason": reason, "n": n} for n, reason in counted],
        "images": table.slice(offset, limit).to_pylist(),
    }


def give_table(explorer: Explorer, kind: str) -> Response:
    """Return the groups as corrected as a file to keep."""
    if kind not in EXPORT_FORMATS:
        raise NotFoundError(f"a download is one of {', '.join(EXPORT_FORMATS)}")
    table = corrected_table(explorer.run, explorer.state)
    with tempfile.NamedTemporaryFile(prefix="kinfold-", suffix=f".{kind}", delete=False) as stream:
        path = Path(stream.name)
        if kind == "csv":
            pyarrow.csv.write_csv(table, stream)
        else:
            pq.write_table(table, stream, compression="zstd")
    name = f"{_plain(explorer.run.path.resolve().name)}.{kind}"
    clear = BackgroundTask(path.unlink, missing_ok=True)
    return FileResponse(path, media_type=_KINDS[kind], filename=name, background=clear)


def _plain(name: str) -> str:
    """Return a name as a header may have it."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in name) or "run"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))
