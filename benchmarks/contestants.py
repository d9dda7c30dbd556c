"""The quantized models that are compared: ours, llama.cpp's and onnxruntime-genai's.

All are made from the same weights and kept in results/work under a hash of what they came from:
the package's code, or the peer's version and what it was asked for.
"""

import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np

import llmkg_lab
from benchmarks.common import (
    HERE,
    WORK,
    Run,
    float32_folder,
    packaged_checkpoint,
    peer_python,
    run,
    versions,
)
from benchmarks.importance import METHOD, importance_on
from llmkg_lab.artifact import Artifact
from llmkg_lab.checkpoint import Checkpoint
from llmkg_lab.checkpoint.gguf_file import read_header
from llmkg_lab.conversion import to_gguf as gguf
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.data.texts import Text
from llmkg_lab.measure.quality import Decoder
from llmkg_lab.quantize.solve.effort import EFFORT
from llmkg_lab.quantize.solve.equalize import random_rescaling
from llmkg_lab.quantize.solve.text import OWN_ALONE
from llmkg_lab.runtime.ort import decoder as ort
from llmkg_lab.scheme import Scheme

SIGMA = 0.3  # of the log-normal factors that take the weights off the grid they were packaged on
SCHEMES = (
    "int4-rtn",
    "int4-s16-mse-e8b64sym",
    "int4-s16-gptq-e8b64sym",
    "budget:91.3MB",
    "budget:100MB",
    "int8-s16-eq",
)
GGUF_TYPES = ("Q4_0", "IQ4_XS", "IQ4_NL", "Q4_1", "Q4_K_M", "Q5_K_M", "Q8_0")
# what artifacts come from, within the package
MAKING = ("checkpoint", "conversion", "graph", "models", "presets", "quantize", "scheme.py")
GENAI = {"int4": (), "int4 k_quant_mixed": ("algo_config=k_quant_mixed",)}


@dataclass(frozen=True)
class Contestant:
    """A quantized model. nbytes: of its weights and graph, without a tokenizer."""

    name: str
    runtime: str
    folder: Path
    files: tuple[Path, ...]  # all that it needs to compute logits
    nbytes: int

    @property
    def file_bytes(self) -> int:
        """On the disk; a GGUF file has its tokenizer in it."""
        return sum(path.stat().st_size for path in self.files)

    @cached_property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        for path in self.files:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    @contextmanager
    def opened(self) -> Iterator[Decoder]:
        """In its own runtime: ours here, a peer's in a process of the peers' Python."""
        if self.runtime == "llmkg-lab":
            yield ort.Decoder(Artifact.open(self.folder))
            return
        model = self.files[0] if self.runtime == "llama.cpp" else self.folder
        with tempfile.NamedTemporaryFile(suffix=".npy") as logits:
            command = [peer_python(), HERE / "peers.py", "logits", self.runtime, model, logits.name]
            with subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            ) as process:
                yield _Remote(process, Path(logits.name))  # it ends with its standard input


class _Remote:
    """A decoder whose logits another process computes and hands over in a file."""

    def __init__(self, process: subprocess.Popen, file: Path) -> None:
        self._process, self._file = process, file

    def logits(self, input_ids: np.ndarray) -> np.ndarray:
        """(1, tokens) int64 -> (1, tokens, vocab) float32."""
        self._process.stdin.write(json.dumps(input_ids[0].tolist()) + "\n")
        self._process.stdin.flush()
        if self._process.stdout.readline() != "done\n":
            raise RuntimeError(f"{self._process.args} gave no logits")
        return np.load(self._file)[None]


