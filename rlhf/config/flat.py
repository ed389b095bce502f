"""Nested settings under dotted names, as in `rl.kl_coef`."""

import json
from collections.abc import Mapping
from typing import Any

from rlhf.config.pipeline import METHOD_SECTIONS


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The settings by dotted name; a list is one value.

    Args:
        settings: keys and values, where a value may again be settings.
        prefix: stands before each name.
    """
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def as_texts(settings: Mapping[str, Any]) -> dict[str, str]:
    """The same with every value as text: JSON, but for what is text already."""
    return {
        name: value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        for name, value in flatten(settings).items()
    }


def nested(texts: Mapping[str, str]) -> dict[str, Any]:
    """Settings of what `as_texts` made of them: of a text that is no JSON, the text."""
    settings: dict[str, Any] = {}
    for name, text in texts.items():
        *sections, key = name.split(".")
        inner = settings
        for section in sections:
            inner = inner.setdefault(section, {})
        try:
            inner[key] = json.loads(text)
        except ValueError:
            inner[key] = text
    return settings


def policy_setting(settings: Mapping[str, Any], name: str, default: Any) -> Any:
    """A setting that every method of training a policy has, from a recorded recipe's section of its method.

    Args:
        settings: by dotted name.
        name: without the section.
        default: where none is recorded.
    """
    names = (f"{section}.{name}" for section in dict.fromkeys(METHOD_SECTIONS.values()))
    return next((settings[name] for name in names if name in settings), default)
