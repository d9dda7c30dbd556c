"""OpenAI's own client as the judge, and our library for what the answers must be."""

import base64
import json
import struct
import threading

import numpy as np
import openai
import pytest

from llmkg_lab.runtime.ort.decoder import Decoder, Embedder
from llmkg_lab.runtime.ort.ranker import Ranker
from llmkg_lab.runtime.text.generate import GenerationConfig, generate_text
from llmkg_lab.runtime.text.tokenizer import Tokenizer

QUESTION = [
    {"role": "system", "content": "You answer."},
    {"role": "user", "content": "Why is the sky blue? 🙂"},
]


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def library(artifacts):
    """What the library answers: (prompt, configuration) -> text."""
    decoder = Decoder(artifacts["text"], max_length=512)
    tokenizer = Tokenizer.from_folder(artifacts["text"].folder)

    def answer(prompt, **options):
        config = GenerationConfig(**options)
        return "".join(generate_text(decoder, tokenizer, prompt, config))

    return answer


def test_models_are_listed_with_what_they_do(client, artifacts):
    listed = {model.id: model for model in client.models.list()}
    assert set(listed) == {"text", "embed", "rank"}
    assert listed["text"].context_length == 512
    assert client.models.retrieve("embed").task == "sentence-embedding"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_chat_is_what_the_library_answers_whole_and_streamed(seed, client, library):
    asked = {"model": "text", "messages": QUESTION, "max_tokens": 40, "seed": seed}
    expected = library(QUESTION, seed=seed, max_tokens=40)
    whole = client.chat.completions.create(**asked)
    assert whole.choices[0].message.content == expected
    assert whole.choices[0].finish_reason in ("stop", "length")
    stream = client.chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = stream
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == expected
    assert [c.choices[0].finish_reason for c in chunks][-1] == whole.choices[0].finish_reason
    assert chunks[0].choices[0].delta.role == "assistant"
    assert (last.choices, last.usage) == ([], whole.usage)
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    without = list(client.chat.completions.create(**asked, stream=True))
    assert all(chunk.usage is None for chunk in without)


@pytest.mark.slow
def test_characters_of_several_tokens_come_whole(client, library):
    """Random weights write many bytes that make no character, some that do."""
    asked = {"model": "text", "prompt": "a🙂", "max_tokens": 300, "seed": 5, "temperature": 1.5}
    pieces = [c.choices[0].text for c in client.completions.create(**asked, stream=True)]
    expected = library("a🙂", seed=5, max_tokens=300, temperature=1.5)
    assert "".join(pieces) == expected
    assert len(pieces) > 100
    assert any(ord(character) > 127 for character in expected)


