"""A runtime in a process of its own: what breaks it does not break us.

Candle is compiled code without a way to catch its aborts. So it computes in a child process, which
is this module run as a program. Requests go to its standard input, a JSON object a line; for each
there is one line of JSON on its standard output, and behind it the bytes of an array.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import numpy as np
import psutil

from llmkg_lab.artifact import Artifact
from llmkg_lab.runtime import BackendError, InferenceError
from llmkg_lab.runtime.sequence import SequenceDecoder, TokenIds

PATIENCE = 5  # seconds for a worker to end by itself


class Worker:
    """The parent's side of one worker; ``call`` runs a method of its model.

    Raises BackendError where the model does not load, and from a call in which the worker dies.
    An interrupted call (Ctrl-C) ends the worker, because its answer is not read.
    """

    def __init__(self, kind: str, folder: Path, threads: int) -> None:
        self._lock = threading.Lock()  # an answer belongs to the request before it
        environment = {**os.environ, "RAYON_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-m", "llmkg_lab.runtime.candle.worker", kind, str(folder)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        self._requests = cast(IO[bytes], self.process.stdin)
        self._answers = cast(IO[bytes], self.process.stdout)
        try:
            self.facts = self._answer()[0]  # what the model says of itself
        except BaseException:
            self.close()
            raise

    def call(self, method: str, *arguments: object) -> np.ndarray:
        """Run ``method`` there: its float32 array. Raises InferenceError as the method does."""
        request = json.dumps([method, *arguments]).encode() + b"\n"
        with self._lock:
            try:
                self._requests.write(request)
                self._requests.flush()
                answer, array = self._answer()
            except (OSError, ValueError) as error:  # a broken pipe, or one closed already
                raise self._death() from error
            except InferenceError:
                raise
            except BaseException:
                self.close()
                raise
        return array.reshape(answer["shape"])

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def memory(self) -> int:
        """Resident bytes of the process, 0 where it ended."""
        try:
            return psutil.Process(self.process.pid).memory_info().rss if self.alive else 0
        except psutil.Error:
            return 0

    def close(self) -> None:
        """End the process: politely, then for sure."""
        with contextlib.suppress(OSError):
            self._requests.close()
        if self.alive:
            self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._answers.close()

    def _answer(self) -> tuple[dict[str, Any], np.ndarray]:
        line = self._answers.readline()
        if not line.endswith(b"\n"):
            raise self._death()
        answer = json.loads(line)
        if "error" in answer:
            kind = BackendError if answer["fatal"] else InferenceError
            raise kind(answer["error"], answer["hint"])
        content = self._answers.read(answer["bytes"])
        if len(content) < answer["bytes"]:
            raise self._death()
        return answer, np.frombuffer(content, np.float32)

    def _death(self) -> BackendError:
        self.close()
        code = self.process.returncode
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        return BackendError(f"the worker process ended {how}", "its own messages are on stderr")


class WorkerDecoder(SequenceDecoder):
    """A decoder that computes in a worker, with the interface of ``ort.Decoder``."""

    length = 0  # tokens in the worker's cache

    def __init__(self, artifact: Artifact, threads: int) -> None:
        self.artifact = artifact
        self._threads = threads
        self.worker = Worker("candle-decoder", artifact.folder, threads)
        self.vocab, self.max_length = (self.worker.facts[k] for k in ("vocab", "max_length"))

    def reset(self) -> None:
        """Forget the sequence; a worker that an interruption ended is started again."""
        if not self.worker.alive:
            self.worker = Worker("candle-decoder", self.artifact.folder, self._threads)
        self.worker.call("reset")
        self.length = 0

    def prefill(self, ids: TokenIds) -> np.ndarray:
        """Append tokens; return the logits after the last, (vocab,) float32."""
        logits = self.worker.call("prefill", [int(token) for token in ids])
        self.length += len(ids)
        return logits


class _Decoder:
    """The worker's side: Candle over a GGUF artifact."""

    def __init__(self, folder: Path) -> None:
        from llmkg_lab.runtime.candle.decoder import CandleDecoder

        self.decoder = CandleDecoder(Artifact.open(folder))
        self.facts = {"vocab": self.decoder.vocab, "max_length": self.decoder.max_length}
        self.prefill = self.decoder.prefill

    def reset(self) -> np.ndarray:
        self.decoder.reset()
        return np.empty(0, np.float32)


class _Encoder:
    """The worker's side: Candle over a BERT's GGUF artifact, or its folder of safetensors."""

    def __init__(self, folder: Path) -> None:
        from llmkg_lab.runtime.candle.encoder import CandleEncoder

        encoder = CandleEncoder(folder)
        self.facts = {"hidden": encoder.hidden, "max_length": encoder.max_length}
        self.embed, self.score = encoder.embed, encoder.score


MODELS: dict[str, Callable[[Path], Any]] = {
    "candle-decoder": _Decoder,
    "candle-encoder": _Encoder,
}


def serve(kind: str, folder: str, requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until there are no more; an error is an answer, too."""

    def answer(fields: dict[str, Any], content: bytes = b"") -> None:
        answers.write(json.dumps(fields).encode() + b"\n" + content)
        answers.flush()

    def failed(error: BaseException, fatal: bool) -> None:
        message = getattr(error, "message", None) or f"{type(error).__name__}: {error}"
        answer({"error": message, "hint": getattr(error, "hint", ""), "fatal": fatal})

    try:
        model = MODELS[kind](Path(folder))
    except BaseException as error:  # a panic of Rust's is no Exception
        return failed(error, fatal=True)
    answer({"bytes": 0, **model.facts})
    for line in requests:
        method, *arguments = json.loads(line)
        try:
            array = np.ascontiguousarray(getattr(model, method)(*arguments), np.float32)
        except InferenceError as error:
            failed(error, fatal=False)
        except BaseException as error:
            failed(error, fatal=True)
        else:
            answer({"bytes": array.nbytes, "shape": array.shape}, array.tobytes())


def main() -> None:
    """Serve on this process's own input and output."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the parent decides
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not get between the answers
    serve(sys.argv[1], sys.argv[2], sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
