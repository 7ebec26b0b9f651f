"""Settings: where they come from, what is refused and how, and TOML there and back."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from reincli import config
from reincli.config import Settings, parse_size
from reincli.errors import ReinError
from reincli.settings_files import (
    all_keys,
    build_settings,
    known_keys,
    load_settings,
    parse_assignment,
    preset_names,
    read_preset,
    to_toml,
)
from reincli.toml_files import read_toml, tomllib

OWN = {
    "classes": [{"name": "road", "color": [1, 2, 3]}, {"name": "sky", "color": [4, 5, 6]}],
    "splits": {"train": {"images": "im", "labels": "la"}},
}


def test_later_wins():
    raw = {"optim": {"lr": 1e-3, "power": 1.0}, "train": {"seed": 1}}
    settings = build_settings(raw, ["optim.lr=2e-3", "train.seed=2"], {"train.seed": 3, "data.root": None})
    assert settings.optim.lr == 2e-3
    assert settings.optim.power == 1.0
    assert settings.train.seed == 3
    assert settings.data.root == "data"


def test_the_given_raw_is_left_alone():
    raw = {"optim": {"lr": 1e-3}}
    build_settings(raw, ["optim.lr=1e-4", "data.root=elsewhere"])
    assert raw == {"optim": {"lr": 1e-3}}


def test_settings_do_not_change():
    with pytest.raises(ValidationError):
        Settings().optim.lr = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "keys", "value"),
    [
        ("optim.lr=6e-5", ["optim", "lr"], 6e-5),
        ("train.iterations=4_000", ["train", "iterations"], 4000),
        ('data.train=["gta","synthia"]', ["data", "train"], ["gta", "synthia"]),
        ("data.root=/disk/data", ["data", "root"], "/disk/data"),
        ('data.root="a b"', ["data", "root"], "a b"),
        ("model.train_backbone=true", ["model", "train_backbone"], True),
        ("name=a=b", ["name"], "a=b"),
    ],
)
def test_assignments(text, keys, value):
    assert parse_assignment(text) == (keys, value)


@pytest.mark.parametrize("text", ["optim.lr", "=3", " =3"])
def test_what_is_no_assignment(text):
    with pytest.raises(ReinError, match="KEY=VALUE") as caught:
        parse_assignment(text)
    assert caught.value.usage


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim.lrr=1", "no setting 'optim.lrr'.*Did you mean 'lr'"),
        ("lr=1", "no setting 'lr'.*'optim.lr'"),
        ("optim.lr=-1", "'optim.lr' cannot be -1"),
        ("optim.lr=fast", "'optim.lr' cannot be 'fast'"),
        ("model.tune=reins", "'model.tune' cannot be 'reins'"),
        ("optim.lr.x=1", "'optim.lr.x'|'optim.lr'"),
        ("test.stride=600", "stride 600 is larger than test.window 512"),
        ("test.sizes.gta=big", "size 'big' is neither"),
    ],
)
def test_what_is_refused_names_the_setting(text, message):
    with pytest.raises(ReinError, match=message) as caught:
        build_settings({}, [text])
    assert caught.value.usage


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["model.tune=soma", "model.train_backbone=true"], "model.train_backbone trains whole weights"),
        (["train.ema_from=3"], "train.ema_from says when averaging begins"),
        (["test.stride=600"], "test.stride 600 is larger"),
    ],
)
def test_settings_that_contradict_each_other_are_named_without_the_table_around_them(sets, message):
    with pytest.raises(ReinError) as caught:
        build_settings({}, sets)
    assert caught.value.message.startswith(f"The settings do not fit together: {message}")
    assert "{" not in caught.value.message


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        ([], []),
        (["model.minor.rank=4", "model.tune=soma"], []),
        (["model.minor.rank=4", "model.minor.sub_rank=4"], ["model.minor.rank; model.tune = 'rein' has no minor"]),
        (["model.head.plain.layers=3", "model.head.plain.ffn=8"], ["model.head.plain.layers, model.head.plain.ffn"]),
        (["adapt.masked_share=0.5"], ["adapt.masked_share; no adapt.target is named"]),
    ],
)  # fmt: skip
def test_tables_that_nothing_reads_are_named(sets, told):
    found = config.unused(build_settings({}, sets))
    assert len(found) == len(told)
    assert all(part in text for part, text in zip(told, found, strict=True))


def test_no_preset_fills_in_what_nothing_reads():
    assert not [name for name in preset_names() if config.unused(build_settings(read_preset(name)))]


def test_preset_or_config_not_both_not_neither(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("optim.lr = 1e-5")
    assert load_settings(config=file).optim.lr == 1e-5
    assert load_settings(config=file).name == "mine"
    with pytest.raises(ReinError, match="both"):
        load_settings(preset="gta2citys", config=file)
    with pytest.raises(ReinError, match="Neither"):
        load_settings()


def test_a_missing_or_broken_file_is_named(tmp_path):
    broken = tmp_path / "broken.toml"
    broken.write_text("optim = {")
    for path in (tmp_path / "absent.toml", broken, tmp_path):
        with pytest.raises(ReinError, match=str(path)):
            read_toml(path)


def test_own_dataset_root_is_relative_to_its_file(tmp_path):
    folder = tmp_path / "configs"
    folder.mkdir()
    settings = build_settings({"data": {"own": {"mine": {"root": "../mine", **OWN}}}})
    (folder / "mine.toml").write_text(to_toml(settings))
    read = load_settings(config=folder / "mine.toml")
    assert read.data.own["mine"].root == str(tmp_path / "mine")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": OWN["classes"][:1]}, "classes"),
        ({"map": {"3": 2}}, "points at class 2, but there are 2 classes"),
        ({"test_size": "wide"}, "size 'wide'"),
        ({"classes": [{"name": "a", "color": [0, 0, 256]}, {"name": "b", "color": [0, 0, 0]}]}, "color"),
    ],
)
def test_own_dataset_that_does_not_fit(change, message):
    with pytest.raises(ReinError, match=message):
        build_settings({"data": {"own": {"mine": {**OWN, **change}}}})


def test_own_datasets_of_one_run_share_their_classes():
    other = {**OWN, "classes": [{"name": "a", "color": [0, 0, 0]}, {"name": "b", "color": [0, 0, 0]}]}
    with pytest.raises(ReinError, match="different classes"):
        build_settings({"data": {"own": {"one": OWN, "two": other}}})


@given(st.integers(1, config.LARGEST), st.integers(1, config.LARGEST))
def test_sizes(width, height):
    assert parse_size(f"{width}x{height}") == (width, height)


@pytest.mark.parametrize("text", ["", "x", "12", "12x", "x12", "0x5", "5x0", "-3x4", "1.5x2", "Native"])
def test_what_is_no_size(text):
    with pytest.raises(ValueError, match="neither 'native' nor"):
        parse_size(text)


def test_size_of_a_dataset():
    settings = build_settings(
        {"test": {"sizes": {"gta": "2x1"}}, "data": {"own": {"mine": {**OWN, "test_size": "8x4"}}}}
    )
    assert config.test_size(settings, "gta") == "2x1"
    assert config.test_size(settings, "cityscapes") == "1024x512"
    assert config.test_size(settings, "mine") == "8x4"
    assert config.test_size(settings, "unheard-of") == "native"


printable = st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs", "Cc"])
words = st.text(printable, min_size=1, max_size=12)
settings_strategy = st.builds(
    Settings,
    name=words,
    description=st.text(printable, max_size=30),
    published=st.dictionaries(words, st.floats(0, 100), max_size=3),
    model=st.builds(
        config.ModelSettings,
        tune=st.sampled_from(["rein", "frozen", "full"]),
        backbone=st.builds(
            config.BackboneSettings,
            name=words,
            width=st.none() | st.integers(1, 4096),
            taps=st.none() | st.lists(st.integers(0, 40), max_size=4).map(tuple),
        ),
        adapter=st.builds(config.AdapterSettings, tokens=st.integers(1, 500), link_features=st.booleans()),
    ),
    optim=st.builds(config.OptimSettings, lr=st.floats(1e-12, 1e3), eps=st.floats(1e-12, 1.0)),
    data=st.builds(
        config.DataSettings,
        train=st.lists(words, min_size=1, max_size=3).map(tuple),
        mean=st.none() | st.lists(words, max_size=3).map(tuple),
        own=st.dictionaries(
            words,
            st.builds(
                config.OwnDataset,
                classes=st.just(
                    tuple(config.ClassSettings(name=n, color=(1, 2, 3)) for n in ("road", 'a "b" \\ é'))
                ),
                map=st.dictionaries(st.integers(0, 255).map(str), st.integers(0, 1), max_size=3),
                splits=st.dictionaries(words, st.builds(config.SplitSettings, images=words), max_size=2),
                root=st.none() | words,
                test_size=st.sampled_from(["native", "64x32"]),
                ignore=st.integers(0, 255),
            ),
            max_size=2,
        ),
    ),
)


@given(settings_strategy)
def test_toml_there_and_back(settings):
    read = tomllib.loads(to_toml(settings))
    assert build_settings(read) == settings


def test_every_key_is_settable():
    """Each dotted key is known, and a made-up neighbour of it is not."""
    keys = all_keys()
    assert "optim.lr" in keys
    assert "model.backbone.patch_size" in keys
    assert len(keys) == len(set(keys)) > 60
    for key in keys:
        *path, last = key.split(".")
        assert last in known_keys(path)


@pytest.mark.parametrize(
    "pair",
    [
        "data.train=[]", "model.head.heads=7", "model.head.channels=65", "model.head.channels=48",
        "optim.betas=[2,3]", "optim.eps=-1", "optim.lr=inf", "optim.lr=nan", "data.augment.ratio=[2,1]",
        "data.augment.ratio=[0,1]", "train.seed=999999999999999999999999999999", "train.points=10000000000000",
        "model.adapter.tokens=1000000000000", "data.augment.crop=80000", "train.iterations=true", "optim.lr=true",
        "test.window=10000000", "data.workers=100000", "train.points=-1",
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_refused_and_named(pair):
    with pytest.raises(ReinError) as caught:
        build_settings({}, [pair])
    assert pair.split("=")[0].rsplit(".", 1)[1] in caught.value.message
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("train = 1979-05-27", "'train' in .* is the date or time 1979-05-27"),
        ("[data]\nval = [07:32:00]", "'data.val' in .* is the date or time 07:32:00"),
        ("x = " + "[" * 5000, "is nested too deep"),
        ("a" + ".a" * 50_000 + " = 1", "is nested too deep"),
        ("x = " + "9" * 5000, "has a number of thousands of digits"),
        ('[data]\nroot = "a\\u0000b"', "'data.root' in .* has the character NUL"),
        ("#" * 1_000_001, "is larger than 1,000,000 bytes"),
    ],
)
def test_toml_that_no_setting_can_be_is_a_sentence(tmp_path, text, says):
    path = tmp_path / "a.toml"
    path.write_text(text)
    begun = time.monotonic()
    with pytest.raises(ReinError, match=says):
        load_settings(config=path)
    assert time.monotonic() - begun < 5


def test_a_switch_that_may_be_left_out_takes_true():
    assert build_settings({}, ["model.minor.biases=true"]).model.minor.biases is True
