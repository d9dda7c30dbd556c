"""What langchain-openai gets from a server, as JSON. Run by an environment of its own."""

import json
import sys

from langchain_openai import ChatOpenAI, OpenAIEmbeddings


def main(url: str) -> None:
    options = {"model": "text", "max_tokens": 8, "temperature": 0, "seed": 1}
    chat = ChatOpenAI(base_url=url, api_key="none", stream_usage=True, **options)
    embeddings = OpenAIEmbeddings(
        base_url=url, api_key="none", model="embed", check_embedding_ctx_length=False
    )
    answer = chat.invoke("Why?")
    chunks = list(chat.stream("Why?"))
    told = {
        "answer": answer.content,
        "streamed": "".join(chunk.content for chunk in chunks),
        "tokens": answer.usage_metadata["output_tokens"],
        "vectors": embeddings.embed_documents(["A cat.", "A dog."]),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
