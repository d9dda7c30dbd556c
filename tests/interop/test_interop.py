"""llama.cpp, Candle, onnxruntime-genai and Optimum open what is made here: `make interop`.

All but Candle live in environments of their own, .venv-peers and .venv-optimum; here stand the
reference and our runtime.
"""

import json
import subprocess
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.conversion import to_gguf as gguf
from llmkg_lab.reference import outputs as reference
from llmkg_lab.roster.catalog import find_variant
from llmkg_lab.runtime.candle.decoder import CandleDecoder
from llmkg_lab.runtime.ort.decoder import Decoder
from llmkg_lab.runtime.text.tokenizer import Tokenizer
from llmkg_lab.sources import fetch

HERE = Path(__file__).parent
PEERS, OPTIMUM = (HERE.parents[1] / name for name in (".venv-peers", ".venv-optimum"))
PROMPT = "The history of natural philosophy is"
TEXT = f"{PROMPT} the history of people asking why the sky is blue and how far the stars are."
TRICKY = [
    "Hello  world 123\n\n\tx",
    "naïve café 日本語 🙂 <|im_start|>user\nhi<|im_end|>",
    "don't 3.14159 ÀÉ [MASK] ##ing",
    "  leading and trailing  ",
    "a  b   c    d\r\n\r\ne",
]
SENTENCES = ["A cat sleeps on the mat.", "Résumé naïve: 日本 3.14!", "x"]

pytestmark = pytest.mark.skipif(
    not (PEERS.exists() and OPTIMUM.exists()), reason="`make interop` installs the peers"
)


def ask(command, **request):
    environment = OPTIMUM if command.startswith("optimum_") else PEERS
    done = subprocess.run(
        [environment / "bin" / "python", HERE / "peers.py", command],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("kind", "limit"),
    # F32: rounding alone. F16: activations are float16 too. Quantized: activations are 8 bits.
    [("F32", 1e-3), ("F16", 0.2), ("Q8_0", 1.5), ("Q4_1", 2.5), ("Q4_0", 2.5)],
)
def test_llama_cpp_computes_the_references_logits(kind, limit, smollm2_gguf, tmp_path):
    """The reference runs the weights as they stand in the exported file."""
    artifact = gguf.export(open_checkpoint(smollm2_gguf), kind, tmp_path / "out")
    tokenizer = Tokenizer.from_folder(artifact.folder)
    ids = tokenizer.encode(TEXT)
    exported = open_checkpoint(artifact.model_path)
    expected = reference.decoder_reference(exported, np.array([ids]), [], 0).logits(0)
    answer = ask("llama_cpp_logits", path=str(artifact.model_path), ids=ids, texts=TRICKY)
    difference = np.abs(np.array(answer["logits"], np.float32) - expected)
    print(f"{kind}: largest difference {difference.max():.2g}, mean {difference.mean():.2g}")
    assert difference.max() < limit
    assert answer["tokens"] == [tokenizer.encode(text, special=False) for text in TRICKY]
    assert answer["chat_template"] == tokenizer.config["chat_template"]


def test_llama_cpp_computes_openelm(tmp_path, monkeypatch):
    """The second judge of our OpenELM, which transformers does not know: weights at random."""
    monkeypatch.setenv("LLMKG_LAB_CACHE", str(tmp_path / "cache"))
    fetched = fetch(find_variant("openelm_270m"), "synthetic:reduced")
    checkpoint = open_checkpoint(fetched.path)
    artifact = gguf.export(checkpoint, "F32", tmp_path / "out")
    # as SentencePiece, which puts a space before more texts than transformers' LlamaTokenizer
    core = open_checkpoint(artifact.model_path).sidecars()["tokenizer.json"]
    tokenizer = Tokenizer(tokenizers.Tokenizer.from_buffer(core), {})
    ids = tokenizer.encode(TEXT)
    expected = reference.decoder_reference(checkpoint, np.array([ids]), [], 0).logits(0)
    answer = ask("llama_cpp_logits", path=str(artifact.model_path), ids=ids, texts=TRICKY)
    difference = np.abs(np.array(answer["logits"], np.float32) - expected)
    print(f"OpenELM: largest difference {difference.max():.2g}, mean {difference.mean():.2g}")
    assert difference.max() < 1e-3
    assert answer["tokens"] == [tokenizer.encode(text, special=False) for text in TRICKY]


@pytest.mark.parametrize(("kind", "cosine"), [("F32", 0.99999), ("F16", 0.9999), ("Q8_0", 0.998)])
def test_llama_cpp_computes_the_references_embeddings(kind, cosine, minilm_folder, tmp_path):
    checkpoint = open_checkpoint(minilm_folder)
    artifact = gguf.export(checkpoint, kind, tmp_path / "out")
    answer = ask("llama_cpp_embeddings", path=str(artifact.model_path), texts=SENTENCES)
    expected = reference.embedder_reference(checkpoint, SENTENCES).embeddings
    cosines = (np.array(answer["embeddings"]) * expected).sum(axis=1)
    print(f"{kind}: smallest cosine {cosines.min():.7f}")
    assert cosines.min() > cosine
    tokenizer = Tokenizer.from_folder(artifact.folder)
    assert answer["tokens"] == [tokenizer.encode(text) for text in SENTENCES]


@pytest.mark.parametrize("scheme", ["fp32", "int4-rtn"])
def test_genai_and_optimum_generate_what_our_runtime_does(scheme, make_artifact):
    artifact = make_artifact("smollm2", scheme)
    ids = Tokenizer.from_folder(artifact.folder).encode(PROMPT)
    end = artifact.config["eos_token_id"]
    ours = list(islice(Decoder(artifact).generate(ids, 24), 24))
    ours = ours[: ours.index(end) + 1] if end in ours else ours
    folder, model = str(artifact.folder), artifact.model_path.name
    theirs = ask("optimum_generate", folder=folder, model=model, text=PROMPT, tokens=24)
    assert theirs["ids"] == ours
    theirs = ask("genai_generate", folder=folder, text=PROMPT, tokens=24)["ids"]
    assert theirs == [token for token in ours if token != end]  # genai keeps the end to itself


def test_optimum_computes_the_encoders_hidden_states(make_artifact):
    from llmkg_lab.runtime.ort.session import open_session

    artifact = make_artifact("minilm", "fp32")
    inputs = Tokenizer.from_folder(artifact.folder).encode_batch(SENTENCES, 128)
    expected = open_session(artifact.model_path).run(["last_hidden_state"], inputs)[0]
    answer = ask(
        "optimum_hidden_states",
        folder=str(artifact.folder),
        model=artifact.model_path.name,
        texts=SENTENCES,
    )
    np.testing.assert_allclose(np.array(answer["first"]), expected[:, 0], atol=1e-4)


@pytest.mark.parametrize(("kind", "limit"), [("F32", 1e-3), ("Q4_0", 2.5)])
def test_candle_computes_the_references_logits(kind, limit, smollm2_gguf, tmp_path):
    """At the last position; in float32 the greedy tokens are the reference's, too."""
    artifact = gguf.export(open_checkpoint(smollm2_gguf), kind, tmp_path / "out")
    ids = Tokenizer.from_folder(artifact.folder).encode(TEXT)
    exported, candle = open_checkpoint(artifact.model_path), CandleDecoder(artifact)
    expected = reference.decoder_reference(exported, np.array([ids]), [ids], 20)
    difference = np.abs(candle.prefill(ids) - expected.logits(0)[-1]).max()
    print(f"{kind}: largest difference {difference:.2g}")
    assert difference < limit
    if kind == "F32":
        assert list(candle.generate(ids, 20)) == expected.continuations[0]
