"""One function a convention: a row of somebody's file becomes rows of ours."""

import math
from collections.abc import Callable, Mapping, Set

from rlhf.data import dialogues
from rlhf.data.dialogues import Messages, RowDroppedError, RowRefusedError, answer_of, prompt_of, text, turns
from rlhf.data.schema import Row
from rlhf.errors import DataError

# Kind (demonstrations, preferences, prompts) and row.
Converted = list[tuple[str, Row]]
Converter = Callable[[Row], Converted]

_VERDICT_FIELDS = ("preference", "label", "annotator1")
_ANSWER_FIELDS = (("output_1", "output_2"), ("response1", "response2"), ("response_1", "response_2"))


def detect(row: Row) -> list[str]:
    """The formats that a row may be in, by its fields. More than one: nobody but its owner can tell."""
    fields = {name for name, value in row.items() if value is not None}
    return [name for name, fits in _SIGNS.items() if fits(fields, row)]


def convert(row: Row, format_name: str) -> Converted:
    """Turn a row into rows of ours, and drop what cannot be used.

    Args:
        row: as read.
        format_name: a key of `CONVERTERS`.

    Raises:
        RowDroppedError: the row cannot be used.
        RowRefusedError: the row is not in that format.
    """
    converted = CONVERTERS[format_name](_without_nulls(row))
    for kind, made in converted:
        _check_usable(kind, made)
    return converted


def _without_nulls(row: Row) -> Row:
    """A column that a row leaves empty is a field that it does not have."""
    return {name: value for name, value in row.items() if value is not None}


def _check_usable(kind: str, row: Row) -> None:
    prompt: Messages = row["prompt"]
    answers: list[Messages] = [row[name] for name in ("completion", "chosen", "rejected") if name in row]
    if not any(message["content"].strip() for message in prompt):
        raise RowDroppedError(dialogues.EMPTY_PROMPT)
    if prompt[-1]["role"] == "assistant" or any(len(a) != 1 or a[0]["role"] != "assistant" for a in answers):
        raise RowDroppedError(dialogues.NO_ANSWER)
    if not all(answer[0]["content"].strip() for answer in answers):
        raise RowDroppedError(dialogues.EMPTY_RESPONSE)
    if kind == "preferences" and row["chosen"] == row["rejected"]:
        raise RowDroppedError(dialogues.SAME_RESPONSES)


def _hh(row: Row) -> Converted:
    if not {"chosen", "rejected"} & row.keys():
        return [("prompts", {"prompt": prompt_of(text(row, "prompt"), "prompt")})]
    chosen, rejected = (dialogues.split_dialogue(text(row, side), side) for side in ("chosen", "rejected"))
    prompt, better, worse = dialogues.common_prompt(chosen, rejected)
    return [_preference(row, prompt, better, worse)]


def _alpaca(row: Row) -> Converted:
    prompt = _instruction(row)
    if {"chosen", "rejected"} & row.keys():
        return [
            _preference(row, prompt, answer_of(row.get("chosen"), "chosen"), answer_of(row.get("rejected"), "rejected"))
        ]
    return [_demonstration(prompt, answer_of(text(row, "output"), "output"))]


def _instruction(row: Row) -> Messages:
    parts = [text(row, "instruction").strip(), str(row.get("input") or "").strip()]
    system = str(row.get("system") or "").strip()
    lead = [dialogues.message("system", system)] if system else []
    return [*lead, dialogues.message("user", "\n\n".join(part for part in parts if part))]


def _sharegpt(row: Row) -> Converted:
    prompt = turns(row.get("conversations"), "conversations")
    if row.get("system"):
        prompt = [dialogues.message("system", text(row, "system")), *prompt]
    if {"chosen", "rejected"} & row.keys():
        return [
            _preference(row, prompt, answer_of(row.get("chosen"), "chosen"), answer_of(row.get("rejected"), "rejected"))
        ]
    return [_demonstration(*dialogues.split_answer(prompt))]


def _trl(row: Row) -> Converted:
    if {"chosen", "rejected"} & row.keys():
        return [_trl_preference(row)]
    if "completion" in row:
        return [_demonstration(_given_prompt(row), answer_of(row["completion"], "completion"))]
    if "messages" in row:
        return [_demonstration(*dialogues.split_answer(turns(row["messages"], "messages")))]
    return [("prompts", {"prompt": _given_prompt(row)})]


def _trl_preference(row: Row) -> tuple[str, Row]:
    better, worse = answer_of(row.get("chosen"), "chosen"), answer_of(row.get("rejected"), "rejected")
    if "prompt" not in row:
        return _preference(row, *dialogues.common_prompt(better, worse))
    prompt = _given_prompt(row)
    # UltraFeedback and its kin give the prompt, and whole dialogues beside it.
    if (
        len(better) > 1
        and better[:-1] == worse[:-1]
        and [m for m in better[:-1] if m["role"] == "user"][-1:] == prompt[-1:]
    ):
        prompt, better, worse = dialogues.common_prompt(better, worse)
    return _preference(row, prompt, better, worse)


def _given_prompt(row: Row) -> Messages:
    if "prompt" not in row:
        raise RowRefusedError('the field "prompt" is missing')
    return prompt_of(row["prompt"], "prompt")


