"""Files a second of `rein prepare-data`, for every dataset, and how long a second run takes to find nothing to do.

    python benchmarks/prepare.py
    python benchmarks/prepare.py --only gta,mapillary --images 16 --workers 4 --json figures.json

Each row makes a few images of a dataset in its true file formats and sizes (generated streets, enlarged, with the noise
of a sensor), and times the whole command on them; then it fills the folders with links under other names up to the
dataset's real number of images, prepared ones too, and times the command again. `cityscapes-c` needs its extra.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import rows  # in this folder
from layouts import BDD_NO_IMAGE, BDD_NO_LABEL, SMALL, write  # of the tests

DATASETS = {
    "cityscapes": ((2048, 1024), 3475),
    "gta": ((1914, 1052), 24966),
    "synthia": ((1280, 760), 9400),
    "urbansyn": ((2048, 1024), 7539),
    "mapillary": ((3264, 2448), 20000),
    "bdd100k": ((1280, 720), 8000),
    "acdc": ((1920, 1080), 2006),
    "cityscapes-c": ((2048, 1024), 8000),
}
"""Size of an image, and how many have labels."""
MADE = {"acdc": 8, "cityscapes": 2, "mapillary": 2, "bdd100k": 3, "cityscapes-c": 16}
"""Images with labels of which `layouts.write` makes more than one where one is asked for."""


def timed(dataset: str, root: Path, workers: int) -> float:
    """Seconds of the command, whose table is not shown."""
    from reincli.commands import console, prepare_data

    console.configure(quiet=True)
    begun = time.perf_counter()
    with redirect_stdout(io.StringIO()):
        prepare_data.run(dataset, root, workers=workers)
    return time.perf_counter() - begun


def fill(root: Path, times: int) -> None:
    """Every file under so many further names, which begin alike for an image and its labels."""
    for path in [path for path in root.rglob("*") if path.is_file() and path.parent != root]:
        kind, _, rest = (
            path.name.partition("_") if path.name.startswith(("rgb_", "ss_")) else ("", "", path.name)
        )
        for number in range(times):
            os.link(path, path.with_name(f"{kind}{'_' * bool(kind)}{number:05}-{rest}"))


def measure(dataset: str, images: int, workers: int) -> dict[str, Any]:
    """One dataset."""
    size, real = DATASETS[dataset]
    made_from = "cityscapes" if dataset == "cityscapes-c" else dataset
    with tempfile.TemporaryDirectory() as name:
        os.environ["XDG_CACHE_HOME"] = f"{name}/cache"
        count = 1 if dataset == "cityscapes-c" else images
        write(made_from, Path(name) / made_from, size, count)
        if dataset == "cityscapes-c":
            timed(made_from, Path(name) / made_from, 1)
        root = Path(name) / dataset
        before = {path for path in root.rglob("*") if path.is_file()}
        seconds = timed(dataset, root, workers)
        made = sum(path.suffix in (".png", ".jpg") for path in root.rglob("*") if path not in before)
    with tempfile.TemporaryDirectory() as name:
        os.environ["XDG_CACHE_HOME"] = f"{name}/cache"
        write(made_from, Path(name) / made_from, SMALL, 1)
        timed(made_from, Path(name) / made_from, 1)
        root = Path(name) / dataset
        if dataset == "cityscapes-c":
            timed(dataset, root, workers)
        for path in [path for path in root.rglob("*") if path.stem in (BDD_NO_LABEL, BDD_NO_IMAGE)]:
            path.unlink()
        for place in {root, Path(name) / made_from}:
            fill(place, real // MADE.get(dataset, 1))
        timed(dataset, root, workers)  # counts the classes of what was filled in
        begun = time.process_time()
        second = timed(dataset, root, workers)
        cpu = time.process_time() - begun
    return {
        "row": dataset,
        "files": made,
        "files_per_s": made / seconds if made else None,
        "second_s": second,
        "second_cpu_s": cpu,
        "labelled": real,
    }


def line(figures: dict[str, Any]) -> str:
    """A row of the table."""
    rate = f"{figures['files_per_s']:.1f}" if figures["files_per_s"] else "none to make"
    return (
        f"{figures['row']:<14}{figures['files']:>6}{rate:>14}{figures['labelled']:>10}"
        f"{figures['second_s']:>14.2f}{figures['second_cpu_s']:>8.2f}"
    )


def main() -> None:
    """Measure all datasets and print a table."""
    parser = rows.options(__doc__, tuple(DATASETS))
    parser.add_argument("--images", type=int, default=8, help="a split (and condition)")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    heading = f"{'dataset':<14}{'files':>6}{'files/s':>14}{'images':>10}{'second run s':>14}{'CPU s':>8}"
    rows.run(given, tuple(DATASETS), lambda row: measure(row, given.images, given.workers), line, heading)


if __name__ == "__main__":
    main()
