"""Edits, undo and redo, and their history."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from kinfold.gallery.explore._answers import MOST_NUMBER, answer, client_of, read_json
from kinfold.gallery.explore._explorer import Explorer
from kinfold.gallery.explore._routes_run import Limit

Version = Annotated[int | None, Query(ge=0, le=MOST_NUMBER)]


def router(explorer: Explorer) -> APIRouter:
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
