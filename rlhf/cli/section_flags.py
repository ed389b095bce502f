"""Flags of a command for a section of settings that is no part of a recipe: one for each field."""

import argparse
import json
from typing import Any, TypeVar, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from rlhf.config.base import Section
from rlhf.errors import ConfigError

AnySection = TypeVar("AnySection", bound=Section)


def add_section(parser: argparse._ActionsContainer, section: type[Section], is_needed: bool = True) -> None:
    """A flag for every field; those without a default are required where the section is."""
    for name, field in section.model_fields.items():
        parser.add_argument(
            _flag(name),
            dest=name,
            required=is_needed and field.is_required(),
            default=argparse.SUPPRESS,
            **_form(field),
        )


def read_section(options: argparse.Namespace, section: type[AnySection]) -> AnySection:
    """The section that the flags give.

    Raises:
        ConfigError: a value is not one of its field's, or contradicts another.
    """
    given = {name: getattr(options, name) for name in section.model_fields if hasattr(options, name)}
    lists = {name for name, field in section.model_fields.items() if get_origin(field.annotation) is tuple}
    values: dict[str, Any] = {
        name: [part.strip() for part in value.split(",") if part.strip()] if name in lists else value
        for name, value in given.items()
    }
    try:
        return section.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(_explained(detail) for detail in error.errors())) from None


def is_given(options: argparse.Namespace, section: type[Section]) -> bool:
    """Whether any flag of a section that may be left away is given."""
    return any(hasattr(options, name) for name in section.model_fields)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _form(field: FieldInfo) -> dict[str, Any]:
    default = field.get_default(call_default_factory=True)
    shown = {PydanticUndefined: "", None: "none", (): "none"}.get(default, default)
    text = f"{field.description}{f' [default: {shown}]' if shown != '' else ''}".replace("%", "%%")
    if field.annotation is bool:
        return {"action": argparse.BooleanOptionalAction, "help": str(field.description).replace("%", "%%")}
    return {"metavar": "LIST" if get_origin(field.annotation) is tuple else "VALUE", "help": text}


def _explained(detail: Any) -> str:
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    name, *place = detail["loc"]
    where = "".join(f" {number + 1}" for number in place if isinstance(number, int))
    given = json.dumps(detail["input"], ensure_ascii=False, default=str)[:200]
    return f"{_flag(str(name))}{where}: got {given}: {detail['msg']}"
