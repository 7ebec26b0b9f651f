"""Runs commands of `rein` in forked children, for trials that end badly: `python server.py`, requests on stdin.

PyTorch is imported once; a child then starts in a moment. A child can be told to kill itself at its Nth change of a
file, and what it may write or keep in memory can be limited. It is used through `faults_harness`.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import torch

import reincli.cli
from reincli.commands import (  # noqa: F401  # imported before the children are forked
    bench,
    calibrate,
    compare,
    convert_weights,
    evaluate,
    export,
    prepare_data,
    train,
    visualize,
)

CHANGES = {
    "os.rename",
    "os.link",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "shutil.rmtree",
    "os.truncate",
    "os.symlink",
}


def begin(request: dict[str, Any], folder: str) -> None:
    """Be the child: never returns."""
    code = 99
    try:
        os.setsid()
        os.chdir(request["cwd"])
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout = open(1, "w", buffering=1, closefd=False, encoding="utf-8")  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, closefd=False, encoding="utf-8", errors="replace")  # noqa: SIM115
        if request.get("watch"):
            number = request.get("signal", signal.SIGKILL)
            sys.addaudithook(Watch(request["watch"], request.get("kill_at"), number, f"{folder}/events"))
        for name in ("FSIZE", "AS"):
            if request.get(name):
                resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (request[name], request[name]))
        sys.argv = ["rein", *request["words"]]
        try:
            reincli.cli.main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


class Watch:
    """Counts changes of files below a folder, notes them, and signals its process at one of them."""

    def __init__(self, folder: str, kill_at: int | None, number: int, notes: str) -> None:
        self.folder, self.kill_at, self.number = folder, kill_at, number
        self.count, self.me = 0, os.getpid()
        self.notes = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if os.getpid() != self.me or (event != "open" and event not in CHANGES):
            return
        if event == "open":
            mode, flags = args[1], args[2]
            writes = isinstance(mode, str) and any(c in mode for c in "wax+")
            if not writes and not (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
                return
        try:
            path = os.path.abspath(os.fsdecode(args[0]))
        except TypeError:
            return
        if path != self.folder and not path.startswith(self.folder + "/"):
            return
        self.count += 1
        os.write(self.notes, f"{event} {path}\n".encode())
        if self.count == self.kill_at:
            os.kill(self.me, self.number)


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Fork a child, wait for it, and tell what it said."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.monotonic()
        child = os.fork()
        if not child:
            begin(request, folder)
        code: int | str = "timeout"
        sent = False
        while time.monotonic() - begun < request["timeout"]:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                code = os.waitstatus_to_exitcode(status)
                break
            if (
                request.get("kill_after") is not None
                and not sent
                and time.monotonic() - begun > request["kill_after"]
            ):
                os.kill(child, request.get("signal", signal.SIGKILL))
                sent = True
            time.sleep(0.005)
        else:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
        texts = {
            name: path.read_text("utf-8", "replace") if (path := Path(folder, name)).exists() else ""
            for name in ("out", "err", "events")
        }
        return {"code": code, "seconds": time.monotonic() - begun, **texts}


if __name__ == "__main__":
    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        answers.write(json.dumps(run(json.loads(line))) + "\n")
        answers.flush()
