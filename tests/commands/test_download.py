"""`rein download`: what there is, how large, and files in their places; all from a server on the loopback."""

from __future__ import annotations

import io
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import layouts
import numpy as np
import pytest
import torch
from loopback import Server, cut, serving, status
from terminal import rein, told

from reincli.commands import download as command
from reincli.commands import downloadable
from reincli.data.layouts import DATASETS
from reincli.engine.released import ON_PAGES, RELEASED, page_of
from reincli.model.families import FAMILIES
from reincli.prepare import fetch
from reincli.settings_files import preset_names


@pytest.fixture(autouse=True)
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fetch, "PAUSE", 0.01)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving() as state:
        yield state


def weights(size: int = 64) -> bytes:
    data = io.BytesIO()
    torch.save({"blocks.0.attn.qkv.weight": torch.rand(size, size)}, data)
    return data.getvalue()


def zipped(folder: Path) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as opened:
        for path in sorted(folder.rglob("*.*")):
            opened.write(path, path.relative_to(folder.parent).as_posix())
    return data.getvalue()


def test_the_list_names_everything_and_asks_nothing(server):
    out = rein("download", "--list").output
    for name in ("dinov2_l", "gta2citys", "gta", "acdc", "urbansyn", *RELEASED, *ON_PAGES):
        assert name in out
    assert "with consent: https://ai.meta.com" in out
    assert "with an account: https://www.cityscapes-dataset.com" in out
    assert server.asked == []


def test_sizes_are_shown_and_nothing_is_fetched(server):
    server.files = {"/dinov2_s".replace("_s", "_vits14_pretrain.pth"): weights(600)}
    out = told("download", "--list", "dinov2_s", "--mirror", server.address)
    assert "dinov2_vits14_pretrain.pth 1.4 MB" in out
    assert [each.method for each in server.asked] == ["HEAD"]
    assert not Path("checkpoints").exists()
    out = told("download", "--list", "urbansyn")
    assert "15,078 files below data/urbansyn about 21 GB" in out
    assert "Together about 21.11 GB." in out


def test_files_are_listed_too_where_nobody_answers(server):
    server.files = {"/dinov2_vits14_pretrain.pth": weights()}
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
        out = told("download", "--list", "dinov2_s", "dinov2_b", "--mirror", nobody)
    assert "checkpoints/dinov2_vits14_pretrain.pth not told" in out
    assert "checkpoints/dinov2_vitb14_pretrain.pth not told" in out
    assert "and 2 files of unknown size" in out
    assert "could not be asked for" in out
    assert not Path("checkpoints").exists()


def test_weights_and_a_checkpoint_go_on_and_are_in_place(server):
    raw, head = weights(), weights(600)
    server.files = {"/m/dinov2_vits14_pretrain.pth": raw, "/m/gta2citys-soma_released.pth": head}
    server.next["/m/gta2citys-soma_released.pth"] = [cut(1_000_000), status(503)]
    words = ("download", "dinov2_s", "gta2citys-soma", "--mirror", f"{server.address}/m/")
    done = rein(*words)
    assert Path("checkpoints/dinov2_vits14_pretrain.pth").read_bytes() == raw
    assert Path("checkpoints/gta2citys-soma_released.pth").read_bytes() == head
    assert sorted(path.name for path in Path("checkpoints").iterdir()) == [
        "dinov2_vits14_pretrain.pth", "gta2citys-soma_released.pth"
    ]  # fmt: skip
    assert "2 files fetched, 0 were there." in done.stdout
    then = "rein eval checkpoints/gta2citys-soma_released.pth, with the weights of its backbone:"
    assert f"{then} rein download dinov2_l" in " ".join(done.stderr.split())
    server.asked.clear()
    assert "0 files fetched, 2 were there." in rein(*words).stdout
    assert {each.method for each in server.asked} == {"HEAD"}


