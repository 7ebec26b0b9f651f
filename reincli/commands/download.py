"""`rein download`: weights, released checkpoints and open datasets; no other command fetches anything."""

from __future__ import annotations

import contextlib
import contextvars
import shutil
import threading
import urllib.parse
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from reincli.commands.console import Advance, note, problem, progress, result, table
from reincli.commands.downloadable import DATASET, Wanted, find, listed
from reincli.data.downloads import plain_name
from reincli.errors import ReinError
from reincli.media.images import is_whole_png
from reincli.media.outputs import at_work
from reincli.media.workers import Threads, interrupts_later
from reincli.prepare.fetch import StoppedError, Watch, arrived, fetch, sha256, size_of
from reincli.prepare.servers import RefusedError, Remote

MANY = 100
"""Files of one name from which on none is asked for its size: progress then counts files."""
MEGA = 10**6
SHOWN = 3
"""Files that failed and are named in the closing error."""


T = TypeVar("T")


@dataclass
class _Plan:
    """What is left to do: files with their sizes (None: not known); those that are refused; how many are there.

    `unreached`: why a file that is only listed could not be asked for its size. `others`: files that lie there under
    the name of one that would be fetched, and are not that one.
    """

    files: list[tuple[Wanted, Remote, int | None]] = field(default_factory=list)
    refused: list[tuple[Wanted, Remote, ReinError]] = field(default_factory=list)
    unreached: ReinError | None = None
    others: set[Path] = field(default_factory=set)
    kept: int = 0


def run(
    names: list[str] | None = None,
    *,
    show: bool = False,
    to: Path | None = None,
    mirror: str | None = None,
    parallel: int = 3,
) -> None:
    """Fetch what the names stand for, or list it.

    Args:
        names: of backbones, presets and datasets; see `downloadable.find`.
        show: list alone: without names all that there is, without asking the network; with names their files and
            sizes.
        to: folder for the files; None: `checkpoints/` and `data/NAME`.
        mirror: address of a folder in which the files lie under the names that they are saved under.
        parallel: files at a time.

    Raises:
        ReinError: an unknown name, one that needs an account, no space, or files that could not be had; all others
            are in place then.
    """
    if mirror is not None:
        try:
            parts = urllib.parse.urlsplit(mirror)
            is_address = parts.scheme in ("http", "https") and bool(parts.netloc)
        except ValueError:  # brackets without an end
            is_address = False
        if not is_address:
            raise ReinError(f"--mirror '{mirror}' is no address.", "Give http://… or https://…", usage=True)
    if not names:
        if not show:
            raise ReinError(
                "There is nothing to download.", "Give names; all of them: rein download --list", usage=True
            )
        table(("name", "what", "file, or where it is given out"), listed())
        note("Sizes: rein download --list NAME. Nothing was asked for so far.")
        return
    wanted = [find(name, to, mirror) for name in dict.fromkeys(names)]
    stop = threading.Event()
    quiet = Watch(lambda count: None, problem, stop)
    try:
        plan = _look_around(wanted, quiet, parallel, ask_all=show)
    except KeyboardInterrupt:
        stop.set()
        raise
    if show:
        _list(wanted, plan)
        if plan.unreached is not None:
            problem(f"Sizes that are not told could not be asked for: {plan.unreached.message}")
        _require_all([error for _, _, error in plan.refused], len(plan.files) + len(plan.refused))
        return
    _require_space(plan)
    with _alone(plan):
        done = _fetch_all(plan, stop, parallel) if plan.files or plan.refused else 0
    result(f"{done} files fetched, {plan.kept} were there.")
    for each in wanted:
        if each.then:
            note(f"{each.name}: {each.then}")


@contextlib.contextmanager
def _alone(plan: _Plan) -> Iterator[None]:
    """Be the only process that fetches these files: two would write into one part. ReinError where one does."""
    folders = {remote.target.parent for each, remote, _ in plan.files if len(each.files) >= MANY}
    with contextlib.ExitStack() as stack:
        for folder in sorted(folders):
            stack.enter_context(at_work(folder, "download"))
        for each, remote, _ in plan.files:
            if len(each.files) < MANY:
                stack.enter_context(at_work(remote.target, "download", file=True))
        yield


# --- before ------------------------------------------------------------------------------------------------


