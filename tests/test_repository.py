"""The checks of a host, and those before a commit, are those of `.ci/run`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

SOURCE = Path(__file__).parents[1]


def read_yaml(name: str) -> Any:
    return yaml.safe_load((SOURCE / name).read_text("utf-8"))


def checks() -> list[str]:
    """The lines of `.ci/run`."""
    return (SOURCE / ".ci" / "run").read_text("utf-8").splitlines()


def test_what_runs_before_a_commit_runs_before_a_change_is_taken():
    (repository,) = read_yaml(".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    entries = [hook["entry"] for hook in repository["hooks"]]
    assert entries == ["ruff check .", "ruff format --check .", "mypy"]
    assert set(entries) <= set(checks())
    assert not any(hook["pass_filenames"] for hook in repository["hooks"])


def test_a_host_runs_the_checks_on_linux_and_the_fast_tests_elsewhere():
    jobs = read_yaml(".github/workflows/ci.yml")["jobs"]
    assert jobs["checks"]["runs-on"] == "ubuntu-latest"
    assert ".ci/run" in [step.get("run") for step in jobs["checks"]["steps"]]
    elsewhere = jobs["elsewhere"]
    assert elsewhere["strategy"]["matrix"]["os"] == ["windows-latest", "macos-latest"]
    commands = [step["run"] for step in elsewhere["steps"] if "run" in step]
    assert commands[0].startswith("python -m pip install -c constraints.txt")
    assert "import reincli" in commands[1]
    assert commands[-1] == "pytest -n 2"
    assert f"OMP_NUM_THREADS=1 {commands[-1]}" in checks()