def test_a_dataset_is_fetched_several_at_a_time_and_prepared(server, tmp_path):
    made = tmp_path / "made/gta"
    expected = layouts.write("gta", made, count=2)
    server.files = {f"/01_{kind}.zip": zipped(made / kind) for kind in ("images", "labels")}
    empty = io.BytesIO()
    zipfile.ZipFile(empty, "w").close()
    for number in range(2, 11):
        server.files |= {f"/{number:02}_{kind}.zip": empty.getvalue() for kind in ("images", "labels")}
    server.next["/01_images.zip"] = [cut(1000), status(500)]
    done = rein("download", "gta", "--to", "disk/gta", "--mirror", server.address, "--parallel", "5")
    assert "20 files fetched, 0 were there." in done.stdout
    assert "gta: rein prepare-data gta disk/gta" in done.stderr
    assert "Downloading, MB" in done.stderr or "Downloading" not in done.stderr  # too little for a line
    for number in range(2, 11):
        for kind in ("images", "labels"):
            Path(f"disk/gta/{number:02}_{kind}.zip").unlink()
    out = told("prepare-data", "gta", "disk/gta", "--workers", "1")
    assert len(expected["gta"]) == 2
    assert "train 2 2" in out


def test_single_pictures_are_counted_as_files(server, monkeypatch):
    monkeypatch.setitem(downloadable.IMAGES, "urbansyn", {"train": 60})
    layouts.write("urbansyn", Path("made"), count=60, size=(8, 16))
    for path in Path("made").rglob("*.png"):
        server.files[f"/{path.relative_to('made').as_posix()}"] = path.read_bytes()
    server.files["/ss/ss_0007.png"] = b"\x89PNG cut short"
    done = rein("download", "urbansyn", "--mirror", server.address, "--parallel", "4", code=1)
    assert "'data/urbansyn/ss/ss_0007.png' is no whole PNG; it was removed." in done.stderr
    assert "1 of 120 files could not be fetched." in done.stderr
    server.files["/ss/ss_0007.png"] = Path("made/ss/ss_0007.png").read_bytes()
    assert "Downloading: 1/1" in (done := rein("download", "urbansyn", "--mirror", server.address)).stderr
    assert "1 files fetched, 119 were there." in done.stdout
    assert not [each for each in server.asked if each.method == "HEAD"]
    rein("prepare-data", "urbansyn", "--workers", "1")


def test_others_go_on_where_one_fails(server):
    server.files = {"/rgb_anon_trainvaltest.zip": zipped(Path(__file__).parent)}
    server.files["/gt_trainval.zip"] = server.files["/rgb_anon_trainvaltest.zip"]
    server.next["/rgb_anon_trainvaltest.zip"] = [status(403)]
    done = rein("download", "acdc", "--mirror", server.address, code=1)
    assert "refuses to give the file (status 403). 1 of 2 files could not be fetched." in done.stderr
    assert (
        "https://acdc.vision.ee.ethz.ch and save it as 'data/acdc/rgb_anon_trainvaltest.zip'" in done.stderr
    )
    assert [path.name for path in Path("data/acdc").iterdir()] == ["gt_trainval.zip"]
    assert "1 files fetched, 1 were there." in rein("download", "acdc", "--mirror", server.address).stdout


def test_a_file_that_a_mirror_lacks_does_not_stop_the_others(server):
    server.files = {"/gt_trainval.zip": zipped(Path(__file__).parent)}
    done = rein("download", "acdc", "--mirror", server.address, code=1)
    assert "rgb_anon_trainvaltest.zip' has no such file any more (status 404)." in done.stderr
    assert "1 of 2 files could not be fetched." in done.stderr
    assert [path.name for path in Path("data/acdc").iterdir()] == ["gt_trainval.zip"]
    done = rein("download", "--list", "acdc", "--mirror", server.address, code=1)
    assert "not to be had" in done.stdout
    assert "there" in done.stdout


def test_an_archive_that_a_browser_has_renamed_is_there(server):
    server.files = {
        f"/{name}.zip": zipped(Path(__file__).parent) for name in ("rgb_anon_trainvaltest", "gt_trainval")
    }
    Path("data/acdc").mkdir(parents=True)
    Path("data/acdc/gt_trainval (1).zip").write_bytes(server.files["/gt_trainval.zip"])
    Path("data/acdc/rgb_anon_trainvaltest (1).zip").write_bytes(b"cut short")
    done = rein("download", "acdc", "--mirror", server.address)
    assert "1 files fetched, 1 were there." in done.stdout
    assert not Path("data/acdc/gt_trainval.zip").exists()
    assert Path("data/acdc/rgb_anon_trainvaltest.zip").exists()


