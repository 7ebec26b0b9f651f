"""What `rein adapt` gains: a small model before and after, three seeds, and a control without pseudo-labels.

    python benchmarks/adaptation.py streets --out /tmp/adaptation --minutes 120
    python benchmarks/adaptation.py camvid --data /path/to/camvid --out /tmp/adaptation --minutes 120
    python benchmarks/adaptation.py summary --out /tmp/adaptation

`streets`: `rein demo`'s model, trained in clear weather, adapted to unlabelled nights of another seed, scored on
nights of a third and on what else it could lose. `camvid`: docs/camvid.toml with the plain head, trained by day,
adapted to every other dusk frame, scored on those between and on the other splits. The control is the same run at
`adapt.threshold=1`, which no pseudo-label reaches: what it gains comes from strong colours and more steps. Runs that
are done are not done again, and none is begun when the minutes are over, so the command may be given again. On one
core of a CPU a run takes about ten minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from reincli.generated.streets import write_scenes
from reincli.prepare.prepare import prepare

SOURCE = Path(__file__).parents[1]
SEEDS = (0, 1, 2)
NIGHTS, HELD_OUT = 72, 24
"""Unlabelled nights, and labelled images of each condition to be scored."""
COMMON = ("train.validate_every=100000", "data.workers=0")
"""Scored at the start and at the end."""
PLAIN = ("model.head.kind=plain", "model.head.plain.heads=4")
"""In some hundred steps the better teacher, and the cheaper one (docs/heads.md)."""
ADAPTED = {"control": ("adapt.threshold=1.0",), "adapted": ()}


def rein(*words: object) -> None:
    """One command of the program; its output is shown."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    subprocess.run([sys.executable, "-m", "reincli", *map(str, words)], check=True, env=environment)


def sets(pairs: Sequence[str]) -> list[str]:
    """Settings as options."""
    return [text for pair in pairs for text in ("--set", pair)]


class Budget:
    """Minutes for all runs together."""

    def __init__(self, minutes: float) -> None:
        self.until = time.monotonic() + 60 * minutes

    def left(self) -> bool:
        """Whether another run may begin."""
        return time.monotonic() < self.until


def finished(folder: Path) -> bool:
    """Whether a run has come to its end."""
    return (folder / "done").exists()


def once(folder: Path, budget: Budget, *words: object) -> bool:
    """Run a training into a folder unless it is done; False where there is no time left."""
    if finished(folder):
        return True
    if not budget.left():
        return False
    if (folder / "last.pth").exists():
        rein("train", "--resume", folder, "--device", "cpu")
    else:
        rein(*words, "--work-dir", folder, "--device", "cpu", "--precision", "fp32")
    (folder / "done").touch()
    return True


def streets(out: Path, seeds: Sequence[int], budget: Budget, more: Sequence[str]) -> None:
    """Generated streets: clear weather, unlabelled nights."""
    data, nights = out / "data", out / "nights"
    write_scenes(data, train=NIGHTS, val=HELD_OUT, targets=HELD_OUT, seed=2, workers=0)
    write_scenes(nights, train=0, val=0, targets=NIGHTS, seed=1, workers=0)
    for dataset in ("cityscapes", "acdc"):
        prepare(dataset, data / dataset)
    target = nights / "acdc" / "rgb_anon" / "night"
    for seed in seeds:
        base = out / f"streets_{seed}_base"
        given = ["--preset", "demo", "--data-root", data, *sets([f"train.seed={seed}", "data.workers=0"])]
        if not once(base, budget, "train", *given):
            return
        adapt(out, "streets", seed, base, target, budget, ["--set", "optim.lr=5e-4", *sets(more)])


def camvid(out: Path, source: Path, seeds: Sequence[int], budget: Budget, more: Sequence[str]) -> None:
    """CamVid: by day, unlabelled dusk."""
    root = out / "camvid"
    for kind in ("images", "labels"):
        for split in ("train_day", "val_day", "val_city"):
            link(source / kind / split, root / kind / split)
        for number, file in enumerate(sorted((source / kind / "val_dusk").iterdir())):
            part = "dusk_unlabelled" if number % 2 == 0 else "val_dusk"
            if kind == "images" or part == "val_dusk":
                link(file, root / kind / part / file.name)
    text = (SOURCE / "docs" / "camvid.toml").read_text("utf-8")
    (out / "camvid.toml").write_text(
        text.replace("[data.own.camvid]\n", f'[data.own.camvid]\nroot = "{root}"\n')
    )
    for seed in seeds:
        base = out / f"camvid_{seed}_base"
        chosen = [f"train.seed={seed}", "data.workers=0", "train.validate_every=0", *PLAIN]
        if not once(base, budget, "train", "--config", out / "camvid.toml", *sets(chosen)):
            return
        target = root / "images" / "dusk_unlabelled"
        adapt(out, "camvid", seed, base, target, budget, ["--set", "optim.lr=2.5e-4", *sets(more)])


def adapt(
    out: Path, name: str, seed: int, base: Path, target: Path, budget: Budget, options: Sequence[str]
) -> None:
    """The control and the adaptation of one seed."""
    for kind, own in ADAPTED.items():
        folder = out / f"{name}_{seed}_{kind}"
        words = ["adapt", base / "last.pth", "--target", target, *sets([*COMMON, f"train.seed={seed}"])]
        if not once(folder, budget, *words, *options, *sets(own)):
            return


def link(source: Path, target: Path) -> None:
    """A symbolic link, unless it is there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        target.symlink_to(source.resolve())


def scores(folder: Path) -> Iterator[dict[str, float]]:
    """mIoU by domain at each validation of a run."""
    for line in (folder / "log.jsonl").read_text("utf-8").splitlines():
        entry = json.loads(line)
        if entry["kind"] == "validation":
            yield {domain: each["mIoU"] for domain, each in entry["domains"].items()}


def summary(out: Path) -> None:
    """A table of mean and spread over the seeds that are done."""
    for name in ("streets", "camvid"):
        rows: dict[str, list[dict[str, float]]] = {"before": [], **{kind: [] for kind in ADAPTED}}
        for seed in SEEDS:
            folders = {kind: out / f"{name}_{seed}_{kind}" for kind in ADAPTED}
            if all(finished(folder) for folder in folders.values()):
                rows["before"].append(next(scores(folders["adapted"])))
                for kind, folder in folders.items():
                    rows[kind].append(list(scores(folder))[-1])
        if not rows["before"]:
            continue
        domains = list(rows["before"][0])
        print(f"\n{name}, {len(rows['before'])} seeds, mIoU %\n\n| | {' | '.join(domains)} |")
        print(f"|---|{'---|' * len(domains)}")
        for kind, found in rows.items():
            cells = [cell([each[domain] for each in found]) for domain in domains]
            print(f"| {kind} | {' | '.join(cells)} |")


def cell(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def main() -> None:
    """Read the options and go."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("streets", "camvid", "summary"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="folder of CamVid: images/ and labels/ with the splits")
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--seeds", type=int, nargs="+", choices=SEEDS, default=SEEDS, help="only these")
    parser.add_argument("--set", action="append", default=[], help="a setting of both adaptations")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    budget, out = Budget(given.minutes), given.out.resolve()
    if given.what == "streets":
        streets(out, given.seeds, budget, given.set)
    elif given.what == "camvid":
        if given.data is None:
            parser.error("camvid needs --data")
        camvid(out, given.data, given.seeds, budget, given.set)
    summary(out)


if __name__ == "__main__":
    main()
