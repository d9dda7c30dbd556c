"""The command line in processes of its own: what a user types, sees and gets as exit code."""

import hashlib
import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support.terminal import on_a_terminal, without_escapes

from llmkg_lab.artifact import Artifact, verify
from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.cli.commands import using
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.presets import DECODER, recipe_of
from llmkg_lab.roster.catalog import find_variant
from llmkg_lab.runtime.ort.decoder import Decoder, Embedder
from llmkg_lab.runtime.ort.ranker import Ranker
from llmkg_lab.runtime.text.generate import GenerationConfig, generate_text
from llmkg_lab.runtime.text.tokenizer import Tokenizer
from llmkg_lab.scheme import Scheme
from llmkg_lab.sources import fetch

COMMAND = [sys.executable, "-m", "llmkg_lab.cli"]


def call(*arguments, **environment):
    """Run a command: (exit code, stdout, stderr)."""
    command, environment = [*COMMAND, *map(str, arguments)], {**os.environ, **environment}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    return result.returncode, result.stdout, result.stderr


def start(*arguments):
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module")
def smollm2(make_artifact):
    return make_artifact("smollm2", "int4-rtn").folder


@pytest.fixture(scope="module")
def minilm(make_artifact):
    return make_artifact("minilm", "int8-rtn").folder


def test_help_teaches_every_command():
    code, text, _ = call("--help")
    assert code == 0
    making = ("list", "run", "convert", "export", "verify")
    for command in (*making, "generate", "chat", "embed", "rank", "serve", "top", "device"):
        assert f" {command} " in text
    code, text, _ = call("run", "--help")
    assert "Examples" in text
    assert "llmkg-lab run all_minilm_l6_v2" in text


@pytest.mark.slow
def test_a_wrong_command_or_option_is_explained():
    code, _, stderr = call("convrt")
    assert code == 2
    assert "Did you mean 'convert'" in stderr
    code, _, stderr = call("convert", "somewhere", "--scheme", "int5")
    assert code == 2
    assert "did you mean 'int4'" in stderr


def test_convert_makes_one_artifact_a_scheme(minilm_folder, tmp_path):
    arguments = ("convert", minilm_folder, "--out", tmp_path / "out")
    code, stdout, _ = call(*arguments, "--scheme", "int8-rtn", "--scheme", "int4-b64", "--json")
    assert code == 0
    int8, int4 = json.loads(stdout)
    assert [int8["scheme"], int4["scheme"]] == ["int8-rtn", "int4-b64"]
    assert verify(int8["artifact"]) == verify(tmp_path / "out" / "int4-b64") == []
    assert int4["bytes"] == Artifact.open(int4["artifact"]).nbytes < int8["bytes"]

    before = (tmp_path / "out" / "int8-rtn" / "manifest.json").stat().st_mtime_ns
    code, _, stderr = call(*arguments, "--scheme", "int8-rtn")
    assert code == 2
    assert "exists" in stderr
    assert (tmp_path / "out" / "int8-rtn" / "manifest.json").stat().st_mtime_ns == before
    code, stdout, _ = call(*arguments, "--scheme", "int8-rtn", "--force")
    assert code == 0
    assert (tmp_path / "out" / "int8-rtn" / "manifest.json").stat().st_mtime_ns > before
    assert "MB/s" in stdout
    assert "int8-rtn (8 bits, rounded to nearest): " in stdout
    assert f"To use it: llmkg-lab embed {tmp_path / 'out' / 'int8-rtn'} " in stdout
    assert "feed-forward" in stdout


@pytest.mark.slow
def test_convert_suggests_a_question_where_the_model_answers(tiny_llama_of_numbers, tmp_path):
    folder = shutil.copytree(tiny_llama_of_numbers.path, tmp_path / "llama")
    _, stdout, _ = call("convert", folder, "--scheme", "int8-rtn", "--out", tmp_path / "plain")
    assert "'Once upon a time'" in stdout
    template = "{% for m in messages %}1 {{ m.content }} 2 {% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    _, stdout, _ = call("convert", folder, "--scheme", "int8-rtn", "--out", tmp_path / "taught")
    assert "'Why is the sky blue?'" in stdout


