"""Running `rein` as a user does, within this process."""

from __future__ import annotations

import threading

from typer.testing import CliRunner, Result

from reincli.cli import app

POOLS = ("ThreadPoolExecutor", "(fetch)")
"""In the names of threads of pools and of `prediction.stream`; libraries have threads of their own, for good."""


def rein(*words: object, code: int | None = 0) -> Result:
    """Run a command; its result with stdout and stderr apart.

    Args:
        words: what is typed behind `rein`.
        code: the exit code that it must end with; None: any, and an exception stays in the result.
    """
    before = set(threading.enumerate())
    result = CliRunner().invoke(app, [str(word) for word in words])
    # the result still holds the exception, and its traceback every variable: no thread may hang on those
    left = [
        each.name for each in set(threading.enumerate()) - before if any(name in each.name for name in POOLS)
    ]
    assert not left, left
    if code is None:
        return result
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def told(*words: object, code: int = 0) -> str:
    """Run a command; all it printed, as one line."""
    return " ".join(rein(*words, code=code).output.split())
