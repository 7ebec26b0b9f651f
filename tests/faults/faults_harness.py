"""Trials that end badly: commands in children that are killed or limited, compared with ones left in peace."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

ENDS = {"seconds", "images", "waiting", "memory", "seconds_per_image", "time", "checkpoint"}
"""What a log line says of this very process, and not of the run."""


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code (negative: the signal), texts, seconds, and changes of watched files."""

    code: int | str
    out: str
    err: str
    seconds: float
    events: list[str]

    @property
    def is_told(self) -> bool:
        """No traceback, and where it failed, a sentence: ours, or Typer's in a box."""
        said = self.out + self.err
        told = "error: " in said or "─ Error ─" in said
        return "Traceback" not in said and self.code != "timeout" and (self.code == 0 or told)


class Commands:
    """Starts commands in children of one server."""

    def __init__(self) -> None:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
            "NO_COLOR": "1",
            "TERM": "dumb",
        }
        self.server = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("server.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip

    def run(self, words: list[object], cwd: Path, *, timeout: float = 600.0, **options: Any) -> Ended:
        """Run `rein WORDS`; `watch`, `kill_at`, `kill_after`, `signal`, `FSIZE`, `AS` as `server` has them."""
        request = {"words": [str(word) for word in words], "cwd": str(cwd), "timeout": timeout, **options}
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        answer = json.loads(self.server.stdout.readline())
        events = answer["events"].splitlines()
        return Ended(answer["code"], answer["out"], answer["err"], answer["seconds"], events)

    def close(self) -> None:
        """End the server."""
        assert self.server.stdin is not None
        self.server.stdin.close()
        self.server.wait(30)


def outcome_of_run(folder: Path) -> dict[str, Any]:
    """All of a run that is the same however often it was interrupted."""
    content = torch.load(folder / "last.pth", weights_only=True)
    best = (
        torch.load(folder / "best.pth", weights_only=True)["meta"]["iter"]
        if (folder / "best.pth").exists()
        else 0
    )
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {
        "weights": {name: value.numpy().tobytes() for name, value in content["state_dict"].items()},
        "iteration": content["meta"]["iter"],
        "best": (best, json.loads((folder / "best.json").read_text())),
        "log": [json.dumps({k: v for k, v in e.items() if k not in ENDS}, sort_keys=True) for e in lines],
        "left": sorted(path.name for path in folder.rglob(".*")),
        "files": sorted(path.name for path in folder.iterdir()),
    }


def outcome_of_files(folder: Path) -> dict[str, Any]:
    """Every file below a folder; of JSON and pages nothing that tells of time, and of tensors their values."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name, text = str(path.relative_to(folder)), ""
        if path.is_dir():
            continue
        if path.suffix in (".json", ".html"):
            # how deep the folder lies shows in a page's links
            said = path.read_text("utf-8").replace(str(folder), "")  # and it itself in counts of classes
            text = re.sub(r'(\.\./)+|"(seconds|time)[^,}]*|\d+(\.\d+)? ?s\b', "", said)
        found[name] = text or hashlib.sha256(path.read_bytes()).hexdigest()
    return found
