"""The 124 classes of Mapillary Vistas 2.0, each with its class index of Cityscapes.

Names and their order are those of `config_v2.0.json` in the download. Each class goes where its counterpart of
version 1.2 goes (`labels.MAPILLARY`): parts of the road and what is painted on it are road, groups are their members,
what had no class keeps none. What has no counterpart goes by the definitions of Cityscapes: driveways and parking
aisles are road, traffic islands sidewalk, garages building. This choice is ours; no published score stands on it.
"""

from __future__ import annotations

import numpy as np

from reincli.data.labels import IGNORE

_ROAD, _SIDEWALK, _BUILDING, _WALL, _FENCE, _POLE, _LIGHT, _SIGN = range(8)
_GREEN, _TERRAIN, _SKY, _PERSON, _RIDER, _CAR, _TRUCK, _BUS, _TRAIN, _MOTORCYCLE, _BICYCLE = range(8, 19)

VISTAS_2: tuple[tuple[str, int], ...] = (
    ("animal--bird", IGNORE), ("animal--ground-animal", IGNORE),
    ("construction--barrier--ambiguous", IGNORE), ("construction--barrier--concrete-block", IGNORE),
    ("construction--barrier--curb", _SIDEWALK), ("construction--barrier--fence", _FENCE),
    ("construction--barrier--guard-rail", IGNORE), ("construction--barrier--other-barrier", IGNORE),
    ("construction--barrier--road-median", IGNORE), ("construction--barrier--road-side", IGNORE),
    ("construction--barrier--separator", IGNORE), ("construction--barrier--temporary", IGNORE),
    ("construction--barrier--wall", _WALL), ("construction--flat--bike-lane", _ROAD),
    ("construction--flat--crosswalk-plain", _ROAD), ("construction--flat--curb-cut", _SIDEWALK),
    ("construction--flat--driveway", _ROAD), ("construction--flat--parking", _ROAD),
    ("construction--flat--parking-aisle", _ROAD), ("construction--flat--pedestrian-area", _SIDEWALK),
    ("construction--flat--rail-track", IGNORE), ("construction--flat--road", _ROAD),
    ("construction--flat--road-shoulder", _ROAD), ("construction--flat--service-lane", _ROAD),
    ("construction--flat--sidewalk", _SIDEWALK), ("construction--flat--traffic-island", _SIDEWALK),
    ("construction--structure--bridge", IGNORE), ("construction--structure--building", _BUILDING),
    ("construction--structure--garage", _BUILDING), ("construction--structure--tunnel", IGNORE),
    ("human--person--individual", _PERSON), ("human--person--person-group", _PERSON),
    ("human--rider--bicyclist", _RIDER), ("human--rider--motorcyclist", _RIDER),
    ("human--rider--other-rider", _RIDER), ("marking--continuous--dashed", _ROAD),
    ("marking--continuous--solid", _ROAD), ("marking--continuous--zigzag", _ROAD),
    ("marking--discrete--ambiguous", _ROAD), ("marking--discrete--arrow--left", _ROAD),
    ("marking--discrete--arrow--other", _ROAD), ("marking--discrete--arrow--right", _ROAD),
    ("marking--discrete--arrow--split-left-or-straight", _ROAD),
    ("marking--discrete--arrow--split-right-or-straight", _ROAD),
    ("marking--discrete--arrow--straight", _ROAD), ("marking--discrete--crosswalk-zebra", _ROAD),
    ("marking--discrete--give-way-row", _ROAD), ("marking--discrete--give-way-single", _ROAD),
    ("marking--discrete--hatched--chevron", _ROAD), ("marking--discrete--hatched--diagonal", _ROAD),
    ("marking--discrete--other-marking", _ROAD), ("marking--discrete--stop-line", _ROAD),
    ("marking--discrete--symbol--bicycle", _ROAD), ("marking--discrete--symbol--other", _ROAD),
    ("marking--discrete--text", _ROAD), ("marking-only--continuous--dashed", _ROAD),
    ("marking-only--discrete--crosswalk-zebra", _ROAD), ("marking-only--discrete--other-marking", _ROAD),
    ("marking-only--discrete--text", _ROAD), ("nature--mountain", IGNORE), ("nature--sand", IGNORE),
    ("nature--sky", _SKY), ("nature--snow", IGNORE), ("nature--terrain", _TERRAIN),
    ("nature--vegetation", _GREEN), ("nature--water", IGNORE), ("object--banner", IGNORE),
    ("object--bench", IGNORE), ("object--bike-rack", IGNORE), ("object--catch-basin", IGNORE),
    ("object--cctv-camera", IGNORE), ("object--fire-hydrant", IGNORE), ("object--junction-box", IGNORE),
    ("object--mailbox", IGNORE), ("object--manhole", IGNORE), ("object--parking-meter", IGNORE),
    ("object--phone-booth", IGNORE), ("object--pothole", IGNORE), ("object--sign--advertisement", IGNORE),
    ("object--sign--ambiguous", IGNORE), ("object--sign--back", IGNORE), ("object--sign--information", IGNORE),
    ("object--sign--other", IGNORE), ("object--sign--store", IGNORE), ("object--street-light", _POLE),
    ("object--support--pole", _POLE), ("object--support--pole-group", _POLE),
    ("object--support--traffic-sign-frame", _SIGN), ("object--support--utility-pole", _POLE),
    ("object--traffic-cone", IGNORE), ("object--traffic-light--general-single", _LIGHT),
    ("object--traffic-light--pedestrians", _LIGHT), ("object--traffic-light--general-upright", _LIGHT),
    ("object--traffic-light--general-horizontal", _LIGHT), ("object--traffic-light--cyclists", _LIGHT),
    ("object--traffic-light--other", _LIGHT), ("object--traffic-sign--ambiguous", _SIGN),
    ("object--traffic-sign--back", _SIGN), ("object--traffic-sign--direction-back", _SIGN),
    ("object--traffic-sign--direction-front", _SIGN), ("object--traffic-sign--front", _SIGN),
    ("object--traffic-sign--information-parking", _SIGN), ("object--traffic-sign--temporary-back", _SIGN),
    ("object--traffic-sign--temporary-front", _SIGN), ("object--trash-can", IGNORE),
    ("object--vehicle--bicycle", _BICYCLE), ("object--vehicle--boat", IGNORE), ("object--vehicle--bus", _BUS),
    ("object--vehicle--car", _CAR), ("object--vehicle--caravan", IGNORE),
    ("object--vehicle--motorcycle", _MOTORCYCLE), ("object--vehicle--on-rails", _TRAIN),
    ("object--vehicle--other-vehicle", IGNORE), ("object--vehicle--trailer", IGNORE),
    ("object--vehicle--truck", _TRUCK), ("object--vehicle--vehicle-group", IGNORE),
    ("object--vehicle--wheeled-slow", IGNORE), ("object--water-valve", IGNORE), ("void--car-mount", IGNORE),
    ("void--dynamic", IGNORE), ("void--ego-vehicle", IGNORE), ("void--ground", IGNORE),
    ("void--static", IGNORE), ("void--unlabeled", IGNORE),
)  # fmt: skip
"""Name and class index by id, 255 for those without a class."""


def vistas_2_table() -> np.ndarray:
    """(256,) uint8 from an id of Mapillary Vistas 2.0 to a Cityscapes class index; ids without a class -> 255."""
    table = np.full(256, IGNORE, np.uint8)
    table[: len(VISTAS_2)] = [index for _, index in VISTAS_2]
    return table
