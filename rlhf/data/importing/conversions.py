"""Flat forms: a row with a prompt, and a better and a worse answer beside it, or one answer alone."""

from collections.abc import Callable, Sequence
from itertools import chain

from rlhf.data.importing import dialogues
from rlhf.data.importing.answers import after_marker, answer_in, attributes_in, listed, number_in, scores_and_properties
from rlhf.data.importing.columns import GivenColumns, Survey
from rlhf.data.importing.dialogues import RowDroppedError, split_answer, value_in
from rlhf.data.importing.form import UNWANTED, Converted, Form, comparison, demonstration, label
from rlhf.data.importing.judged import points_at_answers
from rlhf.data.importing.prompts import PromptReader, find_prompt, holds_dialogues, join
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
_LABELS = (
    "label",
    "labels",
    "kto_tag",
    "desirable",
    "wanted",
    "thumbs",
    "thumbs_up",
    "thumb",
    "feedback",
    "liked",
    "approved",
)
_WANTED = word_set(
    """
    true 1 yes good up thumbsup desirable like liked positive wanted approved accepted
    """
)
_UNWANTED = word_set(
    """
    false 0 no bad down thumbsdown undesirable dislike disliked negative unwanted disapproved rejected -1
    """
)


def find_pairs(survey: Survey, given: GivenColumns, source: str, format_name: str) -> Form | None:
    """Rows with a better and a worse answer."""
    names = next((pair for pair in _PAIRS if all(name in survey for name in pair)), None)
    if names is None or points_at_answers(survey, names[0]):
        return None
    prompt = find_prompt(survey, source, format_name, taken=names)
    # Answers beside a dialogue as prompt are texts, also where a person says that the format is hh.
    told = "auto" if prompt and format_name == "hh" else format_name
    marked = all(holds_dialogues(survey, name, source, told, else_unread=prompt is None) for name in names)
    if prompt is None and not marked and not all(survey[name].types & {list, dict} for name in names):
        return None
    scores, properties = scores_and_properties(survey, names)
    read = {*names, *chain(*scores), *(prompt.read if prompt and not marked else ())}

    def convert(row: Row) -> Converted:
        answers = [answer_in(row, name, marked) for name in names]
        asked, better, worse = join(prompt.of(row) if prompt and not marked else None, *answers)
        if prompt and prompt.format == "hh" and not marked:
            better, worse = (after_marker(answer) for answer in (better, worse))
        return [comparison(row, asked, (better, worse), _ranks_by_scores(row, scores))]

    name = "hh" if marked else "openai" if prompt and prompt.column == "input" and names == _PAIRS[3] else ""
    known = properties | ({*prompt.read} if prompt and marked else set())
    notes = [f"pairs whose {listed(scores)} are equal are ties"] if scores else []
    return Form(
        name or (prompt.format if prompt else "trl"),
        "preferences",
        frozenset(read | attributes_in(survey)),
        convert,
        frozenset(known),
        notes=tuple(notes),
    )


def _ranks_by_scores(row: Row, scores: Sequence[tuple[str, str]]) -> tuple[float, float]:
    """1 and 2, or a tie where all scores say so.

    Raises:
        RowDroppedError: a score says that the rejected answer is the better one.
    """
    gains = {
        (better, worse): number_in(row[better], better) - number_in(row[worse], worse)
        for better, worse in scores
        if {better, worse} <= row.keys()
    }
    for (better, worse), gain in gains.items():
        if gain < 0:
            raise RowDroppedError("the scores say that the rejected answer is the better one", f'"{better}", "{worse}"')
    return (1, 1) if gains and not any(gains.values()) else (1, 2)


