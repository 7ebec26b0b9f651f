"""The notebook runs from top to bottom, its cells one after the other in one namespace, as Jupyter runs them."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "demo.ipynb"


def cells() -> list[str]:
    content = json.loads(NOTEBOOK.read_text("utf-8"))
    return ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"]


def run_cell(source: str, namespace: dict[str, Any], name: str) -> Any:
    """Run a cell; its last expression is its value, as in a notebook."""
    tree = ast.parse(source, name)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), namespace)
    if last is None:
        return None
    return eval(compile(ast.Expression(last.value), name, "eval"), namespace)


def test_is_kept_without_outputs():
    content = json.loads(NOTEBOOK.read_text("utf-8"))
    assert content["nbformat"] == 4
    for cell in content["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
    for source in cells():
        ast.parse(source)


@pytest.mark.slow
def test_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    values = []
    for number, source in enumerate(cells()):
        if number == 0:
            source = source.replace("STEPS = 60", "STEPS = 6")
        values.append(run_cell(source, namespace, f"cell {number}"))
    names, scores = values[1], values[7]
    assert "road" in names
    assert set(scores) == {"cityscapes", "night", "fog", "rain", "snow"}
    assert [value.mode for value in values[4:7]] == ["RGB"] * 3  # three pictures
    first, last = (float(number) for number in values[8].split(" -> "))
    assert last < first - 0.02  # the adapters learn
    frozen = namespace["refined"].body.parameters()
    assert all(parameter.grad is None for parameter in frozen)
