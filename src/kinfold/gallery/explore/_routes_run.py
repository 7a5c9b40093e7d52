"""Routes of the run: what it is, charts, skipped images, tables, edits and refinement."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool

from kinfold.corrections import corrected_table
from kinfold.gallery._text import collect_facts
from kinfold.gallery.explore._answers import MOST_NUMBER, answer, client_of, read_json
from kinfold.gallery.explore._errors import ForbiddenError, NotFoundError
from kinfold.gallery.explore._explorer import Explorer
from kinfold.gallery.explore._lists import N_BINS

EXPORT_FORMATS = ("csv", "parquet")
_KINDS = {"csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet"}

Offset = Annotated[int, Query(ge=0, le=MOST_NUMBER)]
Limit = Annotated[int, Query(ge=0, le=5000)]  # the page asks for a few hundred

Version = Annotated[int | None, Query(ge=0, le=MOST_NUMBER)]


def run_routes(explorer: Explorer) -> APIRouter:
    """Return the routes of the run."""
    routes = APIRouter(prefix="/api")

    @routes.get("/run")
    def run() -> Response:
        return answer(describe_run(explorer))

    @routes.get("/version")
    def version() -> Response:
        return answer({"version": explorer.state.version, "opening": explorer.opening})

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
    """Return the facts of the run that the page shows."""
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
        "opening": explorer.opening,
        "has_levels": explorer.levels.are_there,
        "has_typicality": run.closeness is not None,
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
    """Return a page of the skipped images, and their number by kind of reason."""
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
    """Return the corrected groups as a file to download."""
    if kind not in EXPORT_FORMATS:
        raise NotFoundError(f"there is no download {kind!r}; formats are {', '.join(EXPORT_FORMATS)}")
    table = corrected_table(explorer.run, explorer.state)
    # The response is sent after this function returns, so a background task removes the file.
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
    """Return a name without characters that a header can't have."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in name) or "run"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def edit_routes(explorer: Explorer) -> APIRouter:
    """Return the routes of edits."""
    routes = APIRouter(prefix="/api")

    @routes.get("/history")
    def history(request: Request, limit: Limit = 100, before: Version = None) -> Response:
        client, corrections = client_of(request), explorer.corrections
        entries = corrections.history(limit, before)
        edits = [{**vars(entry), "mine": entry.client == client} for entry in entries]
        return answer(
            {
                "version": explorer.state.version,
                "edits": edits,
                "can_undo": not explorer.read_only and corrections.can_undo(client),
                "can_redo": not explorer.read_only and corrections.can_redo(client),
            }
        )

    @routes.post("/edits")
    async def edit(request: Request) -> Response:
        content, client = await read_json(request), client_of(request)
        return answer(await run_in_threadpool(explorer.edit, content, client))

    @routes.post("/undo")
    async def undo(request: Request) -> Response:
        return answer(await run_in_threadpool(explorer.undo, client_of(request)))

    @routes.post("/redo")
    async def redo(request: Request) -> Response:
        return answer(await run_in_threadpool(explorer.redo, client_of(request)))

    return routes


def refine_routes(explorer: Explorer) -> APIRouter:
    """Return the routes of refinement."""
    routes = APIRouter(prefix="/api/refine")

    @routes.post("")
    def start() -> Response:
        if explorer.corrections.refusal is not None:
            raise ForbiddenError(explorer.corrections.refusal)
        explorer.refining.start()
        return answer(describe_refinement(explorer, 0, 0))

    @routes.get("")
    def where(offset: Offset = 0, limit: Limit = 500) -> Response:
        return answer(describe_refinement(explorer, offset, limit))

    return routes


def describe_refinement(explorer: Explorer, offset: int, limit: int) -> dict[str, Any]:
    """Return the state of refinement, and a page of the open proposals by descending confidence."""
    state, refining = explorer.state, explorer.refining
    facts = {"version": state.version, "state": refining.state, "text": refining.text, "proposals": None}
    proposals = refining.proposals()
    if proposals is None:
        return facts
    left = refining.left(state)
    pairs = np.stack([proposals.from_groups[left], proposals.groups[left]])
    kinds, counts = np.unique(pairs, axis=1, return_counts=True)
    changes = sorted(zip((-counts).tolist(), *kinds.tolist(), strict=True))
    some = left[offset : offset + limit]
    places = np.searchsorted(explorer.columns.rows, proposals.rows[some])
    images = zip(
        proposals.rows[some].tolist(),
        explorer.columns.keys.take(places).to_pylist(),
        proposals.from_groups[some].tolist(),
        proposals.groups[some].tolist(),
        proposals.confidences[some].tolist(),
        strict=True,
    )
    facts["proposals"] = {
        "total": len(left),
        "by_change": [{"from": a, "to": b, "n": -n} for n, a, b in changes],
        "images": [
            {"row": row, "key": key, "from": a, "to": b, "confidence": round(sure, 4)}
            for row, key, a, b, sure in images
        ],
        "facts": proposals.facts,
    }
    return facts
