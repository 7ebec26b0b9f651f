"""What `rein download` can bring: raw weights, released checkpoints and datasets by name, each with its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from reincli.config import DataSettings
from reincli.data.completeness import IMAGES
from reincli.data.downloads import is_open, names_for, needed
from reincli.data.layouts import DATASETS, HOMES
from reincli.data.missing import command_for
from reincli.engine.released import ON_PAGES, RELEASED, page_of
from reincli.errors import ReinError, nearest, typed
from reincli.model.families import DINOV3_PAGE, FAMILIES
from reincli.prepare.fetch import digest_in
from reincli.prepare.servers import Remote
from reincli.settings_files import load_settings, preset_names

CHECKPOINTS = Path("checkpoints")
"""Where weights go."""
WEIGHTS, CHECKPOINT, DATASET = "raw weights", "checkpoint", "dataset"
ACCOUNTS = ("cityscapes", "mapillary", "bdd100k")
"""Datasets that are given out to those who have signed up."""
_URBANSYN = "https://huggingface.co/datasets/UrbanSyn/UrbanSyn/resolve/main"
_URBANSYN_AVERAGE = 1_400_000
"""Bytes: 21 GB in 15,078 pictures."""


@dataclass(frozen=True)
class Wanted:
    """One name with its files.

    Attributes:
        name: as given. kind: one of the three above.
        files: to fetch. average: bytes of one, where single sizes are not asked for; 0: not known.
        then: what to do next, for people.
    """

    name: str
    kind: str
    files: tuple[Remote, ...]
    average: int = 0
    then: str = ""


def listed() -> list[tuple[str, str, str]]:
    """Every name that there is: name, kind, and where from; of what is not fetched, the page and the reason."""
    rows = []
    for name, family in FAMILIES.items():
        if not family.shipped:
            rows.append((name, WEIGHTS, family.file if family.is_open else f"with consent: {DINOV3_PAGE}"))
    for name in preset_names():
        if name in RELEASED:
            rows.append((name, CHECKPOINT, _checkpoint_file(name)))
        elif name in ON_PAGES:
            rows.append((name, CHECKPOINT, f"on its page: {ON_PAGES[name]}"))
    for name in DATASETS:
        if name != "cityscapes-c":
            closed = f"{'with an account' if name in ACCOUNTS else 'on its page'}: {HOMES[name]}"
            files = f"{len(_dataset_files(name, Path())):,} files"
            rows.append((name, DATASET, files if is_open(name) else closed))
    return rows


def find(name: str, to: Path | None = None, mirror: str | None = None) -> Wanted:
    """The files of one name.

    Args:
        name: of a backbone, a preset or a dataset.
        to: folder for them; None: `checkpoints/`, or `data/NAME`.
        mirror: address of a folder with files of the same names as they are saved under.

    Raises:
        ReinError: nothing is named so, or it is given out on a page alone, which is named.
    """
    if name in FAMILIES:
        found = _weights(name, to or CHECKPOINTS, mirror)
    elif name in preset_names():
        found = _checkpoint(name, to or CHECKPOINTS, mirror)
    elif name in DATASETS:
        found = _dataset(name, to or Path(DataSettings().root) / name, mirror)
    else:
        known = [row[0] for row in listed()]
        raise ReinError(
            f"Nothing to download is named '{name}'.",
            f"{nearest(name, known)} All of them: rein download --list",
            usage=True,
        )
    return found


def _at(mirror: str | None, saved: str, address: str) -> str:
    return f"{mirror.rstrip('/')}/{quote(saved)}" if mirror else address


def _weights(name: str, to: Path, mirror: str | None) -> Wanted:
    family = FAMILIES[name]
    if family.shipped:
        raise ReinError(
            f"The weights of '{name}' come along with this program.", "Nothing to do.", usage=True
        )
    if not family.is_open and mirror is None:
        raise ReinError(
            f"The weights of '{name}' are given out to those who accept their terms.",
            f"Get {family.file} from {DINOV3_PAGE} and put it into '{to}'.",
        )
    address = _at(mirror, family.file, family.address)
    page = family.address if family.is_open else DINOV3_PAGE
    digest = digest_in(family.address) or digest_in(f"/{family.file}")
    return Wanted(name, WEIGHTS, (Remote(address, to / family.file, page, digest),))


def _checkpoint_file(preset: str) -> str:
    return f"{preset}_released.pth"


def _checkpoint(name: str, to: Path, mirror: str | None) -> Wanted:
    if name not in RELEASED:
        if name in ON_PAGES:
            raise ReinError(
                f"The checkpoint of '{name}' lies on a page, under a name that is not known here.",
                f"Get it from {ON_PAGES[name]} and put it into '{to}'.",
            )
        raise ReinError(
            f"No checkpoint was released for the preset '{name}'.",
            f"Train one: rein train --preset {name}. Released are: rein download --list",
            usage=True,
        )
    file = _checkpoint_file(name)
    then = f"rein eval {typed(to / file)}"
    backbone = load_settings(preset=name).model.backbone.name
    if not (CHECKPOINTS / FAMILIES[backbone].file).is_file():
        then += f", with the weights of its backbone: rein download {backbone}"
    remote = Remote(_at(mirror, file, RELEASED[name]), to / file, page_of(name), digest_in(RELEASED[name]))
    return Wanted(name, CHECKPOINT, (remote,), then=then)


def _dataset_files(dataset: str, to: Path, mirror: str | None = None) -> list[Remote]:
    """Archives of a dataset; of UrbanSyn, whose page hands out single pictures, these."""
    if dataset == "urbansyn":
        numbers = range(1, IMAGES[dataset]["train"] + 1)
        names = [f"{kind}/{kind}_{number:04}.png" for kind in ("rgb", "ss") for number in numbers]
        return [Remote(_at(mirror, name, f"{_URBANSYN}/{name}"), to / name, HOMES[dataset]) for name in names]
    return [
        Remote(_at(mirror, name, f"{each.lies}{name}"), to / name, HOMES[dataset])
        for each in needed(dataset)
        for name in each.files()
    ]


def _dataset(name: str, to: Path, mirror: str | None) -> Wanted:
    if name == "cityscapes-c":
        raise ReinError(
            "'cityscapes-c' is made from Cityscapes, not fetched.",
            f"Make it: {command_for(name, to)}",
            usage=True,
        )
    then = command_for(name, to)
    if not is_open(name) and mirror is None:
        how = "to those who have an account" if name in ACCOUNTS else "on its own page"
        raise ReinError(
            f"'{name}' is given out {how}.",
            f"Get {names_for(name)} from {HOMES[name]} into '{to}', then: {then}",
        )
    average = _URBANSYN_AVERAGE if name == "urbansyn" else 0
    return Wanted(name, DATASET, tuple(_dataset_files(name, to, mirror)), average=average, then=then)
