"""Answers of two models to the same prompts, for people: as rows of JSON, and as a table."""

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.data.schema import json_lines
from rlhf.evaluation.answers import CHAMPIONS_JUDGE, OWN_JUDGE, JudgedAnswers
from rlhf.modeling.conversations import Conversation
from rlhf.text.markdown import escape, table

Samples = Sequence[Mapping[str, Any]]

_MAX_PROMPT_CHARACTERS = 600
_MAX_RESPONSE_CHARACTERS = 800
_JUDGES = {
    "gold": "gold",
    OWN_JUDGE: "selection score",
    CHAMPIONS_JUDGE: "champion's selection score",
    "reward_model": "score",
}


def side_by_side(prompts: Sequence[Conversation], models: Mapping[str, JudgedAnswers]) -> list[dict[str, Any]]:
    """A row for each prompt: the prompt, and under each model's name its response and what the judges gave."""

    def sample(judged: JudgedAnswers, row: int) -> dict[str, Any]:
        return {
            "response": judged.answers.texts[row],
            "ended": judged.answers.ended[row],
            **{judge: float(values[row]) for judge, values in judged.values.items()},
        }

    return [
        {"prompt": prompt, **{name: sample(judged, row) for name, judged in models.items()}}
        for row, prompt in enumerate(prompts)
    ]


def as_json_lines(samples: Samples) -> str:
    """Whole texts."""
    return "".join(json_lines(samples))


def as_table(samples: Samples, titles: Mapping[str, str], split: str) -> str:
    """A Markdown document, its texts escaped and the long ones cut.

    Args:
        samples: of `side_by_side`.
        titles: of the columns, by the models' names.
        split: that the prompts are of.
    """
    rows = [[_dialogue(sample["prompt"]), *(_answer(sample[name]) for name in titles)] for sample in samples]
    title = f"# Responses side by side\n\nThe first {len(samples)} {split} prompts, not picked.\n\n"
    return f"{title}{table(['Prompt', *titles.values()], rows)}\n"


def _dialogue(prompt: Sequence[Mapping[str, str]]) -> str:
    """The last turns of a dialogue, which are what is answered."""
    if len(prompt) == 1:
        return escape(prompt[0]["content"], _MAX_PROMPT_CHARACTERS)
    text = "\n".join(f"{message['role']}: {message['content']}" for message in prompt)
    shortened = text[-_MAX_PROMPT_CHARACTERS:]
    return escape(shortened if shortened == text else f"[...] {shortened}")


def _answer(sample: Mapping[str, Any]) -> str:
    text = escape(sample["response"], _MAX_RESPONSE_CHARACTERS) or "(empty)"
    judged = ", ".join(f"{label} {sample[judge]:.2f}" for judge, label in _JUDGES.items() if judge in sample)
    return f"{text}<br><sub>{judged}{'' if sample['ended'] else ', cut off'}</sub>"
