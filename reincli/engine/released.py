"""Checkpoints that the methods' authors released: for which preset, and where.

Each is what the published scores beside the preset were taken with, but where its preset says otherwise.
"""

from __future__ import annotations

REIN_PAGE = "https://github.com/w1oves/Rein/releases"
SOMA_PAGE = "https://github.com/ysj9909/SoMA/releases/tag/v1.0"
_REIN = "https://github.com/w1oves/Rein/releases/download"
_SOMA = "https://github.com/ysj9909/SoMA/releases/download/v1.0/soma_dinov2-L"


def _rein(tag: str, file: str = "iter_40000_published.pth") -> str:
    return f"{_REIN}/{tag}/{file}"


RELEASED: dict[str, str] = {
    "gta2citys": _rein("GTAV"),
    "gta2citys-vit_s": _rein("GTAV%2BViT-Small"),
    "gta2citys-vit_b": _rein("GTAV%2BViT-Base"),
    "gta2citys-clip_l": _rein("GTAV%2BCLIP-L"),
    "gta2citys-sam_h": _rein("GTAV%2BSAM-H"),
    "gta2citys-convnext_l": _rein("GTAV%2BConvNeXt-L"),
    "gta2citys-resnet50": _rein("GTAV%2BResNet50"),
    "gta2citys-resnet101": _rein("GTAV%2BResNet101"),
    "gta_synthia2citys": _rein("GTAV%2BSynthia"),
    "citys2acdc": _rein("Cityscapes", "citys2acdc_40k_rein_head.pth"),
    "citys2citysc": _rein("Cityscapes", "citys2acdc_40k_rein_head.pth"),  # one model for both
    "citys16th2citys": _rein("Semi-Supervised(1%2F16)", "iter_4000_published.pth"),
    "gta2citys-soma": f"{_SOMA}_g2cbm_best.pth",
    "gta_synthia2citys-soma": f"{_SOMA}_gs2cbm_best.pth",
    "gta_synthia_urbansyn2citys-soma": f"{_SOMA}_gsu2cbm_1024x1024_best.pth",
    "gta_synthia_urbansyn2citys-soma-512": f"{_SOMA}_gsu2cbm_best.pth",
    "citys16th2citys-soma": f"{_SOMA}_data_efficiency_1024x1024_best.pth",
    "citys2bdd_mapillary-soma": f"{_SOMA}_c2bm_best.pth",
    "citys2acdc-soma": f"{_SOMA}_acdc_1024x1024_best.pth",
}
"""Address by preset."""
ON_PAGES: dict[str, str] = {
    "gta2citys-eva02_l": f"{REIN_PAGE}/tag/GTAV%2BEVA-L",
    "gta_synthia_urbansyn2citys": f"{REIN_PAGE}/tag/UrbanSyn%2BGTAV%2BSynthia",
    "citys2bdd_mapillary": f"{REIN_PAGE}/tag/Cityscapes512",
}
"""Presets whose checkpoint lies on a page, under a name that is not known here."""


def page_of(preset: str) -> str:
    """Where a person finds the checkpoint of a preset; '' where none was released."""
    if preset in ON_PAGES:
        return ON_PAGES[preset]
    if preset not in RELEASED:
        return ""
    return SOMA_PAGE if RELEASED[preset].startswith(_SOMA) else REIN_PAGE
