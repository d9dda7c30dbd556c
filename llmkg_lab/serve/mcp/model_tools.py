"""The tools over the models: list, recommend, load, generate, embed, rerank, conversion report."""

from dataclasses import fields
from typing import Annotated, Any, Literal

from mcp.server.mcpserver import Context, MCPServer
from mcp_types import ToolAnnotations
from pydantic import Field
from typing_extensions import TypedDict

from llmkg_lab.base.errors import LabError
from llmkg_lab.base.progress import Progress, Step
from llmkg_lab.llmkg import ModelConfig, ModelMetadata
from llmkg_lab.llmkg.artifacts import resolve
from llmkg_lab.serve.mcp.calls import Calls
from llmkg_lab.serve.mcp.desk import Desk

READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
TEXT_LIMIT = 50_000  # characters of a prompt or a text
TEXTS = 64  # texts of one call
TOKENS = 4096  # new tokens of one call

ModelId = Annotated[
    str, Field(description="A Hub id or a variant's; :SCHEME behind it for a certain artifact.")
]


class ModelEntry(TypedDict):
    """A model that is known; with artifacts it can be loaded."""

    id: str
    name: str
    family: str
    task: str
    parameters: int
    size_category: str
    context_length: int
    license: str
    schemes: list[str]


class ModelList(TypedDict):
    """Models of the registry."""

    models: list[ModelEntry]
    count: int


class Pick(TypedDict):
    """A recommended model; ``measured``: the reason is a measurement."""

    role: str
    model: ModelEntry
    reason: str
    measured: bool


class Picks(TypedDict):
    """The best model of each kind."""

    recommended: list[Pick]


class Loaded(TypedDict):
    """A model in memory."""

    id: str
    state: str
    bytes: int
    loaded: list[str]


class Generated(TypedDict):
    """The continuation of a prompt; ``pieces``: how many it came in."""

    model: str
    text: str
    pieces: int


class Embedded(TypedDict):
    """Vectors in the order of the texts."""

    model: str
    dimensions: int
    embeddings: list[list[float]]


class RankedPassage(TypedDict):
    """A passage's place in the request, and its score."""

    index: int
    score: float
    text: str


class Reranked(TypedDict):
    """Passages, the best first."""

    model: str
    method: Literal["cross-encoder", "embeddings"]
    results: list[RankedPassage]


class Measured(TypedDict):
    """One artifact of a model, and what was measured of it."""

    scheme: str
    bytes: int
    bits_per_weight: float
    verdict: str
    reasons: list[str]
    quality: dict[str, Any]
    speed: dict[str, Any]
    folder: str


class Report(TypedDict):
    """What converting a model cost, as it was measured."""

    id: str
    name: str
    artifacts: list[Measured]
    report: str


