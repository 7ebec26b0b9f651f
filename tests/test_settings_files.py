"""Settings files as people write them: encodings, backslashes, paths with ~ and variables, and what is refused."""

from __future__ import annotations

import pytest

from reincli.errors import ReinError
from reincli.settings_files import build_settings, load_settings, read_toml

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
    ],
)
def test_what_is_no_toml_is_shown_with_what_to_write(tmp_path, text, told, hint):
    (tmp_path / "x.toml").write_text(text)
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