class Weights:
    """SmolLM2-135M-Instruct with its channels rescaled, and what each quantizer makes of it."""

    def __init__(self, seed: int, text: Text) -> None:
        self.seed = seed
        self.checkpoint = random_rescaling(packaged_checkpoint(), SIGMA, seed)
        self.text = text
        self.folder = WORK / f"rescaled-{seed}"

    @cached_property
    def float32(self) -> Path:
        """As safetensors."""
        return float32_folder(self.checkpoint, self.folder / "float32")

    @cached_property
    def float32_gguf(self) -> Path:
        """For llama.cpp's quantizer."""
        return float32_gguf(self.checkpoint, self.folder / "gguf")

    @cached_property
    def importance(self) -> Path:
        """llama.cpp's importance matrix, from the calibration half."""
        path = self.folder / "importance.npz"
        np.savez(path, **importance_on(self.checkpoint, self.text))
        return path

    def ours(self, name: str, effort: str = EFFORT, alone: bool = False) -> Contestant:
        """Solved on the calibration text and the model's own, or on its own ``alone``."""
        scheme, texts = Scheme.parse(name), OWN_ALONE if alone else self.text
        kind = f"{effort}-alone" if alone else effort
        out = self.folder / f"{scheme.name}-{kind}-{code_hash()[:12]}"
        if not (out / "manifest.json").exists():
            convert(self.checkpoint, scheme, out, calibration=texts, effort=effort, force=True)
        artifact = Artifact.open(out)
        files = tuple(sorted(artifact.model_path.parent.iterdir()))
        return Contestant(name, "llmkg-lab", out, files, artifact.nbytes)

    def llama_cpp(self, kind: str, with_importance: bool) -> Contestant:
        name = f"{kind} imatrix" if with_importance else kind
        asked = (kind, f"importance {METHOD}") if with_importance else (kind,)
        out = self._kept("llama.cpp", name, asked).with_suffix(".gguf")
        importance = self.importance if with_importance else None
        quantize_gguf(self.float32_gguf, kind, out, importance)
        return Contestant(name, "llama.cpp", self.folder, (out,), tensor_bytes(out))

    def genai(self, name: str) -> Contestant:
        out = self._kept("onnxruntime-genai", name, GENAI[name])
        if not (out / "genai_config.json").exists():
            build_genai(self.float32, out, *GENAI[name])
        files = tuple(out / name for name in ("model.onnx", "model.onnx.data"))
        nbytes = sum(path.stat().st_size for path in files)
        return Contestant(name, "onnxruntime-genai", out, files, nbytes)

    def _kept(self, runtime: str, name: str, asked: Sequence[str]) -> Path:
        """Where a peer's model lies: what another version makes is another model."""
        digest = hashlib.sha256(json.dumps([runtime, versions()[runtime], *asked]).encode())
        return self.folder / f"{name.replace(' ', '-')}-{digest.hexdigest()[:12]}"


def float32_gguf(checkpoint: Checkpoint, folder: Path) -> Path:
    """A checkpoint as GGUF in float32, written where it is not there yet."""
    if not (folder / "manifest.json").exists():
        gguf.export(checkpoint, "F32", folder, force=True)
    return folder / "model-F32.gguf"


def quantize_gguf(source: Path, kind: str, out: Path, importance: Path | None = None) -> Path:
    """llama.cpp's quantizer, where ``out`` is not there yet."""
    if not out.exists():
        unfinished = out.with_suffix(".part")
        run_quantizer(source, kind, unfinished, importance)
        unfinished.rename(out)
    return out


def run_quantizer(source: Path, kind: str, out: Path, importance: Path | None = None) -> Run:
    """llama.cpp's quantizer, in a process of its own."""
    request = {"source": str(source), "out": str(out), "kind": kind}
    request["importance"] = importance and str(importance)
    return run([peer_python(), str(HERE / "peers.py"), "quantize", json.dumps(request)])


def tensor_bytes(path: Path) -> int:
    """Of a GGUF file, without its tokenizer."""
    _, tensors = read_header(path)
    return sum(tensor.nbytes for tensor in tensors.values())


def build_genai(model: Path, out: Path, *options: str) -> None:
    """onnxruntime-genai's model builder, as a user starts it; whole or not at all."""
    unfinished = out.with_suffix(".part")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was cut off
    builder = [peer_python(), "-m", "onnxruntime_genai.models.builder"]
    paths = ["-i", str(model), "-o", str(unfinished), "-c", str(WORK / "genai-cache")]
    extra = ["--extra_options", *options] if options else []
    run([*builder, *paths, "-p", "int4", "-e", "cpu", *extra])
    unfinished.rename(out)


@cache
def code_hash() -> str:
    """SHA-256 of the code that artifacts come from: another code may make another artifact."""
    package, digest = Path(llmkg_lab.__file__).parent, hashlib.sha256()
    code = (path for path in package.rglob("*.py") if path.relative_to(package).parts[0] in MAKING)
    for path in sorted(code):
        digest.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()
