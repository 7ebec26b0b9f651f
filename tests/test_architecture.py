"""Imports run downwards through the rooms of the package.

    cli -> commands -> bench | training -> prediction -> engine -> model | data | generated -> media -> ops
           commands -> prepare -> data

Config, settings_files, toml_files and errors are leaves. `pytest -s tests/test_architecture.py` prints
the rooms as a table.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import reincli.errors

PACKAGE = Path(reincli.errors.__file__).parent
LEAVES = {"config", "settings_files", "toml_files", "errors"}
ROOMS: dict[str, set[str]] = {
    "__main__": {"cli"},
    "cli": {"commands", "__init__"},
    "commands": {"bench", "training", "prepare"},
    "bench": {"training", "prediction"},  # it times the step that `rein train` takes; training knows no clock
    "training": {"prediction"},
    "prediction": {"engine"},
    "engine": {"model", "data", "generated"},
    "prepare": {"data"},
    "__init__": {"prediction"},
    "model": {"media"},
    "data": {"media"},
    "generated": {"media"},
    "media": {"ops"},
    "ops": set(),
}
"""Room -> rooms right below it, from the door to the ground; what lies below these may be imported as well."""
OWN_LEAVES: dict[str, set[str]] = {
    "errors": set(),
    "config": {"errors"},
    "settings_files": {"config", "toml_files", "errors"},
    "toml_files": {"errors"},
    "ops": set(),
}
"""The leaves that a leaf or a bare room may import; every other room may import them all."""
NUMERICAL = {"numpy", "cv2", "scipy", "torch", "triton", "xformers"}
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


def rooms_below(here: str) -> set[str]:
    """Every room that lies below one, at any depth."""
    nearest = ROOMS.get(here, set())
    return nearest.union(*(rooms_below(name) for name in nearest))


def may_import(here: str) -> set[str]:
    """Rooms and leaves that a room may import; its own modules it may always."""
    return {here} | rooms_below(here) | OWN_LEAVES.get(here, LEAVES)


def table() -> str:
    """The rooms with their files (empty ones not counted), lines, and the rooms that each imports."""
    rows = [("room", "files", "lines", "imports")]
    total_files = total_lines = 0
    for here in [*ROOMS, *sorted(LEAVES)]:
        own = [module for module in MODULES if room(module) == here]
        lines = [len(MODULES[module].read_text("utf-8").splitlines()) for module in own]
        files = sum(count > 0 for count in lines)
        there = {room(name) for module in own for name in own_imports(module)} - {here}
        rows.append((here, str(files), str(sum(lines)), " ".join(sorted(there))))
        total_files, total_lines = total_files + files, total_lines + sum(lines)
    rows.append(("together", str(total_files), str(total_lines), ""))
    return "\n".join(
        f"{name:14} {files:>5} {lines:>6}  {there}".rstrip() for name, files, lines, there in rows
    )


def test_every_room_is_known():
    assert {room(module) for module in MODULES} <= {*ROOMS, *LEAVES}


def test_the_rooms_make_a_table():
    print(f"\n{table()}")
    assert table().count("\n") == len(ROOMS) + len(LEAVES) + 1


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downwards(module):
    allowed = may_import(room(module))
    for name in own_imports(module):
        assert room(name) in allowed, f"{module} imports {name}"


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


@pytest.mark.parametrize("module", [m for m in MODULES if room(m) in rooms_below("commands")])
def test_only_commands_know_the_terminal(module):
    assert not foreign_imports(module) & TERMINAL
    called = {
        node.func.id
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & {"print", "input", "exit"}


@pytest.mark.parametrize(
    "module", [m for m in MODULES if room(m) in rooms_below("prepare") | {"prepare", "generated"}]
)
def test_data_and_media_need_no_model_library(module):
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


@pytest.mark.parametrize(
    "module",
    [each for each in MODULES if room(each) in ("data", "engine", "model", "prediction", "training")],
)
def test_pools_of_threads_before_loader_processes_wait_for_their_threads(module):
    """`media.workers.Threads`: a process that is forked while a thread ends may wait for ever."""
    assert "ThreadPoolExecutor" not in MODULES[module].read_text("utf-8")
