"""Settings files as people write them: encodings, backslashes, paths with ~ and variables, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from reincli.cli.options import plain
from reincli.errors import ReinError
from reincli.settings_files import build_settings, expanded, load_settings
from reincli.toml_files import read_toml

TEXT = 'description = "Straße"\n[data]\nroot = "D:/data"\n'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("line", ["\n", "\r\n"])
def test_every_encoding_that_windows_writes_is_read(tmp_path, encoding, line):
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    (tmp_path / "x.toml").write_bytes((mark + TEXT.replace("\n", line)).encode(encoding))
    assert read_toml(tmp_path / "x.toml") == {"description": "Straße", "data": {"root": "D:/data"}}


@pytest.mark.parametrize(
    ("text", "told", "hint"),
    [
        ('[data]\nroot = "C:\\Users\\me"\n', r"line 2", 'write "C:/Users/me"'),
        ("[train]\ntensorboard = True\n", r"line 2: tensorboard = True", "Write true."),
        ("[train]\nema_decay = None\n", "line 2", "leave the line out"),
        ("[data]\nroot = here\n", "line 2", '"here"'),
        ("[data]\n[data]\n", "line 2", "twice"),
        ("just words\n", "line 1", "KEY = VALUE"),
        ("name = \u201cmini\u201d\n", "line 1", 'type ".'),
        ("a\u00a0= 1\n", "line 1", "a plain space"),
        ("a = 40,000\n", "line 1", "40_000"),
        ("a = .5\n", "line 1", "a digit before it"),
    ],
)
def test_what_is_no_toml_is_shown_with_what_to_write(tmp_path, text, told, hint):
    (tmp_path / "x.toml").write_text(text, "utf-8")
    with pytest.raises(ReinError, match=told) as caught:
        read_toml(tmp_path / "x.toml")
    assert hint in caught.value.hint
    assert caught.value.usage


def test_text_of_another_encoding(tmp_path):
    (tmp_path / "x.toml").write_bytes('a = "Straße"'.encode("latin-1"))
    with pytest.raises(ReinError, match="no text in UTF-8") as caught:
        read_toml(tmp_path / "x.toml")
    assert "Save it in UTF-8" in caught.value.hint


def test_home_and_variables_are_filled_in(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WEIGHTS", "/w")
    (tmp_path / "x.toml").write_text(
        '[data]\nroot = "~/data"\n[model.backbone]\nweights = "$WEIGHTS/a.pth"\n'
    )
    settings = load_settings(config=tmp_path / "x.toml", sets=["train.start_from=~/b.pth"])
    assert settings.data.root == f"{tmp_path}/data"
    assert settings.model.backbone.weights == "/w/a.pth"
    assert settings.train.start_from == f"{tmp_path}/b.pth"
    assert expanded("frames/a$1") == "frames/a$1"
    with pytest.raises(ReinError, match="variable NOT_THERE, which is not set"):
        build_settings({"data": {"root": "$NOT_THERE/x"}})


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("train.iterations", "many", "expected a whole number"),
        ("train.iterations", 2.5, "expected a whole number"),
        ("train.iterations", 0, "it must be over 0"),
        ("data.augment.flip", 2, "it must be at most 1"),
        ("optim.lr", "fast", "expected a number"),
        ("train.tensorboard", "perhaps", "expected true or false"),
        ("test.mode", "tile", "it is one of 'slide' or 'whole'"),
        ("data.train", "gta", "expected a list"),
        ("data.root", 3, "expected text"),
        ("model.head", 3, "expected a table"),
        ("test.tta_scales", [], "at least 1"),
    ],
)
def test_complaints_are_in_the_words_of_the_file(key, value, told):
    raw: dict = {}
    table = raw
    *tables, last = key.split(".")
    for part in tables:
        table = table.setdefault(part, {})
    table[last] = value
    with pytest.raises(ReinError, match=told) as caught:
        build_settings(raw)
    assert f"'{key}" in caught.value.message
    assert "Input should" not in caught.value.message


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32"])
def test_wide_text_without_a_known_mark_says_what_to_do(tmp_path, encoding):
    (tmp_path / "x.toml").write_bytes("a = 1\n".encode(encoding))
    with pytest.raises(ReinError, match="the character NUL") as caught:
        read_toml(tmp_path / "x.toml")
    assert "Save it in UTF-8" in caught.value.hint


def test_lines_that_end_with_a_return_alone_are_read(tmp_path):
    (tmp_path / "x.toml").write_bytes(b"a = 1\rb = 2\r")
    assert read_toml(tmp_path / "x.toml") == {"a": 1, "b": 2}


def test_a_preset_for_a_file_and_a_file_for_a_preset(tmp_path):
    (tmp_path / "mine.toml").touch()
    with pytest.raises(ReinError, match="is a preset") as caught:
        load_settings(config=Path("gta2citys"))
    assert caught.value.hint == "Give it as: --preset gta2citys"
    with pytest.raises(ReinError, match="No preset") as caught:
        load_settings(preset="my own.toml")
    assert caught.value.hint == "A file is given as: --config 'my own.toml'"
    with pytest.raises(ReinError, match="No settings file") as caught:
        load_settings(config=tmp_path / "mine")
    assert caught.value.hint == f"Did you mean '{tmp_path / 'mine.toml'}'?"


def test_a_colour_of_two_numbers(tmp_path):
    text = '[data.own.x]\nclasses = [{ name = "a", color = [0, 0] }, { name = "b", color = [1, 1, 1] }]\n'
    (tmp_path / "x.toml").write_text(text + '[data.own.x.splits.train]\nimages = "~/i"\nlabels = "l"\n')
    with pytest.raises(ReinError, match="no entry 2") as caught:
        load_settings(config=tmp_path / "x.toml")
    assert "three numbers" in caught.value.hint


def test_folders_of_a_split_and_paths_of_options_may_be_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LABELS", "/labels")
    text = '[data.own.x]\nclasses = [{ name = "a", color = [0, 0, 0] }, { name = "b", color = [1, 1, 1] }]\n'
    (tmp_path / "x.toml").write_text(text + '[data.own.x.splits.t]\nimages = "~/i"\nlabels = "$LABELS/l"\n')
    split = load_settings(config=tmp_path / "x.toml").data.own["x"].splits["t"]
    assert (split.images, split.labels) == (str(tmp_path / "i"), "/labels/l")
    given = plain({"work_dir": Path("~/run"), "others": [Path("~/a"), Path("b")], "none": None})
    assert given == {"work_dir": tmp_path / "run", "others": [tmp_path / "a", Path("b")], "none": None}
