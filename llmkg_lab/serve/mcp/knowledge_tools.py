"""The tools over the knowledge graph, with LLMKG's names and limits."""

from typing import Annotated, Literal

from mcp.server.mcpserver import Context, MCPServer
from mcp_types import ToolAnnotations
from pydantic import Field
from typing_extensions import TypedDict

from llmkg_lab.knowledge.results import (
    Answer,
    FoundFacts,
    GraphQuery,
    Ideas,
    Importance,
    SearchResult,
    SearchType,
    Stats,
    StoredFact,
    StoredText,
    Suggestion,
    Travel,
    Validation,
)
from llmkg_lab.serve.mcp.calls import Calls
from llmkg_lab.serve.mcp.desk import Desk

READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
WRITES = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False)

Confidence = Annotated[float, Field(description="How sure it is, from 0 to 1.")]
Time = Annotated[str | None, Field(description="ISO 8601, as in 2024-05-01 or 2024.")]


class FactPattern(TypedDict, total=False):
    """Which facts are meant: one, two or three of their parts."""

    subject: str
    predicate: str
    object: str


class Suggestions(TypedDict):
    """Suggestions, the best first."""

    suggestions: list[Suggestion]


def register(server: MCPServer, desk: Desk, calls: Calls) -> None:
    """Add the tools to a server."""
    graph = desk.knowledge

    @server.tool(annotations=WRITES)
    async def store_fact(
        subject: Annotated[str, Field(description="Whom it is about: up to 128 characters.")],
        predicate: Annotated[str, Field(description="The relation: up to 64 characters.")],
        object: Annotated[str, Field(description="The other end: up to 128 characters.")],
        ctx: Context,
        confidence: Confidence = 1.0,
        valid_from: Time = None,
        valid_to: Time = None,
        source: Annotated[str, Field(description="Who says so.")] = "",
    ) -> StoredFact:
        """Store one fact. A fact that is known changes nothing; one that differs corrects it."""
        return await calls.run(
            ctx,
            lambda _: graph.store_fact(
                subject, predicate, object, confidence, valid_from, valid_to, source
            ),
        )

    @server.tool(annotations=WRITES)
    async def store_knowledge(
        content: Annotated[str, Field(description="The text: up to 50,000 characters.")],
        title: Annotated[str, Field(description="Its title: up to 256 characters.")],
        ctx: Context,
        category: str = "",
        source: str = "",
    ) -> StoredText:
        """Store a text; the names in it and the facts that it says are extracted."""
        return await calls.run(
            ctx,
            lambda progress: graph.store_knowledge(content, title, category, source, progress),
        )

    @server.tool(annotations=READS)
    async def find_facts(
        query: Annotated[FactPattern, Field(description="At least one of its fields is needed.")],
        ctx: Context,
        limit: Annotated[int, Field(description="1 to 100.")] = 10,
        at: Time = None,
        known_at: Time = None,
    ) -> FoundFacts:
        """Find facts by subject, predicate or object; by default those that are believed now."""
        return await calls.run(
            ctx,
            lambda _: graph.find_facts(
                query.get("subject"),
                query.get("predicate"),
                query.get("object"),
                limit,
                at,
                known_at,
            ),
        )

    @server.tool(annotations=READS)
    async def ask_question(
        question: Annotated[str, Field(description="In plain words: up to 2,000 characters.")],
        ctx: Context,
        context: Annotated[
            str, Field(description="A text to answer from, beside what is stored.")
        ] = "",
        max_results: Annotated[int, Field(description="Citations: 1 to 20.")] = 5,
    ) -> Answer:
        """Answer from what is stored, word for word and cited; or say that nothing says so."""
        return await calls.run(ctx, lambda _: graph.ask_question(question, context, max_results))

    @server.tool(annotations=READS)
    async def hybrid_search(
        query: str,
        ctx: Context,
        search_type: SearchType = "hybrid",
        filters: Annotated[
            dict[str, str] | None, Field(description="By category, source or title.")
        ] = None,
        limit: Annotated[int, Field(description="1 to 100.")] = 10,
    ) -> SearchResult:
        """Search texts by words, by meaning, by the things that they name, or by all three."""
        return await calls.run(
            ctx, lambda _: graph.hybrid_search(query, search_type, filters, limit)
        )

    @server.tool(annotations=READS)
    async def get_suggestions(
        ctx: Context,
        suggestion_type: Annotated[
            str, Field(description="missing_facts, connections, questions or exploration.")
        ] = "exploration",
        focus_area: Annotated[str, Field(description="A name; by default, everything.")] = "",
        limit: Annotated[int, Field(description="1 to 100.")] = 10,
    ) -> Suggestions:
        """Suggest what is worth asking or adding next."""
        found = await calls.run(
            ctx, lambda _: graph.get_suggestions(suggestion_type, focus_area, limit)
        )
        return Suggestions(suggestions=found)

    @server.tool(annotations=READS)
    async def get_stats(ctx: Context, include_details: bool = False) -> Stats:
        """Say what the graph holds; with details, the facts of each predicate."""
        return await calls.run(ctx, lambda _: graph.get_stats(include_details))

    @server.tool(annotations=READS)
    async def generate_graph_query(
        natural_query: str,
        ctx: Context,
        query_language: Literal["cypher", "sparql", "gremlin"] = "sparql",
    ) -> GraphQuery:
        """Write a question as a graph query. SPARQL is also run, and its rows returned."""
        return await calls.run(
            ctx, lambda _: graph.generate_graph_query(natural_query, query_language)
        )

    @server.tool(annotations=WRITES)
    async def validate_knowledge(
        ctx: Context,
        validation_type: Annotated[
            str, Field(description="contradictions, gaps, duplicates or all.")
        ] = "all",
        entity: str | None = None,
        fix_issues: Annotated[
            bool, Field(description="Close the less certain of two facts that contradict.")
        ] = False,
    ) -> Validation:
        """Look for contradictions, gaps and duplicates."""
        return await calls.run(
            ctx, lambda _: graph.validate_knowledge(validation_type, entity, fix_issues)
        )

    @server.tool(annotations=READS)
    async def neural_importance_scoring(
        text: str,
        ctx: Context,
        context: Annotated[str, Field(description="What is read before it.")] = "",
    ) -> Importance:
        """Score a text by the model's surprise at it, and by its novelty to the graph."""
        return await calls.run(ctx, lambda _: graph.neural_importance_scoring(text, context))

    @server.tool(annotations=READS)
    async def divergent_thinking_engine(
        seed_concept: str,
        ctx: Context,
        exploration_depth: Annotated[int, Field(description="Facts to walk: 1 to 4.")] = 2,
        max_ideas: Annotated[int, Field(description="1 to 50.")] = 10,
    ) -> Ideas:
        """Walk from a concept along its facts, to what is tied to it and least like it."""
        return await calls.run(
            ctx,
            lambda _: graph.divergent_thinking_engine(seed_concept, exploration_depth, max_ideas),
        )

    @server.tool(annotations=READS)
    async def time_travel_query(
        ctx: Context,
        query_type: Literal["snapshot", "changes", "history"] = "snapshot",
        timestamp: Time = None,
        entity: str | None = None,
        time_range: Annotated[
            list[str] | None, Field(description="The first and the last time.")
        ] = None,
        limit: Annotated[int, Field(description="1 to 100.")] = 50,
    ) -> Travel:
        """Show facts as they held at a time, or how what is believed has changed."""
        return await calls.run(
            ctx,
            lambda _: graph.time_travel_query(query_type, timestamp, entity, time_range, limit),
        )
