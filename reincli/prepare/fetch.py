"""One file from the network: in pieces that go on where they stopped, checked, and in place whole or not at all.

What has arrived lies beside the file as `NAME.part`; `NAME.part.json` says of which address and version it is. A server
is not trusted to keep to what it was asked for: pieces from elsewhere, other versions, web pages and early ends are
noticed. Proxies come from the environment (`https_proxy`, `no_proxy`), as the standard library reads them.
"""

from __future__ import annotations

import hashlib
import http.client
import itertools
import json
import os
import re
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from reincli.errors import ReinError
from reincli.media.whole_files import replace_whole, write_bytes
from reincli.prepare.servers import AgainError, Remote, length_of, open_remote, require_file

BLOCK = 1 << 18
"""Bytes that are read at a time."""
TRIES = 6
"""Attempts in a row that may bring nothing, and times that a file may be begun anew."""
TRIES_TO_ASK = 3
"""Attempts to ask for a size: who is not on the network should know soon."""
PAUSE = 1.0
"""Seconds before the second attempt; each further one waits twice as long."""
_DIGEST = re.compile(r"/([0-9a-f]{64})/|[-_](?=[0-9a-f]*\d)([0-9a-f]{6,64})\.\w+$")

T = TypeVar("T")


@dataclass(frozen=True)
class Watch:
    """Who follows: `on_bytes` is called with the bytes of each block (negative: taken back), `tell` with remarks.

    Setting `stop` ends every fetching soon; what has arrived stays.
    """

    on_bytes: Callable[[int], None]
    tell: Callable[[str], None]
    stop: threading.Event = field(default_factory=threading.Event)


class StoppedError(Exception):
    """`Watch.stop` was set."""


@dataclass(frozen=True)
class _Version:
    """What the part is a part of; a server that has another one now sends it anew."""

    address: str
    size: int | None = None
    etag: str = ""
    modified: str = ""


def digest_in(address: str) -> str:
    """First digits of SHA-256, or all of it, that an address carries: `NAME-2cccc1ad.pth`; '' where it has none."""
    found = _DIGEST.search(urllib.parse.unquote(address))
    return (found[1] or found[2]) if found else ""


def size_of(remote: Remote, watch: Watch) -> int | None:
    """Bytes of a file, as its server tells; None where it does not.

    Raises:
        ReinError: it cannot be had; see `fetch`.
    """

    def ask() -> int | None:
        with open_remote(remote, {}, "HEAD") as response:
            require_file(remote, response, b"")
            return length_of(response)

    return _persist(remote, watch, ask, TRIES_TO_ASK)


def arrived(remote: Remote) -> int:
    """Bytes that lie there of an earlier run."""
    try:
        return remote.part.stat().st_size if _version(remote) is not None else 0
    except OSError:
        return 0


def fetch(remote: Remote, watch: Watch, look: Callable[[Path], None] = lambda part: None) -> None:
    """Fetch a file, going on where an earlier attempt stopped.

    Args:
        remote: what, and where to.
        watch: who follows.
        look: looks into the finished file before it gets its name; a ReinError of it removes the file.

    Raises:
        ReinError: the server refuses, has no such file, shows a web page, or keeps failing; the file is not what it
            should be (it is removed); no space. What has arrived stays for the next run.
        StoppedError: the watch was told to stop.
    """
    try:
        remote.target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ReinError(f"'{remote.target.parent}' is no folder.", "Name one: --to DIR", usage=True) from None
    _persist(remote, watch, lambda: _receive(remote, watch))
    try:
        _require_digest(remote)
        look(remote.part)
    except ReinError as error:
        _forget(remote)
        hint = error.hint or f"Get it by hand: {remote.page}"
        raise ReinError(error.message.replace(str(remote.part), str(remote.target)), hint) from None
    with replace_whole(remote.target) as temporary:
        os.replace(remote.part, temporary)
    _forget(remote)


# --- attempts ----------------------------------------------------------------------------------------------


def _persist(remote: Remote, watch: Watch, step: Callable[[], T], tries: int = TRIES) -> T:
    """Try a step until it succeeds; as long as bytes arrive, any number of attempts is fine."""
    failed = begun = 0
    while True:
        before = arrived(remote)
        try:
            return step()
        except AgainError as again:
            begun += again.anew
            if again.anew:
                watch.on_bytes(-before)
                _forget(remote)
            failed = 1 if arrived(remote) > before and not again.anew else failed + 1
            if failed >= tries or begun >= tries:
                raise ReinError(
                    f"'{remote.address}' cannot be fetched: {again}, {max(failed, begun)} times.",
                    "What has arrived stays: give the same command again later, or name a --mirror.",
                ) from None
            wait = PAUSE * 2 ** (failed - 1) if again.wait is None else again.wait
            if wait >= 5:
                watch.tell(f"{remote.target.name}: {again}; the next attempt is in {wait:.0f} s.")
            if watch.stop.wait(wait):
                raise StoppedError from None


