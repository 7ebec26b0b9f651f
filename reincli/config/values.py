"""Numbers within their bounds, and the base of all settings."""

from __future__ import annotations

from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Below1 = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[int, Field(gt=0, le=10**9)]
Side = Annotated[int, Field(gt=0, le=32_768)]
"""Of a picture, in pixels."""
Width = Annotated[int, Field(gt=0, le=65_536)]
"""Of a layer, or how many there are of something that is learned."""
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Rgb = tuple[
    Annotated[int, Field(ge=0, le=255)],
    Annotated[int, Field(ge=0, le=255)],
    Annotated[int, Field(ge=0, le=255)],
]


def _takes_truth(annotation: Any) -> bool:
    return annotation is bool or bool in get_args(annotation)


class Strict(BaseModel):
    """Base of all settings: unknown keys are errors, values never change."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_truth_for_numbers(cls, values: Any) -> Any:
        """pydantic takes true for 1, which nobody means."""
        for name, value in values.items() if isinstance(values, dict) else ():
            field = cls.model_fields.get(name)
            if isinstance(value, bool) and field is not None and not _takes_truth(field.annotation):
                raise ValueError(f"{name} is {str(value).lower()}; true and false are for switches")
        return values
