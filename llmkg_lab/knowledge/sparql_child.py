"""The graph that SPARQL asks, in a process of its own: the program of ``graph.Sparql``.

A request is a line of JSON (graph: the name of what is asked; query; limit; loaded: whether the
triples follow), then N-Triples. The answer is JSON; ``cold`` where the graph is not here.
"""

import contextlib
import json

import pyoxigraph

with contextlib.suppress(ImportError, OSError, ValueError):
    import resource

    # no file or socket beyond those that are open: whatever a query says, it reaches nothing
    resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4))

_graphs: dict[str, pyoxigraph.Store] = {}


def answer(request: bytes) -> bytes:
    """Answer one request."""
    line, _, triples = request.partition(b"\n")
    asked = json.loads(line)
    if asked["loaded"]:
        store = pyoxigraph.Store()
        store.bulk_load(triples, pyoxigraph.RdfFormat.N_TRIPLES)
        _graphs.clear()  # one at a time
        _graphs[asked["graph"]] = store
    if asked["graph"] not in _graphs:
        return json.dumps({"cold": True}).encode()
    found = _graphs[asked["graph"]].query(asked["query"])
    return json.dumps(_answered(found, asked["limit"])).encode()


def _answered(found: object, limit: int) -> dict:
    if isinstance(found, pyoxigraph.QueryBoolean):
        truth = {"kind": "literal", "text": str(bool(found)).lower()}
        return {"columns": ["answer"], "rows": [[truth]], "more": False}
    if isinstance(found, pyoxigraph.QueryTriples):
        columns = ["subject", "predicate", "object"]
        rows = ([_term(t.subject), _term(t.predicate), _term(t.object)] for t in found)
    else:
        columns = [variable.value for variable in found.variables]  # type: ignore[attr-defined]
        rows = ([_term(value) for value in solution] for solution in found)  # type: ignore[attr-defined]
    taken: list[list] = []
    for row in rows:
        if len(taken) == limit:
            return {"columns": columns, "rows": taken, "more": True}
        taken.append(row)
    return {"columns": columns, "rows": taken, "more": False}


def _term(value: object) -> dict | None:
    if value is None:
        return None
    if isinstance(value, pyoxigraph.Literal):
        return {"kind": "literal", "text": value.value}
    if isinstance(value, pyoxigraph.NamedNode):
        return {"kind": "iri", "text": value.value}
    return {"kind": "other", "text": str(value)}
