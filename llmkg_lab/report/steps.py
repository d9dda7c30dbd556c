"""The steps of a conversion report: what the cells of a notebook call, one after another.

A template tells its family's story and holds no steps of its own. Each method here shows one
section. What a section needs is computed when it is first asked for, and kept.
"""

import html
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from IPython.display import HTML

from llmkg_lab.artifact import Artifact
from llmkg_lab.base.bar import Bar
from llmkg_lab.base.errors import LabError
from llmkg_lab.base.progress import inside, track
from llmkg_lab.browser.trial import Trial, attempt
from llmkg_lab.checkpoint import Checkpoint
from llmkg_lab.conversion.to_onnx import convert_all
from llmkg_lab.measure.protocol import Protocol, Reading, asked
from llmkg_lab.measure.quality import Quality, validate_decoder, with_elsewhere
from llmkg_lab.measure.speed import Speed, measure
from llmkg_lab.reference.outputs import DecoderReference, decoder_reference
from llmkg_lab.reference.tokens import OriginalTokenizer
from llmkg_lab.report import encoders, figures, frame, tables
from llmkg_lab.report.parameters import Parameters
from llmkg_lab.results.collect import result_of
from llmkg_lab.results.verdict import Judgement, judge
from llmkg_lab.runtime.ort.decoder import Decoder
from llmkg_lab.runtime.text.tokenizer import Tokenizer
from llmkg_lab.scheme import Scheme
from llmkg_lab.sources import Fetched, fetch


