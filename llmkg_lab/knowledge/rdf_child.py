"""Reads RDF that a stranger wrote: the program of ``graph.read``, in a process with bounds.

A request is the name of a format, a line end, and a file; the answer its triples, as N-Triples.
What is said of triples themselves is left out.
"""

import pyoxigraph

FORMATS = {
    "turtle": pyoxigraph.RdfFormat.TURTLE,
    "n-triples": pyoxigraph.RdfFormat.N_TRIPLES,
    "n-quads": pyoxigraph.RdfFormat.N_QUADS,
    "trig": pyoxigraph.RdfFormat.TRIG,
    "rdf-xml": pyoxigraph.RdfFormat.RDF_XML,
}


def answer(request: bytes) -> bytes:
    """Answer one request."""
    form, _, content = request.partition(b"\n")
    triples = (
        quad.triple
        for quad in pyoxigraph.parse(content, format=FORMATS[form.decode()])
        if not isinstance(quad.object, pyoxigraph.Triple)
    )
    return pyoxigraph.serialize(triples, format=pyoxigraph.RdfFormat.N_TRIPLES) or b""
