"""Every setting and its default, once. The defaults are the 512x512 recipe of the paper (arXiv 2312.04265).

How a run's `Settings` is put together from presets, files and options: `settings_files`.
"""

from reincli.config.data import AugmentSettings, ClassSettings, DataSettings, OwnDataset, SplitSettings
from reincli.config.model import (
    GROUPS,
    AdapterSettings,
    BackboneSettings,
    HeadSettings,
    MinorSettings,
    ModelSettings,
    PlainHeadSettings,
)
from reincli.config.settings import (
    LARGEST,
    TEST_SIZES,
    Settings,
    TestSettings,
    is_exact,
    parse_size,
    test_size,
    unused,
)
from reincli.config.training import (
    AdaptSettings,
    BorderSettings,
    FactorSettings,
    OptimSettings,
    PretrainSettings,
    TrackerName,
    TrainSettings,
)

__all__ = [
    "GROUPS",
    "LARGEST",
    "TEST_SIZES",
    "AdaptSettings",
    "AdapterSettings",
    "AugmentSettings",
    "BackboneSettings",
    "BorderSettings",
    "ClassSettings",
    "DataSettings",
    "FactorSettings",
    "HeadSettings",
    "MinorSettings",
    "ModelSettings",
    "OptimSettings",
    "OwnDataset",
    "PlainHeadSettings",
    "PretrainSettings",
    "Settings",
    "SplitSettings",
    "TestSettings",
    "TrackerName",
    "TrainSettings",
    "is_exact",
    "parse_size",
    "test_size",
    "unused",
]
