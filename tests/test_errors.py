"""What a hint names in place of a path that is not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reincli.errors import instead_of

WEIGHTS = (".pth", ".pt")


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs below the working folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("gta2citys", "citys2acdc"):
        folder = tmp_path / "work_dirs" / name
        folder.mkdir(parents=True)
        for file in ("last.pth", "iter_100.pth", "settings.toml"):
            (folder / file).touch()
    return tmp_path


def test_a_mistyped_file(runs: Path) -> None:
    assert (
        instead_of(Path("work_dirs/gta2citys/lst.pth"), WEIGHTS)
        == "Did you mean 'work_dirs/gta2citys/last.pth'?"
    )
    assert str(runs / "work_dirs/gta2citys/last.pth") in instead_of(runs / "work_dirs/gta2citys/lats.pth")


def test_a_mistyped_folder_on_the_way(runs: Path) -> None:
    for wrong in ("work_dirs/gta2cits/last.pth", "wrk_dirs/gta2citys/last.pth"):
        assert instead_of(Path(wrong), WEIGHTS) == "Did you mean 'work_dirs/gta2citys/last.pth'?"
    # the folder is known, and what was asked for is not in it
    assert instead_of(Path("work_dirs/gta2cits/best.pth"), WEIGHTS) == "Did you mean 'work_dirs/gta2citys'?"


def test_a_mistyped_folder_itself(runs: Path) -> None:
    assert instead_of(Path("work_dirs/citys2acd"), folder=True) == "Did you mean 'work_dirs/citys2acdc'?"


def test_nothing_like_it_tells_what_is_there(runs: Path) -> None:
    hint = instead_of(Path("work_dirs/gta2citys/best_night.safetensors"), WEIGHTS)
    assert hint == "'work_dirs/gta2citys' has iter_100.pth, last.pth."  # and no settings.toml: no weights
    for number in range(7):
        (runs / "work_dirs" / "gta2citys" / f"{number}.pt").touch()
    assert "0.pt, 1.pt, 2.pt, 3.pt and 5 more." in instead_of(Path("work_dirs/gta2citys/zzz"), WEIGHTS)


def test_where_the_path_breaks_off(runs: Path) -> None:
    assert instead_of(Path("elsewhere/deep/x.pth")) == "There is no 'elsewhere' either: check the path."
    assert instead_of(Path("/nowhere/at/all/x.pth")) == "There is no '/nowhere' either: check the path."
    (runs / "empty").mkdir()
    assert instead_of(Path("empty/x.pth")) == "Check the path."


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permission is not refused here")
def test_a_folder_that_may_not_be_read(runs: Path) -> None:
    (runs / "work_dirs").chmod(0)
    try:
        assert "heck the path." in instead_of(Path("work_dirs/gta2citys/lst.pth"))
    finally:
        (runs / "work_dirs").chmod(0o755)


def test_a_link_that_leads_nowhere_or_back_is_said_and_silences_nothing(runs: Path) -> None:
    Path("gone.pth").symlink_to("nowhere.pth")
    Path("loop.pth").symlink_to("loop.pth")
    Path("gone").symlink_to("nowhere")
    assert instead_of(Path("gone.pth")).startswith(
        "'gone.pth' is a link to 'nowhere.pth', which leads nowhere"
    )
    assert "'loop.pth' is a link to 'loop.pth'" in instead_of(Path("loop.pth"))
    assert "'gone' is a link to 'nowhere'" in instead_of(Path("gone/last.pth"))
    assert instead_of(Path("wrk_dirs/gta2citys/last.pth")) == "Did you mean 'work_dirs/gta2citys/last.pth'?"


def test_what_is_there_and_of_another_kind_is_said(runs: Path) -> None:
    last = "work_dirs/gta2citys/last.pth"
    assert instead_of(Path(last, "x.pth")) == f"'{last}' is a file, not a folder."
    assert instead_of(Path(last), folder=True) == f"'{last}' is a file, not a folder."
    assert instead_of(Path("work_dirs")) == "'work_dirs' is a folder: give a file."
    assert instead_of(Path("/dev/null")) == "'/dev/null' is a device or a pipe, not a file."


def test_only_what_would_do_is_named_behind_a_mistyped_folder(runs: Path) -> None:
    lost = Path("work_dirs/gta2cits/last.pth")
    for words in ({"suffixes": (".json",)}, {"folder": True}):
        assert instead_of(lost, **words) == "Did you mean 'work_dirs/gta2citys'?"


def test_folders_are_named_where_no_file_is_like_it(runs: Path) -> None:
    assert instead_of(Path("work_dirs/gta2city"), WEIGHTS) == "Did you mean 'work_dirs/gta2citys'?"
    assert instead_of(Path("Work_Dirs/GTA2Citys/LAST.pth")) == "Did you mean 'work_dirs'?"
    assert instead_of(Path("work_dirs/GTA2Citys/LAST.pth")) == "Did you mean 'work_dirs/gta2citys'?"
    assert instead_of(Path("work_dirs/gta2citys/LAST.PTH")) == "Did you mean 'work_dirs/gta2citys/last.pth'?"


def test_a_folder_of_very_many_files_is_not_counted(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reincli.errors.MOST_NAMES", 5)
    for number in range(9):
        (runs / f"{number}.json").touch()
    assert instead_of(Path("something_else"), (".json",)).endswith(" and others.")