@pytest.mark.parametrize(
    ("body", "told_of"),
    [
        (b"<html>Sign in</html>", "shows a web page, not the file"),
        (b"\x80\x04cos\nsystem\n(S'true'\ntR.", "run code while loading"),
        (b"", "is empty"),
        (b"PK\x03\x04 cut short", "its end is missing"),
    ],
)
def test_weights_are_looked_at_before_they_get_their_name(server, body, told_of):
    server.files = {"/dinov2_vits14_pretrain.pth": body}
    done = rein("download", "dinov2_s", "--mirror", server.address, code=1)
    assert told_of in done.stderr
    assert "Get it by hand" in done.stderr
    assert list(Path("checkpoints").glob("*")) == []


@pytest.mark.parametrize("end", ["", ".part", ".part.json"])
def test_a_folder_of_the_name_is_told_before_anything_is_fetched(server, end):
    server.files = {"/dinov2_vits14_pretrain.pth": weights()}
    Path(f"checkpoints/dinov2_vits14_pretrain.pth{end}").mkdir(parents=True)
    done = rein("download", "dinov2_s", "--mirror", server.address, code=1)
    assert f"dinov2_vits14_pretrain.pth{end}' is a folder" in done.stderr
    assert server.got("/dinov2_vits14_pretrain.pth") == []


def test_two_processes_do_not_fetch_the_same_file_at_once(server):
    server.files = {"/dinov2_vits14_pretrain.pth": weights()}
    script = (
        "import sys\nfrom pathlib import Path\nfrom reincli.media.outputs import at_work\n"
        "with at_work(Path('checkpoints/dinov2_vits14_pretrain.pth'), 'download', file=True):\n"
        "    print('ready', flush=True)\n    sys.stdin.read()\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", script], text=True, **pipes) as other:
        assert other.stdout.readline() == "ready\n"
        done = rein("download", "dinov2_s", "--mirror", server.address, code=1)
        other.stdin.close()
    assert "Somebody is at work in" in done.stderr
    assert server.got("/dinov2_vits14_pretrain.pth") == []
    rein("download", "dinov2_s", "--mirror", server.address)
    assert [path.name for path in Path("checkpoints").iterdir()] == ["dinov2_vits14_pretrain.pth"]


def test_a_wrong_hash_and_a_cut_archive_are_removed(server):
    server.files = {"/sam_vit_h_4b8939.pth": weights(), "/rgb_anon_trainvaltest.zip": b"PK" * 100}
    server.files["/gt_trainval.zip"] = b"PK" * 100
    done = rein("download", "sam_h", "--mirror", server.address, code=1)
    assert "SHA-256 begins with" in done.stderr
    assert "not 4b8939" in done.stderr
    assert list(Path("checkpoints").glob("*")) == []
    done = rein("download", "acdc", "--mirror", server.address, code=1)
    assert "'data/acdc/gt_trainval.zip' is no zip archive" in done.stderr
    assert list(Path("data/acdc").glob("*")) == []


def test_another_file_of_the_name_is_not_replaced(server):
    server.files = {"/dinov2_vits14_pretrain.pth": weights()}
    Path("checkpoints").mkdir()
    mine = Path("checkpoints/dinov2_vits14_pretrain.pth")
    mine.write_bytes(b"mine")
    done = rein("download", "dinov2_s", "--mirror", server.address, code=1)
    assert "is there already, and has 4 bytes, the one at" in done.stderr
    assert mine.read_bytes() == b"mine"
    assert "another file" in rein("download", "--list", "dinov2_s", "--mirror", server.address).stdout
    server.files = {"/sam_vit_h_4b8939.pth": b"same"}
    Path("checkpoints/sam_vit_h_4b8939.pth").write_bytes(b"mine")
    done = rein("download", "sam_h", "--mirror", server.address, code=1)
    assert "has another SHA-256 than the one published (4b8939" in done.stderr


def test_what_is_there_stays_usable_without_a_network(server):
    server.files = {"/dinov2_vits14_pretrain.pth": weights()}
    rein("download", "dinov2_s", "--mirror", server.address)
    server.files = {}
    done = rein("download", "dinov2_s", "--mirror", server.address)
    assert "0 files fetched, 1 were there." in done.stdout
    assert "is there and cannot be compared: " in done.stderr


