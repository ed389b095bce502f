"""A round's comparisons for other labelling tools, in their own forms; `rlhf data import` reads what they export."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal
from xml.sax.saxutils import quoteattr

from rlhf.errors import ConfigError
from rlhf.feedback.comparisons import Comparison
from rlhf.feedback.guidelines import Guidelines
from rlhf.feedback.rounds import Round
from rlhf.files.atomic import write_file

Tool = Literal["argilla", "label-studio"]
Asked = Literal["pairwise", "ranking"]
_RESPONSES = ("response_1", "response_2")


def export_round(asked: Round, tool: Tool, kind: Asked, folder: Path) -> list[Path]:
    """Write the comparisons of a round, gold questions left out, as a tool reads them.

    Args:
        asked: the round.
        tool: whose form.
        kind: pairwise asks which response is better; ranking, of Argilla alone, has both put into an order.
        folder: new or empty.

    Returns:
        The files.

    Raises:
        ConfigError: the folder holds something, or the tool does not ask in this way.
    """
    if tool == "label-studio" and kind != "pairwise":
        raise ConfigError(f"question is {kind}, which is written for Argilla alone; set it to pairwise")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            f"{folder} is there and not empty; name a new folder, so that nothing of yours is overwritten"
        )
    comparisons = [comparison for comparison in asked.comparisons if comparison.known is None]
    if tool == "label-studio":
        files = {
            "tasks.json": _json([_task(one, asked.name) for one in comparisons]),
            "labels.xml": _labels(asked.guidelines),
        }
    else:
        files = {
            "records.json": _json([_record(one, asked.name) for one in comparisons]),
            "settings.json": _json(_settings(asked.guidelines, kind)),
        }
    for name, content in files.items():
        write_file(folder / name, content)
    return [folder / name for name in files]


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def _task(comparison: Comparison, name: str) -> dict[str, Any]:
    responses = dict(zip(_RESPONSES, comparison.responses, strict=True))
    prompt = [dict(message) for message in comparison.prompt]
    return {"data": {"prompt": prompt, **responses, "round": name, "comparison": comparison.number}}


def _labels(guidelines: Guidelines) -> str:
    """Label Studio's labelling configuration. The names of what is shown are those of the fields."""
    shown = "\n".join(f'  <Text name="{name}" value="${name}"/>' for name in _RESPONSES)
    return f"""<View>
  <Header value={quoteattr(guidelines.question)}/>
  <Paragraphs name="prompt" value="$prompt" nameKey="role" textKey="content" layout="dialogue"/>
  <Pairwise name="better" toName="{",".join(_RESPONSES)}"/>
{shown}
</View>
"""


def _record(comparison: Comparison, name: str) -> dict[str, Any]:
    return {
        "id": f"{name}-{comparison.number}",
        "fields": {
            "prompt": [dict(message) for message in comparison.prompt],
            **dict(zip(_RESPONSES, comparison.responses, strict=True)),
        },
        "metadata": {"round": name},
        "suggestions": {},
        "responses": {},
        "vectors": {},
    }


def _settings(guidelines: Guidelines, kind: Asked) -> dict[str, Any]:
    """Settings of an Argilla data set, for `Settings.from_json`."""
    better = dict(zip(_RESPONSES, ("the first response", "the second response"), strict=True))
    options = _options(better if kind == "ranking" else better | {"tie": "they are equally good"})
    asked = {"type": kind if kind == "ranking" else "label_selection", "options": options}
    fields: Sequence[tuple[str, str, str]] = (
        ("prompt", "Prompt", "chat"),
        *((name, f"Response {name[-1]}", "text") for name in _RESPONSES),
    )
    return {
        "guidelines": "\n\n".join(text for text in (guidelines.instruction, guidelines.details) if text) or None,
        "allow_extra_metadata": True,
        "distribution": {"strategy": "overlap", "min_submitted": 1},
        "fields": [
            {
                "name": name,
                "title": title,
                "required": True,
                "settings": {"type": shown, "use_markdown": False},
            }
            for name, title, shown in fields
        ],
        "questions": [
            {
                "name": "preference",
                "title": guidelines.question,
                "description": None,
                "required": True,
                "settings": asked | ({"visible_options": None} if kind == "pairwise" else {}),
            }
        ],
        "vectors": [],
        "metadata": [],
    }


def _options(texts: dict[str, str]) -> list[dict[str, Any]]:
    return [{"value": value, "text": text, "description": None} for value, text in texts.items()]
