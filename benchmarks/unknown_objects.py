"""What the demo's model says of things that it has never seen, and whether it is right as often as it is sure.

    rein demo
    python benchmarks/unknown_objects.py --demo rein-demo

Writes generated streets with strange things on the road, in daylight, at night and in fog, and scores them against
chance; fits a temperature on fair weather, and scores calibration in all weathers before and after. Also time and peak
memory of `rein eval` alone, with `--calibration`, and with `--anomaly` on as many images of the same size.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from reincli.generated.strange import write_strange

DOMAINS = ("clear", "night", "fog")


def main() -> None:
    """Generate, evaluate, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--demo", type=Path, default=Path("rein-demo"), help="folder of `rein demo`")
    parser.add_argument("--out", type=Path, default=Path("unknown-objects"), help="where everything goes")
    parser.add_argument("--count", type=int, default=20, help="streets a domain")
    chosen = parser.parse_args()
    out, demo = chosen.out, chosen.demo
    for domain in DOMAINS:
        write_strange(out / f"strange_{domain}", chosen.count, domain=domain)
    head = out / "last.pth"
    shutil.copyfile(demo / "work_dirs" / "demo" / "last.pth", head)
    common = ["--device", "cpu", "--precision", "fp32", "--data-root", demo / "data",
              "--backbone", demo / "checkpoints" / "mini_converted.pth"]  # fmt: skip
    size = ("--size", "256x128")  # the demo's test size
    strange = [word for domain in DOMAINS for word in ("--anomaly", out / f"strange_{domain}")]
    rows = {
        "eval": rein("eval", head, *common),
        "eval --calibration": rein("eval", head, "--calibration", "--json", out / "before.json",
                                   "--report", out / "before.html", *common),
        "eval --anomaly": rein("eval", head, *strange, *size, "--json", out / "unknown.json",
                               "--report", out / "unknown.html", *common),
    }  # fmt: skip
    rein("calibrate", head, "--data", "cityscapes:val", *common)
    rein("eval", head, "--calibration", "--json", out / "after.json", *common)
    before, after = (read(out / f"{name}.json")["domains"] for name in ("before", "after"))
    images = {"eval --anomaly": chosen.count * len(DOMAINS)}
    scored = sum(each["images"] for each in before.values())
    for name, (seconds, peak) in rows.items():
        print(f"{name:20} {images.get(name, scored):4} images  {seconds:6.1f} s  {peak:5.2f} GiB")
    print("\nECE %, temperature 1 and as fitted on fair weather:")
    for name, each in before.items():
        print(f"{name:12} {each['calibration']['ECE']:6.2f} {after[name]['calibration']['ECE']:6.2f}")


def rein(*words: object) -> tuple[float, float]:
    """Run a command in a process of its own; (seconds, peak GiB)."""
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "reincli", *map(str, words)])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(os.waitstatus_to_exitcode(status))
    return time.perf_counter() - begun, usage.ru_maxrss / 2**20  # Linux tells KiB


def read(path: Path) -> dict[str, Any]:
    """What `rein eval --json` wrote."""
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


if __name__ == "__main__":
    main()
