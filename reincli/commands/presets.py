"""`rein presets`: the settings by name, or one of them in full."""

from __future__ import annotations

from reincli.commands.console import note, result, table
from reincli.config import Settings
from reincli.engine.released import ON_PAGES, RELEASED
from reincli.settings_files import load_settings, preset_names, to_toml


def run(name: str | None = None) -> None:
    """List all presets with their published scores, or print one resolved, as TOML.

    Raises:
        ReinError: no preset is named so.
    """
    if name is not None:
        result(to_toml(load_settings(preset=name)).rstrip())
        return
    settings = [load_settings(preset=each) for each in preset_names()]
    table(
        ("preset", "what it is", "published mIoU", "released"),
        [(each.name, each.description, published(each), released(each.name)) for each in settings],
    )
    note("Released checkpoints: rein download NAME; of those 'on a page' it tells which.")
    note("One in full: rein presets NAME. As a file to change: rein presets NAME > mine.toml")


def released(preset: str) -> str:
    """Whether the authors released a checkpoint for a preset: 'yes', 'on a page', or nothing."""
    return "yes" if preset in RELEASED else "on a page" if preset in ON_PAGES else ""


def published(settings: Settings) -> str:
    """Published scores in one line, to the digit published: "cityscapes 66.7, bdd100k 60.0"; empty without any."""
    return ", ".join(
        f"{domain} {f'{score:.2f}'.removesuffix('0')}" for domain, score in settings.published.items()
    )