@pytest.mark.slow
def test_a_key_that_is_not_followed_is_said(tiny_llama_of_numbers, tmp_path):
    """On stderr, so that a program reads its JSON; one that is refused ends the command."""
    folder = shutil.copytree(tiny_llama_of_numbers.path, tmp_path / "llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"of_tomorrow": 1}))
    for command in ("convert", "export"):
        types = ("--scheme", "int8-rtn") if command == "convert" else ("--type", "F16")
        code, stdout, stderr = call(command, folder, *types, "--out", tmp_path / "out", "--json")
        assert "warning: config.json: of_tomorrow is not known here" in stderr
        assert command == "export" or (code == 0 and json.loads(stdout))
    (folder / "config.json").write_text(json.dumps(config | {"pruned_heads": {"0": [1]}}))
    code, _, stderr = call("convert", folder, "--out", tmp_path / "pruned")
    assert code == 2
    assert "pruned_heads is" in stderr


@pytest.mark.slow
def test_schemes_says_which_one_to_take(tmp_path):
    code, stdout, _ = call("schemes")
    assert code == 0
    assert stdout.startswith("Take balanced, the default")
    for word in ("best", "small", "fast", "web", "e8b64sym", "90.9", "13.2"):
        assert word in stdout
    code, stdout, _ = call("schemes", "--json")
    shown = json.loads(stdout)
    assert shown["take"] == "balanced"
    assert shown["kinds"]["decoder"][0]["measured"]["megabytes"] == 90.9
    code, _, stderr = call("schemes", "smollm2_135m", "--out", tmp_path)
    assert code == 2
    assert "make one with llmkg-lab run smollm2_135m" in stderr
    assert call("schemes", "smollm2_135")[0] == 2


@pytest.fixture
def numbers(tmp_path):
    """Evaluation data for the tiny Llama that reads numbers, and an empty cache."""
    content = " ".join(map(str, np.random.default_rng(5).integers(0, 131, 30_000)))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "wikitext2-valid.txt").write_text(content)
    folders = {"LLMKG_LAB_DATA": "data", "LLMKG_LAB_CACHE": "cache"}
    return {name: str(tmp_path / folder) for name, folder in folders.items()}


@pytest.mark.slow
def test_a_calibrated_scheme_tells_its_steps_apart(tiny_llama_of_numbers, numbers, tmp_path):
    folder = tiny_llama_of_numbers.path
    arguments = ("convert", folder, "--scheme", "int4-gptq", "--out", tmp_path / "out")
    code, stdout, stderr = call(*arguments, "--effort", "quick", "--json", **numbers)
    assert code == 0, stderr
    (made,) = json.loads(stdout)  # and nothing else
    assert len(stderr.splitlines()) <= 2 * len(made["steps"])  # of steps that took long
    assert list(made["steps"]) == ["own text", "calibration", "curvature", "writing"]
    read = sum(4 * np.prod(info.shape) for info in tiny_llama_of_numbers.tensors.values())
    own_rate = read / 1e6 / made["steps"]["writing"]
    assert made["megabytes_per_second"] == pytest.approx(own_rate)
    assert sum(made["steps"].values()) < made["seconds"]


@pytest.mark.slow
def test_convert_without_options_makes_balanced(tiny_llama_of_numbers, numbers, tmp_path):
    """In converted/MODEL/balanced, and says what that came to."""
    command = [*COMMAND, "convert", str(tiny_llama_of_numbers.path)]
    environment = {**os.environ, **numbers}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    folder = tmp_path / "converted" / tiny_llama_of_numbers.path.name / "balanced"
    scheme = Artifact.open(folder).manifest.scheme
    assert (scheme.preset, scheme.name) == ("balanced", recipe_of("balanced", DECODER))
    assert f"balanced ({scheme.name}: 4 bits, calibrated, table 8 bits): " in ran.stdout