class Report(ABC):
    """The report on one variant: what all families' reports have in common."""

    def __init__(
        self,
        family: str,
        variant: str,
        schemes: Sequence[str] | str = (),
        source: str = "",
        out: str | Path = "",
        quick: bool | str = True,
        browser: bool | str = False,
    ) -> None:
        """Take a notebook's parameters, and show the headline that ``finish`` fills in.

        family: whose notebook it is; the variant has to be of it.
        Raises LabError on a parameter that makes no sense.
        """
        self._asked = Parameters.read(family, variant, schemes, source, out, quick, browser)
        self.variant = self._asked.variant
        self.folder = frame.output_folder(self.variant, self._asked.out)
        self.protocol = Protocol(self.variant.evaluation, self._asked.quick)
        self._headline = frame.Headline(self.variant)
        self._progress = Bar()

    @cached_property
    def fetched(self) -> Fetched:
        """The checkpoint on this machine."""
        return fetch(self.variant, self._asked.source, progress=self._progress)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint, opened. Raises LabError where it is of another form than the variant."""
        opened, wanted = self.fetched.open(), self.variant.architecture
        if (found := opened.form.model_type) != wanted:
            raise LabError(
                f"{self.fetched.detail} is a {found}, and {self.variant.id} is a {wanted}",
                "name a checkpoint of the variant, or convert this one: llmkg-lab convert",
            )
        return opened

    @cached_property
    def artifacts(self) -> dict[str, Artifact]:
        """What the checkpoint was converted to, by scheme."""
        return convert_all(
            self.checkpoint,
            self._asked.schemes,
            self.folder / "artifacts",
            source=self.fetched.origin,
            progress=self._progress,
        )

    @cached_property
    def schemes(self) -> dict[str, Scheme]:
        """What each scheme means for this model, by name."""
        return {name: self.variant.scheme(name) for name in self._asked.schemes}

    @cached_property
    def qualities(self) -> dict[str, Quality]:
        """What each scheme lost."""
        return {name: self.quality_of(name) for name in self.artifacts}

    @cached_property
    def judgements(self) -> dict[str, Judgement]:
        """Whether each scheme holds the variant's limits and targets."""
        limits, targets = self.variant.limits_for, self.variant.targets_for
        return {name: judge(q, limits(name), targets(name)) for name, q in self.qualities.items()}

    @cached_property
    def speeds(self) -> dict[str, Speed]:
        """How fast each scheme runs, and in how much memory."""
        return {
            name: measure(artifact, **self.protocol.effort, progress=inside(self._progress, name))
            for name, artifact in self.artifacts.items()
        }

    @property
    def narrowest(self) -> str:
        """The scheme of the fewest bytes, which examples are taken from."""
        return min(self.artifacts, key=lambda name: self.artifacts[name].nbytes)

    # What decoders and encoders answer differently

    @property
    @abstractmethod
    def first_latency(self) -> tuple[str, str]:
        """The metric of ``speeds`` that a reader asks for first, and its title."""

    @property
    @abstractmethod
    def command(self) -> str:
        """What uses an artifact on the command line, with {} where its folder belongs."""

    @abstractmethod
    def quality_of(self, scheme: str) -> Quality:
        """Compare one scheme's artifact with the reference."""

    @abstractmethod
    def read(self) -> None:
        """Compute the reference in PyTorch; print what was read, and how."""

    @abstractmethod
    def moved(self) -> figures.Picture:
        """Draw how far outputs lie from the reference's."""

    @abstractmethod
    def examples(self) -> HTML:
        """Show outputs beside the reference's."""

    # The sections, in the order of the notebook

    def found(self) -> HTML:
        """Show where the checkpoint came from and what it holds."""
        return tables.checkpoint(self.fetched, self.checkpoint)

    def converted(self) -> HTML:
        """Convert to every scheme; show sizes and rounding errors."""
        return tables.sizes(self.artifacts)

    def sizes(self) -> figures.Picture:
        """Draw what the bytes went to."""
        return figures.sizes(self.artifacts)

    def validated(self) -> HTML:
        """Validate every scheme; show its metrics and its verdict."""
        return tables.qualities(self.schemes, self.qualities, self.judgements)

    def measured(self) -> HTML:
        """Measure every scheme in fresh processes; show times and memory."""
        return tables.speeds(self.schemes, self.speeds)

    def latency(self) -> figures.Picture:
        """Draw the latency that a reader asks for first."""
        return figures.latency(self.speeds, *self.first_latency)

    def in_browser(self) -> HTML:
        """Try every scheme in a Chromium, where that was asked for; show what a visitor gets."""
        if not self._asked.browser:
            typed = f"llmkg-lab run {self.variant.id} --browser"
            return HTML(f"<p>Not tried. To try it: <code>{html.escape(typed)}</code></p>")
        trials: dict[str, Trial | LabError] = {}
        for name in track(list(self.artifacts), self._progress, "Chromium", "schemes"):
            try:
                trials[name] = attempt(self.artifacts[name])
            except LabError as error:
                trials[name] = error
        return tables.trials(self.schemes, trials)

    def finish(self) -> None:
        """Write result.json, and put the verdict at the top of the page."""
        measured = self.qualities, self.judgements, self.speeds
        result = result_of(
            self.variant,
            self.fetched,
            self.artifacts,
            *measured,
            self.folder,
            quick=self.protocol.quick,
        )
        result.save(self.folder)
        stored = tables.stored(self.checkpoint)
        self._headline.update(result, self.folder, stored, self.command)

    def print_verdicts(self) -> None:
        """Print whether each scheme is within its limits: the same on every machine."""
        for name, judgement in self.judgements.items():
            print(f"{name}: {'within' if judgement.verdict.usable else 'beyond'} its limits")