def _look_around(wanted: Sequence[Wanted], watch: Watch, parallel: int, *, ask_all: bool) -> _Plan:
    """What is there already, and the sizes of the rest.

    Raises:
        ReinError: a file lies there that is another one.
    """
    plan = _Plan()
    asked: list[tuple[Wanted, Remote]] = []
    for each in wanted:
        many = len(each.files) >= MANY
        for remote in each.files:
            for place in () if many else (remote.target, remote.part, remote.note):
                if place.is_dir():
                    message = f"'{place}' is a folder, where a file would go."
                    raise ReinError(message, "Move it away, and give the same command again.")
            if many and remote.target.is_file():  # it has its name since it was whole
                plan.kept += 1
            elif many:
                plan.files.append((each, remote, None))
            else:
                asked.append((each, remote))
    sizes = _in_threads([_sizer(remote, watch, ask_all) for _, remote in asked], parallel, watch.stop)
    for (each, remote), size in zip(asked, sizes, strict=True):
        if isinstance(size, ReinError) and not isinstance(size, RefusedError):
            plan.unreached, size = size, None
        if isinstance(size, ReinError):
            plan.refused.append((each, remote, size))
            continue
        if remote.target.is_file():
            difference = _difference(remote, size)
            if difference and not ask_all:
                message = f"'{remote.target}' is there already, and {difference}."
                raise ReinError(message, "Move it away, and give the same command again.")
            plan.others |= {remote.target} if difference else set()
        elif not _is_renamed(each, remote, size):
            plan.files.append((each, remote, size))
            continue
        plan.kept += 1
        if ask_all:
            plan.files.append((each, remote, size))
    return plan


def _is_renamed(wanted: Wanted, remote: Remote, size: int | None) -> bool:
    """Whether an archive lies there as a browser has named it, `NAME (1).zip`: `rein prepare-data` takes that too."""
    folder = remote.target.parent
    if wanted.kind != DATASET or size is None or not folder.is_dir():
        return False
    return any(
        plain_name(path.name) == remote.target.name and path.is_file() and path.stat().st_size == size
        for path in folder.iterdir()
    )


def _sizer(remote: Remote, watch: Watch, listing: bool) -> Callable[[], int | ReinError | None]:
    """What asks for a size: None where it is not told, an error where this file is refused: others may be had.

    Where files are only listed, also the error of a server that is not reached.
    """

    def ask() -> int | ReinError | None:
        try:
            return size_of(remote, watch)
        except ReinError as error:
            if not remote.target.is_file():
                if listing or isinstance(error, RefusedError):
                    return error
                raise
            watch.tell(f"'{remote.target}' is there and cannot be compared: {error.message}")
            return None

    return ask


def _difference(remote: Remote, size: int | None) -> str:
    """In what a file that lies there differs from the one that would be fetched; '' where it is the same."""
    there = remote.target.stat().st_size
    if size is not None and there != size:
        return f"has {there:,} bytes, the one at '{remote.address}' {size:,}"
    if remote.digest and not sha256(remote.target).startswith(remote.digest):
        return f"has another SHA-256 than the one published ({remote.digest}…)"
    return ""


def _require_space(plan: _Plan) -> None:
    """ReinError where the files would not fit on their disks."""
    needed: dict[int, tuple[int, Path]] = {}
    for each, remote, size in plan.files:
        folder = next(
            place for place in (remote.target.parent, *remote.target.absolute().parents) if place.is_dir()
        )
        disk = folder.stat().st_dev
        before = needed.get(disk, (0, folder))[0]
        needed[disk] = before + max((size or each.average) - arrived(remote), 0), folder
    for count, folder in needed.values():
        free = shutil.disk_usage(folder).free
        if count > free:
            raise ReinError(
                f"{_size(count)} are to be fetched, and {_size(free)} are free in '{folder}'.",
                "Nothing was fetched. Free some space, or name another folder: --to DIR",
            )


def _list(wanted: Sequence[Wanted], plan: _Plan) -> None:
    """Every file with its size, or of a long list its number."""
    rows = []
    for each in wanted:
        if len(each.files) >= MANY:
            rows.append((each.name, f"{len(each.files):,} files below {each.files[0].target.parents[1]}",
                         f"about {each.average * len(each.files) / 10**9:.0f} GB", "", ""))  # fmt: skip
    for each, remote, size in plan.files:
        if len(each.files) < MANY:
            part = f"{arrived(remote):,} bytes" if arrived(remote) else ""
            state = "there" if remote.target.is_file() or _is_renamed(each, remote, size) else part
            state = "another file" if remote.target in plan.others else state
            told = "not told" if size is None else _size(size)
            rows.append((each.name, str(remote.target), told, state, remote.digest[:12]))
    rows += [(each.name, str(remote.target), "not to be had", "", "") for each, remote, _ in plan.refused]
    table(("name", "file", "size", "there", "SHA-256 begins"), rows, numbers={"size"})
    sizes = [(size, each.average) for each, _, size in plan.files]
    total = sum(size or average for size, average in sizes)
    about = "about " if any(size is None and average for size, average in sizes) else ""
    unknown = sum(size is None and not average for size, average in sizes)
    others = f", and {unknown} files of unknown size" if unknown else ""
    result(f"Together {about}{_size(total)}{others}.")