@pytest.mark.slow
def test_convert_on_a_terminal_draws_one_line(tiny_llama_of_numbers, numbers, tmp_path):
    arguments = [str(tiny_llama_of_numbers.path), "--scheme", "int4-gptq", "--effort", "quick"]
    command = [*COMMAND, "convert", *arguments, "--out", str(tmp_path / "out"), "--json"]
    drawn, stdout = on_a_terminal(command, 100, numbers)
    assert json.loads(stdout)[0]["scheme"] == "int4-gptq"
    plain = without_escapes(drawn)
    assert re.search(r"int4-gptq · calibration .* of 2 layers", plain)
    assert "int4-gptq · writing" in plain
    assert "\n" not in plain


@pytest.mark.slow
def test_convert_says_beforehand_how_long_calibration_takes(
    tiny_llama_of_numbers, numbers, tmp_path
):
    folder = tiny_llama_of_numbers.path
    arguments = ("convert", folder, "--out", tmp_path / "out", "--effort", "quick", "--scheme")
    code, _, stderr = call(*arguments, "int4-gptq,int4-rtn", **numbers)
    assert code == 0, stderr
    said = [line for line in stderr.splitlines() if "on this machine" in line]
    assert len(said) == 1  # rounding takes no time worth a word
    assert said[0].startswith("int4-gptq, effort quick: ")
    code, _, stderr = call(*arguments, "int8-rtn", "--effort", "utmost", **numbers)
    assert code != 0
    assert "there is no effort 'utmost'" in stderr
    assert "quick, normal, high" in stderr


@pytest.mark.slow
def test_convert_calibrates_on_a_text_of_ones_own(tiny_llama_of_numbers, numbers, tmp_path):
    text = tmp_path / "programs.txt"
    text.write_bytes(Path(numbers["LLMKG_LAB_DATA"], "wikitext2-valid.txt").read_bytes()[::-1])
    out, folder = tmp_path / "out", tiny_llama_of_numbers.path
    arguments = ("convert", folder, "--scheme", "int4-gptq", "--effort", "quick", "--out", out)
    code, _, stderr = call(*arguments, "--calibration", text, **numbers)
    assert code == 0, stderr
    record = Artifact.open(out / "int4-gptq").manifest.calibration
    assert (record.corpus, record.half) == ("programs.txt", "first")
    assert record.sha256 == hashlib.sha256(text.read_bytes()).hexdigest()
    text.write_bytes(b"print('\xff')")
    code, _, stderr = call(*arguments, "--force", "--calibration", text, **numbers)
    assert code != 0
    assert f"{text} is not UTF-8, at byte 7" in stderr
    assert Artifact.open(out / "int4-gptq").manifest.calibration == record  # what was there stays


def test_convert_and_help_import_nothing_heavy(minilm_folder, tmp_path):
    code = (
        "import sys; from llmkg_lab.cli import main\n"
        "try: main()\n"
        "finally: print(*sys.modules, file=sys.stderr)"
    )
    plain = ["convert", minilm_folder, "--scheme", "int4-rtn", "--out", tmp_path / "out"]
    for arguments in (["--help"], plain):
        command = [sys.executable, "-c", code, *map(str, arguments)]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0
        loaded = set(result.stderr.split())
        heavy = {"torch", "transformers", "onnxruntime", "huggingface_hub.hf_api", "papermill"}
        assert not heavy & loaded
        assert ("numba" in loaded) == ("convert" in arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convert", "/nowhere/model", "--out", "{out}"], "neither a path here nor a repository"),
        (["convert", "{minilm}", "--scheme", "int5", "--out", "{out}"], "unknown scheme 'int5'"),
        (["verify", "{out}"], "is not an artifact"),
        (["generate", "{minilm_int8}", "Hello"], "it generates no text"),
        (["generate", "{smollm2}", "Hello", "--top-p", "2"], "top_p is 2"),
        (["generate", "{smollm2}", "Hello", "--memory", "much"], "--memory 'much' is not a size"),
        (["generate", "{smollm2}", "Hello", "--runtime", "torch"], "there is no runtime 'torch'"),
        (["rank", "{minilm_int8}", "question", "passage"], "it scores no pairs"),
        (["embed", "{smollm2}", "Hello"], "is a text-generation model: it embeds no texts"),
        (["run", "all_minilm_l6", "--out", "{out}"], "did you mean 'all_minilm_l6_v2'"),
    ],
)
def test_a_mistake_gets_a_message_and_a_hint(
    arguments, message, minilm_folder, minilm, smollm2, tmp_path
):
    places = {"out": tmp_path / "out", "minilm": minilm_folder, "minilm_int8": minilm}
    code, stdout, stderr = call(*(a.format(**places, smollm2=smollm2) for a in arguments))
    assert code == 2
    assert stdout == ""
    assert message in stderr
    assert "→" in stderr
    assert "Traceback" not in stderr
    assert list(tmp_path.iterdir()) == []


