"""Two artifacts continue the same prompt, a piece each in turn."""

from collections.abc import Iterator
from dataclasses import dataclass

from llmkg_lab.base.progress import Counter, Progress, silent
from llmkg_lab.explorer.questions.session import ExplorerError, Session
from llmkg_lab.runtime.text.generate import GenerationConfig, generate_text


@dataclass
class Duel:
    """What both have written so far."""

    left: str = ""
    right: str = ""

    @property
    def common(self) -> int:
        """Characters until the first difference; all of them while one side only lags behind."""
        both = zip(self.left, self.right, strict=False)
        longest = max(len(self.left), len(self.right))
        return next((i for i, (a, b) in enumerate(both) if a != b), longest)


def fight(
    session: Session,
    schemes: tuple[str, str],
    prompt: str,
    config: GenerationConfig,
    *,
    chat: bool = False,
    progress: Progress = silent,
) -> Iterator[Duel]:
    """Continue ``prompt`` with two schemes' artifacts, the same sampling and seed for both.

    chat: the prompt is a user's message, put into the model's chat template.
    Yields the same Duel each time that it has grown. Raises ExplorerError, InferenceError.
    """
    if schemes[0] == schemes[1]:
        raise ExplorerError(f"both sides are {schemes[0]}", "choose two schemes")
    if not prompt.strip():
        raise ExplorerError("there is no prompt", "write one")
    message = [{"role": "user", "content": prompt}] if chat else prompt
    sides = {
        side: generate_text(session.decoder(scheme, progress), session.tokenizer, message, config)
        for side, scheme in zip(("left", "right"), schemes, strict=True)
    }
    duel, written = Duel(), Counter(progress, "generating", "pieces", 2 * config.max_tokens)
    while sides:
        for side, stream in list(sides.items()):
            piece = next(stream, None)
            if piece is None:
                del sides[side]
                continue
            setattr(duel, side, getattr(duel, side) + piece)
            written.advance()
            yield duel
