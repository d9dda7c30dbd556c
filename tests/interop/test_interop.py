"""llama.cpp, Candle, onnxruntime-genai and Optimum open what is made here: `make interop`.

All but Candle live in environments of their own, .venv-peers and .venv-optimum; here stand the
reference and our runtime.
"""

import json
import shutil
import subprocess
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from safetensors.numpy import load_file, save_file

from llmkg_lab.checkpoint import folder as reader
from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.checkpoint.gguf_file import read_header
from llmkg_lab.checkpoint.gguf_tokenizer import build
from llmkg_lab.checkpoint.safetensors import SafetensorsCheckpoint
from llmkg_lab.conversion import to_gguf as gguf
from llmkg_lab.models import UnsupportedError
from llmkg_lab.reference import openelm as openelm_reference
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


def ask(command, may_end=False, **request):
    """The answer of a peer; None of one that a signal ended, where that ``may_end`` it."""
    environment = OPTIMUM if command.startswith("optimum_") else PEERS
    done = subprocess.run(
        [environment / "bin" / "python", HERE / "peers.py", command],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        timeout=600,
    )
    if may_end and done.returncode < 0:
        return None
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


@pytest.fixture
def openelm(tmp_path, monkeypatch):
    """A random OpenELM in which each part matters, and whose rotary base is not the default."""
    monkeypatch.setenv("LLMKG_LAB_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "openelm"
    shutil.copytree(fetch(find_variant("openelm_270m"), "synthetic:reduced").path, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rope_freq_constant": 20}))
    rng = np.random.default_rng(0)
    tensors = load_file(folder / "model.safetensors")
    for name, values in tensors.items():
        drawn = rng.standard_normal(values.shape, np.float32)
        size = 0.3 if values.ndim == 1 else 0.5 * values.shape[-1] ** -0.5
        tensors[name] = size * drawn + (values.ndim == 1)
    save_file(tensors, folder / "model.safetensors")
    return folder


def beside_llama_cpp(folder, out):
    """How far the reference's logits lie from llama.cpp's on an export, and what it answered."""
    checkpoint = open_checkpoint(folder)
    artifact = gguf.export(checkpoint, "F32", out)
    # as SentencePiece, which puts a space before more texts than transformers' LlamaTokenizer
    core = build(read_header(artifact.model_path)[0], 512)["tokenizer.json"]
    tokenizer = Tokenizer(tokenizers.Tokenizer.from_buffer(core), {})
    ids = tokenizer.encode(TEXT)
    expected = reference.decoder_reference(checkpoint, np.array([ids]), [], 0).logits(0)
    answer = ask("llama_cpp_logits", path=str(artifact.model_path), ids=ids, texts=TRICKY)
    assert answer["tokens"] == [tokenizer.encode(text, special=False) for text in TRICKY]
    return np.abs(np.array(answer["logits"], np.float32) - expected) / np.abs(expected).max()


def test_llama_cpp_computes_openelm(openelm, tmp_path):
    """The second judge of our OpenELM, which transformers does not know: weights at random."""
    difference = beside_llama_cpp(openelm, tmp_path / "out")
    print(f"OpenELM: largest difference {difference.max():.2g}, mean {difference.mean():.2g}")
    assert difference.max() < 1e-4


def permute_a_tensor(monkeypatch):
    read = SafetensorsCheckpoint._read

    def wrong(self, info, start, stop):
        values = read(self, info, start, stop)
        is_last = info.name.endswith("layers.1.ffn.proj_2.weight")
        return values[::-1].copy() if is_last else values

    monkeypatch.setattr(SafetensorsCheckpoint, "_read", wrong)


def ignore_a_key(monkeypatch):
    read = reader.read_json

    def wrong(path):
        content = read(path)
        content.pop("rope_freq_constant", None)
        return content

    monkeypatch.setattr(reader, "read_json", wrong)


def turn_the_other_way(monkeypatch):
    """A fault of the reference itself, and of no file."""
    rotate = openelm_reference.rotate
    monkeypatch.setattr(openelm_reference, "rotate", lambda x, cos, sin: rotate(x, cos, -sin))


@pytest.mark.parametrize("fault", [permute_a_tensor, ignore_a_key, turn_the_other_way])
def test_llama_cpp_finds_a_fault_in_what_judges_openelm(fault, openelm, tmp_path, monkeypatch):
    """In the reader, whose export then differs, or in the reference."""
    fault(monkeypatch)
    assert beside_llama_cpp(openelm, tmp_path / "out").max() > 0.01


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


def test_llama_cpp_does_not_know_whether_a_model_normalizes(minilm_folder, tmp_path, monkeypatch):
    """Which is why such an export is refused: forced, it holds the vectors, of either length."""
    folder = shutil.copytree(minilm_folder, tmp_path / "minilm")
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(modules[:2]))
    checkpoint = open_checkpoint(folder)
    assert checkpoint.pooling["normalize"] is False
    with pytest.raises(UnsupportedError, match="does not normalize its vectors"):
        gguf.export(checkpoint, "F32", tmp_path / "out")
    monkeypatch.setattr(gguf, "_check_pooling", lambda pooling: None)
    path = str(gguf.export(checkpoint, "F32", tmp_path / "out").model_path)
    expected = reference.embedder_reference(checkpoint, SENTENCES).embeddings
    lengths = np.linalg.norm(expected, axis=1)
    assert np.abs(lengths - 1).min() > 0.5
    for normalize, divisor in ((False, 1), (True, lengths[:, None])):
        answer = ask("llama_cpp_embeddings", path=path, texts=SENTENCES, normalize=normalize)
        np.testing.assert_allclose(answer["embeddings"], expected / divisor, rtol=0, atol=1e-2)


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


def test_llama_cpp_refuses_a_cross_encoder(tmp_path):
    """It embeds no second segment, and would score pairs wrongly."""
    checkpoint = fetch(find_variant("ms_marco_minilm_l6_v2"), "synthetic:reduced").open()
    model = gguf.export(checkpoint, "F32", tmp_path / "out").model_path
    assert "Failed to load model" in ask("llama_cpp_refusal", path=str(model))["said"]
