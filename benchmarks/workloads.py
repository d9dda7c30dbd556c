"""One contestant's workload in a process of its own: samples by metric, as JSON.

workloads.py RUNTIME MODEL WORKLOAD       by the product's Python for ours, else by the peers'

All run the same loops here, so that what differs is the runtime.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Workload:
    """What a process runs. texts: those of an encoder's throughput; a ranker pairs neighbours."""

    threads: int
    prompt: int = 128  # tokens before the first token
    prefills: int = 5
    steps: int = 100
    tokens: int = 16  # of the one text
    singles: int = 100
    batch_size: int | None = 32  # None: as many as ours takes
    texts: tuple[str, ...] = ()
    provider: str = "CPUExecutionProvider"  # of ours


class Ours:
    def __init__(self, model: str, work: Workload) -> None:
        from llmkg_lab.artifact import Artifact
        from llmkg_lab.runtime.ort.decoder import Decoder

        room = work.prompt + work.steps
        self._decoder = Decoder(Artifact.open(model), work.threads, room)

    def first_token(self, ids: list[int]) -> None:
        self._decoder.reset()
        self._decoder.prefill(ids).argmax()

    def step(self) -> None:
        self._decoder.step(1).argmax()


class LlamaCpp:
    def __init__(self, model: str, work: Workload) -> None:
        from llama_cpp import Llama

        room = work.prompt + work.steps
        threads = {"n_threads": work.threads, "n_threads_batch": work.threads}
        self._model = Llama(model, n_ctx=room, n_batch=room, verbose=False, **threads)

    def first_token(self, ids: list[int]) -> None:
        self._model.reset()
        self._model.eval(ids)
        self._model.scores[len(ids) - 1].argmax()

    def step(self) -> None:
        self._model.eval([1])
        self._model.scores[self._model.n_tokens - 1].argmax()


class GenAI:
    def __init__(self, model: str, work: Workload) -> None:
        import onnxruntime_genai as genai

        config = genai.Config(model)
        config.overlay(json.dumps(_threads(work.threads)))
        self._genai, self._model = genai, genai.Model(config)
        self._room = work.prompt + work.steps + 1

    def first_token(self, ids: list[int]) -> None:
        params = self._genai.GeneratorParams(self._model)
        params.set_search_options(max_length=self._room, do_sample=False)
        self._generator = self._genai.Generator(self._model, params)
        self._generator.append_tokens(np.array(ids, np.int32)[None])
        self._generator.generate_next_token()

    def step(self) -> None:
        self._generator.generate_next_token()


def _threads(count: int) -> dict:
    """onnxruntime-genai's configuration for so many threads."""
    options = {"intra_op_num_threads": count}
    return {"model": {"decoder": {"session_options": options}}}


class PyTorch:
    """transformers, in float32."""

    def __init__(self, model: str, work: Workload) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(work.threads)
        torch.set_grad_enabled(False)
        self._torch = torch
        self._model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()

    def first_token(self, ids: list[int]) -> None:
        out = self._model(input_ids=self._torch.tensor([ids]), use_cache=True, logits_to_keep=1)
        self._past = out.past_key_values
        out.logits[0, -1].argmax().item()

    def step(self) -> None:
        ids = self._torch.tensor([[1]])
        out = self._model(input_ids=ids, past_key_values=self._past, use_cache=True)
        out.logits[0, -1].argmax().item()


class OurEmbedder:
    def __init__(self, model: str, work: Workload) -> None:
        from llmkg_lab.artifact import Artifact
        from llmkg_lab.runtime.ort.decoder import Embedder

        self._embedder = Embedder(Artifact.open(model), work.threads, work.provider)

    def cut(self, tokens: int) -> None:
        self._embedder.max_length = tokens

    def encode(self, texts: list[str], batch_size: int | None) -> None:
        self._embedder.embed(texts, batch_size)


class SentenceTransformers:
    """PyTorch in float32."""

    def __init__(self, model: str, work: Workload) -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(work.threads)
        self._model = SentenceTransformer(model, device="cpu")

    def cut(self, tokens: int) -> None:
        self._model.max_seq_length = tokens

    def encode(self, texts: list[str], batch_size: int) -> None:
        self._model.encode(texts, batch_size=batch_size, show_progress_bar=False)


class PyTorchEmbedder:
    """transformers in float32: batches in the order of the texts, the mean taken by hand."""

    def __init__(self, model: str, work: Workload) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        torch.set_num_threads(work.threads)
        torch.set_grad_enabled(False)
        self._tokenizer = AutoTokenizer.from_pretrained(model)
        self._model = AutoModel.from_pretrained(model, dtype=torch.float32).eval()
        self._tokens = 256

    def cut(self, tokens: int) -> None:
        self._tokens = tokens

    def encode(self, texts: list[str], batch_size: int) -> None:
        for start in range(0, len(texts), batch_size):
            inputs = self._tokenizer(
                texts[start : start + batch_size], padding=True, truncation=True,
                max_length=self._tokens, return_tensors="pt",
            )  # fmt: skip
            states = self._model(**inputs).last_hidden_state  # (texts, tokens, hidden)
            mask = inputs["attention_mask"][:, :, None]
            mean = (states * mask).sum(1) / mask.sum(1)
            (mean / mean.norm(dim=1, keepdim=True)).numpy()


