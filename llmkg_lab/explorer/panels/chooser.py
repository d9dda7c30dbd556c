"""Which model: the panel at the top."""

import html

import ipywidgets as widgets

from llmkg_lab.base.progress import Step
from llmkg_lab.explorer.bench import Bench
from llmkg_lab.explorer.bench.jobs import Job
from llmkg_lab.explorer.panels.base import Panel, primary, row
from llmkg_lab.explorer.questions.session import Session, choices
from llmkg_lab.explorer.view import style


class Chooser(Panel):
    """Which model is explored, and what it is."""

    title = "Trade-off explorer"
    note = (
        "What does each bit of a small language model cost? Every figure below is of the model "
        "chosen here; what was measured once is there at once the next time."
    )

    def __init__(self, bench: Bench, variant: str, source: str) -> None:
        super().__init__(bench)
        options = choices()
        if (variant, source) not in options.values():
            options = {f"{variant} · {source or 'first source'}": (variant, source), **options}
        self.menu = widgets.Dropdown(
            options=options,
            value=(variant, source),
            description="Model",
            layout={"width": "min(440px, 100%)"},
        )
        self.button = primary("Open", "folder-open", "110px")
        self.button.on_click(lambda _: self.choose())
        self.facts = widgets.HTML()
        self.fill(row(self.menu, self.button), self.facts)
        self.state.observe(lambda _: self._show(), "session")

    def choose(self) -> Job:
        """Open what the menu names, then look for its sensitivities."""
        variant, source = self.menu.value

        def work(job: Job) -> None:
            job.progress(Step(f"opening {variant}"))
            self.state.open(Session(variant, source, job.progress))

        self.bench.opening = self.bar.start(f"opening {variant}", work)
        return self.bench.opening

    def _show(self) -> None:
        self.facts.value = self.static()

    def static(self) -> str:
        session = self.state.session
        if session is None:
            return ""
        form = session.checkpoint.form
        items = [
            (f"{session.parameters / 1e6:,.1f}", "M", "parameters"),
            (str(form.layers), "", "layers"),
            (str(form.hidden), "", "hidden size"),
            (f"{form.vocab:,}", "", "vocabulary"),
        ]
        facts = f'<p class="lab-note"><b>{html.escape(session.title)}</b> · '
        facts += f"{html.escape(session.fetched.detail)}</p>{style.numbers(items)}"
        if session.is_synthetic:
            facts = (
                style.warning("Random weights: sizes are real, quality figures mean nothing.")
                + facts
            )
        return facts
