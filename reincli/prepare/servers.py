"""Asking a server for a file: redirects, proxies of the environment, and what its answers mean.

An answer that may be another one later is an `AgainError`; one that will not is a `ReinError` with the way round it.
"""

from __future__ import annotations

import http.client
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, Any

from reincli.errors import ReinError

TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as broken."""
LONGEST = 300.0
"""Seconds that a server may ask for (Retry-After); with more the user is told instead."""
LATER = (408, 425, 429, 500, 502, 503, 504)
"""Answers after which the same request may succeed."""


@dataclass(frozen=True)
class Remote:
    """A file to fetch.

    Attributes:
        address: where it lies.
        target: where it goes.
        page: where a person gets it, for errors.
        digest: of its SHA-256, in hexadecimal, the first digits or all; empty: not known.
    """

    address: str
    target: Path
    page: str
    digest: str = ""

    @property
    def part(self) -> Path:
        """What has arrived so far."""
        return self.target.with_name(f"{self.target.name}.part")

    @property
    def note(self) -> Path:
        """Of which version the part is."""
        return self.target.with_name(f"{self.target.name}.part.json")


class RefusedError(ReinError):
    """A server answered, and will not give this file; others it may."""


class AgainError(Exception):
    """An attempt failed that may succeed in another one, after `wait` seconds (None: the usual pause)."""

    def __init__(self, reason: str, wait: float | None = None, *, anew: bool = False) -> None:
        super().__init__(reason)
        self.wait, self.anew = wait, anew


class _Careful(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to plain http."""

    def redirect_request(self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str,
                         headers: Any, newurl: str) -> urllib.request.Request | None:  # fmt: skip
        """The request to the new address; see the standard library."""
        if req.type == "https" and urllib.parse.urlsplit(newurl).scheme != "https":
            raise ReinError(
                f"'{req.full_url}' leads to '{newurl}', which is not encrypted.", "Name a --mirror you trust."
            )
        made = super().redirect_request(req, fp, code, msg, headers, newurl)
        if made is not None and req.get_method() == "HEAD":
            made.method = "HEAD"
        return made


def open_remote(remote: Remote, headers: dict[str, str], method: str = "GET") -> Any:
    """The server's answer, redirects followed.

    Raises:
        ReinError: it refuses for good. AgainError: it may answer later.
    """
    if not remote.address.startswith(("http://", "https://")):
        raise ReinError(f"'{remote.address}' is no address.", "Give http://… or https://…")
    usual = {"User-Agent": "rein", "Accept-Encoding": "identity", "Accept": "*/*"}
    request = urllib.request.Request(remote.address, headers={**usual, **headers}, method=method)
    try:
        return urllib.request.build_opener(_Careful).open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if method == "HEAD" and error.code in (403, 405, 501):  # not every server knows it, or allows it
            return open_remote(remote, headers)
        raise _refusal(remote, error) from None
    except (http.client.InvalidURL, ValueError):  # of a mirror
        raise ReinError(f"'{remote.address}' is no address.", "Give http://… or https://…") from None
    except (OSError, http.client.HTTPException) as error:
        if isinstance(getattr(error, "reason", None), ssl.SSLCertVerificationError):
            raise ReinError(
                f"The server of '{remote.address}' cannot prove who it is ({error}).",
                "Is the clock right, does a proxy stand between? Or name a --mirror.",
            ) from None
        raise AgainError(_reason(error)) from None


def _reason(error: Exception) -> str:
    inner = getattr(error, "reason", error)
    if isinstance(inner, TimeoutError):
        return "no answer in time"
    return f"the connection failed ({getattr(inner, 'strerror', None) or str(inner) or type(inner).__name__})"


def _refusal(remote: Remote, error: urllib.error.HTTPError) -> Exception:
    """What an answer of 400 or above means."""
    code, address = error.code, remote.address
    if code == 416:
        return AgainError("the server has not the piece that was asked for", 0, anew=True)
    if code in LATER:
        wait = _retry_after(error.headers.get("Retry-After"))
        if wait is not None and wait > LONGEST:
            return RefusedError(
                f"'{address}' asks to come back in {wait / 60:.0f} minutes (status {code}).",
                "What has arrived stays: give the same command again then, or name a --mirror.",
            )
        return AgainError(f"the server answered with status {code}", wait)
    if code in (401, 403, 407):
        return RefusedError(
            f"'{address}' refuses to give the file (status {code}).",
            f"It may ask for an account, consent or another proxy. Get it by hand from {remote.page} and save it as "
            f"'{remote.target}'.",
        )
    if code in (404, 410):
        return RefusedError(
            f"'{address}' has no such file any more (status {code}).",
            f"Look where it went: {remote.page}; save it as '{remote.target}', or name a --mirror.",
        )
    return RefusedError(f"'{address}' answered with status {code}.", f"Get it by hand: {remote.page}")


def _retry_after(text: str | None) -> float | None:
    """Seconds that a server asks to wait, from a number or a date."""
    if text is None:
        return None
    try:
        return max(float(text), 0.0)
    except ValueError:
        pass
    try:
        return max(parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except (TypeError, ValueError):
        return None


def length_of(response: Any) -> int | None:
    """Bytes of the whole answer; None where the server does not say."""
    text = response.headers.get("Content-Length") or ""
    return int(text) if text.isdecimal() else None


def require_file(remote: Remote, response: Any, start: bytes) -> None:
    """RefusedError where an answer is a web page, or packed for the way: `start` is how it begins, where known."""
    kind = (response.headers.get("Content-Type") or "").partition(";")[0].strip().lower()
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")[:15].lower()
    if kind in ("text/html", "application/xhtml+xml") or text.startswith((b"<!doctype html", b"<html")):
        raise RefusedError(
            f"'{remote.address}' shows a web page, not the file.",
            f"It may ask to log in or to agree, or a proxy stands between. Get it by hand from {remote.page} and save "
            f"it as '{remote.target}'.",
        )
    if (response.headers.get("Content-Encoding") or "identity").lower() != "identity":
        raise RefusedError(f"'{remote.address}' sends the file packed, unasked.", "Name another --mirror.")
