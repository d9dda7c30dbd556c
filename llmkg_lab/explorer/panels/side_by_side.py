"""What both write: the widest artifact and a quantized one continue the same prompt."""

import html
import time

import ipywidgets as widgets

from llmkg_lab.base.progress import Step
from llmkg_lab.explorer.bench import Bench
from llmkg_lab.explorer.bench.jobs import Job
from llmkg_lab.explorer.panels.base import Panel, primary, row
from llmkg_lab.explorer.questions.duel import Duel, fight
from llmkg_lab.runtime.text.generate import GenerationConfig
from llmkg_lab.scheme import Scheme

PROMPT = "The three most important inventions of the nineteenth century are"
WIDEST = ("fp32", "fp16", "int8")
INTERVAL = 0.1  # seconds between two pictures of what was written


class SideBySide(Panel):
    """What the original and a scheme write, beside each other."""

    title = "Side by side"
    note = (
        "Does it matter to a reader? Both continue one prompt with the same sampling and seed. "
        "What is marked comes after the first difference: from there on they write different texts."
    )

    def __init__(self, bench: Bench, scheme: str) -> None:
        super().__init__(bench)
        self.duel: Duel | None = None
        self._wanted = scheme
        self.prompt = widgets.Textarea(PROMPT, layout={"width": "100%", "height": "56px"})
        self.left = widgets.Combobox(description="Left", ensure_option=False)
        self.right = widgets.Combobox(description="Right", ensure_option=False)
        self.tokens = widgets.BoundedIntText(48, 1, 512, description="Tokens")
        self.temperature = widgets.FloatSlider(
            0, min=0, max=1.5, step=0.1, description="Temperature", readout_format=".1f"
        )
        self.temperature.style.description_width = "initial"
        self.chat = widgets.Checkbox(description="as a chat message", indent=False)
        self.button = primary("Generate", "play")
        self.button.on_click(lambda _: self.run())
        for widget in (self.left, self.right):
            widget.layout.width = "240px"
        self.tokens.layout.width = "170px"
        self.chat.layout.width = "160px"
        self.written = widgets.HTML()
        self.fill(
            widgets.VBox(
                [
                    self.prompt,
                    row(self.left, self.right, self.tokens),
                    row(self.temperature, self.chat, self.button),
                ]
            ),
            self.written,
        )
        self.state.observe(lambda _: self._renew(), "session")

    def run(self) -> Job:
        session, prompt = self.state.opened, self.prompt.value
        schemes, chat = (self.left.value, self.right.value), self.chat.value
        config = GenerationConfig(
            temperature=self.temperature.value,
            max_tokens=self.tokens.value,
            repetition_penalty=1.0,  # nothing but the models themselves should differ
            seed=0,
        )

        def work(job: Job) -> None:
            left, right = (Scheme.parse(scheme).name for scheme in schemes)
            names = left, right
            shown = 0.0
            job.progress(Step("opening both"))
            for duel in fight(session, names, prompt, config, chat=chat, progress=job.progress):
                self.duel = duel
                if time.monotonic() - shown >= INTERVAL:
                    shown = time.monotonic()
                    self._show(names)
            self._show(names)

        return self.bar.start("generating", work)

    def prepare(self) -> tuple[Job, ...]:
        return (self.run(),) if self.state.session else ()

    def _renew(self) -> None:
        session = self.state.opened
        self.duel, self.written.value = None, ""
        names = session.schemes()
        self.left.options = self.right.options = names
        self.left.value = next((name for name in WIDEST if name in names), names[0])
        self.right.value = self._wanted or names[-1]
        has_template = "chat_template" in session.tokenizer.config
        self.chat.layout.display = "" if has_template else "none"
        self.chat.value = False

    def _show(self, names: tuple[str, str]) -> None:
        self._names = names
        self.written.value = self.static()

    def static(self) -> str:
        if self.duel is None:
            return ""
        common = self.duel.common
        both = zip(self._names, (self.duel.left, self.duel.right), strict=True)
        sections = "".join(
            f"<section><h4>{html.escape(name)}</h4><p>{html.escape(text[:common])}"
            f"{_marked(text[common:])}</p></section>"
            for name, text in both
        )
        return f'<div class="lab-duel" aria-live="polite">{sections}</div>'


def _marked(text: str) -> str:
    return f"<mark>{html.escape(text)}</mark>" if text else ""
