"""Foundation models of the method's tables and DINOv3: what each is called, how large it is, where its weights are.

Nothing here builds a model: settings, checkpoints and the commands ask these tables alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from reincli.config import BackboneSettings
from reincli.errors import ReinError, nearest

DINOV3_PAGE = "https://ai.meta.com/resources/models-and-libraries/dinov3-downloads/"


@dataclass(frozen=True)
class Family:
    """One backbone.

    Attributes:
        kind: how it is built and its weights are named, a key of `layouts.LAYOUTS`.
        timm: name of the timm model that equals it.
        widths: of the four maps, fine to coarse.
        stages: blocks in each stage; a plain transformer has one stage.
        heads: of the attention; 0 where it does not matter.
        taps: blocks whose outputs the head reads; empty where each stage gives one map.
        adapted: blocks that are refined; None: all.
        file: usual name of the raw weights under `checkpoints/`. address: where they can be had.
        shipped: name of the file in the folder `weights` of this package; empty: none.
        released: whether the original knows it, so that one of its checkpoints may have been trained on it.
    """

    kind: str
    timm: str
    widths: tuple[int, int, int, int]
    stages: tuple[int, ...]
    heads: int = 0
    taps: tuple[int, ...] = ()
    adapted: tuple[int, ...] | None = None
    file: str = ""
    address: str = ""
    shipped: str = ""
    released: bool = True

    @property
    def is_open(self) -> bool:
        """Whether everybody may fetch its raw weights, without an account or consent."""
        return self.address.startswith("https://")

    @property
    def blocks(self) -> int:
        """All blocks together."""
        return sum(self.stages)

    @property
    def banks(self) -> tuple[int, ...]:
        """Refined blocks by adapter: one adapter a stage."""
        return self.stages if self.adapted is None else (len(self.adapted),)


def spread(depth: int) -> tuple[int, ...]:
    """Four blocks at 1/3, 1/2, 2/3 and the end of `depth` blocks: 7, 11, 15, 23 of 24."""
    return tuple(max(0, round(depth * share) - 1) for share in (1 / 3, 1 / 2, 2 / 3, 1))


def usual_taps(depth: int) -> tuple[int, ...]:
    """The blocks that the method reads in a foundation model: 2, 5, 8, 11 of 12, else as `spread`."""
    return (2, 5, 8, 11) if depth == 12 else spread(depth)


def quarters(depth: int) -> tuple[int, ...]:
    """The blocks that end the quarters of `depth` blocks: 5, 11, 17, 23 of 24, as the plain head reads them."""
    return tuple(-(-depth * quarter // 4) - 1 for quarter in (1, 2, 3, 4))


def _plain(
    kind: str, timm: str, width: int, depth: int, heads: int, file: str, address: str, released: bool = True
) -> Family:
    widths = (width, width, width, width)
    return Family(
        kind, timm, widths, (depth,), heads, usual_taps(depth), file=file, address=address, released=released
    )


def _dinov2(letter: str, size: str, width: int, depth: int, heads: int) -> Family:
    file = f"dinov2_vit{letter}14_pretrain.pth"
    address = f"https://dl.fbaipublicfiles.com/dinov2/dinov2_vit{letter}14/{file}"
    return _plain("dinov2", f"vit_{size}_patch14_dinov2", width, depth, heads, file, address)


def _dinov3(letter: str, size: str, digest: str, width: int, depth: int, heads: int) -> Family:
    file = f"dinov3_vit{letter}16_pretrain_lvd1689m-{digest}.pth"
    timm = f"vit_{size}_patch16_dinov3_qkvb"
    return _plain("dinov3", timm, width, depth, heads, file, f"{file} from {DINOV3_PAGE}", released=False)


def _resnet(depth: int, stages: tuple[int, ...], digest: str) -> Family:
    file = f"resnet{depth}_v1c-{digest}.pth"
    address = f"https://download.openmmlab.com/pretrain/third_party/{file}"
    return Family("resnet", f"resnet{depth}c", (256, 512, 1024, 2048), stages, file=file, address=address)


CLIP_ADDRESS = (
    "https://openaipublic.azureedge.net/clip/models/"
    "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836/ViT-L-14.pt"
)
CONVNEXT_FILE = "convnext-large_3rdparty_in21k_20220301-e6e0ea0a.pth"
EVA02_FILE = "eva02_L_pt_m38m_p14to16.pt"
SAM_FILE = "sam_vit_h_4b8939.pth"

FAMILIES: dict[str, Family] = {
    "dinov2_s": _dinov2("s", "small", 384, 12, 6),
    "dinov2_b": _dinov2("b", "base", 768, 12, 12),
    "dinov2_l": _dinov2("l", "large", 1024, 24, 16),
    "eva02_l": _plain(
        "eva02", "eva02_large_patch14_448", 1024, 24, 16, EVA02_FILE,
        f"https://huggingface.co/Yuxin-CV/EVA-02/resolve/main/eva02/pt/{EVA02_FILE}",
    ),
    "clip_l": _plain(
        "clip", "vit_large_patch14_clip_quickgelu_224", 1024, 24, 16, "ViT-L-14.pt", CLIP_ADDRESS
    ),
    "sam_h": Family(
        "sam", "samvit_huge_patch16", (1280, 1280, 1280, 1280), (32,), 16, (7, 15, 23, 31), (7, 15, 23, 31),
        SAM_FILE, f"https://dl.fbaipublicfiles.com/segment_anything/{SAM_FILE}",
    ),
    "convnext_l": Family(
        "convnext", "convnext_large", (192, 384, 768, 1536), (3, 3, 27, 3), file=CONVNEXT_FILE,
        address=f"https://download.openmmlab.com/mmclassification/v0/convnext/downstream/{CONVNEXT_FILE}",
    ),
    "resnet50": _resnet(50, (3, 4, 6, 3), "2cccc1ad"),
    "resnet101": _resnet(101, (3, 4, 23, 3), "e67eebb6"),
    "mini": Family(
        "dinov2", "", (192, 192, 192, 192), (6,), 6, spread(6), shipped="mini.safetensors", released=False
    ),
    "dinov3_s": _dinov3("s", "small", "08c60483", 384, 12, 6),
    "dinov3_b": _dinov3("b", "base", "73cec8be", 768, 12, 12),
    "dinov3_l": _dinov3("l", "large", "8aa4cbdd", 1024, 24, 16),
}  # fmt: skip

OWN = "vit"
"""Name of a ViT of any size, in the form of DINOv2."""


def family_of(settings: BackboneSettings) -> Family | None:
    """The family that settings name; None for any other name, which must be one of timm's models.

    Raises:
        ReinError: sizes set for a family that has its own, or missing for `vit`.
    """
    if settings.name != OWN:
        if settings.width or settings.depth or settings.heads:
            raise ReinError(
                f"Backbone '{settings.name}' has fixed sizes, but width, depth or heads are set.",
                'Use model.backbone.name = "vit" for a ViT of your own sizes.',
                usage=True,
            )
        return FAMILIES.get(settings.name)
    if not (settings.width and settings.depth and settings.heads):
        raise ReinError(
            "Backbone 'vit' needs width, depth and heads under [model.backbone].",
            "For example: width = 384, depth = 12, heads = 6.",
            usage=True,
        )
    if settings.width % settings.heads:
        raise ReinError(
            f"A width of {settings.width} does not divide into {settings.heads} heads.",
            f"Take a multiple: {max(1, settings.width // settings.heads) * settings.heads}, for example.",
            usage=True,
        )
    widths = (settings.width, settings.width, settings.width, settings.width)
    taps = settings.taps or spread(settings.depth)
    return Family("dinov2", "", widths, (settings.depth,), settings.heads, taps)


def unknown_name(name: str, timm_names: list[str]) -> ReinError:
    """The error for a backbone that neither the tables nor timm know."""
    hint = nearest(name, [*FAMILIES, OWN, *timm_names])
    if len(hint) > 200:  # nothing is near: timm's thousand names would help nobody
        hint = f"Known here: {', '.join([*FAMILIES, OWN])}; any other name must be a model of timm."
    return ReinError(f"No backbone is named '{name}', here or in timm.", hint, usage=True)
