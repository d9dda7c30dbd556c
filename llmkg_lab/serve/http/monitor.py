"""/v1/models, /health, /ready and /metrics."""

from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from llmkg_lab.serve import metrics
from llmkg_lab.serve.engine.models import Card
from llmkg_lab.serve.http import replies
from llmkg_lab.serve.http.context import Context
from llmkg_lab.serve.http.errors import ApiError


def router(context: Context) -> APIRouter:
    """The endpoints that tell how the server is, and what it has."""
    routes = APIRouter(tags=["server"])
    store = context.store

    def described(name: str, card: Card) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": card.created,
            "owned_by": "llmkg-lab",
            "task": card.task,
            "context_length": card.context,
            "loaded": card.id in store.loaded,
        }

    @routes.get("/v1/models", responses=replies.of(replies.Models))
    async def models() -> Response:
        """The models, and other names for some."""
        names = [*store.cards, *store.aliases]
        data = [described(name, store.card(name)) for name in names]
        return JSONResponse({"object": "list", "data": data})

    @routes.get("/v1/models/{name:path}", responses=replies.of(replies.Model))
    async def model(name: str) -> Response:
        """One model."""
        return JSONResponse(described(name, store.card(name)))

    @routes.get("/health", responses=replies.of_health(500))
    async def health() -> Response:
        """Whether the server is to be left running."""
        dead = [name for name, model in store.loaded.items() if not model.healthy]
        status = context.failed or ("" if not dead else f"the thread of {', '.join(dead)} ended")
        return JSONResponse({"status": status or "ok"}, 500 if status else 200)

    @routes.get("/ready", responses=replies.of_health(503))
    async def ready() -> Response:
        """Whether requests are to be sent here."""
        if context.draining:
            return JSONResponse({"status": "draining"}, 503)
        if not context.ready:
            return JSONResponse({"status": "loading models"}, 503)
        return JSONResponse({"status": "ready"})

    @routes.get("/metrics", include_in_schema=False)
    async def told() -> Response:
        """All metrics, for Prometheus."""
        measure(context)
        return Response(context.metrics.text(), media_type=metrics.CONTENT_TYPE)

    @routes.post("/v1/responses", include_in_schema=False)
    async def responses() -> Response:
        raise ApiError(
            400, "the Responses API is not supported by this server: use /v1/chat/completions",
            code="unsupported_endpoint",
        )  # fmt: skip

    return routes


def measure(context: Context) -> None:
    """Look at what changes by itself: memory, file handles, caches, models in memory."""
    told = context.metrics
    told.process()
    loaded = context.store.loaded
    for name in context.store.cards:
        model = loaded.get(name)
        told.loaded.labels(name).set(model.memory_usage() if model else 0)
        if model:
            told.caches(name, model.caches())
            waiting, running = model.load()
            told.waiting.labels(name).set(waiting)
            told.running.labels(name).set(running)
