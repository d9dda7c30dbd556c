"""What a piece of code imports of this package, read from its source and nothing of it run."""

import ast
from collections.abc import Iterator
from pathlib import Path

import llmkg_lab

PACKAGE = Path(llmkg_lab.__file__).parent


def behind(source: str) -> set[Path]:
    """The package's files that ``source`` imports, lazily or not, and all that these import."""
    found: set[Path] = set()
    waiting = list(imported(source))
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += imported(path.read_text())
    return found


def imported(source: str) -> Iterator[Path]:
    """The package's files that ``source`` itself imports, those of the packages around included."""
    for module in _modules(ast.parse(source)):
        parts = module.split(".")
        if parts[0] == PACKAGE.name:
            for end in range(1, len(parts) + 1):
                yield from file_of(".".join(parts[:end]))


def file_of(module: str) -> list[Path]:
    """The file of a module, none where the name is not a module's."""
    place = PACKAGE.parent.joinpath(*module.split("."))
    choices = (place / "__init__.py", place.with_suffix(".py"))
    return [path for path in choices if path.is_file()][:1]


def _modules(node: ast.AST) -> Iterator[str]:
    """Names that may be modules; what only type checkers import is left out."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    if isinstance(node, ast.Import):
        yield from (name.name for name in node.names)
    if isinstance(node, ast.ImportFrom) and node.module:
        yield from (f"{node.module}.{name.name}" for name in node.names)
    for child in ast.iter_child_nodes(node):
        yield from _modules(child)
