"""/v1/embeddings and /v1/rerank."""

import asyncio
import base64
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from llmkg_lab.serve.engine.generation import LateError
from llmkg_lab.serve.engine.models import GROUP, EmbeddingModel, RankingModel
from llmkg_lab.serve.http import replies
from llmkg_lab.serve.http.context import Context, client_of, note, too_long, while_connected
from llmkg_lab.serve.http.errors import ApiError
from llmkg_lab.serve.http.requests import Document, EmbeddingRequest, RerankRequest
from llmkg_lab.serve.http.text import as_list

T = TypeVar("T")
Encoder = EmbeddingModel | RankingModel


async def in_groups(
    context: Context,
    request: Request,
    model: Encoder,
    items: Sequence[T],
    compute: Callable[[Sequence[T]], np.ndarray],
) -> np.ndarray:
    """What ``compute`` makes of the items, some at a time; in between, others get their turn."""
    client, seconds = client_of(request), context.settings.timeout
    groups = [items[start : start + GROUP] for start in range(0, len(items), GROUP)]
    parts = []
    try:
        async with asyncio.timeout(seconds):
            for group in groups:
                parts.append(await model.turns.run(client, lambda group=group: compute(group)))  # type: ignore[misc]
    except TimeoutError:
        raise LateError(seconds) from None
    return np.concatenate(parts)


def written(vectors: np.ndarray, encoding: str) -> list[Any]:
    """Vectors as JSON has them: the same float32, bit for bit, in both encodings."""
    if encoding == "base64":
        return [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]
    return vectors.astype(np.float64).tolist()


def router(context: Context) -> APIRouter:
    """The endpoints of encoders."""
    routes = APIRouter(tags=["encoders"])
    most, metrics = context.settings.inputs, context.metrics

    def observe(request: Request, model: Encoder, texts: int, tokens: int, asked: float) -> None:
        name, took = model.card.id, time.perf_counter() - asked
        operation = "embed" if isinstance(model, EmbeddingModel) else "rank"
        metrics.texts.labels(name, operation).inc(texts)
        metrics.prompt_tokens.labels(name).inc(tokens)
        metrics.whole.labels(name).observe(took)
        note(request, model=name, texts=texts, prompt_tokens=tokens)

    @routes.post("/v1/embeddings", responses=replies.of(replies.Embeddings))
    async def embeddings(body: EmbeddingRequest, request: Request) -> Response:
        """Embed texts."""
        asked, texts = time.perf_counter(), as_list(body.input)
        check_count(len(texts), most, "input")
        if "" in texts:
            raise ApiError(400, "'input' has an empty text", param="input", code="invalid_value")
        async with context.store.lease(body.model, EmbeddingModel) as model:
            tokens = isinstance(texts[0], list)
            lengths = list(map(len, texts)) if tokens else await in_thread(model.lengths, texts)
            check_lengths(lengths, model.max_length, "input", bool(body.truncate) and not tokens)
            compute: Callable[[Sequence[Any]], np.ndarray]
            compute = model.embed_ids if tokens else model.embed
            work = in_groups(context, request, model, texts, compute)
            vectors = await while_connected(request, work)
            check_dimensions(body.dimensions, vectors.shape[1])
            read = sum(min(length, model.max_length) for length in lengths)
            observe(request, model, len(texts), read, asked)
            values = written(vectors, body.encoding_format or "float")
            data = [
                {"object": "embedding", "index": i, "embedding": v} for i, v in enumerate(values)
            ]
            usage = {"prompt_tokens": read, "total_tokens": read}
            return JSONResponse(
                {"object": "list", "data": data, "model": body.model, "usage": usage}
            )

    @routes.post("/v1/rerank", responses=replies.of(replies.Ranking))
    @routes.post("/rerank", responses=replies.of(replies.Ranking))
    async def rerank(body: RerankRequest, request: Request) -> Response:
        """Order passages by how well they answer a query."""
        asked = time.perf_counter()
        passages = [d.text if isinstance(d, Document) else d for d in body.documents]
        check_count(len(passages), most, "documents")
        async with context.store.lease(body.model, RankingModel) as model:
            pairs = [(body.query, passage) for passage in passages]
            lengths = await in_thread(model.tokenizer.lengths, pairs)
            check_lengths(lengths, model.max_length, "documents", body.truncate is not False)
            work = in_groups(context, request, model, pairs, model.score)
            logits = await while_connected(request, work)
            read = sum(min(length, model.max_length) for length in lengths)
            observe(request, model, len(passages), read, asked)
            order = (-logits).argsort(kind="stable")[: body.top_n].tolist()
            scores = 1 / (1 + np.exp(-logits.astype(np.float64)))
            results = []
            for i in order:
                result: dict[str, Any] = {"index": i, "relevance_score": float(scores[i])}
                if body.return_documents:
                    result["document"] = {"text": passages[i]}
                if lengths[i] > model.max_length:
                    result["truncated"] = True
                results.append(result)
            usage = {"prompt_tokens": read, "total_tokens": read}
            name = f"rerank-{uuid.uuid4().hex[:24]}"
            return JSONResponse(
                {"id": name, "model": body.model, "results": results, "usage": usage}
            )

    return routes


async def in_thread(function: Callable[[Any], T], argument: Any) -> T:
    """What takes longer than the loop should wait; short texts do not."""
    return await asyncio.to_thread(function, argument)


def check_count(count: int, most: int, param: str) -> None:
    """Raises ApiError where a request has too many texts."""
    if count > most:
        raise ApiError(
            400, f"'{param}' has {count} texts, at most {most} at once", param=param,
            code="too_many_inputs",
        )  # fmt: skip


def check_lengths(lengths: Sequence[int], limit: int, param: str, truncates: bool) -> None:
    """Raises ApiError where a text is too long and is not to be cut."""
    if not truncates and max(lengths) > limit:
        raise too_long(limit, max(lengths), param, param)


def check_dimensions(asked: int | None, hidden: int) -> None:
    """Raises ApiError where the model has vectors of another size."""
    if asked not in (None, hidden):
        raise ApiError(
            400, f"this model's vectors have {hidden} dimensions, not {asked}",
            param="dimensions", code="unsupported_value",
        )  # fmt: skip
