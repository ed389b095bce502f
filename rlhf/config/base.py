"""Base class of all sections of a recipe, and the types that they share."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
NumSeeds = Annotated[int, Field(ge=2, le=100)]


class Section(BaseModel):
    """A group of settings: frozen, and without unknown names."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True, protected_namespaces=()
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_nul(cls, value: object) -> object:
        """A NUL is in no name of a file, branch or model, and each library fails at it in another way."""
        if isinstance(value, str) and "\0" in value:
            raise ValueError(f"{value!r} holds a NUL; remove it")
        return value

    def _check_multiple(self, name: str, divisor: str) -> None:
        """A setting that must be a multiple of another one; an empty divisor is no bound."""
        value, by = getattr(self, name), getattr(self, divisor)
        if by is not None and value % by:
            raise ValueError(f"{name} ({value}) is not a multiple of {divisor} ({by}); change one of the two")
