"""One file from a server that cuts, lies, redirects and refuses: whole and right, or not there and told."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import numpy as np
import pytest
from loopback import Handler, Server, cut, serving, status, usual

from reincli.errors import ReinError
from reincli.prepare import fetch as module
from reincli.prepare import servers
from reincli.prepare.fetch import StoppedError, Watch, arrived, digest_in, fetch, sha256, size_of
from reincli.prepare.servers import Remote

BODY = np.random.default_rng(0).bytes(300_000)
PATH = "/file.zip"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(module, "PAUSE", 0.01)
    monkeypatch.setattr(module, "BLOCK", 1 << 14)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving() as state:
        state.files[PATH] = BODY
        yield state


class Told:
    """A watch that keeps what it is told."""

    def __init__(self) -> None:
        self.bytes, self.remarks = 0, []
        self.watch = Watch(self._add, self.remarks.append)

    def _add(self, count: int) -> None:
        self.bytes += count


@pytest.fixture
def told() -> Told:
    return Told()


def remote(server: Server, folder: Path, path: str = PATH, digest: str = "") -> Remote:
    return Remote(server.address + path, folder / "sub/file.zip", "https://page.example", digest)


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_whole_file_with_its_digest(server: Server, tmp_path: Path, told: Told) -> None:
    what = remote(server, tmp_path, digest=hashlib.sha256(BODY).hexdigest()[:8])
    assert size_of(what, told.watch) == len(BODY)
    looked = []
    fetch(what, told.watch, looked.append)
    assert what.target.read_bytes() == BODY
    assert told.bytes == len(BODY)
    assert leftovers(tmp_path) == ["file.zip"]
    assert looked == [what.part]
    assert sha256(what.target) == hashlib.sha256(BODY).hexdigest()


@pytest.mark.parametrize("etags", [True, False])
def test_a_cut_line_goes_on_where_it_stopped(server: Server, tmp_path: Path, told: Told, etags: bool) -> None:
    server.etags = etags
    server.next[PATH] = [cut(100_000), cut(50_000), cut(0)]
    fetch(remote(server, tmp_path), told.watch)
    assert (tmp_path / "sub/file.zip").read_bytes() == BODY
    assert [each.headers.get("range") for each in server.got(PATH)] == [
        None, "bytes=100000-", "bytes=150000-", "bytes=150000-"
    ]  # fmt: skip
    assert told.bytes == len(BODY)


def test_the_next_run_goes_on(server: Server, tmp_path: Path, told: Told) -> None:
    what = remote(server, tmp_path)
    server.next[PATH] = [cut(100_000), *[status(500)] * 20]
    with pytest.raises(
        ReinError, match="cannot be fetched: the server answered with status 500, 6 times"
    ) as caught:
        fetch(what, told.watch)
    assert "same command" in caught.value.hint
    assert not what.target.exists()
    assert arrived(what) == 100_000
    server.next[PATH] = []
    fetch(what, told.watch)
    assert what.target.read_bytes() == BODY
    assert server.got(PATH)[-1].headers["range"] == "bytes=100000-"
    assert leftovers(tmp_path) == ["file.zip"]


def test_a_part_that_is_complete_is_not_fetched_again(server: Server, tmp_path: Path, told: Told) -> None:
    what = remote(server, tmp_path)
    server.next[PATH] = [cut(10)] * 1 + [status(500)] * 20
    with pytest.raises(ReinError):
        fetch(what, told.watch)
    what.part.write_bytes(BODY)
    server.asked.clear()
    fetch(what, told.watch)
    assert server.asked == []
    assert what.target.read_bytes() == BODY


def test_another_version_is_fetched_anew(server: Server, tmp_path: Path, told: Told) -> None:
    """By the ETag; without one, by the size that stands in the piece."""
    for etags in (True, False):
        server.etags = etags
        server.files[PATH] = BODY
        what = remote(server, tmp_path / str(etags))
        server.next[PATH] = [cut(100_000), *[status(500)] * 20]
        with pytest.raises(ReinError):
            fetch(what, told.watch)
        server.files[PATH] = BODY[::-1] + b"more"
        server.next[PATH] = []
        told.bytes = arrived(what)
        fetch(what, told.watch)
        assert what.target.read_bytes() == server.files[PATH]
        assert told.bytes == len(server.files[PATH])


def test_a_run_killed_as_a_new_version_begins_leaves_nothing_mixed(
    server: Server, tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    what = remote(server, tmp_path)
    server.next[PATH] = [cut(100_000), *[status(500)] * 20]
    with pytest.raises(ReinError):
        fetch(what, told.watch)
    server.files[PATH] = BODY[::-1]
    server.next[PATH] = []

    def killed(*_: object) -> None:
        raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(module, "_blocks", killed)
        with pytest.raises(StoppedError):
            fetch(what, told.watch)
    fetch(what, told.watch)
    assert what.target.read_bytes() == BODY[::-1]


def test_a_part_of_another_address_is_not_taken(server: Server, tmp_path: Path, told: Told) -> None:
    what = remote(server, tmp_path)
    what.target.parent.mkdir()
    what.part.write_bytes(b"elsewhere" * 100)
    what.note.write_text(json.dumps({"address": "http://elsewhere/file.zip", "size": len(BODY)}))
    fetch(what, told.watch)
    assert what.target.read_bytes() == BODY
    for text in ("no json", "[1]", '{"strange": 1}'):
        what.target.unlink()
        what.part.write_bytes(b"elsewhere" * 100)
        what.note.write_text(text)
        fetch(what, told.watch)
        assert what.target.read_bytes() == BODY


# --- lies about ranges -------------------------------------------------------------------------------------


def lie(claimed: str, start: int) -> object:
    """A piece that is called otherwise than asked, or is another one."""

    def answer(handler: Handler, body: bytes) -> bool:
        handler.send(206, body[start:], {"Content-Range": claimed})
        return True

    return answer


@pytest.mark.parametrize(
    "claimed",
    [
        "bytes 0-299999/300000",
        "bytes 100000-299999/400000",
        "bytes 200000-299999/300000",
        "bytes */300000",
        "",
    ],
)
def test_another_piece_than_was_asked_for_is_noticed(
    server: Server, tmp_path: Path, told: Told, claimed: str
) -> None:
    server.next[PATH] = [cut(100_000), lie(claimed, 0)]
    fetch(remote(server, tmp_path), told.watch)
    assert (tmp_path / "sub/file.zip").read_bytes() == BODY
    assert told.bytes == len(BODY)


def test_a_server_that_always_lies_is_given_up(server: Server, tmp_path: Path, told: Told) -> None:
    server.next[PATH] = [cut(100_000), lie("bytes 0-9/10", 0)] * 20
    with pytest.raises(ReinError, match="another piece than was asked for, 6 times"):
        fetch(remote(server, tmp_path), told.watch)
    assert not (tmp_path / "sub/file.zip").exists()


def test_a_piece_without_being_asked(server: Server, tmp_path: Path, told: Told) -> None:
    server.next[PATH] = [lie("bytes 100-299999/300000", 100)]
    fetch(remote(server, tmp_path), told.watch)
    assert (tmp_path / "sub/file.zip").read_bytes() == BODY


def test_a_server_without_ranges_sends_all_again(server: Server, tmp_path: Path, told: Told) -> None:
    server.next[PATH] = [cut(100_000), status(200, BODY)]
    fetch(remote(server, tmp_path), told.watch)
    assert (tmp_path / "sub/file.zip").read_bytes() == BODY
    assert told.bytes == len(BODY)


def test_a_part_longer_than_the_file_is_begun_anew(server: Server, tmp_path: Path, told: Told) -> None:
    what = remote(server, tmp_path)
    server.next[PATH] = [cut(10), *[status(500)] * 20]
    with pytest.raises(ReinError):
        fetch(what, told.watch)
    what.part.write_bytes(BODY + b"more")
    told.bytes = arrived(what)
    server.next[PATH] = []
    fetch(what, told.watch)
    assert what.target.read_bytes() == BODY
    assert told.bytes == len(BODY)


def test_short_pieces_are_put_together(server: Server, tmp_path: Path, told: Told) -> None:
    def piece(handler: Handler, body: bytes) -> bool:
        start = int((handler.headers.get("Range") or "bytes=0-")[6:-1])
        stop = min(start + 70_000, len(body))
        handler.send(206, body[start:stop], {"Content-Range": f"bytes {start}-{stop - 1}/{len(body)}"})
        return True

    server.next[PATH] = [cut(10), *[piece] * 10]
    fetch(remote(server, tmp_path), told.watch)
    assert (tmp_path / "sub/file.zip").read_bytes() == BODY


def test_chunks_without_a_length_that_break_off(server: Server, tmp_path: Path, told: Told) -> None:
    def chunked(handler: Handler, body: bytes, whole: bool) -> bool:
        handler.protocol_version = "HTTP/1.1"
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        part = body if whole else body[:100_000]
        handler.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n" + (b"0\r\n\r\n" if whole else b""))
        handler.close_connection = True
        return True

    server.next[PATH] = [lambda h, b: chunked(h, b, False), lambda h, b: chunked(h, b, True)]
    fetch(remote(server, tmp_path), told.watch)
    assert (tmp_path / "sub/file.zip").read_bytes() == BODY
    assert len(server.got(PATH)) == 2


# --- answers that are no file ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "message", "hint"),
    [
        (401, "refuses to give the file .status 401", "account"),
        (403, "refuses to give the file .status 403", "https://page.example"),
        (404, "has no such file any more .status 404", "https://page.example"),
        (410, "has no such file any more", "--mirror"),
        (418, "answered with status 418", "by hand"),
    ],
)
def test_refusals(server: Server, tmp_path: Path, told: Told, code: int, message: str, hint: str) -> None:
    server.next[PATH] = [status(code)] * 3
    with pytest.raises(ReinError, match=message) as caught:
        fetch(remote(server, tmp_path), told.watch)
    assert hint in caught.value.hint
    assert len(server.got(PATH)) == 1
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_what_may_succeed_later_is_tried_again(server: Server, tmp_path: Path, told: Told, code: int) -> None:
    server.next[PATH] = [status(code), status(code), cut(10), status(code)]
    fetch(remote(server, tmp_path), told.watch)
    assert (tmp_path / "sub/file.zip").read_bytes() == BODY
    assert len(server.got(PATH)) == 5


def test_a_server_is_left_alone_as_long_as_it_asks(
    server: Server, tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(told.watch.stop, "wait", lambda seconds: bool(waits.append(seconds)))
    server.next[PATH] = [
        status(429, Retry_After="7"),
        status(503, Retry_After=formatdate(servers.time.time() + 60, usegmt=True)),
        status(429, Retry_After="nonsense"),
    ]
    fetch(remote(server, tmp_path), told.watch)
    assert waits[0] == 7
    assert 50 < waits[1] <= 60
    assert waits[2] == pytest.approx(0.04)
    assert told.remarks[0] == "file.zip: the server answered with status 429; the next attempt is in 7 s."
    server.next[PATH] = [status(429, Retry_After="3600")]
    (tmp_path / "sub/file.zip").unlink()
    with pytest.raises(ReinError, match="come back in 60 minutes"):
        fetch(remote(server, tmp_path), told.watch)


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream"])
def test_a_web_page_is_not_taken_for_the_file(server: Server, tmp_path: Path, told: Told, kind: str) -> None:
    page = b"\xef\xbb\xbf \n<!DOCTYPE html><html><body>Log in</body></html>"
    server.next[PATH] = [status(200, page, Content_Type=kind)]
    with pytest.raises(ReinError, match="shows a web page, not the file") as caught:
        fetch(remote(server, tmp_path), told.watch)
    assert "https://page.example" in caught.value.hint
    assert leftovers(tmp_path) == []


def test_redirects_are_followed_with_the_range(server: Server, tmp_path: Path, told: Told) -> None:
    server.files["/real"] = BODY
    server.next["/real"] = [cut(1000)]
    for code in (301, 302, 303, 307):
        path = f"/moved{code}"
        server.files[path] = b"unused"
        server.next[path] = [status(code, b"", Location="/real")] * 5
        what = Remote(server.address + path, tmp_path / str(code), "page")
        fetch(what, told.watch)
        assert what.target.read_bytes() == BODY
    assert server.got("/real")[1].headers["range"] == "bytes=1000-"
    server.next[PATH] = [status(302, b"", Location=PATH)] * 30
    with pytest.raises(ReinError, match="status 302"):
        fetch(remote(server, tmp_path), told.watch)


def test_no_redirect_from_https_to_http() -> None:
    request = servers.urllib.request.Request("https://a.example/x")
    with pytest.raises(ReinError, match="which is not encrypted"):
        servers._Careful().redirect_request(request, None, 302, "", {}, "http://b.example/x")
    made = servers._Careful().redirect_request(
        servers.urllib.request.Request("http://a.example/x", method="HEAD"),
        None,
        302,
        "",
        {},
        "http://b.example/x",
    )
    assert made.get_method() == "HEAD"


def test_a_size_is_asked_of_servers_that_know_no_head(
    server: Server, tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    what = remote(server, tmp_path)
    for code in (403, 405, 501):
        monkeypatch.setattr(Handler, "do_HEAD", lambda self, code=code: self.send(code, b""))
        assert size_of(what, told.watch) == len(BODY)
    assert leftovers(tmp_path) == []


def test_nobody_there(tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE", 0.01)
    with serving() as server:
        address = server.address
    with pytest.raises(ReinError, match=r"the connection failed .*6 times"):
        fetch(Remote(f"{address}/x", tmp_path / "x", "page"), told.watch)
    for wrong in ("what://x", "http://127.0.0.1:port/x", "http://a b/x"):
        with pytest.raises(ReinError, match="is no address"):
            fetch(Remote(wrong, tmp_path / "x", "page"), told.watch)


def test_a_server_that_cannot_prove_who_it_is(
    tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    def untrusted(self: object, *args: object, **options: object) -> None:
        raise servers.urllib.error.URLError(servers.ssl.SSLCertVerificationError("self-signed certificate"))

    monkeypatch.setattr(servers.urllib.request.OpenerDirector, "open", untrusted)
    with pytest.raises(ReinError, match="cannot prove who it is"):
        fetch(Remote("https://a.example/x", tmp_path / "x", "page"), told.watch)


def test_a_proxy_from_the_environment(
    server: Server, tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.address)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    what = Remote("http://nowhere.example/file.zip", tmp_path / "file.zip", "page")
    fetch(what, told.watch)
    assert what.target.read_bytes() == BODY
    assert server.asked[0].path == "http://nowhere.example/file.zip"


# --- the finished file -------------------------------------------------------------------------------------


def test_another_digest_is_refused_and_removed(server: Server, tmp_path: Path, told: Told) -> None:
    with pytest.raises(
        ReinError, match=r"another file than was published: its SHA-256 begins with .* not 4b8939"
    ):
        fetch(remote(server, tmp_path, digest="4b8939"), told.watch)
    assert leftovers(tmp_path) == []


def test_what_does_not_pass_the_look_is_removed(server: Server, tmp_path: Path, told: Told) -> None:
    def look(part: Path) -> None:
        raise ReinError(f"'{part}' is nothing.")

    with pytest.raises(ReinError, match=r"sub/file\.zip' is nothing"):
        fetch(remote(server, tmp_path), told.watch, look)
    assert leftovers(tmp_path) == []


def test_stopping_keeps_what_has_arrived(server: Server, tmp_path: Path) -> None:
    stop = threading.Event()
    seen = 0

    def on_bytes(count: int) -> None:
        nonlocal seen
        seen += count
        if seen > 100_000:
            stop.set()

    what = remote(server, tmp_path)
    with pytest.raises(StoppedError):
        fetch(what, Watch(on_bytes, print, stop))
    assert 100_000 < arrived(what) < len(BODY)
    assert BODY.startswith(what.part.read_bytes())
    assert not what.target.exists()
    fetch(what, Told().watch)
    assert what.target.read_bytes() == BODY


def test_no_place_to_write(
    server: Server, tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    what = remote(server, tmp_path)
    with pytest.raises(ReinError, match="No space left on device"):
        fetch(what, told.watch)
    assert not what.target.exists()


def test_digests_in_names() -> None:
    whole = "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836"
    for address, digest in (
        (f"https://a/clip/models/{whole}/ViT-L-14.pt", whole),
        ("https://a/resnet50_v1c-2cccc1ad.pth", "2cccc1ad"),
        ("https://a/sam_vit_h_4b8939.pth", "4b8939"),
        ("https://a/dinov3_vitl16_pretrain_lvd1689m-8aa4cbdd.pth", "8aa4cbdd"),
        ("https://a/dinov2_vitl14_pretrain.pth", ""),
        ("https://a/iter_40000_published.pth", ""),
        ("https://a/soma_dinov2-L_g2cbm_best.pth", ""),
        ("https://a/01_images.zip", ""),
        ("https://a/x_defaced.pth", ""),
    ):
        assert digest_in(address) == digest, address
    assert usual(None, b"") is False
