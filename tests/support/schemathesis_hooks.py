"""Most of what Schemathesis asks is to name a model that exists: it gets further then."""

import random

import schemathesis

MODELS = {"completions": "text", "embeddings": "embed", "rerank": "rank"}


@schemathesis.hook
def map_body(context, body):
    name = context.operation.path.rsplit("/", 1)[-1]
    if isinstance(body, dict) and name in MODELS and random.random() < 0.7:
        body = body | {"model": MODELS[name]}
    if isinstance(body, dict) and MODELS.get(name) == "text":
        body = {"max_tokens": 8, **body}  # or an answer takes its time
        for key in ("max_tokens", "max_completion_tokens"):
            if isinstance(body.get(key), int):
                body[key] = min(body[key], 8)
    return body
