"""No module of the product imports itself through others; imports inside of functions count too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("machines", "roms", "rescuesite")


def imported(tree: ast.AST) -> Iterator[str]:
    """The names that a module imports when it runs; not those that are for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        yield from imported(node)


def graph() -> dict[str, set[str]]:
    """Each module, and those that it imports. A package's `__init__` that only hands names on counts as they do."""
    files = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for one in PACKAGES
             for path in (ROOT / one).rglob("*.py") if "migrations" not in path.parts}  # fmt: skip
    modules = {name.removesuffix(".__init__"): path for path, name in files.items()}
    found: dict[str, set[str]] = {}
    for module, path in modules.items():
        names = imported(ast.parse(path.read_text()))
        found[module] = {target for name in names if (target := _module(name, modules)) and target != module}
    return found


def _module(name: str, modules: dict[str, Path]) -> str | None:
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name or None


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Modules that reach each other: Tarjan's strongly connected components of more than one."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in edges[module]:
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            members = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(members) > 1:
                found.append(sorted(members))

    for module in edges:
        if module not in index:
            visit(module)
    return found


def test_no_module_imports_itself_through_others() -> None:
    assert circles(graph()) == []


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