class LlamaCppEmbedder:
    def __init__(self, model: str, work: Workload) -> None:
        from llama_cpp import Llama

        threads = {"n_threads": work.threads, "n_threads_batch": work.threads}
        self._model = Llama(model, embedding=True, n_ctx=512, verbose=False, **threads)

    def cut(self, tokens: int) -> None:
        """Texts are short enough: the binding cuts to the context alone."""

    def encode(self, texts: list[str], batch_size: int) -> None:
        self._model.embed(texts, normalize=True)  # as many at a time as fit its context


class OurRanker:
    def __init__(self, model: str, work: Workload) -> None:
        from llmkg_lab.artifact import Artifact
        from llmkg_lab.runtime.ort.ranker import Ranker

        self._ranker = Ranker(Artifact.open(model), work.threads)

    def cut(self, tokens: int) -> None:
        self._ranker.max_length = tokens

    def encode(self, pairs: list[tuple[str, str]], batch_size: int | None) -> None:
        self._ranker.score(pairs, batch_size)


class CrossEncoder:
    """sentence-transformers, on PyTorch in float32."""

    def __init__(self, model: str, work: Workload) -> None:
        import torch
        from sentence_transformers import CrossEncoder

        torch.set_num_threads(work.threads)
        self._model = CrossEncoder(model, device="cpu")

    def cut(self, tokens: int) -> None:
        self._model.max_length = tokens

    def encode(self, pairs: list[tuple[str, str]], batch_size: int) -> None:
        self._model.predict(pairs, batch_size=batch_size, show_progress_bar=False)


class PyTorchRanker:
    """transformers in float32: batches in the order of the pairs."""

    def __init__(self, model: str, work: Workload) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        torch.set_num_threads(work.threads)
        torch.set_grad_enabled(False)
        self._tokenizer = AutoTokenizer.from_pretrained(model)
        kind = AutoModelForSequenceClassification
        self._model = kind.from_pretrained(model, dtype=torch.float32).eval()
        self._tokens = 512

    def cut(self, tokens: int) -> None:
        self._tokens = tokens

    def encode(self, pairs: list[tuple[str, str]], batch_size: int) -> None:
        for start in range(0, len(pairs), batch_size):
            inputs = self._tokenizer(
                pairs[start : start + batch_size], padding=True, truncation=True,
                max_length=self._tokens, return_tensors="pt",
            )  # fmt: skip
            self._model(**inputs).logits[:, 0].numpy()


DECODERS = {
    "llmkg-lab": Ours,
    "llama.cpp": LlamaCpp,
    "onnxruntime-genai": GenAI,
    "PyTorch": PyTorch,
}
ENCODERS = {
    "llmkg-lab embedder": OurEmbedder,
    "llama.cpp embedder": LlamaCppEmbedder,
    "PyTorch embedder": PyTorchEmbedder,
    "sentence-transformers embedder": SentenceTransformers,
    "llmkg-lab ranker": OurRanker,
    "PyTorch ranker": PyTorchRanker,
    "sentence-transformers ranker": CrossEncoder,
}


def decoder_samples(kind: type, path: str, work: Workload) -> dict[str, float]:
    """Loading until the first token of a prompt; then medians: a prompt, and a token after it."""
    ids = list(range(100, 100 + work.prompt))
    start = time.perf_counter()
    model = kind(path, work)  # with the import of its package
    load = time.perf_counter() - start
    model.first_token(ids)  # warms up: memory is taken and caches fill
    first = time.perf_counter() - start
    prefill = timed(lambda: model.first_token(ids), work.prefills)
    decode = timed(model.step, work.steps)
    return {"load_s": load, "first_s": first, "prefill_ms": prefill, "decode_ms": decode}


def encoder_samples(kind: type, path: str, work: Workload, paired: bool) -> dict[str, float]:
    """Loading; texts or pairs of mixed lengths a second; the median of a short one in ms."""
    start = time.perf_counter()
    model = kind(path, work)
    load = time.perf_counter() - start
    texts, short = list(work.texts), "the " * (work.tokens - 2)  # and what begins and ends it
    if paired:
        texts = list(zip(texts, texts[1:] + texts[:1], strict=True))
        short = ("the " * (work.tokens // 2),) * 2
    model.encode(texts[:32], work.batch_size)  # warms up
    seconds = timed(lambda: model.encode(texts, work.batch_size), 1) / 1000
    model.cut(work.tokens)
    model.encode([short], 1)
    single = timed(lambda: model.encode([short], 1), work.singles)
    return {"load_s": load, "single_ms": single, "per_second": len(texts) / seconds}


def timed(call: Callable[[], object], times: int) -> float:
    """The median of ``times`` calls, ms."""
    samples = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        samples.append(1000 * (time.perf_counter() - start))
    return float(np.median(samples))


def memory() -> dict[str, float]:
    """MB of this process (Linux): resident at most, and now in pages that no file backs."""
    status = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in status)
    kilobytes = {"peak_mb": fields["VmHWM"], "private_mb": fields["RssAnon"]}
    return {name: int(value.split()[0]) * 1024 / 1e6 for name, value in kilobytes.items()}


def main(runtime: str, model: str, workload: str) -> None:
    work = Workload(**json.loads(workload))
    if runtime in DECODERS:
        samples = decoder_samples(DECODERS[runtime], model, work)
    else:
        paired = runtime.endswith("ranker")
        samples = encoder_samples(ENCODERS[runtime], model, work, paired)
    print(json.dumps({**samples, **memory()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
