"""Responses of policy and baseline to the same prompts, as a table for people."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf.text.markdown import escape, table

_MAX_PROMPT_CHARACTERS = 600
_MAX_RESPONSE_CHARACTERS = 800
_JUDGES = {"gold": "gold", "selection_reward_model": "selection score", "reward_model": "score"}


def write_judgements(samples: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write `judgements.jsonl`: every prompt with both responses and what each judge gave, by which runs are compared.

    Args:
        samples: as for `write_side_by_side`.
        folder: where the file goes.
    """
    (folder / "judgements.jsonl").write_text(_lines(samples), encoding="utf-8")


def write_side_by_side(samples: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write `side_by_side.jsonl` (whole texts) and `side_by_side.md` (escaped, long texts cut).

    Args:
        samples: rows of prompt, policy and baseline; the two sides hold response, ended and what each judge gave.
        folder: where the files go.
    """
    (folder / "side_by_side.jsonl").write_text(_lines(samples), encoding="utf-8")
    title = f"# Responses side by side\n\nThe first {len(samples)} test prompts, not picked.\n\n"
    (folder / "side_by_side.md").write_text(f"{title}{side_by_side_table(samples)}\n", encoding="utf-8")


def _lines(samples: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)


def side_by_side_table(samples: Sequence[Mapping[str, Any]]) -> str:
    """The samples as a Markdown table: prompt, what the baseline says, what the policy says."""
    rows = [[_dialogue(sample["prompt"]), _side(sample["baseline"]), _side(sample["policy"])] for sample in samples]
    return table(["Prompt", "SFT baseline", "Policy"], rows)


def _dialogue(prompt: Sequence[Mapping[str, str]]) -> str:
    """The last turns of a dialogue, which are what is answered."""
    if len(prompt) == 1:
        return escape(prompt[0]["content"], _MAX_PROMPT_CHARACTERS)
    text = "\n".join(f"{message['role']}: {message['content']}" for message in prompt)
    shortened = text[-_MAX_PROMPT_CHARACTERS:]
    return escape(shortened if shortened == text else f"[...] {shortened}")


def _side(side: Mapping[str, Any]) -> str:
    text = escape(side["response"], _MAX_RESPONSE_CHARACTERS) or "(empty)"
    judged = ", ".join(f"{label} {side[judge]:.2f}" for judge, label in _JUDGES.items() if judge in side)
    return f"{text}<br><sub>{judged}{'' if side['ended'] else ', cut off'}</sub>"
