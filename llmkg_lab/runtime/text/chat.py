"""Chat templates: a conversation, written down as the model was taught to read it.

A template is a Jinja program that comes with a checkpoint, from a stranger. It runs in Jinja's
sandbox, where it reaches no internals of Python and changes nothing that it is given. It finds
there what transformers offers templates; that package itself takes seconds to import.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.utils import Namespace

from llmkg_lab.runtime import InferenceError


def render(template: str, messages: Sequence[Mapping[str, str]], **variables: object) -> str:
    """Return the prompt that ``template`` makes of ``messages``.

    Args:
        variables: What the template may read beside the messages, such as special tokens.

    Raises:
        InferenceError: The template is broken, or it refuses the messages.
    """
    # a template may ask whether there are tools or documents: there are none
    given = {"messages": list(messages), "tools": None, "documents": None, **variables}
    try:
        return _environment().from_string(template).render(given)
    except (TemplateError, TypeError, ValueError) as error:
        raise InferenceError(
            f"the chat template refuses these messages: {error}",
            "give messages with a role (system, user, assistant, in turns) and a content",
        ) from error


class _Generation(Extension):
    """The tag around what the model itself wrote, a mark for training: its body is rendered."""

    tags = {"generation"}  # noqa: RUF012  (Jinja's own declaration)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), True), lineno=line)


class _Plain(Namespace):
    """A namespace for what a template names: no names that mean something to Python."""

    def __setitem__(self, name: str, value: object) -> None:
        if name.startswith("_"):
            raise SecurityError(f"the name {name!r} begins with an underscore")
        super().__setitem__(name, value)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.globals |= {
        "dict": _dict,  # the type itself would be one step nearer to Python's internals
        "namespace": _namespace,
        "raise_exception": _refuse,
        "strftime_now": _now,
    }
    environment.filters["tojson"] = _json
    return environment


def _dict(*pairs: Any, **named: object) -> dict:
    return dict(*pairs, **named)


def _namespace(*pairs: Any, **named: object) -> _Plain:
    namespace = _Plain()
    for name, value in dict(*pairs, **named).items():
        namespace[name] = value
    return namespace


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _json(value: object, **options: Any) -> str:
    """JSON as it is, where Jinja's own filter escapes it for HTML."""
    return json.dumps(value, ensure_ascii=options.pop("ensure_ascii", False), **options)
