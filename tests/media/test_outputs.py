"""What a command writes is kept apart from what it reads and from what others wrote."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from reincli.errors import ReinError
from reincli.media.images import read_label, write_png
from reincli.media.outputs import Outputs, at_work, keep_apart, mark, mark_of
from reincli.media.whole_files import clear_dead, temporary_beside, write_bytes


@pytest.mark.parametrize("way", ["name", "symbolic", "hard", "folder", "dots"])
def test_no_output_is_a_file_that_is_read_by_whatever_name(tmp_path, way):
    image = tmp_path / "in" / "image.png"
    write_bytes(image, b"precious")
    target = {
        "name": image,
        "symbolic": tmp_path / "link.png",
        "hard": tmp_path / "other.png",
        "folder": tmp_path / "again" / "image.png",
        "dots": tmp_path / "in" / ".." / "in" / "image.png",
    }[way]
    if way == "symbolic":
        target.symlink_to(image)
    if way == "hard":
        os.link(image, target)
    if way == "folder":
        (tmp_path / "again").symlink_to(tmp_path / "in")
    with pytest.raises(ReinError, match="would be written over a file that this command reads"):
        Outputs("eval", [image]).claim(target, "--json", replace=True)
    with pytest.raises(ReinError, match="would be written over"):
        keep_apart([str(image)], [str(target)])


def test_only_what_the_same_command_wrote_is_replaced(tmp_path):
    foreign, ours, label = tmp_path / "notes.json", tmp_path / "scores.json", tmp_path / "map.png"
    foreign.write_text("{}")
    ours.write_text('{"made_by": "' + mark("eval") + '"}')
    write_png(label, np.zeros((4, 4), np.uint8), mark=mark("visualize", "12ab"))
    outputs = Outputs("eval", [])
    assert outputs.claim(ours) == ours
    with pytest.raises(ReinError, match="is there already, and rein eval did not write it"):
        outputs.claim(foreign, "--json")
    with pytest.raises(ReinError, match="is there already"):
        outputs.claim(label)
    assert Outputs("visualize", []).claim(label) == label
    assert mark_of(label) == "visualize 12ab"
    assert read_label(label).shape == (4, 4)


def test_two_outputs_are_two_files(tmp_path):
    outputs = Outputs("eval", [])
    outputs.claim(tmp_path / "a.json", "--json")
    with pytest.raises(ReinError, match="Two outputs would be one file"):
        outputs.claim(tmp_path / "x" / ".." / "a.json", "--report")


def test_an_output_below_a_file_is_refused_before_the_work(tmp_path):
    (tmp_path / "notes").write_text("mine")
    for name in ("notes/a.json", "notes/deep/a.json"):
        with pytest.raises(ReinError, match="notes' is a file, and a folder was expected"):
            Outputs("eval", []).claim(tmp_path / name, "--json")
    assert Outputs("eval", []).claim(tmp_path / "new" / "deep" / "a.json")


def test_a_link_that_leads_to_itself_is_refused(tmp_path):
    (tmp_path / "a.json").symlink_to("b.json")
    (tmp_path / "b.json").symlink_to("a.json")
    with pytest.raises(ReinError, match="is a link that leads to itself"):
        Outputs("eval", []).claim(tmp_path / "a.json", "--json")


def test_links_are_written_through_and_pipes_are_written_to(tmp_path):
    real, link, pipe = tmp_path / "real.json", tmp_path / "link.json", tmp_path / "pipe"
    real.write_text("old")
    link.symlink_to(real)
    write_bytes(link, b"new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_bytes(pipe, b"through")
    reader.join(10)
    assert got == [b"through"]
    assert pipe.is_fifo()
    assert Outputs("eval", [real]).claim(pipe) == pipe


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_is_printed_to_also_where_it_goes_to_a_file(tmp_path, name):
    if not Path(name).exists():
        pytest.skip(f"this system has no {name}")
    code = (
        "import sys; from pathlib import Path; from reincli.media.images import write_bytes; print('before');"
        f"write_bytes(Path('{name}'), b'whole\\n'); print('after')"
    )
    with open(tmp_path / "out", "wb") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
    assert (tmp_path / "out").read_text() == "before\nwhole\nafter\n"


def test_temporary_files_of_the_dead_go_and_those_of_the_living_stay(tmp_path):
    mine = temporary_beside(tmp_path / "last.pth")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead = Path(str(mine).replace(f".{os.getpid()}.", f".{gone.pid}."))
    elsewhere = tmp_path / ".last.pth.another-machine.1.tmp"
    for path in (mine, dead, elsewhere):
        path.write_bytes(b"half")
    folder = tmp_path / dead.name.replace("last", "model")
    folder.mkdir()
    (folder / "graph").write_bytes(b"half")
    assert clear_dead(tmp_path) == 2
    assert {path.name for path in tmp_path.iterdir()} == {mine.name, elsewhere.name}
    assert len(os.fsencode(temporary_beside(tmp_path / ("ä" * 127)).name)) < 255


def test_the_second_at_work_in_a_folder_says_who_is_the_first(tmp_path):
    code = (
        "import os, sys, time; from pathlib import Path; from reincli.media.outputs import at_work\n"
        f"with at_work(Path({str(tmp_path)!r}), 'train'):\n"
        "    child = os.fork()\n"
        "    if child: print('ready', flush=True)\n"
        "    time.sleep(30)\n"  # the child outlives its parent
    )
    first = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    first.stdout.readline()
    with pytest.raises(ReinError, match=f"rein train, process {first.pid} on"), at_work(tmp_path, "train"):
        pass
    first.kill()
    first.wait()
    with at_work(tmp_path, "train"):
        assert (tmp_path / ".at-work").exists()
    assert not (tmp_path / ".at-work").exists()


def test_the_second_to_write_a_file_says_who_is_the_first_and_others_beside_it_are_free(tmp_path):
    code = (
        "import time; from pathlib import Path; from reincli.media.outputs import at_work\n"
        f"with at_work(Path({str(tmp_path / 'a.json')!r}), 'eval', file=True):\n"
        "    print('ready', flush=True); time.sleep(30)\n"
    )
    first = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    first.stdout.readline()
    (tmp_path / "link.json").symlink_to(tmp_path / "a.json")
    for name in ("a.json", "link.json"):
        with (
            pytest.raises(ReinError, match="rein eval, process"),
            at_work(tmp_path / name, "eval", file=True),
        ):
            pass
    for free in ("b.json", "/dev/null"):
        with at_work(tmp_path / free, "eval", file=True):
            pass
    first.kill()
    first.wait()
    with at_work(tmp_path / "a.json", "eval", file=True):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["link.json"]
