"""No circles: no file reaches itself by a chain of imports, and no two rooms know each other.

What .importlinter states about floors is checked by `make lint`; it does not look within a floor.
"""

import sys

import pytest

grimp = pytest.importorskip("grimp", reason="it comes with the tools of `make lint`")


def circles(modules, imports):
    """The groups of modules that reach each other, by Tarjan's algorithm; modules alone left out.

    imports: a module -> the modules that it imports.
    """
    order, lowest, stack, found = {}, {}, [], []

    def visit(module):
        order[module] = lowest[module] = len(order)
        stack.append(module)
        for other in imports(module):
            if other not in order:
                visit(other)
            if other in stack:
                lowest[module] = min(lowest[module], lowest[other])
        if lowest[module] == order[module]:
            group = set(stack[stack.index(module) :])
            del stack[stack.index(module) :]
            if len(group) > 1:
                found.append(sorted(group))

    for module in sorted(modules):
        if module not in order:
            visit(module)
    return found


def circles_by_file(graph):
    return circles(graph.modules, graph.find_modules_directly_imported_by)


def circles_by_room(graph, package):
    """Circles among the children of a package, each with all that lies in it."""
    children = graph.find_children(package)

    def imports(child):
        inside = {child, *graph.find_descendants(child)}
        reached = set().union(*map(graph.find_modules_directly_imported_by, inside)) - inside
        return {other for other in children for module in reached if is_in(module, other)}

    return circles(children, imports)


def is_in(module, package):
    return module == package or module.startswith(f"{package}.")


@pytest.fixture(scope="module")
def graph():
    """All imports of the package, those within functions and those for types alone among them."""
    return grimp.build_graph("llmkg_lab", cache_dir=None)


def test_no_file_reaches_itself(graph):
    assert len(graph.modules) > 100
    assert circles_by_file(graph) == []


def test_no_rooms_know_each_other(graph):
    packages = [module for module in graph.modules if graph.find_children(module)]
    assert len(packages) > 15
    found = {package: circles_by_room(graph, package) for package in packages}
    assert {package: groups for package, groups in found.items() if groups} == {}


def test_circles_are_found_wherever_an_import_hides(tmp_path, monkeypatch):
    """In a function, under TYPE_CHECKING, through a third file; or only between two rooms."""
    files = {
        "hall/__init__.py": "",
        "hall/a.py": "def f():\n    from hall import b\n",
        "hall/b.py": "from typing import TYPE_CHECKING as T\nif T:\n    from hall.c import x\n",
        "hall/c.py": "from hall.a import f\n",
        "hall/east/__init__.py": "",
        "hall/east/one.py": "import hall.west.one\n",
        "hall/east/two.py": "",
        "hall/west/__init__.py": "",
        "hall/west/one.py": "",
        "hall/west/two.py": "from hall.east import two\n",
    }
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    graph = grimp.build_graph("hall", cache_dir=None)
    assert "hall" not in sys.modules  # read, not imported
    assert circles_by_file(graph) == [["hall.a", "hall.b", "hall.c"]]
    rooms = [["hall.a", "hall.b", "hall.c"], ["hall.east", "hall.west"]]
    assert sorted(circles_by_room(graph, "hall")) == rooms
