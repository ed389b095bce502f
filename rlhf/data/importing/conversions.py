"""Flat forms: a row with a prompt, and a better and a worse answer beside it, or one answer alone."""

from itertools import chain

from rlhf.data.importing.columns import GivenColumns, Survey
from rlhf.data.importing.dialogues import Messages, RowDroppedError, answer_of, split_answer, turns, value_in
from rlhf.data.importing.form import ATTRIBUTES, Form, attributes, comparison, demonstration
from rlhf.data.importing.judged import points_at_answers
from rlhf.data.importing.prompts import find_prompt, holds_dialogues, join
from rlhf.data.importing.scores import listed, score_differences, scores_and_properties
from rlhf.data.importing.verdicts import exact, normalized, word_set
from rlhf.data.schema import Row

_PAIRS = (
    ("chosen", "rejected"),
    ("chosen_response", "rejected_response"),
    ("response_chosen", "response_rejected"),
    ("preferred_output", "non_preferred_output"),
    ("preferred", "dispreferred"),
    ("preferred_response", "dispreferred_response"),
    ("preferred_response", "rejected_response"),
    ("accepted", "rejected"),
    ("better_response", "worse_response"),
)
_COMPLETIONS = {
    "alpaca": ("output", "response", "completion", "answer"),
    "trl": ("completion", "response", "answer", "output"),
    "hh": ("completion", "response", "answer", "output"),
    "sharegpt": ("completion", "response", "output"),
}
_LABELS = word_set("label labels kto_tag desirable wanted thumbs thumbs_up thumb feedback liked approved")
_WANTED = word_set("true 1 yes good up thumbsup desirable like liked positive wanted approved accepted")
_UNWANTED = word_set(
    "false 0 no bad down thumbsdown undesirable dislike disliked negative unwanted disapproved rejected -1"
)


def find_pairs(survey: Survey, given: GivenColumns, source: str, format_name: str) -> Form | None:
    """Rows with a better and a worse answer."""
    names = next((pair for pair in _PAIRS if survey.keys() >= set(pair)), None)
    if names is None or points_at_answers(survey, names[0]):
        return None
    prompt = find_prompt(survey, source, format_name, taken=names)
    # Next to a prompt that is a dialogue, answers are plain texts, even where a person says that the format is hh.
    told = "auto" if prompt and format_name == "hh" else format_name
    marked = all(holds_dialogues(survey, name, source, told, else_unread=prompt is None) for name in names)
    if prompt is None and not marked and not all(survey[name].types & {list, dict} for name in names):
        return None
    scores, properties = scores_and_properties(survey, names)
    # Dialogues in one text hold their prompt: a column of prompts beside them is understood, and not read.
    beside = None if marked else prompt

    def convert(row: Row) -> list[Row]:
        answers = [answer_of(value_in(row, name), name, is_dialogue=marked) for name in names]
        asked, *answers = join(beside.of(row) if beside else None, *answers)
        if beside and beside.format == "hh":
            answers = [_after_marker(answer) for answer in answers]
        reason = "the scores say that the rejected answer is the better one"
        differences = score_differences(row, scores, (1, 2), reason)
        return [comparison(row, asked, answers, (1, 1) if differences and not any(differences) else (1, 2))]

    is_openai = prompt is not None and prompt.column == "input" and names == _PAIRS[3]
    return Form(
        "hh" if marked else "openai" if is_openai else prompt.format if prompt else "trl",
        "preferences",
        {*names, *chain(*scores), *(beside.read if beside else ())} | ATTRIBUTES,
        convert,
        properties | (prompt.read if prompt else set()),
        note=f"pairs whose {listed(scores)} are equal are ties" if scores else "",
    )


def find_answers(survey: Survey, given: GivenColumns, source: str, format_name: str) -> Form | None:
    """Rows with one answer: demonstrations, or unpaired feedback where a label stands beside it."""
    labels = [name for name in survey if name.lower() in _LABELS and _are_labels(survey, given, name)]
    prompt = find_prompt(survey, source, format_name, taken=("messages", *labels))
    completion, refusal = None, ""
    if "messages" in survey and list in survey["messages"].types:
        prompt = None
    elif prompt is None:
        return None
    else:
        completion = next((n for n in _COMPLETIONS[prompt.format] if n in survey and n not in prompt.read), None)
        if completion is None and prompt.format != "sharegpt":
            return None
        if completion is not None and completion not in given.columns:
            refusal = _spells_lists(survey, completion, source)

    def convert(row: Row) -> list[Row]:
        said = value_in(row, labels[0]) if labels else None
        dialogue = prompt.of(row) if prompt else turns(value_in(row, "messages"), "messages")
        if completion is None:
            asked, answer = split_answer(dialogue)
        else:
            asked, answer = dialogue, answer_of(value_in(row, completion), completion)
            answer = _after_marker(answer) if prompt and prompt.format == "hh" else answer
        if not labels:
            return [demonstration(asked, answer)]
        wanted: Row = {"label": _is_wanted(said, given)}
        return [demonstration(asked, answer) | wanted | attributes(row, ("annotator", "source"))]

    read = {*(prompt.read if prompt else ["messages"]), *([completion] if completion else []), *labels[:1]}
    is_qa = prompt is not None and prompt.column == "question" and completion == "answer"
    return Form(
        "kto" if labels else "qa" if is_qa else prompt.format if prompt else "trl",
        "labels" if labels else "demonstrations",
        read | {"annotator", "source"},
        convert,
        refusal=refusal,
    )


def find_prompts(survey: Survey, given: GivenColumns, source: str, format_name: str) -> Form | None:
    """Rows with a prompt, whatever stands beside it."""
    prompt = find_prompt(survey, source, format_name)
    if prompt is None:
        return None
    return Form(prompt.format, "prompts", prompt.read | {"source"}, lambda row: [{"prompt": prompt.of(row)}])


def _after_marker(answer: Messages) -> Messages:
    """An answer that stands behind a prompt's `Assistant:`, without the space that belongs to the marker."""
    return [{**message, "content": message["content"].removeprefix(" ")} for message in answer]


def _spells_lists(survey: Survey, name: str, source: str) -> str:
    """The refusal of texts that all spell lists, each perhaps one answer, perhaps several; empty for other texts."""
    column = survey[name]
    if column.num_spelled_lists < 0.95 * column.num_rows:
        return ""
    return (
        f'{source}: every text in "{name}" spells a list, which may be one answer or several; give --columns '
        f"completion={name} if each is one answer, or write several answers as lists in JSON Lines"
    )


def _are_labels(survey: Survey, given: GivenColumns, name: str) -> bool:
    """Whether all values of a column say that an answer is wanted or is not."""
    if name == "label" and "label" in given.values:
        return True
    values = {normalized(value) for value in survey[name].scalars} or {""}
    return survey[name].types <= {bool, int, float, str} and values <= _WANTED | _UNWANTED


def _is_wanted(value: object, given: GivenColumns) -> bool:
    meanings: dict[str, bool] = {
        exact(said): outcome == "wanted" for said, outcome in given.values.get("label", {}).items()
    }
    key = (exact if meanings else normalized)(value) if isinstance(value, bool | int | float | str) else ""
    meanings = meanings or {**dict.fromkeys(_WANTED, True), **dict.fromkeys(_UNWANTED, False)}
    if key not in meanings:
        raise RowDroppedError("a label cannot be read", f"{value!r}"[:60])
    return meanings[key]
