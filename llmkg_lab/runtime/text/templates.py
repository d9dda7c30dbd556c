"""Render a chat template: a program of ``base.bounded``, which runs it alone.

A template is a Jinja program that comes with a checkpoint, from a stranger. It runs in Jinja's
sandbox, where it reaches no internals of Python and changes nothing that it is given; how long and
how large it may get only the process around it can bound. It finds there what transformers offers
templates.
"""

import json
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.utils import Namespace

LONGEST = 16 << 20  # characters of a prompt; the longest contexts take fewer


def answer(request: bytes) -> bytes:
    """Render [template, variables] to a prompt, both as JSON."""
    source, variables = json.loads(request)
    prompt = _compiled(source).render(variables)
    if len(prompt) > LONGEST:
        raise TemplateError(f"it makes a prompt of {len(prompt):,} characters")
    return json.dumps(prompt).encode()


@lru_cache
def _compiled(source: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.globals |= {
        "dict": _Dict(),  # the type itself would be one step nearer to Python's internals
        "namespace": _namespace,
        "raise_exception": _refuse,
        "strftime_now": _now,
    }
    environment.filters["tojson"] = _json
    return environment.from_string(source)


class _Generation(Extension):
    """The tag around what the model itself wrote, a mark for training: its body is rendered."""

    tags = {"generation"}  # noqa: RUF012  (Jinja's own declaration)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), True), lineno=line)


class _Dict:
    """What a template may do with the name ``dict``."""

    def __call__(self, *pairs: Any, **named: object) -> dict:
        return dict(*pairs, **named)

    def fromkeys(self, *arguments: Any) -> dict:
        """Return a dictionary of these keys with one value."""
        return dict.fromkeys(*arguments)


class _Plain(Namespace):
    """A namespace for what a template names: no names that mean something to Python."""

    def __setitem__(self, name: str, value: object) -> None:
        if name.startswith("_"):
            raise SecurityError(f"the name {name!r} begins with an underscore")
        super().__setitem__(name, value)


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
