"""Most of what Schemathesis asks is to name a model that exists: it gets further then."""

import random

import schemathesis

MODELS = {"chat": "text", "completions": "text", "embeddings": "embed", "rerank": "rank"}


@schemathesis.hook
def map_body(context, body):
    name = context.operation.path.rsplit("/", 1)[-1]
    if isinstance(body, dict) and name in MODELS and random.random() < 0.7:
        body = body | {"model": MODELS[name]}
        if isinstance(body.get("max_tokens"), int):
            body["max_tokens"] = min(body["max_tokens"], 8)
    return body
