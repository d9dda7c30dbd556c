"""One variant under study: its checkpoint, its artifacts, and what was measured of them.

Nothing here knows of widgets. What takes long reports its progress, may be interrupted there,
and is kept in the cache by content, so that asking again is instant.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
import tokenizers

from llmkg_lab.artifact import Artifact, ArtifactError
from llmkg_lab.base import cache, paths
from llmkg_lab.base.errors import LabError
from llmkg_lab.base.progress import Progress, Step, inside, silent
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.explorer.questions.points import OURS, Point, reported
from llmkg_lab.measure.protocol import Protocol, Reading
from llmkg_lab.measure.quality import validate_decoder
from llmkg_lab.measure.values import Estimate
from llmkg_lab.reference.outputs import DecoderReference, decoder_reference
from llmkg_lab.reference.tokens import OriginalTokenizer
from llmkg_lab.roster.catalog import Variant, find_variant, roster
from llmkg_lab.runtime.ort.decoder import Decoder
from llmkg_lab.runtime.text.tokenizer import Tokenizer
from llmkg_lab.sources import Fetched, availability, fetch

DECODERS = 3  # kept open
MAX_LENGTH = 1024  # tokens of a generation and its prompt


class ExplorerError(LabError):
    """A variant that cannot be explored, or a question that makes no sense of it."""


def choices() -> dict[str, tuple[str, str]]:
    """What can be explored here, for a menu: title -> (variant, source).

    Decoders whose weights a package carries, and those that have artifacts under outputs/.
    """
    found = {}
    for variant in roster().values():
        if variant.task != "text-generation":
            continue
        packaged = replace(
            variant, sources=tuple(s for s in variant.sources if s.kind == "package")
        )
        if any(available for _, available, _ in availability(packaged)):
            found[f"{variant.title} · package"] = (variant.id, "package")
        elif any(paths.outputs().glob(f"*/{variant.id}/artifacts/*/manifest.json")):
            found[variant.title] = (variant.id, "")
    return found


class Session:
    """A variant's checkpoint, opened.

    Raises ExplorerError for what is not a decoder, SourceError or CheckpointError.
    """

    def __init__(self, variant: str, source: str = "", progress: Progress = silent) -> None:
        self.variant: Variant = find_variant(variant)
        if self.variant.task != "text-generation":
            raise ExplorerError(
                f"{self.variant.id} is not a language model",
                "the explorer compares next-token distributions; minilm.ipynb measures encoders",
            )
        self.fetched: Fetched = fetch(self.variant, source, progress=progress)
        self.checkpoint = self.fetched.open()
        self.folder = paths.outputs() / "explore" / self._folder_name()
        self._decoders: OrderedDict[str, Decoder] = OrderedDict()

    def _folder_name(self) -> str:
        return f"{self.variant.id}-synthetic" if self.fetched.synthetic else self.variant.id

    @property
    def title(self) -> str:
        return self.variant.title

    @property
    def is_synthetic(self) -> bool:
        """Whether the weights are random: quality figures then mean nothing."""
        return self.fetched.synthetic

    @cached_property
    def tokenizer(self) -> Tokenizer:
        files = self.checkpoint.sidecars()
        core = tokenizers.Tokenizer.from_buffer(files["tokenizer.json"])
        config = json.loads(files.get("tokenizer_config.json", b"{}"))
        if template := files.get("chat_template.jinja"):
            config["chat_template"] = template.decode()
        return Tokenizer(core, config)

    @cached_property
    def original(self) -> OriginalTokenizer:
        """The tokenizer of the original, as the reference's tools open it."""
        return OriginalTokenizer(self.checkpoint)

    @cached_property
    def parameters(self) -> int:
        return sum(int(np.prod(t.shape)) for t in self.checkpoint.tensors.values())

    # Artifacts

    def artifacts(self) -> dict[str, Artifact]:
        """The artifacts of these very weights that are on disk, by recipe, smallest first."""
        found: dict[str, Artifact] = {}
        for folder in self._folders():
            try:
                artifact = Artifact.open(folder)
            except ArtifactError:
                continue
            if artifact.manifest.source.fingerprint == self.checkpoint.fingerprint():
                found.setdefault(artifact.manifest.scheme.recipe, artifact)
        return dict(sorted(found.items(), key=lambda item: item[1].nbytes))

    def _folders(self) -> Iterator[Path]:
        own = self.folder.glob("*/manifest.json")
        reports = paths.outputs().glob(f"*/{self.variant.id}/artifacts/*/manifest.json")
        yield from sorted(path.parent for path in (*own, *reports))

    def schemes(self) -> list[str]:
        """Names to choose from: the variant's own schemes, then other artifacts."""
        own = {self.variant.scheme(name).recipe: name for name in self.variant.schemes}
        others = (recipe for recipe in self.artifacts() if recipe not in own)
        return list(dict.fromkeys([*own.values(), *others]))

    def artifact(self, scheme: str, progress: Progress = silent) -> Artifact:
        """The artifact of a scheme, converted where there is none yet. Raises LabError."""
        parsed = self.variant.scheme(scheme)
        if known := self.artifacts().get(parsed.recipe):
            return known
        progress(Step(f"converting to {parsed.name}"))
        return convert(
            self.checkpoint,
            parsed,
            self.folder / parsed.recipe,
            source=self.fetched.origin,
            progress=progress,
            force=True,
        )

    def decoder(self, scheme: str, progress: Progress = silent) -> Decoder:
        """A scheme's artifact, ready to run; the last few stay open."""
        artifact = self.artifact(scheme, progress)
        key = str(artifact.folder)
        if key not in self._decoders:
            progress(Step(f"opening {scheme}"))
            length = min(MAX_LENGTH, artifact.context_length)
            self._decoders[key] = Decoder(artifact, max_length=length)
            while len(self._decoders) > DECODERS:
                self._decoders.popitem(last=False)
        self._decoders.move_to_end(key)
        return self._decoders[key]

    # Measurements

    @cached_property
    def reading(self) -> Reading:
        """What the variant's report reads too, or its smoke run: random weights teach nothing."""
        protocol = Protocol(self.variant.evaluation, quick=self.is_synthetic)
        return protocol.agreed_reading(self.tokenizer, self.original)

    @property
    def windows(self) -> np.ndarray:
        """Token ids (windows, tokens) int64 that quality is measured on."""
        return self.reading.windows

    def reference(self, progress: Progress = silent) -> DecoderReference:
        """PyTorch in float32 on the windows, from the cache where it has run before."""
        return decoder_reference(self.checkpoint, self.windows, [], 0, progress)

    def measure(self, scheme: str, progress: Progress = silent) -> Point:
        """How far a scheme's artifact lies from the reference, as ONNX Runtime runs it."""
        artifact = self.artifact(scheme, progress)

        def compute() -> cache.Arrays:
            reference = self.reference(progress)
            decoder = self.decoder(scheme, progress)
            quality = validate_decoder(decoder, reference, self.reading, inside(progress, scheme))
            content = json.dumps(asdict(quality.metrics["kl_mean"]))
            return {"kl_mean": np.frombuffer(content.encode(), np.uint8)}

        stored = cache.arrays("explored", self._key(artifact), compute)
        return _point(artifact, stored)

    def points(self) -> list[Point]:
        """What was measured of these weights so far, here or in a report, smallest first."""
        found = {}
        if not self.is_synthetic:
            text = self.reading.text.sha256
            points = reported(self.variant.id, self.checkpoint.fingerprint(), text)
            found = {point.label: point for point in points}
        for scheme, artifact in self.artifacts().items():
            if (stored := cache.stored("explored", self._key(artifact))) is not None:
                found[scheme] = _point(artifact, stored)
        return sorted(found.values(), key=lambda point: point.nbytes)

    def _key(self, artifact: Artifact) -> dict:
        """What a measurement depends on: the files, the text, the programs."""
        files = artifact.manifest.files
        windows = self.windows.astype("<i8").tobytes()
        return {
            "model": [files[name].sha256 for name in sorted(files) if name.startswith("onnx/")],
            "reference": self.checkpoint.fingerprint(),
            "windows": [*self.windows.shape, hashlib.sha256(windows).hexdigest()],
            "versions": {n: version(n) for n in ("onnxruntime", "torch", "transformers", "numpy")},
        }


def _point(artifact: Artifact, stored: cache.Arrays) -> Point:
    kl = Estimate(**json.loads(stored["kl_mean"].tobytes()))
    scheme = artifact.manifest.scheme.recipe
    return Point(scheme, OURS, artifact.nbytes, kl.value, kl.low, kl.high, kl.n)
