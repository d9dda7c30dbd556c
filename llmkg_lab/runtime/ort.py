"""Artifacts on plain ONNX Runtime: a decoder with an in-place KV cache, and an embedder."""

import mmap
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from llmkg_lab.artifact import Artifact
from llmkg_lab.cores import default_threads
from llmkg_lab.runtime import InferenceError
from llmkg_lab.runtime.sampling import Sampler
from llmkg_lab.runtime.tokenizer import Tokenizer

PREFILL_CHUNK = 128  # tokens a run; logits come for each of them, so it bounds their memory


CPU = "CPUExecutionProvider"


def open_session(
    model: Path, threads: int | None = None, provider: str = CPU
) -> onnxruntime.InferenceSession:
    """A session over an .onnx file; ``threads`` is by default the physical cores.

    provider: an execution provider of this ONNX Runtime, by name; the CPU takes what it cannot.
    Raises InferenceError where ONNX Runtime refuses the file or has no such provider.
    """
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise InferenceError(f"ONNX Runtime here has no {provider}", f"it has {available}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or default_threads()
    options.log_severity_level = 3  # errors only
    # Memory patterns are planned and kept for each new input shape, and the attention mask
    # has a new shape at every token.
    options.enable_mem_pattern = False
    try:
        return onnxruntime.InferenceSession(
            model, options, providers=list(dict.fromkeys((provider, CPU)))
        )
    except Exception as error:  # ONNX Runtime's errors share no base class
        raise InferenceError(
            f"ONNX Runtime cannot load {model}: {error}", "check it with `llmkg-lab verify`"
        ) from error


class Decoder:
    """A causal language model over one KV cache, one sequence at a time.

    All memory of the decode loop is allocated here and bound by pointer: a cache buffer a
    layer, (1, kv_heads, max_length, head_dim), is past and present at once, and
    GroupQueryAttention appends to it in place. A token copies and allocates nothing.

    max_length: tokens that fit the cache, by default the model's context length. The memory
        is taken as it fills.
    """

    def __init__(
        self, artifact: Artifact, threads: int | None = None, max_length: int | None = None
    ) -> None:
        context = artifact.context_length
        if max_length is not None and not 1 <= max_length <= context:
            raise InferenceError(
                f"max_length is {max_length}, but the model has {context} positions",
                f"choose 1 to {context}",
            )
        self.artifact = artifact
        self.session = open_session(artifact.model_path, threads)
        self.max_length = max_length or context
        self.vocab = _output_size(self.session, "logits")
        if not self._past_shapes():
            raise InferenceError(
                f"{artifact.folder} is a {artifact.task} model: it generates no text",
                "open it with Embedder, or give a text-generation artifact",
            )
        self.length = 0  # tokens in the cache
        self._allocate()

    def reset(self) -> None:
        """Forget the sequence; the buffers stay."""
        self.length = 0

    def prefill(self, ids: Sequence[int]) -> np.ndarray:
        """Append several tokens; return the logits after the last, (vocab,) float32.

        The result is a view that the next call overwrites. Raises InferenceError on no tokens,
        a token outside the vocabulary, or more tokens than the cache has room for.
        """
        ids = np.asarray(ids, np.int64)
        self._check(ids, self.length + len(ids), self.max_length)
        for start in range(0, len(ids), PREFILL_CHUNK):
            logits = self._run(ids[start : start + PREFILL_CHUNK])
        return logits

    def step(self, token: int) -> np.ndarray:
        """Append one token; as ``prefill([token])``."""
        return self.prefill((token,))

    def generate(
        self,
        prompt_ids: Sequence[int],
        max_tokens: int,
        sampler: Sampler | None = None,
        stop_ids: Collection[int] = (),
    ) -> Iterator[int]:
        """Continue a prompt, token by token, greedily unless there is a sampler.

        Ends after ``max_tokens``, before a token of ``stop_ids``, or where the cache is full.
        The cache is started anew; a generation that another call overtook raises
        InferenceError, as do a prompt that is empty or too long.
        """
        self.reset()
        self._check(np.asarray(prompt_ids, np.int64), len(prompt_ids), self.max_length)
        return self._generate(list(prompt_ids), max_tokens, sampler or Sampler(), stop_ids)

    def logits(self, input_ids: np.ndarray, lengths: Sequence[int] | None = None) -> np.ndarray:
        """Logits at every position of whole sequences, without the cache.

        input_ids: (batch, sequence) int64, padded at the right where ``lengths`` (batch,) says
        that a sequence is shorter. Returns (batch, sequence, vocab) float32; what stands at
        padding means nothing.
        """
        input_ids = np.asarray(input_ids, np.int64)
        batch, sequence = input_ids.shape
        self._check(input_ids, sequence, self.artifact.context_length)
        lengths = np.full(batch, sequence) if lengths is None else np.asarray(lengths)
        feeds = {
            "input_ids": input_ids,
            "attention_mask": (np.arange(sequence) < lengths[:, None]).astype(np.int64),
        }
        for name, (_, heads, _, head_dim) in self._past_shapes().items():
            feeds[name] = np.zeros((batch, heads, 0, head_dim), np.float32)
        return self.session.run(["logits"], feeds)[0]

    def _generate(
        self, tokens: list[int], max_tokens: int, sampler: Sampler, stop_ids: Collection[int]
    ) -> Iterator[int]:
        history = np.empty(len(tokens) + max_tokens, np.int64)
        history[: len(tokens)] = tokens
        logits = self.prefill(tokens)
        for count in range(len(tokens), len(history)):
            token = sampler(logits, history[:count])
            if token in stop_ids:
                return
            history[count] = token
            yield token
            if self.length != count:
                raise InferenceError(
                    "another sequence took this decoder's cache",
                    "finish one generation before the next, or open a second Decoder",
                )
            if count == self.max_length or count == len(history) - 1:
                return
            logits = self.step(token)

    def _past_shapes(self) -> dict[str, list]:
        """Input name -> (batch, kv_heads, past length, head_dim), the symbolic ones as str."""
        inputs = self.session.get_inputs()
        return {i.name: i.shape for i in inputs if i.name.startswith("past_key_values.")}

    def _allocate(self) -> None:
        chunk = min(PREFILL_CHUNK, self.max_length)
        self._binding = self.session.io_binding()
        self._ids = np.zeros(chunk, np.int64)
        self._mask = np.ones(self.max_length, np.int64)  # its prefixes are the masks of any length
        self._logits = np.empty((chunk, self.vocab), np.float32)
        self._cache = []  # owns the memory whose pointers are bound
        for name, (_, heads, _, head_dim) in self._past_shapes().items():
            buffer = _reserve((1, heads, self.max_length, head_dim))
            self._cache.append(buffer)
            present = name.replace("past_key_values", "present")
            self._bind_input(name, buffer, buffer.shape)
            self._bind_output(present, buffer, buffer.shape)

    def _run(self, ids: np.ndarray) -> np.ndarray:
        count = len(ids)
        self._ids[:count] = ids
        self._bind_input("input_ids", self._ids, (1, count))
        self._bind_input("attention_mask", self._mask, (1, self.length + count))
        self._bind_output("logits", self._logits, (1, count, self.vocab))
        self.session.run_with_iobinding(self._binding)
        self.length += count  # only now: an interrupted run leaves the cache as it was
        return self._logits[count - 1]

    def _bind_input(self, name: str, array: np.ndarray, shape: Sequence[int]) -> None:
        self._binding.bind_input(name, "cpu", 0, array.dtype, shape, array.ctypes.data)

    def _bind_output(self, name: str, array: np.ndarray, shape: Sequence[int]) -> None:
        self._binding.bind_output(name, "cpu", 0, array.dtype, shape, array.ctypes.data)

    def _check(self, ids: np.ndarray, total: int, room: int) -> None:
        if ids.size == 0:
            raise InferenceError("there are no tokens to run", "give a prompt of one token or more")
        if ids.min() < 0 or ids.max() >= self.vocab:
            raise InferenceError(
                f"a token id is outside the vocabulary of {self.vocab}: {ids.min()} to {ids.max()}",
                "encode the text with the artifact's own tokenizer",
            )
        if total > room:
            raise InferenceError(
                f"{total} tokens do not fit the {room} positions",
                "shorten the prompt; the room is the model's context, or the Decoder's max_length",
            )


class Embedder:
    """Texts to vectors. A sentence embedder's graph pools and normalizes; of a plain encoder's
    hidden states, the normalized mean over a text's tokens is taken here."""

    def __init__(self, artifact: Artifact, threads: int | None = None, provider: str = CPU) -> None:
        self.artifact = artifact
        self.session = open_session(artifact.model_path, threads, provider)
        outputs = {output.name: output.shape for output in self.session.get_outputs()}
        if "last_hidden_state" not in outputs or "logits" in outputs:
            raise InferenceError(
                f"{artifact.folder} is a {artifact.task} model: it embeds no texts",
                "open an encoder, such as one of the MiniLM family",
            )
        self._pools = "sentence_embedding" in outputs
        self.hidden = outputs["last_hidden_state"][-1]
        self.tokenizer = Tokenizer.from_folder(artifact.folder)
        pooling = artifact.manifest["pooling"] or {}
        self.max_length = pooling.get("max_length") or artifact.context_length

    def embed(self, texts: Sequence[str], batch_size: int = 32) -> np.ndarray:
        """Embeddings (texts, hidden) float32, in the order of the texts.

        Tokens beyond ``max_length`` are cut off. Texts of similar length share a batch, so that
        little is computed on padding.
        """
        embeddings = np.empty((len(texts), self.hidden), np.float32)
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            inputs = self.tokenizer.encode_batch([texts[i] for i in batch], self.max_length)
            embeddings[batch] = self._run(inputs)
        return embeddings

    def _run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        if self._pools:
            return self.session.run(["sentence_embedding"], inputs)[0]
        states = self.session.run(["last_hidden_state"], inputs)[0]  # (texts, tokens, hidden)
        total = np.einsum("tnh,tn->th", states, inputs["attention_mask"].astype(np.float32))
        return total / np.linalg.norm(total, axis=1, keepdims=True)


def _reserve(shape: Sequence[int]) -> np.ndarray:
    """A float32 array of zeros, whose pages are taken from the system when they are written.

    Not by numpy, which asks for huge pages: each head's first token would take 2 MB.
    """
    memory = mmap.mmap(-1, int(np.prod(shape)) * 4)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, np.float32).reshape(shape)


def _output_size(session: onnxruntime.InferenceSession, name: str) -> int | None:
    """The last dimension of an output, None where the graph has no such output."""
    return next((out.shape[-1] for out in session.get_outputs() if out.name == name), None)
