"""The command that holds a conversation."""

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from llmkg_lab.base.errors import LabError
from llmkg_lab.cli import console
from llmkg_lab.cli.application import Runtime, app, examples
from llmkg_lab.cli.wrapped import Wrapped

if TYPE_CHECKING:
    from llmkg_lab.cli.conversation import History, Partner

TOKEN = "LLMKG_LAB_TOKEN"
HELP = """/reset        forget what was said
/model        which model answers, and which others there are
/model NAME   let another one answer
/system TEXT  what the model is told before everything else
/exit         end, as Ctrl-D does; Ctrl-C ends an answer"""


@app.command(
    epilog=examples(
        "chat smollm2/balanced", "chat http://127.0.0.1:8000 --model smollm2_135m_instruct"
    )
)
def chat(
    target: Annotated[
        str, typer.Argument(metavar="ARTIFACT_OR_URL", help="An artifact, or a server's address.")
    ],
    model: Annotated[str, typer.Option(help="Of a server; by default its first.")] = "",
    system: Annotated[str, typer.Option(help="What the model is told before all else.")] = "",
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.7,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest that reach p.")] = 0.95,
    max_tokens: Annotated[int, typer.Option(help="Of an answer at most.")] = 1024,
    seed: Annotated[int | None, typer.Option(help="The same seed, the same answers.")] = None,
    runtime: Runtime = None,
) -> None:
    """Talk with a model: it answers as it goes, and remembers what fits its context.

    /help lists the commands. A server's token is taken from LLMKG_LAB_TOKEN.
    """
    from llmkg_lab.cli.conversation import Artifact, History, Partner, Server
    from llmkg_lab.runtime.text.generate import GenerationConfig

    # LLMKG's penalty of repetition, 1.1, counts every word of the conversation: after some turns a
    # small model is left with words that it would not have said
    config = GenerationConfig(temperature, 50, top_p, 1.0, max_tokens, seed)
    partner: Partner
    if target.startswith(("http://", "https://")):
        partner = Server(target, config, model, os.environ.get(TOKEN, ""))
    else:
        partner = Artifact(target, config, runtime)
    with contextlib.closing(partner):
        _tell(f"{partner.name} answers; /help lists the commands")
        _talk(partner, History(system))


def _talk(partner: "Partner", history: "History") -> None:
    for line in _lines():
        try:
            if not line.startswith("/"):
                _answer(line, partner, history)
            elif not _command(line, partner, history):
                return
        except LabError as error:
            console.print_error(error)


def _lines() -> Iterator[str]:
    """What is typed, without empty lines, until Ctrl-D; or the lines of a pipe."""
    asks = sys.stdin.isatty()
    if asks:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (arrow keys, and what was typed before)
    while True:
        try:
            line = input("> " if asks else "").strip()
        except EOFError:
            if asks:
                print()
            return
        except KeyboardInterrupt:  # often meant for an answer that has just ended
            if not asks:
                return
            print()
            _tell("Ctrl-D or /exit ends the conversation")
            continue
        if line:
            yield line


def _answer(question: str, partner: "Partner", history: "History") -> None:
    shown, wrapped = False, Wrapped(shutil.get_terminal_size().columns)
    show: Callable[[str], str] = wrapped.push if sys.stdout.isatty() else str
    pieces = history.ask(partner, question, lambda n: _tell(f"forgot the oldest {n} messages"))
    try:
        for piece in pieces:
            print(show(piece), end="", flush=True)
            shown = shown or bool(piece)
    except KeyboardInterrupt:
        pass
    finally:
        pieces.close()  # type: ignore[attr-defined]
        print(wrapped.flush())
    if partner.speed is not None:
        console.print_speed(partner.speed, shown)
    if partner.cut:
        _tell("it was cut off there: an answer may be longer with --max-tokens")


def _command(line: str, partner: "Partner", history: "History") -> bool:
    """Do what a line says; whether to go on."""
    name, _, rest = line.partition(" ")
    rest = rest.strip()
    if name in ("/exit", "/quit"):
        return False
    if name == "/reset":
        history.reset()
        _tell("what was said is forgotten")
    elif name == "/system":
        history.system = rest
        _tell("the model is told that from now on" if rest else "the model is told nothing before")
    elif name == "/model" and rest:
        partner.change(rest)
        _tell(f"{partner.name} answers from now on")
    elif name == "/model":
        _tell(f"{partner.name} answers; there are {', '.join(partner.others()) or 'no others'}")
    else:
        _tell(HELP)
    return True


def _tell(text: str) -> None:
    console.err.print(Text(text, style="dim"), soft_wrap=True)
