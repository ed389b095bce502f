"""Chat templates as model folders hold them: which one is meant, whether it is sound, and what changes with the day.

A template that reads the clock would write another text tomorrow than the one that was trained on. A run decides at its
start which day it means, and keeps that in its settings and in the tokenizer that it saves.
"""

import json
import logging
import re
from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Any, TypeVar

from rlhf.bases import is_hub_id
from rlhf.config import ModelConfig, PipelineConfig, RewardSourceConfig
from rlhf.errors import ModelError, one_line
from rlhf.project import root

logger = logging.getLogger(__name__)

DEFAULT = "default"
_CONFIG, _FILE, _FOLDER = "tokenizer_config.json", "chat_template.jinja", "additional_chat_templates"
_CLOCK = re.compile(r"""strftime_now\(\s*('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")\s*\)""")
_RANDOM = re.compile(r"\|\s*random\b(\s*\(\s*\))?")

_Names = TypeVar("_Names", ModelConfig, RewardSourceConfig)


def settled(config: PipelineConfig) -> PipelineConfig:
    """The settings with the day that templates which read the clock stand for; other templates name no day.

    Raises:
        ModelError: a template is broken, or the one that is named is not there.
    """
    rewards = tuple(map(source_settled, config.ppo.rewards))
    changed = {
        "model": _settled(config.model, config.model.base, "model.template_date"),
        "ppo": config.ppo.model_copy(update={"rewards": rewards}),
    }
    return config.model_copy(update=changed)


def source_settled(source: RewardSourceConfig) -> RewardSourceConfig:
    """The same for one source of scores."""
    return _settled(source, source.path, f"template_date of the source {source.name}")


def choose(templates: str | Mapping[str, str], name: str | None, where: str) -> tuple[str | None, str]:
    """The template that is meant, with its name where there are several.

    Args:
        templates: one, or several by name.
        name: as the settings say. None: `default`, or the only one.
        where: the model, for the message.

    Raises:
        ModelError: there is none of that name.
    """
    if isinstance(templates, str):
        templates = {DEFAULT: templates}
    names = ", ".join(sorted(templates))
    if name is not None and name not in templates:
        raise ModelError(f"{where}: there is no chat template named {name!r}; set chat_template to one of: {names}")
    if name is None and DEFAULT not in templates and len(templates) > 1:
        raise ModelError(
            f"{where}: there are several chat templates and none is the default; set chat_template "
            f"(model.chat_template for the base) to one of: {names}"
        )
    chosen = name or (DEFAULT if DEFAULT in templates else next(iter(templates)))
    return (chosen if len(templates) > 1 or chosen != DEFAULT else None), templates[chosen]


def fixed(template: str, day: str | None, where: str) -> tuple[str, list[str]]:
    """The template with nothing left that changes by itself, and what was fixed, in sentences without a full stop.

    Args:
        template: its text.
        day: what a template that reads the clock stands for, as YYYY-MM-DD, at 00:00.
        where: the model, for the message.

    Raises:
        ModelError: it is no template, or reads the clock or draws at random in a way that cannot be written out; or it
            reads the clock and no day is given, or does not and a day is given.
    """
    said: list[str] = []
    if clock := reads_clock(template, where):
        if day is None:
            raise ModelError(f"{where}: the chat template reads the clock; set template_date to the day that it shows")
        template = _CLOCK.sub(lambda call: json.dumps(_on(day, call[1])), template)
        said.append(f"The chat template reads the clock; it was fixed to {day}, 00:00")
    elif day is not None:
        raise ModelError(
            f"{where}: the chat template does not read the clock; drop template_date, which changes nothing"
        )
    if _draws(template, where):
        template = _RANDOM.sub("| first", template)
        said.append("The chat template draws at random; it was fixed to the first choice")
    if (clock and reads_clock(template, where)) or _draws(template, where):
        raise ModelError(
            f"{where}: the chat template reads the clock or draws at random in a way that cannot be fixed (by another "
            f"call than strftime_now('...') or `| random`); write a fixed text there in a copy of the model's folder"
        )
    return template, said


def reads_clock(template: str, where: str) -> bool:
    """Whether what a template writes depends on the day.

    Raises:
        ModelError: it is no template.
    """
    from jinja2 import nodes

    tree = _parse(template, where)
    asked = {id(test.node) for test in tree.find_all(nodes.Test) if test.name in ("defined", "undefined")}
    names = (name for name in tree.find_all(nodes.Name) if name.name == "strftime_now" and name.ctx == "load")
    return any(id(name) not in asked for name in names)


def _draws(template: str, where: str) -> bool:
    from jinja2 import nodes

    tree = _parse(template, where)
    filters = any(one.name == "random" for one in tree.find_all(nodes.Filter))
    return filters or any(name.name == "lipsum" for name in tree.find_all(nodes.Name))


def _on(day: str, literal: str) -> str:
    """What the clock says at the start of a day, in the form that a template asks for."""
    import ast

    form: str = ast.literal_eval(literal)
    return datetime.combine(date.fromisoformat(day), datetime.min.time()).strftime(form)