def _size(count: int) -> str:
    """Bytes for people, in decimal units: '1.22 GB', '3.4 MB'."""
    if count >= 10**9:
        return f"{count / 10**9:.2f} GB"
    return f"{count / MEGA:.1f} MB" if count >= 10**5 else f"{count:,} bytes"


# --- fetching ----------------------------------------------------------------------------------------------


class _Counter:
    """Turns bytes from several threads into progress in MB, or files where sizes are not known."""

    def __init__(self, advance: Advance, by_files: bool) -> None:
        self._advance, self._by_files = advance, by_files
        self._lock = threading.Lock()
        self._bytes = self._shown = 0

    def add(self, name: str) -> Callable[[int], None]:
        """What to call with the bytes of a file."""

        def on_bytes(count: int) -> None:
            with self._lock:
                self._bytes += count
                now = self._bytes // MEGA
                if not self._by_files and now != self._shown:
                    self._advance(now - self._shown, note=name)
                    self._shown = now

        return on_bytes

    def finish(self, name: str) -> None:
        """A file is in place."""
        if self._by_files:
            with self._lock:
                self._advance(1, note=name)


def _fetch_all(plan: _Plan, stop: threading.Event, parallel: int) -> int:
    """Fetch all files, several at a time; how many came.

    Raises:
        ReinError: some could not be had; the others are in place.
        KeyboardInterrupt: stopped by the user; says how to go on.
    """
    by_files = any(size is None for _, _, size in plan.files)
    total = len(plan.files) if by_files else sum(size or 0 for _, _, size in plan.files) // MEGA
    failed = [error for _, _, error in plan.refused]
    done = 0
    with progress("Downloading" + ("" if by_files else ", MB"), total=total) as advance:
        counter = _Counter(advance, by_files)

        def one(each: Wanted, remote: Remote) -> None:
            on_bytes = counter.add(remote.target.name)
            on_bytes(arrived(remote))
            fetch(remote, Watch(on_bytes, problem, stop), _look_of(each, remote))
            counter.finish(remote.target.name)

        tasks = [_task(one, each, remote) for each, remote, _ in plan.files]
        try:
            for outcome in _in_threads(tasks, parallel, stop):
                failed += [outcome] if isinstance(outcome, ReinError) else []
                done += outcome is None
        except KeyboardInterrupt:
            raise KeyboardInterrupt("What has arrived stays; the same command goes on from there.") from None
    _require_all(failed, len(plan.files) + len(plan.refused))
    return done


def _require_all(failed: Sequence[ReinError], count: int) -> None:
    """One ReinError for the files of all that could not be had."""
    if failed:
        more = f" {len(failed)} of {count} files could not be fetched." if count > 1 else ""
        told = " ".join(dict.fromkeys(error.message for error in failed[:SHOWN]))
        raise ReinError(f"{told}{more}", failed[0].hint)


def _task(
    one: Callable[[Wanted, Remote], None], each: Wanted, remote: Remote
) -> Callable[[], ReinError | None]:
    def task() -> ReinError | None:
        try:
            one(each, remote)
        except ReinError as error:  # the others go on
            return error
        return None

    return task


def _in_threads(tasks: Sequence[Callable[[], T]], parallel: int, stop: threading.Event) -> list[T]:
    """Results of tasks in their order; where one raises or the user stops, all are told to stop."""
    pool = Threads(parallel)
    begun: list[Future[T]] = [pool.submit(contextvars.copy_context().run, task) for task in tasks]
    try:
        waiting = set(begun)
        while waiting:
            with interrupts_later():
                finished, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
            for each in finished:
                each.result()
    except BaseException as error:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
        if isinstance(error, StoppedError):
            raise KeyboardInterrupt from None
        raise
    pool.shutdown(wait=True)
    return [each.result() for each in begun]


def _look_of(wanted: Wanted, remote: Remote) -> Callable[[Path], None]:
    """How a fetched file is looked into before it gets its name."""
    if wanted.kind != DATASET:
        return _look_at_weights
    return _look_at_picture if remote.target.suffix == ".png" else _look_at_archive


def _look_at_weights(part: Path) -> None:
    """Weights from elsewhere are data: they are looked at as all others are, and no code of theirs is run."""
    from reincli.engine.weight_files import read_file

    try:
        read_file(part, map_only=True)
    except ReinError as error:  # its hint is for a file that stays
        raise ReinError(f"{error.message} It was removed.") from None


def _look_at_archive(part: Path) -> None:
    if not zipfile.is_zipfile(part):
        raise ReinError(f"'{part}' is no zip archive, or its end is missing; it was removed.")


def _look_at_picture(part: Path) -> None:
    if not is_whole_png(part):
        raise ReinError(f"'{part}' is no whole PNG; it was removed.")
