"""`rein presets`: a list with scores; one in full, as TOML that reads back."""

from __future__ import annotations

import pytest

from reincli.commands import presets
from reincli.errors import ReinError
from reincli.settings_files import build_settings, load_settings, preset_names
from reincli.toml_files import read_toml


def test_lists_every_preset_with_its_score(capsys):
    presets.run()
    out = capsys.readouterr().out
    rows = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert set(preset_names()) <= set(rows)
    assert "cityscapes 66.7, bdd100k 60.0, mapillary 66.1" in rows["gta2citys"]
    assert rows["gta2citys"].split()[-1] == "yes"
    assert rows["gta2citys-eva02_l"].rstrip().endswith("on a page")
    assert rows["gta2citys-dinov3_l"].split()[-1] not in ("yes", "page")


@pytest.mark.parametrize("name", preset_names())
def test_prints_one_that_reads_back(name, capsys, tmp_path):
    presets.run(name)
    file = tmp_path / "mine.toml"
    file.write_text(capsys.readouterr().out)
    assert build_settings(read_toml(file)) == load_settings(preset=name)


def test_a_wrong_name_brings_the_nearest():
    with pytest.raises(ReinError, match=r"'gta2city'.*'gta2citys'"):
        presets.run("gta2city")