def _self_instruct(row: Row) -> Converted:
    instances = row.get("instances")
    if not isinstance(instances, list) or not all(isinstance(instance, dict) for instance in instances):
        raise RowRefusedError('"instances" is not a list of objects')
    return [made for instance in instances for made in _alpaca({"instruction": text(row, "instruction"), **instance})]


def _qa(row: Row) -> Converted:
    return [_demonstration(prompt_of(text(row, "question"), "question"), answer_of(text(row, "answer"), "answer"))]


def _kto(row: Row) -> Converted:
    label = row.get("label")
    wanted = {True: True, False: False, "true": True, "false": False}.get(
        label.lower() if isinstance(label, str) else label
    )
    if wanted is None:
        raise RowRefusedError('"label" is neither true nor false')
    if not wanted:
        raise RowDroppedError(dialogues.UNWANTED)
    return _trl({name: value for name, value in row.items() if name != "label"})


def _judgments(row: Row) -> Converted:
    first, second = next((pair for pair in _ANSWER_FIELDS if pair[0] in row), _ANSWER_FIELDS[0])
    prompt = _instruction(row if "instruction" in row else {"instruction": row.get("input"), "input": ""})
    if not isinstance(row.get(first), str) or not isinstance(row.get(second), str):
        raise RowDroppedError(dialogues.NOT_TEXT)
    answers = [answer_of(row[name], name) for name in (first, second)]
    verdicts = _verdicts(row)
    decided = [(judge, verdict) for judge, verdict in verdicts if verdict]
    if not decided:
        raise RowDroppedError(dialogues.TIE)
    return [_preference(_judged(row, judge), prompt, answers[v - 1], answers[2 - v]) for judge, v in decided]


def _verdicts(row: Row) -> list[tuple[str | None, int]]:
    """Judges and what each said: 1 or 2 is the better answer, 0 a tie."""
    numbered = [name for name in row if name.startswith("annotator") and name != "annotator"]
    fields = numbered or [name for name in ("preference", "label") if name in row][:1]
    if not fields:
        raise RowRefusedError('there is no verdict in "preference", "label" or "annotator1"')
    return [(name if numbered else None, _verdict(row[name], name)) for name in fields]


def _verdict(value: object, field: str) -> int:
    given = str(value).strip().removesuffix(".0")
    if isinstance(value, bool) or given not in ("0", "1", "2"):
        raise RowRefusedError(f'"{field}" is not 1 or 2 (the better answer) or 0 (a tie)')
    return int(given)


def _judged(row: Row, judge: str | None) -> Row:
    return row if judge is None else {**row, "annotator": judge}


def _demonstration(prompt: Messages, completion: Messages) -> tuple[str, Row]:
    return "demonstrations", {"prompt": prompt, "completion": completion}


def _preference(row: Row, prompt: Messages, chosen: Messages, rejected: Messages) -> tuple[str, Row]:
    made: Row = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    if row.get("margin") not in (None, ""):
        made["margin"] = _margin(row["margin"])
    made |= {
        name: row[name] for name in ("annotator", "criteria", "source") if isinstance(row.get(name), str) and row[name]
    }
    return "preferences", made


def _margin(value: object) -> float:
    try:
        margin = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        margin = math.nan
    if not math.isfinite(margin) or margin < 0:
        raise RowRefusedError(f'"margin" is {value!r}, not a finite number of at least 0')
    return margin


CONVERTERS: Mapping[str, Converter] = {
    "hh": _hh,
    "alpaca": _alpaca,
    "sharegpt": _sharegpt,
    "trl": _trl,
    "kto": _kto,
    "qa": _qa,
    "self_instruct": _self_instruct,
    "judgments": _judgments,
}


def _dialogue_in(row: Row, field: str) -> bool:
    return isinstance(row.get(field), str) and dialogues.has_turns(row[field])


def _is_hh(fields: Set[str], row: Row) -> bool:
    return _dialogue_in(row, "chosen") or (_dialogue_in(row, "prompt") and not fields & {"chosen", "completion"})


def _is_trl(fields: Set[str], row: Row) -> bool:
    others = _is_hh(fields, row) or _is_kto(fields) or bool(fields & {"instruction", "conversations"})
    return not others and ({"chosen", "rejected"} <= fields or bool(fields & {"messages", "prompt"}))


def _is_kto(fields: Set[str]) -> bool:
    return "label" in fields and bool(fields & {"messages", "completion"})


def _is_alpaca(fields: Set[str]) -> bool:
    return "instruction" in fields and ("output" in fields or {"chosen", "rejected"} <= fields)


def _is_judgments(fields: Set[str]) -> bool:
    return any({first, second} <= fields for first, second in _ANSWER_FIELDS) and bool(fields & set(_VERDICT_FIELDS))


_SIGNS: Mapping[str, Callable[[Set[str], Row], bool]] = {
    "hh": _is_hh,
    "alpaca": lambda fields, row: _is_alpaca(fields),
    "sharegpt": lambda fields, row: "conversations" in fields,
    "trl": _is_trl,
    "kto": lambda fields, row: _is_kto(fields),
    "qa": lambda fields, row: {"question", "answer"} <= fields,
    "self_instruct": lambda fields, row: {"instruction", "instances"} <= fields,
    "judgments": lambda fields, row: _is_judgments(fields),
}


def unknown_format(name: str) -> DataError:
    """The error for a format that there is none of."""
    return DataError(f"--format {name}: there is no such format; give one of auto, {', '.join(CONVERTERS)}")
