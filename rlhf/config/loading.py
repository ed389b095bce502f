"""Recipes: defaults, then the YAML file, then the command line. Errors name the file and line, or the flag."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from rlhf.config.pipeline import METHOD_SECTIONS, PipelineConfig
from rlhf.earlier_names import current_section, given_settings
from rlhf.errors import ConfigError, nearest, one_line
from rlhf.files.plain_yaml import RefusedYAMLError, load_yaml, open_yaml, read_yaml_text
from rlhf.paths import root, source_root

PATH_SETTINGS = (
    "model.base",
    "data.path",
    *(
        f"{of_round}{section}.rewards[].path"
        for of_round in ("", "rounds[].")
        for section in dict.fromkeys(METHOD_SECTIONS.values())
    ),
)
_NOTHING = ("none", "null")
_LONGEST = 200
"""Characters of a value that a message shows."""
_INDEX = re.compile(r"\[\d+\]")


@dataclass(frozen=True)
class Setting:
    """A key of the configuration for help and error messages.

    Attributes:
        name: dotted path, `rl.kl_coef`; within the elements of a list, `rl.rewards[].weight`.
        help: the docstring under the field.
        expected: the allowed values in words: `a number at least 0`.
        default: value where none is given.
        kind: JSON schema's type; `section` for a group of settings.
        choices: the allowed values, where they are few.
        optional: `none` clears it.
    """

    name: str
    help: str
    expected: str
    default: Any
    kind: str
    choices: tuple[str, ...]
    optional: bool

    @property
    def flag(self) -> str:
        """The command-line flag, `--rl.kl-coef`."""
        return flag_of(self.name)


@dataclass(frozen=True)
class _Sources:
    """Places where settings were written, for error messages."""

    file: str
    lines: Mapping[str, int]
    flags: frozenset[str]
    spell: Callable[[str], str]

    def of(self, name: str) -> str:
        """`--rl.kl-coef`, `configs/demo.yaml:12: rl.kl_coef`, or `--rl.rewards: [0].weight` within a list."""
        of_list, bracket, place = name.partition("[")
        if of_list in self.flags:
            return self.spell(of_list) + (f": [{place}" if bracket else "")
        line = self.lines.get(name)
        return f"{self.file}:{line}: {name}" if line else f"{self.file}: {name}".removesuffix(": ")

    def of_section(self, name: str) -> str:
        """The same for a group: the flags that reach into it stand beside the file."""
        flags = [self.spell(flag) for flag in sorted(self.flags) if flag.startswith(f"{name}." if name else "")]
        return " with ".join([self.of(name), *([", ".join(flags)] if flags else [])])


@cache
def settings() -> Mapping[str, Setting]:
    """All settings and sections by dotted name, in the order of rlhf/config/."""
    return {name: setting for name, setting in _all_settings().items() if "[]" not in name}


@cache
def _all_settings() -> Mapping[str, Setting]:
    """The same with the settings of list elements, which are not flags."""
    schema = PipelineConfig.model_json_schema()
    return {setting.name: setting for setting in _settings_of(schema, schema["$defs"], "")}


def flag_of(name: str) -> str:
    """The command-line flag of a dotted name."""
    return "--" + name.replace("_", "-")


def load_config(
    path: Path | None, overrides: Mapping[str, object] | None = None, spell: Callable[[str], str] = flag_of
) -> PipelineConfig:
    """Read a recipe.

    Args:
        path: YAML file; None for the defaults.
        overrides: dotted names and values that replace the file's. Text is read as the setting's type, and `none`
            clears an optional setting. A relative path is taken from the current directory where it exists there;
            other paths, and those of the file, are relative to the project root.
        spell: how an override is written where it is given, for messages; takes a dotted name.

    Raises:
        ConfigError: a setting is unknown, of another type or contradicts another; or the file is missing or not YAML.
    """
    values, lines = _read_yaml(path) if path else ({}, {})
    try:
        values = given_settings(values)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    overrides = overrides or {}
    lines = {current_section(name): line for name, line in lines.items()}
    _refuse_unknown(overrides, spell)
    for name, value in overrides.items():
        _put(values, name.split("."), _from_text(settings()[name], value, spell))
    sources = _Sources(str(path) if path else "command line", lines, frozenset(overrides), spell)
    _refuse_booleans_as_numbers(values, sources)
    try:
        return PipelineConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(detail, sources) for detail in error.errors())) from None


def _settings_of(schema: Mapping[str, Any], definitions: Mapping[str, Any], prefix: str) -> Iterator[Setting]:
    for key, field in schema["properties"].items():
        alternatives = [option for option in field.get("anyOf", [field]) if option.get("type") != "null"]
        optional = len(alternatives) < len(field.get("anyOf", [field]))
        target = definitions.get(alternatives[0].get("$ref", "").rpartition("/")[2])
        kind = "section" if target else alternatives[0].get("type", "value")
        choices = alternatives[0].get("enum", [alternatives[0]["const"]] if "const" in alternatives[0] else [])
        yield Setting(
            name=prefix + key,
            help=" ".join((field.get("description") or (target or {}).get("description", "")).split()),
            expected=_expected(target or alternatives[0], choices, definitions) + (" or none" if optional else ""),
            default=field.get("default"),
            kind=kind,
            choices=tuple(choices),
            optional=optional,
        )
        element = _element(alternatives[0], definitions)
        if target:
            yield from _settings_of(target, definitions, f"{prefix}{key}.")
        elif "properties" in element:
            yield from _settings_of(element, definitions, f"{prefix}{key}[].")


def _element(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """Schema of a list's elements; empty where the schema is not of a list."""
    items: Mapping[str, Any] = schema.get("items", {})
    element: Mapping[str, Any] = definitions.get(items.get("$ref", "").rpartition("/")[2], items)
    return element


