"""The chat template of each model of a run: read from its files, tried, and settled before anything is trained."""

import json
import logging
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import TypeVar

from rlhf.config.model import CONTINUATION, ModelConfig
from rlhf.config.pipeline import PipelineConfig
from rlhf.config.policy import RewardSourceConfig
from rlhf.errors import ModelError, one_line
from rlhf.files.names import check_relative
from rlhf.modeling.files import readable
from rlhf.modeling.hub import is_hub_id
from rlhf.modeling.jinja import jinja_environment
from rlhf.modeling.template_trial import check_ends
from rlhf.modeling.templates import DEFAULT, choose, fixed, reads_clock
from rlhf.paths import root

logger = logging.getLogger(__name__)
_CONFIG, _FILE, _FOLDER = "tokenizer_config.json", "chat_template.jinja", "additional_chat_templates"
_Names = TypeVar("_Names", ModelConfig, RewardSourceConfig)


def settled(config: PipelineConfig) -> PipelineConfig:
    """The settings with the day that templates which read the clock stand for; other templates name no day.

    Raises:
        ModelError: a template is broken, or the one that is named is not there.
    """
    return config.with_sources(source_settled).model_copy(
        update={"model": _settled(config.model, config.model.base, "model.template_date")}
    )


def source_settled(source: RewardSourceConfig) -> RewardSourceConfig:
    """A source of scores with the day that its template stands for, where the template reads the clock."""
    return _settled(source, source.path, f"template_date of the source {source.name}")


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
        compiled = jinja_environment().from_string(template)
        asked = compiled.render(messages=[question], add_generation_prompt=True, **given)
        answered = compiled.render(messages=[question, answer], add_generation_prompt=False, **given)
    except Exception:  # noqa: BLE001 - a template from elsewhere does anything; what transformers says of it is told
        return False
    return not asks_as_it_answers or answered.startswith(asked)


def _settled(section: _Names, name: str | None, setting: str) -> _Names:
    templates, special_tokens = _read_all(section, name) if name is not None else ({}, {})
    if not templates or name is None:
        is_own = isinstance(section, ModelConfig) and section.chat_template == CONTINUATION
        if name is not None and ((section.chat_template and not is_own) or section.template_date):
            raise ModelError(f"{name}: chat_template or template_date is set, but there is no chat template; drop it")
        return section
    where = f"{name} ({', '.join(dict.fromkeys(file for file, _ in templates.values()))})"
    chosen, text = choose({key: text for key, (_, text) in templates.items()}, section.chat_template, where)
    where = f"{name} ({templates[chosen or DEFAULT][0]})"
    check_ends(text, special_tokens, where)
    if section.template_date is None and reads_clock(text, where):
        section = section.model_copy(update={"template_date": date.today().isoformat()})
        logger.info("the chat template of %s reads the clock: %s is %s", name, setting, section.template_date)
    text, changed = fixed(text, section.template_date, where)
    if changed:
        check_ends(text, special_tokens, where)
    is_base = isinstance(section, ModelConfig)
    if not _looks_sound(text, special_tokens, asks_as_it_answers=is_base):
        from rlhf.modeling.tokenizer import check_tokenizer  # transformers, which a cached run does without

        check_tokenizer(section)
    return section


def _read_all(section: _Names, name: str) -> tuple[dict[str, tuple[str, str]], dict[str, str]]:
    """A model's templates and special tokens; no special tokens where there are no templates."""
    with readable(f"{name}: its chat template cannot be read"):
        templates = _read(name, section.revision, section.chat_template)
        return templates, _special_tokens(name, section.revision) if templates else {}


def _read(name: str, revision: str | None, wanted: str | None) -> dict[str, tuple[str, str]]:
    """A model's templates: by name the file that holds it, and its text. Files go before the configuration."""
    templates: dict[str, tuple[str, str]] = {}
    files = {DEFAULT: _file(name, revision, _FILE)}
    files |= {stem: _file(name, revision, f"{_FOLDER}/{stem}.jinja") for stem in _additional(name, wanted)}
    for stem, path in files.items():
        if path is not None:
            templates[stem] = (f"{_FOLDER}/{stem}.jinja" if stem != DEFAULT else _FILE, _text(path))
    config = None if templates else _file(name, revision, _CONFIG)
    if config is None:
        return templates
    try:
        given = json.loads(_text(config)).get("chat_template")
    except (ValueError, AttributeError) as error:
        raise ModelError(
            f"{config}: this is not a tokenizer's configuration ({one_line(error)}); save it anew"
        ) from None
    if isinstance(given, list):
        try:
            given = {entry["name"]: entry["template"] for entry in given}
        except (TypeError, KeyError):
            raise ModelError(f"{config}: chat_template is a list of other things than names with templates") from None
    elif isinstance(given, str):
        given = {DEFAULT: given}
    if given is not None and not (isinstance(given, dict) and all(isinstance(text, str) for text in given.values())):
        raise ModelError(
            f"{config}: chat_template is neither a template nor a list of names with templates; save it anew"
        )
    return {stem: (_CONFIG, text) for stem, text in (given or {}).items()}


def _special_tokens(name: str, revision: str | None) -> dict[str, str]:
    """The special tokens that a model's files name; transformers may know of more."""
    tokens = {}
    for file in ("special_tokens_map.json", _CONFIG):
        path = _file(name, revision, file)
        given = json.loads(_text(path)) if path else {}
        for key, value in given.items():
            content = value.get("content") if isinstance(value, dict) else value
            if key.endswith("_token") and isinstance(content, str):
                tokens[key] = content
    return tokens


def _additional(name: str, wanted: str | None) -> list[str]:
    folder = root() / name / _FOLDER
    if folder.is_dir():
        return sorted(path.stem for path in folder.glob("*.jinja"))
    if wanted is None or wanted == DEFAULT or not is_hub_id(name):
        return []
    return [check_relative(wanted, "chat_template")]


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