class DecoderReport(Report):
    """The report on a language model, compared token by token."""

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the artifacts, which all share."""
        return Tokenizer.from_folder(next(iter(self.artifacts.values())).folder)

    @cached_property
    def original(self) -> OriginalTokenizer:
        """The tokenizer of the original, as the reference's tools open it."""
        return OriginalTokenizer(self.checkpoint)

    @cached_property
    def reading(self) -> Reading:
        """What all schemes and the reference read, by both tokenizers the same."""
        return self.protocol.agreed_reading(self.tokenizer, self.original)

    @cached_property
    def _elsewhere(self) -> Reading | None:
        """What they read of another kind, None where there is no second text."""
        return self.protocol.reading_elsewhere(self.tokenizer, self.original)

    @cached_property
    def _original(self) -> DecoderReference:
        """What the original makes of both, in PyTorch, which is loaded once."""
        read, length = self.reading, self.protocol.plan.continuation
        other = [self._elsewhere.windows] if self._elsewhere else []
        windows = np.concatenate([read.windows, *other])
        return decoder_reference(self.checkpoint, windows, read.prompts, length, self._progress)

    @cached_property
    def reference(self) -> DecoderReference:
        """What the original makes of the text in the domain, and of the prompts."""
        return self._original.part(slice(len(self.reading.windows)))

    @cached_property
    def elsewhere(self) -> tuple[DecoderReference, Reading] | None:
        """What the original makes of text of another kind, None where there is none."""
        if self._elsewhere is None:
            return None
        return self._original.part(slice(len(self.reading.windows), None)), self._elsewhere

    @property
    def first_latency(self) -> tuple[str, str]:
        """The time for one token, and its title."""
        return "decode_ms", "Decoding: time for one token"

    @property
    def command(self) -> str:
        """To ask, where the model was taught to answer; else to continue."""
        if asked(self.tokenizer, "Hello") is not None:
            return "generate {} 'Why is the sky blue?' --chat"
        return "generate {} 'Once upon a time'"

    def quality_of(self, scheme: str) -> Quality:
        """Compare one scheme's logits and continuations with the reference's."""
        progress = inside(self._progress, scheme)
        decoder = Decoder(self.artifacts[scheme])
        quality = validate_decoder(decoder, self.reference, self.reading, progress)
        if self.elsewhere is None:
            return quality
        return with_elsewhere(quality, decoder, *self.elsewhere, progress)

    def read(self) -> None:
        """Compute the reference; print which windows and prompts were read, and by what."""
        print(f"{self.reading}. {len(self.reference.continuations)} prompts are continued.")
        if self.elsewhere is None:
            print("There is no text of another kind than schemes are calibrated on.")
        else:
            print(f"Text of another kind than schemes are calibrated on: {self.elsewhere[1]}.")
        print(f"Reference: {self.reference.judge}. Tokens: {self.reading.judge}.")

    def moved(self) -> figures.Picture:
        """Draw each scheme's KL divergence from the reference."""
        return figures.divergence(self.qualities)

    def strip(self) -> HTML:
        """Colour the first tokens of the text by what the narrowest scheme makes of them."""
        name = self.narrowest
        kl = self.qualities[name].samples["kl"]
        return figures.token_strip(self.tokenizer, self.reading.windows[0], kl, name)

    def examples(self) -> HTML:
        """Show continuations beside the reference's."""
        prompts = self.protocol.plan.prompts
        return tables.continuations(self.tokenizer, prompts, self.reference, self.qualities)

    def conversation(self) -> HTML:
        """Show a conversation as the chat template writes it."""
        return tables.conversation(self.tokenizer)


class EncoderReport(Report):
    """The report on an encoder: an embedder by its vectors, a cross-encoder by its scores."""

    @cached_property
    def reference(self) -> encoders.Embeddings | encoders.Scores:
        """What PyTorch makes of the pairs of sentences."""
        kind = encoders.KINDS[self.variant.task]
        protocol = self.protocol
        return kind(self.checkpoint, protocol.pairs, protocol.prose, self._progress)

    @property
    def first_latency(self) -> tuple[str, str]:
        """The time for one text or one pair, and its title."""
        return encoders.KINDS[self.variant.task].LATENCY

    @property
    def command(self) -> str:
        """To embed, or to rank."""
        return encoders.KINDS[self.variant.task].COMMAND

    def quality_of(self, scheme: str) -> Quality:
        """Compare one scheme's vectors or scores with the reference's."""
        return self.reference.quality_of(self.artifacts[scheme])

    def read(self) -> None:
        """Compute the reference; print which pairs were read, and by what."""
        print(self.reference)

    def moved(self) -> figures.Picture:
        """Draw how far vectors or scores moved."""
        return self.reference.moved(self.qualities)

    def examples(self) -> HTML:
        """Show the pairs that moved most."""
        return self.reference.examples(self.artifacts[self.narrowest], self.narrowest)