def find_answers(survey: Survey, given: GivenColumns, source: str, format_name: str) -> Form | None:
    """Rows with one answer: demonstrations, or unpaired feedback where a label stands beside it."""
    labels = [name for name in survey if name.lower() in _LABELS and _are_labels(survey, given, name)]
    prompt = find_prompt(survey, source, format_name, taken=("messages", *labels))
    read: Callable[[Row], tuple[dialogues.Messages, dialogues.Messages]]
    format_found, columns, refusal = "trl", {"messages"}, ""
    if "messages" in survey and list in survey["messages"].types:
        read = _last_turn("messages")
    elif prompt is None:
        return None
    else:
        completion = next((n for n in _COMPLETIONS[prompt.format] if n in survey and n not in prompt.read), None)
        if completion is None and prompt.format != "sharegpt":
            return None
        if completion is not None and completion not in given.columns:
            refusal = _spells_lists(survey, completion, source)
        qa = prompt.column == "question" and completion == "answer"
        format_found = "qa" if qa else prompt.format
        columns = {*prompt.read, *([completion] if completion else [])}
        read = _answered(prompt, completion)

    def convert(row: Row) -> Converted:
        if not labels:
            return [demonstration(*read(row))]
        said = value_in(row, labels[0])
        return [label(*read(row), _wanted(said, given), row)]

    kind = "labels" if labels else "demonstrations"
    read_columns = columns | set(labels[:1]) | (attributes_in(survey) & {"annotator", "source"})
    return Form("kto" if labels else format_found, kind, frozenset(read_columns), convert, refusal=refusal)


def _spells_lists(survey: Survey, name: str, source: str) -> str:
    """What to say of texts that all spell lists: one answer that is a list, or several. Nothing of others."""
    column = survey[name]
    if column.num_spelled_lists < 0.95 * column.num_rows:
        return ""
    return (
        f'{source}: every text in "{name}" spells a list, which may be one answer or several; give --columns '
        f"completion={name} if each is one answer, or write several answers as lists in JSON Lines"
    )


def _last_turn(name: str) -> Callable[[Row], tuple[dialogues.Messages, dialogues.Messages]]:
    def read(row: Row) -> tuple[dialogues.Messages, dialogues.Messages]:
        return split_answer(dialogues.turns(value_in(row, name), name))

    return read


def _answered(
    prompt: PromptReader, completion: str | None
) -> Callable[[Row], tuple[dialogues.Messages, dialogues.Messages]]:
    def read(row: Row) -> tuple[dialogues.Messages, dialogues.Messages]:
        if completion is None:
            return split_answer(prompt.of(row))
        asked, answer = prompt.of(row), answer_in(row, completion, False)
        return asked, after_marker(answer) if prompt.format == "hh" else answer

    return read


def _are_labels(survey: Survey, given: GivenColumns, name: str) -> bool:
    """Whether all values of a column say that an answer is wanted or is not."""
    if name == "label" and "label" in given.values:
        return True
    values = {normalized(value) for value in survey[name].scalars} or {""}
    return survey[name].types <= {bool, int, float, str} and values <= _WANTED | _UNWANTED


def _wanted(value: object, given: GivenColumns) -> bool:
    said: dict[str, bool] = {exact(v): outcome == "wanted" for v, outcome in given.values.get("label", {}).items()}
    key = (exact if said else normalized)(value) if isinstance(value, bool | int | float | str) else ""
    meaning = said or {**dict.fromkeys(_WANTED, True), **dict.fromkeys(_UNWANTED, False)}
    if key not in meaning:
        raise RowDroppedError("a label cannot be read", f"{value!r}"[:60])
    return meaning[key]


def wanted_as_demonstration(kind: str, row: Row) -> tuple[str, Row]:
    """Unpaired feedback where demonstrations are asked for: the answers that are wanted.

    Raises:
        RowDroppedError: it is not wanted.
    """
    if kind != "labels":
        return kind, row
    if not row["label"]:
        raise RowDroppedError(UNWANTED, is_fault=False)
    return "demonstrations", {"prompt": row["prompt"], "completion": row["completion"]}


def find_prompts(survey: Survey, given: GivenColumns, source: str, format_name: str) -> Form | None:
    """Rows with a prompt, whatever stands beside it."""
    prompt = find_prompt(survey, source, format_name)
    if prompt is None:
        return None
    return Form(
        prompt.format,
        "prompts",
        prompt.read | (attributes_in(survey) & {"source"}),
        lambda row: [("prompts", {"prompt": prompt.of(row)})],
    )