def register(server: MCPServer, desk: Desk, calls: Calls) -> None:
    """Add the tools to a server."""
    registry = desk.registry

    @server.tool(annotations=READS)
    async def list_models(
        ctx: Context,
        search: Annotated[str, Field(description="In name, description or family.")] = "",
        family: str = "",
        only_loadable: Annotated[bool, Field(description="Only what was converted.")] = True,
    ) -> ModelList:
        """List models of the registry."""

        def work(_: Progress) -> ModelList:
            found = registry.search_models(search) if search else registry.list_models()
            chosen = [
                _entry(model)
                for model in found
                if (not family or model.family.lower() == family.lower())
                and (model.is_loadable or not only_loadable)
            ]
            return ModelList(models=chosen, count=len(chosen))

        return await calls.run(ctx, work)

    @server.tool(annotations=READS)
    async def recommend_models(ctx: Context) -> Picks:
        """Recommend a model of each kind, from what was measured where something was."""

        def work(_: Progress) -> Picks:
            picks = registry.get_recommended_models()
            found = []
            for field in fields(picks):
                pick = getattr(picks, field.name)
                if pick is not None:
                    entry, reason = _entry(pick.model), pick.reason
                    found.append(
                        Pick(role=field.name, model=entry, reason=reason, measured=pick.measured)
                    )
            return Picks(recommended=found)

        return await calls.run(ctx, work)

    @server.tool()
    async def load_model(model: ModelId, ctx: Context) -> Loaded:
        """Load a model, so that the next call need not wait."""

        def work(progress: Progress) -> Loaded:
            loaded = desk.loader.load(model, progress)
            state = type(desk.loader.get_loading_state(model)).__name__
            return Loaded(
                id=loaded.metadata().huggingface_id,
                state=state,
                bytes=loaded.memory_usage(),
                loaded=desk.loader.get_loaded_models(),
            )

        return await calls.run(ctx, work)

    @server.tool(annotations=READS)
    async def generate_text(
        prompt: Annotated[str, Field(description="Up to 50,000 characters.")],
        ctx: Context,
        model: Annotated[str, Field(description="By default the recommended one.")] = "",
        chat: Annotated[bool, Field(description="Ask it as a user, by the template.")] = False,
        max_tokens: Annotated[int, Field(description="1 to 4096.")] = 256,
        temperature: float = 0.7,
        top_k: int = 50,
        top_p: float = 0.95,
        repetition_penalty: float = 1.1,
        seed: int | None = None,
    ) -> Generated:
        """Continue a text with a local model; progress counts the pieces of the text."""

        def work(progress: Progress) -> Generated:
            _check(prompt, "prompt")
            if not 1 <= max_tokens <= TOKENS:
                raise LabError(f"max_tokens is {max_tokens}", f"give 1 to {TOKENS}")
            config = ModelConfig(
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                repetition_penalty=repetition_penalty,
                max_tokens=max_tokens,
                seed=seed,
            )
            loaded = desk.load(model or desk.writer)
            asked = [{"role": "user", "content": prompt}] if chat else prompt
            pieces: list[str] = []
            for piece in loaded.stream_text(asked, config):
                pieces.append(piece)
                progress(Step("generation", "pieces", len(pieces), max_tokens))
            text = "".join(pieces)
            name = loaded.metadata().huggingface_id
            return Generated(model=name, text=text, pieces=len(pieces))

        return await calls.run(ctx, work)

    @server.tool(annotations=READS)
    async def embed_texts(
        texts: Annotated[
            list[str], Field(description="Up to 64, each of up to 50,000 characters.")
        ],
        ctx: Context,
        model: Annotated[str, Field(description="By default the recommended one.")] = "",
    ) -> Embedded:
        """Embed texts as vectors."""

        def work(_: Progress) -> Embedded:
            _check_all(texts, "texts")
            loaded = desk.load(model or desk.embedder)
            vectors = loaded.embed(texts)
            return Embedded(
                model=loaded.metadata().huggingface_id,
                dimensions=int(vectors.shape[1]),
                embeddings=vectors.tolist(),
            )

        return await calls.run(ctx, work)

    @server.tool(annotations=READS)
    async def rerank_passages(
        query: str,
        passages: Annotated[list[str], Field(description="Up to 64.")],
        ctx: Context,
        model: Annotated[str, Field(description="A cross-encoder; else embeddings decide.")] = "",
    ) -> Reranked:
        """Order passages by how well they answer a query."""

        def work(_: Progress) -> Reranked:
            _check(query, "query")
            _check_all(passages, "passages")
            loaded = desk.load(model or desk.embedder)
            if loaded.metadata().task == "text-ranking":
                scores = loaded.backend.score([(query, passage) for passage in passages])
            else:
                vectors = loaded.embed([query, *passages])
                scores = vectors[1:] @ vectors[0]
            order = (-scores).argsort(kind="stable").tolist()
            return Reranked(
                model=loaded.metadata().huggingface_id,
                method="cross-encoder"
                if loaded.metadata().task == "text-ranking"
                else "embeddings",
                results=[
                    RankedPassage(index=i, score=float(scores[i]), text=passages[i]) for i in order
                ],
            )

        return await calls.run(ctx, work)

    @server.tool(annotations=READS)
    async def conversion_report(model: ModelId, ctx: Context) -> Report:
        """Report what a model's conversion cost: bytes, quality and speed, as measured."""

        def work(_: Progress) -> Report:
            target = resolve(registry, model, desk.loader.loading_config)
            found = target.model
            artifacts = [
                Measured(
                    scheme=entry.scheme,
                    bytes=entry.bytes,
                    bits_per_weight=entry.bits_per_weight,
                    verdict=str(entry.verdict),
                    reasons=list(entry.reasons),
                    quality={name: _values(value) for name, value in entry.quality.items()},
                    speed={name: _values(value) for name, value in entry.speed.items()},
                    folder=entry.path,
                )
                for entry in found.artifacts
            ]
            report = ""
            if target.entry is not None:
                place = (registry.outputs / target.entry.path).parents[1] / "report.html"
                report = str(place) if place.is_file() else ""
            return Report(
                id=found.huggingface_id, name=found.name, artifacts=artifacts, report=report
            )

        return await calls.run(ctx, work)


def _values(estimate: Any) -> dict[str, Any]:
    names = (name for name in ("value", "low", "high", "n") if hasattr(estimate, name))
    return {name: getattr(estimate, name) for name in names}


def _entry(model: ModelMetadata) -> ModelEntry:
    return ModelEntry(
        id=model.huggingface_id,
        name=model.name,
        family=model.family,
        task=model.task,
        parameters=model.parameters,
        size_category=str(model.size_category),
        context_length=model.context_length,
        license=model.license,
        schemes=[artifact.scheme for artifact in model.artifacts],
    )


def _check(text: str, what: str) -> None:
    if not text.strip():
        raise LabError(f"{what} is empty", f"give 1 to {TEXT_LIMIT:,} characters")
    if len(text) > TEXT_LIMIT:
        raise LabError(
            f"{what} has {len(text):,} characters, at most {TEXT_LIMIT:,} are taken", "shorten it"
        )


def _check_all(texts: list[str], what: str) -> None:
    if not 1 <= len(texts) <= TEXTS:
        raise LabError(f"{what} holds {len(texts)} texts", f"give 1 to {TEXTS}")
    for text in texts:
        _check(text, what)
