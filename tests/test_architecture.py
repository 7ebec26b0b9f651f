"""Imports run downwards: cli -> commands -> engine -> model | data -> ops; config and errors are leaves."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import reincli.errors

PACKAGE = Path(reincli.errors.__file__).parent
LEAVES = {"config", "settings_files", "errors"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "config": {"errors"},
    "settings_files": {"config", "errors"},
    "ops": set(),
    "data": {"ops", *LEAVES},
    "model": {"ops", *LEAVES},
    "engine": {"model", "data", "ops", *LEAVES},
    "commands": {"engine", "model", "data", "ops", *LEAVES},
    "options": set(),
    "cli": {"commands", "options", "__init__", *LEAVES},
    "__main__": {"cli"},
    "__init__": {"engine", "model", "data", *LEAVES},
}
"""Room -> rooms it may import; every room may import itself."""
NUMERICAL = {"numpy", "cv2", "scipy", "torch", "triton"}
TERMINAL = {"rich", "typer"}

MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text("utf-8"))


def imports(module: str) -> set[str]:
    """Full names of what a module imports, also within functions; `from a import b` is a.b where that is a module."""
    names: set[str] = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively: write the full name"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                names.add(full if full in MODULES else str(node.module))
    return names


def own_imports(module: str) -> set[str]:
    return {name for name in imports(module) if name.split(".")[0] == "reincli"}


def foreign_imports(module: str) -> set[str]:
    return {name.split(".")[0] for name in imports(module)} - {"reincli"}


def test_every_room_is_known():
    assert {room(module) for module in MODULES} <= set(MAY_IMPORT)


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downwards(module):
    here = room(module)
    for name in own_imports(module):
        there = room(name)
        assert there == here or there in MAY_IMPORT[here], f"{module} imports {name}"


def test_no_module_imports_itself_in_a_circle():
    """Depth first through the imports; a module met again on the way down closes a circle."""
    finished: set[str] = set()

    def visit(module: str, way: list[str]) -> None:
        assert module not in way, " -> ".join([*way[way.index(module) :], module])
        if module in finished or module not in MODULES:
            return
        for name in own_imports(module) - {"reincli"}:
            visit(name, [*way, module])
        finished.add(module)

    for module in MODULES:
        visit(module, [])


@pytest.mark.parametrize("module", [m for m in MODULES if room(m) == "ops"])
def test_ops_know_numerical_libraries_alone(module):
    import sys

    assert foreign_imports(module) <= NUMERICAL | set(sys.stdlib_module_names)


@pytest.mark.parametrize("module", [m for m in MODULES if room(m) in ("ops", "data", "model", "engine")])
def test_only_commands_know_the_terminal(module):
    assert not foreign_imports(module) & TERMINAL
    called = {
        node.func.id
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & {"print", "input", "exit"}


@pytest.mark.parametrize("module", [m for m in MODULES if room(m) == "data"])
def test_data_needs_no_model_library(module):
    assert not foreign_imports(module) & {"timm", "torchvision", "safetensors"}


@pytest.mark.parametrize("module", MODULES)
def test_every_module_and_public_name_is_explained(module):
    if MODULES[module].name == "__init__.py" and not MODULES[module].read_text().strip():
        return
    root = tree(module)
    assert ast.get_docstring(root), f"{module} has no docstring"
    for node in root.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{module}.{node.name} has no docstring"
            if isinstance(node, ast.FunctionDef):
                assert node.returns is not None, f"{module}.{node.name} does not say what it returns"


@pytest.mark.parametrize("module", MODULES)
def test_no_state_at_module_level(module):
    """Nothing rebinds a global, and no empty container waits at module level to be filled."""
    root = tree(module)
    assert not [node for node in ast.walk(root) if isinstance(node, ast.Global)]
    for node in root.body:
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        empty = isinstance(value, ast.Dict | ast.List) and not (
            getattr(value, "keys", None) or getattr(value, "elts", None)
        )
        assert not empty, f"{module}, line {node.lineno}: an empty container at module level"
