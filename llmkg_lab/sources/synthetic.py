"""Checkpoints with random weights: real architecture, config and tensor names, and no knowledge.

They try the whole pipeline where a variant's weights cannot be had. The weights spread as
trained ones do, so that sizes and times are those of the real model; quality figures mean
nothing, and every report of one says so.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np

from llmkg_lab.base import paths
from llmkg_lab.base.files import shortage
from llmkg_lab.base.progress import Counter, Progress
from llmkg_lab.models import form_of
from llmkg_lab.models import published as shapes
from llmkg_lab.models.published import Shape
from llmkg_lab.roster.catalog import SourceSpec, Variant
from llmkg_lab.sources import tokenizers
from llmkg_lab.sources.base import Fetched, SourceError, UnavailableError

KIND = "synthetic"
ROOM = "free space there, or point LLMKG_LAB_CACHE elsewhere"
SIZES = ("full", "reduced")
RECIPE = 1  # counts up when the same variant gets other weights
CHUNK = 1 << 22  # elements drawn at a time: 16 MB of float32
DTYPES = {"float32": ("F32", 4), "float16": ("F16", 2), "bfloat16": ("BF16", 2)}
OUTPUTS = ("o_proj", "down_proj", "out_proj", "proj_2", "output.dense")  # ends of a layer's halves


def spec_of(variant: Variant, wanted: str) -> SourceSpec:
    """The source for ``synthetic``, ``synthetic:full`` or ``synthetic:reduced``."""
    size = wanted.partition(":")[2] or SIZES[0]
    if size not in SIZES:
        raise SourceError(f"{wanted!r}: there is no such size", f"there are {', '.join(SIZES)}")
    return SourceSpec(KIND, {"variant": variant.alias_of or variant.id, "size": size})


class SyntheticSource:
    """A folder as on the Hub, written once and kept in the cache under the hash of its recipe."""

    def missing(self, spec: SourceSpec, cache: Path | None) -> str:
        name = spec.options["variant"]
        return "" if name in shapes.known() else f"the shape of {name} is not known"

    def fetch(self, spec: SourceSpec, cache: Path | None, progress: Progress) -> Fetched:
        if reason := self.missing(spec, cache):
            raise UnavailableError(reason, "add it to llmkg_lab/models/published.yaml")
        name, size = spec.options["variant"], spec.options["size"]
        shape = shapes.known()[name]
        files = _files(shape.reduced() if size == "reduced" else shape)
        digest = hashlib.sha256(f"{RECIPE} {name} {size} {shape.dtype} {shape.shards}".encode())
        for file, content in sorted(files.items()):
            digest.update(file.encode() + content)
        revision = digest.hexdigest()[:16]
        folder = paths.cache() / KIND / f"{name}-{size}-{revision}"
        if not folder.is_dir():
            written = shape.reduced() if size == "reduced" else shape
            write(folder, written, f"{name} {size}", progress)
        detail = f"synthetic weights at {size} size, drawn at random"
        return Fetched(folder, KIND, detail, revision, synthetic=True)


def write(folder: Path, shape: Shape, seed: str, progress: Progress) -> None:
    """Write a checkpoint of any shape into a new folder; ``seed`` is what its weights follow."""
    files = _files(shape)
    config = json.loads(files["config.json"])
    _publish(folder, files, Weights(shape, config, seed), progress)


class Weights:
    """The tensors of a synthetic checkpoint, drawn anew from the same seed at each reading."""

    def __init__(self, shape: Shape, config: dict, seed: str) -> None:
        form = form_of(config)
        self.tensors, self.layers = dict(form.tensors()), form.layers
        self.dtype, self.shards, self._seed = shape.dtype, shape.shards, seed

    def chunks(self, name: str) -> Iterator[np.ndarray]:
        """A tensor's float32 values, some rows at a time: (rows, columns), or (n,) whole."""
        seed = hashlib.sha256(f"{self._seed} {name}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(seed[:8], "little"))
        shape = self.tensors[name]
        if len(shape) == 1:
            is_gain = name.endswith("weight")
            yield _normal(rng, shape, 0.1 if is_gain else 0.02) + np.float32(is_gain)
            return
        rows, columns = shape
        spread = self._spread(name, columns, rng) * _outliers(rng, columns)
        step = max(1, CHUNK // columns)
        for start in range(0, rows, step):
            yield _normal(rng, (min(step, rows - start), columns), 1) * spread

    def _spread(self, name: str, columns: int, rng: np.random.Generator) -> np.float32:
        """Standard deviation: outputs keep the size of inputs, and logits spread by about 2.5."""
        deviation = rng.uniform(0.8, 1.2) / columns**0.5  # no two tensors are trained alike
        if "embed" in name or name == "lm_head.weight":
            deviation *= 2.5
        elif any(part in name for part in OUTPUTS):
            deviation *= 2 / (2 * self.layers) ** 0.5  # as many summands meet in the residual
        return np.float32(deviation)


def _normal(rng: np.random.Generator, shape: tuple[int, ...], deviation: float) -> np.ndarray:
    return rng.standard_normal(shape, np.float32) * np.float32(deviation)


def _outliers(rng: np.random.Generator, columns: int) -> np.ndarray:
    """One factor per column: one in a hundred input channels has three times the weights."""
    return np.where(rng.random(columns) < 0.01, np.float32(3), np.float32(1))


def _files(shape: Shape) -> dict[str, bytes]:
    """config.json, the tokenizer's files, and what makes a sentence embedder of an encoder."""
    files = tokenizers.files(shape.tokenizer)
    said = json.loads(files["tokenizer_config.json"])
    said.pop("chat_template", None)
    if shape.chat_template:
        said["chat_template"] = shape.chat_template
    first = shape.config["vocab_size"] - len(shape.added_tokens)
    if shape.added_tokens and "tokenizer.model" in files:  # a trained one has no room for them
        added = enumerate(shape.added_tokens, first)
        said["added_tokens_decoder"] = {i: {"content": t, "special": True} for i, t in added}
    config = {**shape.config, "torch_dtype": shape.dtype}
    contents = {"config.json": config, "tokenizer_config.json": said}
    if shape.max_length:
        contents["modules.json"] = [
            {
                "idx": place,
                "name": str(place),
                "path": folder,
                "type": f"sentence_transformers.models.{kind}",
            }
            for place, (kind, folder) in enumerate(
                (("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize"))
            )
        ]
        contents["1_Pooling/config.json"] = {
            "word_embedding_dimension": shape.form.hidden,
            "pooling_mode_mean_tokens": True,
        }
        contents["sentence_bert_config.json"] = {"max_seq_length": shape.max_length}
    return files | {name: json.dumps(value, indent=2).encode() for name, value in contents.items()}


def _publish(folder: Path, files: dict[str, bytes], weights: Weights, progress: Progress) -> None:
    """Write the checkpoint beside its place and move it there whole."""
    width = DTYPES[weights.dtype][1]
    if said := shortage(folder, sum(prod(shape) * width for shape in weights.tensors.values())):
        raise SourceError(f"{folder} {said}", ROOM)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as temporary:
        staging = Path(temporary) / "checkpoint"
        for name, content in files.items():
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            (staging / name).write_bytes(content)
        try:
            _write_shards(staging, weights, progress)
        except OSError as error:
            raise SourceError(
                f"{folder.parent} takes no checkpoint: {error.strerror}",
                ROOM,
            ) from error
        if not folder.is_dir():  # another run may have been faster
            shutil.move(staging, folder)


def _write_shards(folder: Path, weights: Weights, progress: Progress) -> None:
    names, count = list(weights.tensors), weights.shards
    width = DTYPES[weights.dtype][1]
    total = sum(prod(shape) * width for shape in weights.tensors.values())
    drawn = Counter(progress, "drawing weights", "bytes", total)
    if count == 1:
        _write(folder / "model.safetensors", names, weights, drawn)
        return
    per_shard = -(-len(names) // count)
    shards = {
        f"model-{i + 1:05}-of-{count:05}.safetensors": names[i * per_shard : (i + 1) * per_shard]
        for i in range(count)
    }
    for file, part in shards.items():
        _write(folder / file, part, weights, drawn)
    weight_map = {name: file for file, part in shards.items() for name in part}
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def _write(path: Path, names: list[str], weights: Weights, drawn: Counter) -> None:
    """One safetensors file, some rows at a time: the library's writer wants all in memory.

    The format (huggingface/safetensors, README): the header's length as 8 bytes, the header as
    JSON, then the tensors side by side.
    """
    kind, width = DTYPES[weights.dtype]
    header, end = {}, 0
    for name in names:
        shape, start = weights.tensors[name], end
        end += prod(shape) * width
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
    content = json.dumps(header).encode()
    content += b" " * (-len(content) % 8)  # tensors begin at a multiple of 8 bytes
    with path.open("wb") as file:
        file.write(len(content).to_bytes(8, "little") + content)
        for name in names:
            for chunk in weights.chunks(name):
                drawn.advance(file.write(_stored(chunk, weights.dtype)))


def _stored(values: np.ndarray, dtype: str) -> bytes:
    """Little-endian bytes; bfloat16 is the upper half of a float32, rounded half to even."""
    if dtype == "bfloat16":
        bits = values.view(np.uint32)
        rounded = bits + 0x7FFF + ((bits >> 16) & 1)
        return (rounded >> 16).astype("<u2").tobytes()
    return values.astype("<f4" if dtype == "float32" else "<f2").tobytes()