def _parse(template: str, where: str) -> Any:
    from jinja2 import TemplateSyntaxError

    environment = _environment()
    try:
        environment.compile(template)
        return environment.parse(template)
    except TemplateSyntaxError as error:
        raise ModelError(
            f"{where}: the chat template is broken, line {error.lineno}: {one_line(error)}; mend it there, or name "
            f"another one of the model's templates with chat_template"
        ) from None


def _environment() -> Any:
    """Jinja as transformers sets it up for chat templates, whose import would cost a cached run its seconds."""
    from jinja2 import TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.globals["raise_exception"] = refuse
    return environment


def _looks_sound(template: str, special_tokens: Mapping[str, str], asks_as_it_answers: bool) -> bool:
    """Whether a template writes a question and its answer, for which transformers has to be asked where it does not.

    Args:
        template: with its clock fixed.
        special_tokens: by the names that templates know them by.
        asks_as_it_answers: its generation prompt must be what it writes before an answer.
    """
    question, answer = {"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}
    given = {**special_tokens, "tools": None, "documents": None}
    try:
        compiled = _environment().from_string(template)
        asked = compiled.render(messages=[question], add_generation_prompt=True, **given)
        answered = compiled.render(messages=[question, answer], add_generation_prompt=False, **given)
    except Exception:  # noqa: BLE001 - a template from elsewhere does anything; what transformers says of it is told
        return False
    return not asks_as_it_answers or answered.startswith(asked)


def _settled(section: _Names, name: str | None, setting: str) -> _Names:
    templates = _read(name, section.revision, section.chat_template) if name is not None else {}
    if not templates or name is None:
        if name is not None and (section.chat_template or section.template_date):
            raise ModelError(f"{name}: chat_template or template_date is set, but there is no chat template; drop it")
        return section
    where = f"{name} ({', '.join(dict.fromkeys(file for file, _ in templates.values()))})"
    chosen, text = choose({key: text for key, (_, text) in templates.items()}, section.chat_template, where)
    where = f"{name} ({templates[chosen or DEFAULT][0]})"
    if section.template_date is None and reads_clock(text, where):
        section = section.model_copy(update={"template_date": date.today().isoformat()})
        logger.info("the chat template of %s reads the clock: %s is %s", name, setting, section.template_date)
    text, _ = fixed(text, section.template_date, where)
    is_base = isinstance(section, ModelConfig)
    if not _looks_sound(text, _special_tokens(name, section.revision), asks_as_it_answers=is_base):
        from rlhf.tokenizers import check_tokenizer

        check_tokenizer(section)
    return section


def _read(name: str, revision: str | None, wanted: str | None) -> dict[str, tuple[str, str]]:
    """A model's templates: by name the file that holds it, and its text. Files go before the configuration."""
    found: dict[str, tuple[str, str]] = {}
    files = {DEFAULT: _file(name, revision, _FILE)}
    files |= {stem: _file(name, revision, f"{_FOLDER}/{stem}.jinja") for stem in _additional(name, wanted)}
    for stem, path in files.items():
        if path is not None:
            found[stem] = (f"{_FOLDER}/{stem}.jinja" if stem != DEFAULT else _FILE, _text(path))
    config = None if found else _file(name, revision, _CONFIG)
    if config is None:
        return found
    try:
        given = json.loads(_text(config)).get("chat_template")
    except (ValueError, AttributeError) as error:
        raise ModelError(
            f"{config}: this is not a tokenizer's configuration ({one_line(error)}); save it anew"
        ) from None
    if isinstance(given, list):
        try:
            given = {one["name"]: one["template"] for one in given}
        except (TypeError, KeyError):
            raise ModelError(f"{config}: chat_template is a list of other things than names with templates") from None
    elif isinstance(given, str):
        given = {DEFAULT: given}
    return {stem: (_CONFIG, text) for stem, text in (given or {}).items()}


def _special_tokens(name: str, revision: str | None) -> dict[str, str]:
    """The special tokens that a model's files name; transformers may know of more."""
    found = {}
    for file in ("special_tokens_map.json", _CONFIG):
        path = _file(name, revision, file)
        given = json.loads(_text(path)) if path else {}
        for key, value in given.items():
            content = value.get("content") if isinstance(value, dict) else value
            if key.endswith("_token") and isinstance(content, str):
                found[key] = content
    return found


def _additional(name: str, wanted: str | None) -> list[str]:
    folder = root() / name / _FOLDER
    if folder.is_dir():
        return sorted(path.stem for path in folder.glob("*.jinja"))
    return [wanted] if wanted is not None and wanted != DEFAULT and is_hub_id(name) else []


def _file(name: str, revision: str | None, file: str) -> Path | None:
    """A file of a model in a folder, or of the hub, which answered at the start of the run; None: it has none."""
    if not is_hub_id(name):
        path = root() / name / file
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(name, file, revision=revision))
    except (EntryNotFoundError, LocalEntryNotFoundError):
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ModelError(f"{path}: this file is not UTF-8 text; save it as UTF-8") from None