# --- receiving ---------------------------------------------------------------------------------------------


def _receive(remote: Remote, watch: Watch) -> None:
    """Add to the part what one answer brings.

    Raises:
        AgainError: it ended before the file did, or was of another piece or version.
    """
    have, version = arrived(remote), _version(remote)
    if version is not None and have and have == version.size:
        return
    headers = {}
    if version is not None and have:
        headers["Range"] = f"bytes={have}-"
        if version.etag or version.modified:  # of another version the server sends all
            headers["If-Range"] = version.etag or version.modified
    with open_remote(remote, headers) as response:
        start, total = _piece(remote, response, have, version, watch)
        at, blocks = start, _blocks(response, watch)
        first = next(blocks, b"")
        if start == 0:
            try:
                require_file(remote, response, first)
            except ReinError:
                _forget(remote)
                raise
        try:
            with open(remote.part, "r+b" if start else "wb") as file:
                file.seek(start)
                for block in itertools.chain([first], blocks):
                    file.write(block)
                    at += len(block)
                    watch.on_bytes(len(block))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ReinError(
                f"Cannot write '{remote.part}': {error.strerror or 'it failed'}.",
                "Check free space and permission; the same command goes on.",
            ) from None
    if total is not None and at != total:
        raise AgainError(f"the connection ended after {at:,} of {total:,} bytes")


def _blocks(response: Any, watch: Watch) -> Iterator[bytes]:
    """What arrives. Of an answer with a length an early end is the caller's affair.

    Raises:
        AgainError: an answer without a length broke off: its end would look like the file's.
    """
    while True:
        if watch.stop.is_set():
            raise StoppedError
        broken = False
        try:
            block = response.read(BLOCK)
        except http.client.IncompleteRead as error:
            block, broken = error.partial, True
        except (OSError, http.client.HTTPException, ValueError):
            block, broken = b"", True
        if block:
            yield block
        if broken and length_of(response) is None:
            raise AgainError("the connection broke off")
        if broken or not block:
            return


def _piece(
    remote: Remote, response: Any, have: int, version: _Version | None, watch: Watch
) -> tuple[int, int | None]:
    """Where an answer begins and how long the whole file is; the part is cut to what it continues.

    Raises:
        AgainError: the server lies about the piece; all is to be fetched anew.
    """
    if response.status == 206:
        found = re.fullmatch(
            r"bytes (\d+)-(\d+)/(\d+|\*)", (response.headers.get("Content-Range") or "").strip()
        )
        total = int(found[3]) if found and found[3] != "*" else version.size if version else None
        same = version is not None and version.size in (None, total)
        if not have or found is None or int(found[1]) != have or not same:
            raise AgainError("the server sent another piece than was asked for", 0, anew=True)
        return have, total
    require_file(remote, response, b"")
    watch.on_bytes(-have)
    total = length_of(response)
    headers = response.headers
    etag = headers.get("ETag") or ""
    fresh = _Version(
        remote.address, total, "" if etag.startswith("W/") else etag, headers.get("Last-Modified") or ""
    )
    remote.part.unlink(missing_ok=True)  # before the note: never old bytes under a new one
    write_bytes(remote.note, json.dumps(asdict(fresh)).encode())
    return 0, total


# --- what lies there ---------------------------------------------------------------------------------------


def _version(remote: Remote) -> _Version | None:
    """Of what the part is; None where that is not known, or it is of another address."""
    try:
        version = _Version(**json.loads(remote.note.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return version if version.address == remote.address else None


def _forget(remote: Remote) -> None:
    """Remove what has arrived."""
    remote.part.unlink(missing_ok=True)
    remote.note.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Of a file, in hexadecimal."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            found.update(block)
    return found.hexdigest()


def _require_digest(remote: Remote) -> None:
    if not remote.digest:
        return
    found = sha256(remote.part)
    if not found.startswith(remote.digest):
        raise ReinError(
            f"'{remote.address}' gave another file than was published: its SHA-256 begins with "
            f"{found[: max(len(remote.digest), 8)]}, not {remote.digest}.",
            "It was removed. Fetch it again; where that repeats, do not use what this address gives.",
        )
