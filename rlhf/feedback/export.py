"""A round's comparisons for other labelling tools, in their own forms; `rlhf data import` reads what they export."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal
from xml.sax.saxutils import quoteattr

from rlhf.errors import ConfigError
from rlhf.feedback.collect import SOURCE
from rlhf.feedback.comparisons import Comparison
from rlhf.feedback.guidelines import Guidelines
from rlhf.feedback.rounds import Round
from rlhf.files.atomic import write_file

Tool = Literal["argilla", "label-studio"]
Asked = Literal["pairwise", "ranking", "rating"]
_RESPONSES = ("response_1", "response_2")
_MAX_RATING = 5
_RATING = "How good is the response?"


def export_round(asked: Round, tool: Tool, kind: Asked, folder: Path) -> list[Path]:
    """Write the comparisons of a round, gold questions left out, as a tool reads them.

    Args:
        asked: the round.
        tool: whose form.
        kind: pairwise asks which response is better; rating asks for one to five stars for each; ranking, of Argilla
            alone, has both put into an order.
        folder: new or empty.

    Returns:
        The files.

    Raises:
        ConfigError: the folder holds something, or the tool does not ask in this way.
    """
    if tool == "label-studio" and kind == "ranking":
        raise ConfigError(f"question is {kind}, which is written for Argilla alone; set it to pairwise or rating")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            f"{folder} is there and not empty; name a new folder, so that nothing of yours is overwritten"
        )
    comparisons = [comparison for comparison in asked.comparisons if comparison.known is None]
    if tool == "label-studio":
        files = {
            "tasks.json": _json([_task(one, asked.name) for one in comparisons]),
            "labels.xml": _labels(asked.guidelines, kind),
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
    prompt = [dict(message) for message in comparison.prompt]
    return {"data": {"prompt": prompt, **_responses(comparison), **_origin(comparison, name)}}


def _responses(comparison: Comparison) -> dict[str, str]:
    return dict(zip(_RESPONSES, comparison.responses, strict=True))


def _origin(comparison: Comparison, name: str) -> dict[str, Any]:
    """What comes back with the answers: a row then says where it is from, as one that was collected here does."""
    policies = {f"policy_{place}": policy for place, policy in enumerate(comparison.policies, 1)}
    return {"round": name, "source": f"{SOURCE}, {name}", "comparison": comparison.number, **policies}


def _labels(guidelines: Guidelines, kind: Asked) -> str:
    """Label Studio's labelling configuration. The names of what is shown are those of the fields."""
    texts = [f'  <Text name="{name}" value="${name}"/>' for name in _RESPONSES]
    if kind == "rating":
        rating = '  <Rating name="{name}_rating" toName="{name}" maxRating="{most}" required="true"/>'
        texts = [
            line
            for name, text in zip(_RESPONSES, texts, strict=True)
            for line in (text, rating.format(name=name, most=_MAX_RATING))
        ]
    else:
        texts.insert(0, f'  <Pairwise name="better" toName="{",".join(_RESPONSES)}"/>')
    shown = "\n".join(texts)
    return f"""<View>
  <Header value={quoteattr(_RATING if kind == "rating" else guidelines.question)}/>
  <Paragraphs name="prompt" value="$prompt" nameKey="role" textKey="content" layout="dialogue"/>
{shown}
</View>
"""


def _record(comparison: Comparison, name: str) -> dict[str, Any]:
    return {
        "id": f"{name}-{comparison.number}",
        "fields": {"prompt": [dict(message) for message in comparison.prompt], **_responses(comparison)},
        "metadata": _origin(comparison, name),
        "suggestions": {},
        "responses": {},
        "vectors": {},
    }


def _settings(guidelines: Guidelines, kind: Asked) -> dict[str, Any]:
    """Settings of an Argilla data set, for `Settings.from_json`."""
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
        "questions": _questions(guidelines, kind),
        "vectors": [],
        "metadata": [],
    }


def _questions(guidelines: Guidelines, kind: Asked) -> list[dict[str, Any]]:
    better = dict(zip(_RESPONSES, ("the first response", "the second response"), strict=True))
    asked: list[tuple[str, str, dict[str, Any]]]
    if kind == "rating":
        stars = {"type": "rating", "options": [{"value": value} for value in range(1, _MAX_RATING + 1)]}
        asked = [(f"{name}_rating", f"{_RATING} ({text})", stars) for name, text in better.items()]
    elif kind == "ranking":
        asked = [("preference", guidelines.question, {"type": "ranking", "options": _options(better)})]
    else:
        options = _options(better | {"tie": "they are equally good"})
        choice = {"type": "label_selection", "options": options, "visible_options": None}
        asked = [("preference", guidelines.question, choice)]
    return [
        {"name": name, "title": title, "description": None, "required": True, "settings": settings}
        for name, title, settings in asked
    ]


def _options(texts: dict[str, str]) -> list[dict[str, Any]]:
    return [{"value": value, "text": text, "description": None} for value, text in texts.items()]