def _expected(schema: Mapping[str, Any], choices: list[str], definitions: Mapping[str, Any]) -> str:
    if element := _element(schema, definitions):
        return f"a list, each element {_expected(element, element.get('enum', []), definitions)}"
    if choices:
        return ("one of " if len(choices) > 1 else "") + ", ".join(choices)
    if "properties" in schema:
        return f"a section with {', '.join(schema['properties'])}"
    words = {"boolean": "true or false", "integer": "a whole number", "number": "a number", "string": "text"}
    limits = {
        "minimum": "at least {:.10g}",
        "exclusiveMinimum": "above {:.10g}",
        "maximum": "at most {:.10g}",
        "exclusiveMaximum": "below {:.10g}",
        "pattern": "that matches {}",
        "maxLength": "of at most {} characters",
    }
    bounds = " and ".join(text.format(schema[key]) for key, text in limits.items() if key in schema)
    return f"{words.get(schema.get('type', ''), 'a value')} {bounds}".rstrip()


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Settings of the file, and the line of each."""
    try:
        node, values = open_yaml(read_yaml_text(path))
        lines = dict(_lines(node, "", path))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); {_nearest_recipe(path)}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        what = "" if isinstance(error, RefusedYAMLError) else "not YAML: "
        raise ConfigError(f"{path}:{line}: {what}{error.problem}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {one_line(error)}") from None
    values = {} if node is None else values
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected settings (`name: value`), got {shown(values)}")
    return values, lines


def _nearest_recipe(path: Path) -> str:
    """The recipe that may be meant, and where recipes are."""
    recipes = {recipe.stem: recipe for recipe in sorted((source_root() / "configs").glob("*.yaml"))}
    if not recipes:
        return "give the file of a recipe"
    recipe = recipes[nearest(path.stem, recipes)].relative_to(source_root())
    return f"did you mean {recipe}? The project's recipes are in configs/"


def _lines(node: yaml.Node | None, prefix: str, path: Path) -> Iterator[tuple[str, int]]:
    seen: dict[str, int] = {}
    for index, element in enumerate(node.value if isinstance(node, yaml.SequenceNode) else ()):
        name = f"{prefix.removesuffix('.')}[{index}]"
        yield name, element.start_mark.line + 1
        yield from _lines(element, f"{name}.", path)
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        name, line = f"{prefix}{key.value}", key.start_mark.line + 1
        if name in seen:
            raise ConfigError(f"{path}:{line}: {name} is set twice, first in line {seen[name]}; remove one of the two")
        seen[name] = line
        yield name, line
        yield from _lines(value, f"{name}.", path)


def _refuse_unknown(overrides: Mapping[str, object], spell: Callable[[str], str]) -> None:
    for name in overrides:
        if name not in settings():
            known = spell(nearest(name, settings()))
            raise ConfigError(f"{spell(name)} is not a setting; the nearest known one is {known}")


def _from_text(setting: Setting, value: object, spell: Callable[[str], str]) -> object:
    if not isinstance(value, str):
        return value
    if setting.optional and value.lower() in _NOTHING:
        return None
    return _with_paths(setting.name, _parsed(setting, value, spell) if setting.kind == "array" else value)


def _parsed(setting: Setting, text: str, spell: Callable[[str], str]) -> object:
    try:
        return load_yaml(text)
    except yaml.YAMLError as error:
        problem = error.problem if isinstance(error, yaml.MarkedYAMLError) else error
        what = "which is refused" if isinstance(error, RefusedYAMLError) else "which is not YAML"
        got = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
        raise ConfigError(
            f"{spell(setting.name)}: got {got}, {what} ({problem}), expected {setting.expected}"
        ) from None


def _with_paths(name: str, value: object) -> object:
    if isinstance(value, list):
        return [_with_paths(f"{name}[]", element) for element in value]
    if isinstance(value, dict):
        return {key: _with_paths(f"{name}.{key}", inner) for key, inner in value.items()}
    return _path_as_recorded(value) if name in PATH_SETTINGS and isinstance(value, str) else value


def _path_as_recorded(value: str) -> str:
    """A path below the current directory: relative to the project root if inside it, else absolute."""
    path = Path.cwd() / value
    if not path.exists():
        return value
    path = path.resolve()
    return path.relative_to(root()).as_posix() if path.is_relative_to(root()) else str(path)


def _put(values: dict[str, Any], keys: list[str], value: object) -> None:
    for key in keys[:-1]:
        if not isinstance(values.get(key), dict):
            values[key] = {}
        values = values[key]
    values[keys[-1]] = value


def _refuse_booleans_as_numbers(value: object, sources: _Sources, name: str = "") -> None:
    """A boolean in place of a number is refused: pydantic would read `true` as 1."""
    setting = _all_settings().get(_INDEX.sub("[]", name))
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _refuse_booleans_as_numbers(inner, sources, f"{name}.{key}".removeprefix("."))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _refuse_booleans_as_numbers(inner, sources, f"{name}[{index}]")
    elif isinstance(value, bool) and setting and setting.kind in ("integer", "number"):
        raise ConfigError(f"{sources.of(name)}: got {shown(value)}, expected {setting.expected}")


def _explain(detail: ErrorDetails, sources: _Sources) -> str:
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in detail["loc"]).removeprefix(".")
    kind = _INDEX.sub("[]", name)
    if detail["type"] == "extra_forbidden":
        return f"{sources.of(name)} is not a setting; the nearest known one is {_nearest_setting(kind)}"
    if detail["type"] == "value_error":
        return f"{sources.of_section(name)}: {detail['ctx']['error']}"
    setting = _all_settings().get(kind)
    expected = setting.expected if setting else _expected_of_element(kind) or detail["msg"]
    return f"{sources.of(name)}: got {shown(detail['input'])}, expected {expected}"


def _nearest_setting(name: str) -> str:
    """Nearest setting: of the same list element, otherwise any."""
    of_list, brackets, key = name.rpartition("[].")
    if not brackets:
        return nearest(name, settings())
    siblings = [known.rpartition("[].")[2] for known in _all_settings() if known.startswith(of_list + brackets)]
    return nearest(key, siblings)


def _expected_of_element(name: str) -> str | None:
    """Allowed values of a list's element."""
    setting = _all_settings().get(name.removesuffix("[]")) if name.endswith("[]") else None
    return setting.expected.removeprefix("a list, each element ") if setting else None


def shown(value: object) -> str:
    """A value in YAML."""
    return (
        "nothing"
        if value is None
        else yaml.safe_dump(value, default_flow_style=True, width=1000, sort_keys=False).removesuffix("\n...\n").strip()
    )
