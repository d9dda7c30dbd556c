"""A text of one's own, token by token."""

import html

import ipywidgets as widgets
import numpy as np

from llmkg_lab.base.progress import Step
from llmkg_lab.explorer.bench import Bench
from llmkg_lab.explorer.bench.jobs import Job
from llmkg_lab.explorer.panels.base import Panel, primary, row
from llmkg_lab.explorer.questions.tokens import MAX_TOKENS, TokenScores, score
from llmkg_lab.explorer.view import style

TEXT = (
    "Marie Curie was born in Warsaw in 1867. She won the Nobel Prize in Physics in 1903 and the "
    "Nobel Prize in Chemistry in 1911, and she remains the only person to win in two sciences."
)
KL, ADDED, LOSS = "KL divergence", "loss added", "loss"
NOTES = {
    KL: "how far the whole prediction moved",
    ADDED: "loss of the quantized model − loss of the reference",
    LOSS: "how much the token surprises the quantized model",
}
CEILINGS = {KL: 1.0, ADDED: 1.0, LOSS: 8.0}  # nats at which a colour is full


class OwnText(Panel):
    """How a text of one's own is predicted, token by token."""

    title = "Your text"
    note = (
        "Where does it hurt? Each token is coloured by what quantization did to its prediction. "
        "Hover over one to see what either model expected there."
    )

    def __init__(self, bench: Bench, scheme: str) -> None:
        super().__init__(bench)
        self.scores: TokenScores | None = None
        self._wanted = scheme
        self.text = widgets.Textarea(TEXT, rows=4, layout={"width": "100%", "height": "96px"})
        self.scheme = widgets.Combobox(description="Scheme", ensure_option=False)
        self.colour = widgets.ToggleButtons(
            options=[KL, ADDED, LOSS],
            style={"button_width": "140px"},
            tooltips=[NOTES[name] for name in (KL, ADDED, LOSS)],
        )
        self.button = primary("Compare", "play")
        self.button.on_click(lambda _: self.run())
        self.colour.observe(lambda _: self._show(), "value")
        self.strip = widgets.HTML()
        self.fill(
            widgets.VBox([self.text, row(self.scheme, self.button)]), row(self.colour), self.strip
        )
        self.state.observe(lambda _: self._renew(), "session")

    def run(self) -> Job:
        session, scheme, text = self.state.opened, self.scheme.value, self.text.value

        def work(job: Job) -> None:
            job.progress(Step("reading the text"))
            self.scores = score(session, scheme, text, job.progress)
            self._show()

        return self.bar.start(f"comparing {scheme}", work)

    def prepare(self) -> tuple[Job, ...]:
        return (self.run(),) if self.state.session else ()

    def _renew(self) -> None:
        self.scores, self.strip.value = None, ""
        self.scheme.options = self.state.opened.schemes()
        self.scheme.value = self._wanted or self.scheme.options[-1]

    def _show(self) -> None:
        self.strip.value = self.static()

    def static(self) -> str:
        if self.scores is None:
            return ""
        return strip(self.scores, self.colour.value) + _summary(self.scores)


def _summary(scores: TokenScores) -> str:
    reference, candidate = scores.nll_reference.mean(), scores.nll_candidate.mean()
    cut = f"; only its first {MAX_TOKENS} tokens" if scores.was_cut else ""
    return (
        f'<p class="lab-note">{len(scores.kl)} predictions{cut}. Mean KL '
        f"{scores.kl.mean():.3g} nats; loss {reference:.3f} → {candidate:.3f} nats per token "
        f"(perplexity × {np.exp(candidate - reference):.3f}).</p>"
    )


def strip(scores: TokenScores, by: str) -> str:
    """The text as HTML, each token coloured by ``by``, with a tooltip and a legend."""
    values = {
        KL: scores.kl,
        ADDED: scores.nll_candidate - scores.nll_reference,
        LOSS: scores.nll_candidate,
    }[by]
    spans = [f"<span>{_visible(scores.pieces[0])}</span>"]
    for i, value in enumerate(values):
        tip = html.escape(_tooltip(scores, i), quote=True)
        spans.append(
            f'<span tabindex="-1" style="background:{shade(value, CEILINGS[by])}" title="{tip}">'
            f"{_visible(scores.pieces[i + 1])}</span>"
        )
    return f'<div class="lab-strip">{"".join(spans)}</div>{_legend(by)}'


def shade(value: float, ceiling: float) -> str:
    """A colour on which dark text reads well; below zero it is blue, near it there is none."""
    scale = style.SHADES[:5] if value >= 0 else style.BLUES
    level = int(len(scale) * min(abs(value) / ceiling, 0.999))
    return scale[level] if abs(value) >= 0.02 * ceiling else "transparent"


def _legend(by: str) -> str:
    top, label = f"{CEILINGS[by]:g} nats or more", f"{by}: {NOTES[by]}"
    if by == ADDED:
        shades = (*reversed(style.BLUES), *style.SHADES[:5])
        return style.scale(shades, f"−{CEILINGS[by]:g}, better", f"+{top}, worse", label)
    return style.scale(style.SHADES[:5], "0", top, label)


def _visible(piece: str) -> str:
    """A token's text; one that is only part of a character, or a line's end, is marked."""
    return html.escape(piece).replace("\n", "⏎\n") or "·"


def _tooltip(scores: TokenScores, i: int) -> str:
    def guesses(top: list[tuple[str, float]]) -> str:
        return ", ".join(f"{token!r} {chance:.0%}" for token, chance in top)

    return (
        f"{scores.pieces[i + 1]!r}\nKL {scores.kl[i]:.3f} nats\n"
        f"loss {scores.nll_reference[i]:.2f} → {scores.nll_candidate[i]:.2f} nats\n"
        f"reference expected {guesses(scores.top_reference[i])}\n"
        f"quantized expected {guesses(scores.top_candidate[i])}"
    )