def test_stop_strings_never_leak_in_part(client, library):
    asked = {"model": "text", "prompt": "a", "max_tokens": 60, "seed": 7}
    free = library("a", seed=7, max_tokens=60)
    stop = free[len(free) // 2 :][:6]  # spans several tokens
    expected = free[: free.index(stop)]
    whole = client.completions.create(**asked, stop=[stop, "never"]).choices[0]
    assert (whole.text, whole.finish_reason) == (expected, "stop")
    chunks = list(client.completions.create(**asked, stop=stop, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == expected
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_several_prompts_and_answers_keep_their_order(client, library):
    prompts = ["one two", "three"]
    asked = {"model": "text", "prompt": prompts, "n": 3, "seed": 11, "max_tokens": 8}
    answer = client.completions.create(**asked, echo=True)
    assert [choice.index for choice in answer.choices] == list(range(6))
    for i, choice in enumerate(answer.choices):
        prompt = prompts[i // 3]
        assert choice.text == prompt + library(prompt, seed=11 + i % 3, max_tokens=8)
    texts = {}
    for chunk in client.completions.create(**asked, stream=True):
        (choice,) = chunk.choices
        texts[choice.index] = texts.get(choice.index, "") + choice.text
    assert [texts[i] for i in range(6)] == [
        choice.text.removeprefix(prompts[i // 3]) for i, choice in enumerate(answer.choices)
    ]


def test_tokens_are_prompts_too(client, artifacts):
    tokenizer = Tokenizer.from_folder(artifacts["text"].folder)
    asked = {"model": "text", "temperature": 0, "max_tokens": 5}
    by_text = client.completions.create(prompt="Once upon", **asked)
    by_ids = client.completions.create(prompt=tokenizer.encode("Once upon"), **asked)
    assert by_text.choices[0].text == by_ids.choices[0].text


def test_log_probabilities_are_those_of_the_models_logits(client, artifacts):
    answer = client.chat.completions.create(
        model="text", messages=QUESTION, max_tokens=4, temperature=0, logprobs=True, top_logprobs=3,
        extra_body={"repetition_penalty": 1},
    )  # fmt: skip
    tokenizer = Tokenizer.from_folder(artifacts["text"].folder)
    decoder = Decoder(artifacts["text"])
    logits = decoder.prefill(tokenizer.encode(tokenizer.chat(QUESTION), special=False))
    for scored in answer.choices[0].logprobs.content:
        shifted = logits.astype(np.float64) - logits.max()
        logprobs = shifted - np.log(np.exp(shifted).sum())
        likely = np.argsort(-logprobs)[:3]
        assert scored.logprob == pytest.approx(logprobs.max(), abs=1e-5)
        assert [t.logprob for t in scored.top_logprobs] == pytest.approx(
            logprobs[likely].tolist(), abs=1e-5
        )
        decoded = [tokenizer.core.decode([i], skip_special_tokens=False) for i in likely]
        for top, text in zip(scored.top_logprobs, decoded, strict=True):
            assert bytes(top.bytes).decode(errors="replace") == text
        logits = decoder.step(int(likely[0]))
    older = client.completions.create(
        model="text", prompt="a", max_tokens=3, temperature=0, logprobs=2
    ).choices[0]
    assert len(older.logprobs.tokens) == len(older.logprobs.token_logprobs) == 3
    assert all(len(top) == 2 for top in older.logprobs.top_logprobs)
    assert older.logprobs.text_offset[0] == 0


def test_penalties_and_biases_change_what_is_drawn(client):
    asked = {"model": "text", "prompt": "a", "temperature": 0, "max_tokens": 12}
    plain = client.completions.create(**asked, logprobs=0).choices[0]
    wanted = 300
    forced = client.completions.create(**asked, logit_bias={str(wanted): 100}, logprobs=0)
    assert len(set(forced.choices[0].logprobs.tokens)) == 1
    spread = client.completions.create(
        **asked, logit_bias={str(wanted): 20}, frequency_penalty=2, presence_penalty=2, logprobs=0
    )
    tokens = spread.choices[0].logprobs.tokens
    assert tokens[0] == forced.choices[0].logprobs.tokens[0]
    assert len(set(tokens)) > 1
    assert plain.logprobs.tokens != tokens


def test_embeddings_are_the_librarys_bit_for_bit(client, server, artifacts):
    texts = ["A cat sleeps.", "Ein Kätzchen 🙂", "x " * 60]
    embedder = Embedder(artifacts["embed"])
    expected = embedder.embed(texts)
    by_client = client.embeddings.create(model="embed", input=texts)  # it asks for base64
    np.testing.assert_array_equal(np.float32([e.embedding for e in by_client.data]), expected)
    as_floats = server.json("/v1/embeddings", {"model": "embed", "input": texts})
    encoded = server.json(
        "/v1/embeddings", {"model": "embed", "input": texts, "encoding_format": "base64"}
    )
    for i in range(3):
        content = base64.b64decode(encoded["data"][i]["embedding"])
        assert content == expected[i].tobytes()
        assert struct.pack(f"<{len(expected[i])}f", *as_floats["data"][i]["embedding"]) == content
    ids = [embedder.tokenizer.encode(text) for text in texts]
    by_ids = client.embeddings.create(model="embed", input=ids)
    np.testing.assert_array_equal(np.float32([e.embedding for e in by_ids.data]), expected)
    assert by_ids.usage.prompt_tokens == by_client.usage.prompt_tokens == sum(map(len, ids))
    one = client.embeddings.create(model="embed", input=texts[0], encoding_format="float")
    np.testing.assert_array_equal(np.float32(one.data[0].embedding), expected[0])


def test_rerank_orders_by_the_librarys_scores(server, artifacts):
    passages = ["It is 300 m tall.", "It rains.", "How tall?", "word " * 900]
    scores = Ranker(artifacts["rank"]).score([("how tall", passage) for passage in passages])
    asked = {"model": "rank", "query": "how tall", "documents": passages}
    for path in ("/rerank", "/v1/rerank"):
        ranked = server.json(path, asked)["results"]
        assert [entry["index"] for entry in ranked] == (-scores).argsort().tolist()
        values = [entry["relevance_score"] for entry in ranked]
        assert values == pytest.approx(sorted(1 / (1 + np.exp(-scores)), reverse=True), rel=1e-6)
        assert [entry["index"] for entry in ranked if entry.get("truncated")] == [3]
    asked |= {"documents": [{"text": p} for p in passages], "top_n": 2, "return_documents": True}
    best = server.json("/rerank", asked)["results"]
    assert [entry["document"]["text"] for entry in best] == [
        passages[i] for i in (-scores).argsort()[:2]
    ]


def test_errors_raise_what_the_client_calls_them(client, models, tmp_path):
    with pytest.raises(openai.NotFoundError, match="The model `gpt-9` does not exist"):
        client.chat.completions.create(model="gpt-9", messages=QUESTION)
    long = [{"role": "user", "content": "word " * 600}]
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model="text", messages=long, stream=True)
    assert raised.value.code == "context_length_exceeded"
    assert "maximum context length is 512 tokens" in raised.value.message
    assert int(raised.value.message.split("resulted in ")[1].split()[0]) > 600


@pytest.mark.slow
def test_answers_under_load_are_those_alone(client, server):
    """The same seed gives the same text, whatever else is decoded beside it."""
    asked = {"model": "text", "max_tokens": 30, "messages": QUESTION}

    def answer(seed):
        return client.chat.completions.create(**asked, seed=seed).choices[0].message.content

    alone = [answer(seed) for seed in range(8)]
    together = [""] * 8

    def ask(i):
        together[i] = answer(i)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone
    assert len(set(alone)) == 8


def test_a_request_is_found_in_the_log_by_its_id(client, server):
    raw = client.with_raw_response.chat.completions.create(
        model="text", messages=QUESTION, max_tokens=3, extra_headers={"X-Request-ID": "mine-1"}
    )
    assert raw.headers["x-request-id"] == "mine-1"
    server.until(lambda: any(e.get("request_id") == "mine-1" for e in server.logs()))
    (entry,) = [e for e in server.logs() if e.get("request_id") == "mine-1"]
    assert (entry["model"], entry["status"], entry["new_tokens"]) == ("text", 200, 3)
    assert entry["first_ms"] > 0
    assert "sky" not in json.dumps(server.logs())  # nothing of what people ask