def test_verify_tells_whole_from_damaged(minilm, tmp_path):
    assert call("verify", minilm)[0] == 0
    shutil.copytree(minilm, tmp_path / "copy")
    (tmp_path / "copy" / "tokenizer.json").write_text("{}")
    code, stdout, _ = call("verify", tmp_path / "copy", "--json")
    assert code == 1
    report = json.loads(stdout)
    assert not report["whole"]
    assert "tokenizer.json" in report["problems"][0]


def test_verify_asks_onnx_runtime_too(minilm, tmp_path):
    """A manifest may agree with a graph that no runtime accepts."""
    shutil.copytree(minilm, tmp_path / "copy")
    path = tmp_path / "copy" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["model"] = "config.json"  # whole, and no graph
    path.write_text(json.dumps(manifest))
    code, stdout, _ = call("verify", tmp_path / "copy")
    assert code == 1
    assert "ONNX Runtime cannot load" in stdout


def test_generate_streams_what_the_runtime_generates(smollm2):
    """An instruct model is asked by its template unless the prompt is to stand as it is."""
    options = ("--seed", "7", "--max-tokens", "12")
    prompt = "The capital of France is"
    decoder = Decoder(Artifact.open(smollm2))
    config = GenerationConfig(seed=7, max_tokens=12)
    tokenizer = Tokenizer.from_folder(smollm2)
    for raw, asked in (("--raw", prompt), ("--chat", [{"role": "user", "content": prompt}])):
        code, stdout, stderr = call("generate", smollm2, prompt, raw, *options)
        expected = "".join(generate_text(decoder, tokenizer, asked, config))
        assert (code, stdout) == (0, expected + "\n")
        assert re.fullmatch(r"\[\d+ tokens, the first after \S+ s, then \S+ tokens/s\]\n", stderr)
    by_default = json.loads(call("generate", smollm2, prompt, *options, "--json")[1])
    assert by_default["text"] == expected
    assert by_default["tokens"] <= 12
    assert by_default["tokens_per_second"] > 0
    _, stdout, stderr = call("generate", smollm2, prompt, *options, "--stop", expected[:1])
    assert stdout == "\n"
    assert "the model gave no text" in stderr


def test_which_of_several_artifacts_runs_is_said(make_artifact, tmp_path):
    for scheme in ("int8-rtn", "fp32"):
        folder = make_artifact("minilm", scheme).folder
        shutil.copytree(folder, tmp_path / "minilm" / scheme)
    code, stdout, stderr = call("embed", tmp_path / "minilm", "a", "b", "--json")
    assert code == 0
    assert len(json.loads(stdout)) == 2
    assert f"int8-rtn runs, the smallest that {tmp_path / 'minilm'} holds" in stderr
    assert call("embed", tmp_path / "minilm" / "int8-rtn", "a", "b", "--json") == (0, stdout, "")


def test_generate_answers_chats_up_to_a_stop_text(smollm2):
    question = ("generate", smollm2, "What is the capital of France?", "--chat")
    options = ("--temperature", "0", "--max-tokens", "20", "--json")
    answer = json.loads(call(*question, *options)[1])["text"]
    assert "Paris" in answer
    stopped = json.loads(call(*question, *options, "--stop", "Paris")[1])["text"]
    assert stopped == answer.partition("Paris")[0]


def test_generate_has_the_defaults_of_the_runtime():
    parameters = inspect.signature(using.generate).parameters
    names = ("temperature", "top_k", "top_p", "repetition_penalty", "seed", "max_tokens")
    defaults = {name: parameters[name].default for name in names}
    assert defaults == {name: getattr(GenerationConfig(), name) for name in names}


