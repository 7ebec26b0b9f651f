"""What a user names as input: which files are found, in which order, and where their drawings go."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from reincli.errors import ReinError
from reincli.media.images import write_png
from reincli.media.inputs import find_inputs, kind_of
from reincli.media.picture_kinds import holds_more


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def picture(path):
    write_png(Path(path), np.zeros((4, 6, 3), np.uint8))


def targets(inputs, out="out", **options):
    return [p.target.relative_to(out).as_posix() for p in find_inputs(inputs, Path(out), **options).files]


def test_folders_keep_relative_paths_and_skip_what_is_no_image():
    for name in ("b.png", "a.JPG", "sub/c.png", "sub/deep/d.jpeg", ".hidden.png", ".git/e.png"):
        picture(Path("drive", name).with_suffix(".png"))
        Path("drive", name).with_suffix(".png").rename(Path("drive", name))
    Path("drive/notes.txt").write_text("no image")
    assert targets(["drive"]) == ["a.png", "b.png", "sub/c.png", "sub/deep/d.png"]


def test_suffix_and_match_choose_within_folders():
    for name in ("fog/a_rgb.png", "fog/a_depth.png", "night/b_rgb.png"):
        picture(Path("drive", name))
    assert targets(["drive"], suffix="_rgb.png") == ["fog/a_rgb.png", "night/b_rgb.png"]
    assert targets(["drive"], match="fog/*") == ["fog/a_depth.png", "fog/a_rgb.png"]
    assert targets(["drive"], match="b_*") == ["night/b_rgb.png"]
    with pytest.raises(ReinError, match=r"ending with '_left\.png' matching 'fog\*' was found at 'drive'"):
        targets(["drive"], suffix="_left.png", match="fog*")


def test_globs_keep_what_is_below_the_fixed_part():
    for name in ("x/1.png", "y/2.png", "y/z/3.png"):
        picture(Path("drive", name))
    assert targets(["drive/*/*.png"]) == ["x/1.png", "y/2.png"]
    assert targets(["drive/**/*.png"]) == ["x/1.png", "y/2.png", "y/z/3.png"]
    assert targets(["drive/y/*.png", "drive/x/1.png"]) == ["2.png", "1.png"]


def test_brackets_in_a_name_are_a_name():
    picture("drive [1]/a[0].png")
    assert targets(["drive [1]"]) == ["a[0].png"]
    assert targets(["drive [1]/a[0].png"]) == ["a[0].png"]


def test_an_image_named_twice_is_drawn_once():
    picture("drive/a.png")
    assert targets(["drive", "drive/a.png", "drive/*.png"]) == ["a.png"]


def test_no_two_images_share_a_drawing():
    for name in ("one/a.png", "two/a.png", "two/b.png"):
        picture(name)
    Path("two/b.png").rename("two/b.jpg")
    picture("two/b.png")
    assert targets(["one", "two"]) == ["one/a.png", "two/a.png", "two/b.jpg.png", "two/b.png.png"]


def test_drawings_inside_the_input_folder_are_not_read_again():
    picture("drive/a.png")
    picture("drive/shown/a.png")
    assert targets(["drive"], "drive/shown") == ["a.png"]
    assert targets(["drive/**/*.png"], "drive/shown") == ["a.png"]


@pytest.mark.parametrize(
    ("inputs", "out"), [(["drive"], "drive"), (["drive/a.png"], "drive"), (["a.png"], ".")]
)
def test_an_input_is_never_replaced(inputs, out):
    picture("drive/a.png")
    picture("a.png")
    with pytest.raises(ReinError, match="input") as caught:
        find_inputs(inputs, Path(out))
    assert caught.value.usage


@pytest.mark.parametrize("inputs", [["absent.png"], ["absent/*.png"], ["empty"]])
def test_nothing_to_read_is_wrong_use(inputs):
    Path("empty").mkdir()
    with pytest.raises(ReinError, match=inputs[0].replace("*", r"\*")) as caught:
        find_inputs(inputs, Path("out"))
    assert caught.value.usage


def test_other_kinds_of_files_are_found_and_named():
    picture("drive/a.png")
    for name in ("drive/b.mp4", "drive/a.mp4", "drive/notes.txt"):
        Path(name).write_bytes(b"")
    assert targets(["drive"]) == ["a.png", "a.mp4", "b.mp4"]
    found = find_inputs(["camera:0", "drive/b.mp4", "camera:12"], Path("out"))
    assert found.cameras == [0, 12]
    assert found.files[0].kind == "video"
    assert found.files[0].label == Path("out/b_labelTrainIds")


def test_a_file_without_a_known_suffix_is_looked_into():
    picture("a.png")
    Path("a.png").rename("picture")
    writer = cv2.VideoWriter("a.avi", cv2.VideoWriter.fourcc(*"MJPG"), 5.0, (64, 48))
    writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    Path("a.avi").rename("film.dat")
    Path("other.dat").write_bytes(b"other")
    assert [kind_of(Path(name)) for name in ("picture", "film.dat", "other.dat")] == [
        "image",
        "video",
        "image",
    ]


def test_a_list_names_files_beside_it_or_here():
    for name in ("set/x/1.png", "set/2.png", "3.png"):
        picture(name)
    Path("set/list.txt").write_text("# chosen\nx/1.png\n2.png\n\n3.png\nabsent.png\n", "utf-8")
    found = find_inputs(["set/list.txt"], Path("out"))
    assert [f.target.as_posix() for f in found.files] == ["out/x/1.png", "out/2.png", "out/3.png"]
    assert found.missing == ["absent.png (in set/list.txt)"]
    Path("bytes.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ReinError, match="no list of paths"):
        find_inputs(["bytes.txt"], Path("out"))


def test_every_takes_some_of_the_images():
    for index in range(7):
        picture(f"drive/{index}.png")
    assert targets(["drive"], every=3) == ["0.png", "3.png", "6.png"]


def test_names_in_any_script():
    picture("straße/雨.png")
    assert targets(["straße"]) == ["雨.png"]


def test_a_folder_of_other_things_says_what_is_there():
    Path("notes").mkdir()
    for name in ("a.json", "b.json", "c.csv"):
        Path("notes", name).write_text("{}")
    with pytest.raises(ReinError, match=r"there are: 2 \.json, 1 \.csv"):
        find_inputs(["notes"], Path("out"))


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.webp", "a.gif"])
def test_pictures_with_several_pages_or_frames_are_counted(tmp_path: Path, name: str) -> None:
    pages = [Image.fromarray(np.full((8, 8, 3), shade, np.uint8)) for shade in (0, 90, 255)]
    pages[0].save(tmp_path / f"one-{name}")
    assert find_inputs([str(tmp_path)], tmp_path / "out", suffix=Path(name).suffix).several == 0
    pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
    assert find_inputs([str(tmp_path)], tmp_path / "out", suffix=Path(name).suffix).several == 1


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([b"II*\0", b"MM\0*", b"\x89PNG\r\n\x1a\n", b"RIFF1234WEBPVP8X", b"GIF89a"]),
    st.binary(max_size=80),
)
def test_heads_of_any_bytes_have_no_further_pages_or_some(
    tmp_path_factory, start: bytes, rest: bytes
) -> None:
    file = tmp_path_factory.mktemp("heads") / "a"
    file.write_bytes(start + rest)
    assert holds_more(file) in (True, False)
