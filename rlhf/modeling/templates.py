"""Chat templates as texts: which of several is meant, whether it can be compiled, and what changes with the day.

A template that reads the clock would write another text tomorrow than the one that was trained on. A run decides at its
start which day it means, and keeps that in its settings and in the tokenizer that it saves.
"""

import json
import re
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

from rlhf.errors import ModelError, one_line
from rlhf.modeling.jinja import jinja_environment

DEFAULT = "default"
_CLOCK = re.compile(r"""strftime_now\(\s*('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")\s*\)""")
_RANDOM = re.compile(r"\|\s*random\b(\s*\(\s*\))?")


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
    filters = any(node.name == "random" for node in tree.find_all(nodes.Filter))
    return filters or any(name.name == "lipsum" for name in tree.find_all(nodes.Name))


def _on(day: str, literal: str) -> str:
    """Time at the start of a day, in the form that a template asks for."""
    import ast

    form: str = ast.literal_eval(literal)
    return datetime.combine(date.fromisoformat(day), datetime.min.time()).strftime(form)


def _parse(template: str, where: str) -> Any:
    from jinja2 import TemplateSyntaxError

    environment = jinja_environment()
    try:
        environment.compile(template)
        return environment.parse(template)
    except (RecursionError, MemoryError, ValueError, SyntaxError) as error:
        raise ModelError(
            f"{where}: the chat template cannot be compiled ({type(error).__name__}: {one_line(error)}); correct it "
            f"there, or name another one of the model's templates with chat_template"
        ) from None
    except TemplateSyntaxError as error:
        raise ModelError(
            f"{where}: the chat template is broken, line {error.lineno}: {one_line(error)}; correct it there, or name "
            f"another one of the model's templates with chat_template"
        ) from None