def test_space_is_asked_first(server, monkeypatch):
    server.files = {"/dinov2_vits14_pretrain.pth": weights(600)}
    usage = command.shutil.disk_usage(".")._replace(free=1_000_000)
    monkeypatch.setattr(command.shutil, "disk_usage", lambda path: usage)
    done = rein("download", "dinov2_s", "--mirror", server.address, code=1)
    assert "1.4 MB are to be fetched, and 1.0 MB are free" in " ".join(done.stderr.split())
    assert [each.method for each in server.asked] == ["HEAD"]
    done = rein("download", "urbansyn", "--mirror", server.address, code=1)  # no size is asked for
    assert "21.11 GB are to be fetched, and 1.0 MB are free" in " ".join(done.stderr.split())
    server.next["/dinov2_vits14_pretrain.pth"] = [cut(1_000_000), *[status(500)] * 20]
    monkeypatch.setattr(command.shutil, "disk_usage", lambda path: usage._replace(free=2_000_000))
    rein("download", "dinov2_s", "--mirror", server.address, code=1)
    server.next = {}
    monkeypatch.setattr(command.shutil, "disk_usage", lambda path: usage)
    rein("download", "dinov2_s", "--mirror", server.address)  # the rest fits


def test_stopped_by_the_user(server, monkeypatch):
    server.files = {"/dinov2_vits14_pretrain.pth": weights(600), "/dinov2_vitb14_pretrain.pth": weights(600)}
    real = command.wait

    def interrupted(waiting, **options):
        if any(each.method == "GET" for each in server.asked):
            raise KeyboardInterrupt
        return real(waiting, **options)

    monkeypatch.setattr(command, "wait", interrupted)
    done = rein("download", "dinov2_s", "dinov2_b", "--mirror", server.address, "--parallel", "1", code=130)
    assert "the same command goes on from there" in done.stderr
    monkeypatch.setattr(command, "wait", real)
    rein("download", "dinov2_s", "dinov2_b", "--mirror", server.address)
    assert len(list(Path("checkpoints").glob("*.pth"))) == 2


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        ((), 2, "rein download --list"),
        (("gta2city",), 2, "'gta2citys'"),
        (
            ("cityscapes",),
            1,
            "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from https://www.city",
        ),
        (("cityscapes-c",), 2, "made from Cityscapes"),
        (("dinov3_l",), 1, "dinov3_vitl16_pretrain_lvd1689m-8aa4cbdd.pth from https://ai.meta.com"),
        (("synthia",), 1, "on its own page"),
        (("gta2citys-eva02_l",), 1, "releases/tag/GTAV%2BEVA-L"),
        (("gta2citys-dinov3_l",), 2, "No checkpoint was released"),
        (("gta", "--mirror", "fileserver"), 2, "is no address"),
        (("gta", "--mirror", "http://[::1"), 2, "is no address"),
    ],
)
def test_what_is_not_fetched_is_said_with_what_to_do(server, words, code, expected):
    assert expected in told("download", *words, code=code)
    assert not Path("checkpoints").exists()


def test_every_name_has_its_address_or_its_page():
    assert set(RELEASED) | set(ON_PAGES) <= set(preset_names())
    for preset in RELEASED:
        (remote,) = downloadable.find(preset).files
        assert remote.address.startswith("https://github.com/")
        assert remote.page == page_of(preset)
    assert page_of("demo") == ""
    for name, family in FAMILIES.items():
        if family.address.startswith("https://"):
            (remote,) = downloadable.find(name).files
            assert remote.target == Path("checkpoints", family.file)
    assert downloadable.find("clip_l").files[0].digest.startswith("b8cca3fd")
    assert downloadable.find("resnet50").files[0].digest == "2cccc1ad"
    gta = [each.address for each in downloadable.find("gta").files]
    assert len(gta) == 20
    assert gta[0] == "https://download.visinf.tu-darmstadt.de/data/from_games/data/01_images.zip"
    assert {row[0] for row in downloadable.listed()} >= set(DATASETS) - {"cityscapes-c"}
    assert (
        np.unique([each.target for name in ("gta", "acdc") for each in downloadable.find(name).files]).size
        == 22
    )


def test_a_file_where_a_folder_should_be(server):
    server.files = {"/dinov2_vits14_pretrain.pth": weights()}
    Path("taken").write_bytes(b"")
    done = rein("download", "dinov2_s", "--to", "taken", "--mirror", server.address, code=1)
    assert "'taken' is no folder." in done.stderr


def test_doctor_names_the_command():
    out = told("doctor")
    assert "rein download dinov2_l" in out
    assert "rein download gta" in out