def test_ctrl_c_ends_a_generation_cleanly(smollm2):
    process = start("generate", smollm2, "Once upon a time", "--repetition-penalty", "1.5")
    first = process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    rest, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (first + rest).endswith("\n")
    assert stderr == ""


def test_ctrl_c_ends_a_conversion_with_nothing_left(smollm2_gguf, tmp_path):
    process = start("convert", smollm2_gguf, "--scheme", "fp32", "--out", tmp_path / "out")
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("out/.fp32.*/onnx/*_data")):
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_embed_gives_vectors_to_programs_and_similarities_to_people(minilm):
    texts = ["A cat sleeps", "A kitten naps", "Stocks fell"]
    code, stdout, _ = call("embed", minilm, *texts, "--json")
    assert code == 0
    vectors = np.array([entry["embedding"] for entry in json.loads(stdout)], np.float32)
    expected = Embedder(Artifact.open(minilm)).embed(texts)
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    _, stdout, _ = call("embed", minilm, *texts)
    assert f"{float(expected[0] @ expected[1]):.3f}" in stdout


@pytest.mark.slow
def test_rank_orders_passages(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMKG_LAB_CACHE", str(tmp_path / "cache"))
    fetched = fetch(find_variant("ms_marco_minilm_l6_v2"), "synthetic:reduced")
    artifact = convert(
        open_checkpoint(fetched.path), Scheme.parse("int8-rtn"), tmp_path / "int8-rtn"
    )
    passages = ["The tower is 300 m tall.", "It rains.", "How tall?"]
    scores = Ranker(artifact).score([("how tall is it", passage) for passage in passages])
    code, stdout, _ = call("rank", artifact.folder, "how tall is it", *passages, "--json")
    assert code == 0
    ranked = json.loads(stdout)
    assert [row["index"] for row in ranked] == (-scores).argsort().tolist()
    assert [row["score"] for row in ranked] == sorted(scores.tolist(), reverse=True)
    _, stdout, _ = call("rank", artifact.folder, "how tall is it", *passages)
    assert ranked[0]["passage"] in stdout.splitlines()[1]


@pytest.mark.slow
def test_device_recommends_with_reasons(tmp_path):
    code, stdout, _ = call("device", "--out", tmp_path, "--json")
    assert code == 0
    described = json.loads(stdout)
    assert described["profile"]["memory_total"] > 0
    assert [r["what"] for r in described["recommendations"]] == ["variant", "scheme", "threads"]
    assert all(r["reason"] for r in described["recommendations"])


@pytest.mark.slow
def test_the_cache_is_listed_and_cleared_by_kind(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMKG_LAB_CACHE", str(tmp_path))
    for kind in ("packed", "synthetic"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "file").write_bytes(bytes(2_000_000))
    _, stdout, _ = call("cache")
    assert "synthetic" in stdout
    assert "4 MB in" in stdout
    code, _, stderr = call("cache", "--clear", "pakced")
    assert code == 2
    assert "no pakced" in stderr
    assert "packed, synthetic" in stderr
    _, stdout, _ = call("cache", "--clear", "packed", "--json")
    assert json.loads(stdout)["freed"] == 2_000_000
    assert [path.name for path in tmp_path.iterdir()] == ["synthetic"]
    assert call("cache", "--clear", "all")[0] == 0
    assert list(tmp_path.iterdir()) == []


def test_generate_within_a_memory_limit_writes_the_same(smollm2, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMKG_LAB_CACHE", str(tmp_path))
    options = ("--seed", "7", "--max-tokens", "12")
    _, expected, _ = call("generate", smollm2, "The capital of France is", *options)
    code, stdout, _ = call(
        "generate", smollm2, "The capital of France is", *options, "--memory", "400MB"
    )
    assert code == 0
    assert stdout == expected
    code, _, stderr = call("generate", smollm2, "The capital", "--memory", "150MB")
    assert code == 2
    assert "allow" in stderr
    assert "Traceback" not in stderr
