"""Flat forms: a row with a prompt, and answers beside it that are chosen and rejected, judged, ranked, or alone."""

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, cycle

from rlhf.data.importing import dialogues
from rlhf.data.importing.columns import Column, GivenColumns, Survey, looks_like_verdict
from rlhf.data.importing.dialogues import RowDroppedError, answer_of, split_answer, split_dialogue
from rlhf.data.importing.form import UNWANTED, Converted, Form, comparison, demonstration, label
from rlhf.data.importing.prompts import PromptReader, find_prompt, holds_dialogues, join
from rlhf.data.importing.verdicts import (
    NO_VERDICT,
    UNREADABLE,
    Outcome,
    Verdicts,
    names_the_worse,
    normalized,
    word_set,
    words_of,
)
from rlhf.data.schema import Row
from rlhf.errors import DataError

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
_STEMS = word_set(
    """
    output response answer completion candidate reply summary generation text result prediction conversation message
    """
)
_MARKS = (("1", "2"), ("0", "1"), ("a", "b"), ("left", "right"), ("first", "second"))
# HelpSteer's, beside the overall preference: what each person said, of which it was made.
_OF_HELPSTEER = frozenset(
    {
        "preference_statement",
        "preference_elaboration",
        "three_most_similar_preferences",
        "all_preferences_unprocessed",
        "individual_preference",
    }
)
# Chatbot Arena's, beside who has won: whether the models were hidden, and what moderation says of the dialogue.
_OF_ARENAS = frozenset({"anony", "toxic_chat_tag", "openai_moderation"})
_JUDGE = re.compile(r"(annotator|rater|judge|worker|evaluator|labell?er|verdict|vote)[ _-]?\d+", re.IGNORECASE)
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
# Of each answer, and no verdict on it: chosen_model, rejected_length.
_SCORES = frozenset(["score", "scores", "rating", "ratings", "reward", "rewards", "grade"])


def find_pairs(survey: Survey, given: GivenColumns, source: str, format_name: str) -> Form | None:
    """Rows with a better and a worse answer."""
    names = next((pair for pair in _PAIRS if all(name in survey for name in pair)), None)
    if names is None:
        return None
    prompt = find_prompt(survey, source, format_name, taken=names)
    # Answers beside a dialogue as prompt are texts, also where a person says that the format is hh.
    told = "auto" if prompt and format_name == "hh" else format_name
    marked = all(holds_dialogues(survey, name, source, told, else_unread=prompt is None) for name in names)
    if prompt is None and not marked and not all(survey[name].types & {list, dict} for name in names):
        return None
    scores, properties = _of_each_answer(survey, names)
    read = {*names, *chain(*scores), *(prompt.read if prompt and not marked else ())}

    def convert(row: Row) -> Converted:
        answers = [_answer(row, name, marked) for name in names]
        asked, better, worse = join(prompt.of(row) if prompt and not marked else None, *answers)
        if prompt and prompt.format == "hh":
            better, worse = (_after_marker(answer) for answer in (better, worse))
        return [comparison(row, asked, (better, worse), _ranks_by_scores(row, scores))]

    name = "hh" if marked else "openai" if prompt and prompt.column == "input" and names == _PAIRS[3] else ""
    known = properties | ({*prompt.read} if prompt and marked else set())
    notes = [f"pairs whose {_listed(scores)} are equal are ties"] if scores else []
    return Form(
        name or (prompt.format if prompt else "trl"),
        "preferences",
        frozenset(read | _attributes(survey)),
        convert,
        frozenset(known),
        notes=tuple(notes),
    )


def _answer(row: Row, name: str, is_dialogue: bool) -> dialogues.Messages:
    if name not in row:
        raise RowDroppedError(dialogues.MISSING, f'no "{name}"')
    return split_dialogue(row[name], name) if is_dialogue and isinstance(row[name], str) else answer_of(row[name], name)


def _after_marker(answer: dialogues.Messages) -> dialogues.Messages:
    """An answer that stands behind a prompt's `Assistant:`, without the space that belongs to the marker."""
    return [{**message, "content": message["content"].removeprefix(" ")} for message in answer]


def _of_each_answer(survey: Survey, names: Sequence[str]) -> tuple[list[tuple[str, str]], set[str]]:
    """Columns that say something of the better answer and the same of the worse one: scores, and all else."""
    sides = [set(words_of(name)) for name in names]
    marks = [side - other for side, other in zip(sides, reversed(sides), strict=True)]
    scores: list[tuple[str, str]] = []
    properties: set[str] = set()
    for name in survey:
        words = words_of(name)
        if name in names or not marks[0] & set(words):
            continue
        other = next((n for n in survey if n not in names and _mirrored(words, marks) == words_of(n)), None)
        rest = set(words) - marks[0]
        if other is None or not rest:
            continue
        numbers = all(survey[n].num_numbers >= 0.95 * survey[n].num_rows for n in (name, other))
        if rest & _SCORES and numbers and not names_the_worse("_".join(rest)):
            scores.append((name, other))
        elif not looks_like_verdict("_".join(sorted(rest))):
            properties |= {name, other}
    return scores, properties


def _mirrored(words: Sequence[str], marks: Sequence[set[str]]) -> list[str]:
    return [next(iter(marks[1])) if word in marks[0] else word for word in words]


def _ranks_by_scores(row: Row, scores: Sequence[tuple[str, str]]) -> tuple[float, float]:
    """1 and 2, or a tie where all scores say so.

    Raises:
        RowDroppedError: a score says that the rejected answer is the better one.
    """
    compared = [
        (_number(row[better], better), _number(row[worse], worse))
        for better, worse in scores
        if {better, worse} <= row.keys()
    ]
    for (better, worse), (name, other) in zip(compared, scores, strict=False):
        if better < worse:
            raise RowDroppedError("the scores say that the rejected answer is the better one", f'"{name}", "{other}"')
    return (1, 1) if compared and all(better == worse for better, worse in compared) else (1, 2)


def _number(value: object, name: str) -> float:
    try:
        number = float("nan") if isinstance(value, bool) or not isinstance(value, int | float | str) else float(value)
    except ValueError:
        number = float("nan")
    if number != number:
        raise RowDroppedError(UNREADABLE, f'"{name}" is {value!r}'[:80])
    return number


def find_judged(survey: Survey, given: GivenColumns, source: str, format_name: str) -> Form | None:
    """Rows with two answers and what a judge, or several, said of them."""
    names = ("first", "second") if {"first", "second"} <= given.columns.keys() else _numbered(survey)
    if names is None:
        return None
    stem = " ".join(words_of(names[0])[:-1])
    prompt = find_prompt(survey, source, format_name, taken=names)
    if prompt is None and not all(survey[name].types & {list, dict} for name in names):
        return None
    scores, properties = _of_each_answer(survey, names)
    form, readers, ranks, known = _verdict_of(survey, given, names, scores, prompt.read if prompt else frozenset())
    if ranks is None:
        return None

    by_turn = prompt is not None and all(_lists_texts(survey[name]) for name in (prompt.column, *names))

    def convert(row: Row) -> Converted:
        asked = prompt.of(row) if prompt and not by_turn else None
        answers = (
            _alternating(row, prompt.column, name) if prompt and by_turn else _answer(row, name, False)
            for name in names
        )
        asked, first, second = join(asked, *answers)
        judged = ranks(row)
        for _, said in judged if readers else ():
            _check_agreement(row, scores, said)
        return [comparison(by, asked, (first, second), said) for by, said in judged]

    read = {*names, *(prompt.read if prompt else ()), *_attributes(survey), *(reader.column for reader in readers)}
    return Form(
        form or ("arena" if stem == "conversation" else "judgments"),
        "preferences",
        frozenset(read | {*chain(*scores)}),
        convert,
        frozenset(properties | known),
        verdicts=tuple(readers),
        notes=() if readers or not scores else (f"the answer with the greater {_listed(scores)} is the better one",),
    )


def _lists_texts(column: Column) -> bool:
    """Whether a column holds lists of texts, a text for each turn, as LMSYS's competition has them."""
    return list in column.types and column.num_messages < 0.5 * column.num_rows


def _alternating(row: Row, prompt: str, answer: str) -> dialogues.Messages:
    """The dialogue of a list of the user's turns and one of the assistant's."""
    asked, said = row.get(prompt), row.get(answer)
    if not isinstance(asked, list) or not isinstance(said, list) or len(asked) != len(said):
        raise RowDroppedError(dialogues.NOT_MESSAGES, f'"{prompt}" and "{answer}" are not lists of as many turns')
    turns = [turn for pair in zip(asked, said, strict=True) for turn in pair]
    if not all(isinstance(turn, str) for turn in turns):
        raise RowDroppedError(dialogues.NOT_TEXT, f'a turn of "{prompt}" or "{answer}"')
    return [dialogues.message(role, turn) for role, turn in zip(cycle(("user", "assistant")), turns, strict=False)]


def _numbered(survey: Survey) -> tuple[str, str] | None:
    """The columns of two answers that are told apart by a number or a letter."""
    groups: dict[tuple[str, ...], dict[str, str]] = {}
    for name, column in survey.items():
        *stem, mark = words_of(name) or [""]
        if (set(stem) & _STEMS or stem[:2] == ["human", "ref"]) and column.types & {str, list, dict}:
            groups.setdefault(tuple(stem), {})[mark] = name
    pairs = [
        (found[first], found[second])
        for found in groups.values()
        for first, second in _MARKS
        if {first, second} == found.keys()
    ]
    whole = [pair for pair in pairs if len(words_of(pair[0])) == 2 or len(pairs) == 1]
    return whole[0] if len(whole) == 1 else None


Ranks = Callable[[Row], Sequence[tuple[Row, tuple[float, float]]]]


def _verdict_of(
    survey: Survey,
    given: GivenColumns,
    names: tuple[str, str],
    scores: Sequence[tuple[str, str]],
    prompt: frozenset[str],
) -> tuple[str, list[Verdicts], Ranks | None, set[str]]:
    """The verdicts on two answers: name of a special form, readers, ranks of a row, and columns that are understood."""
    special = _special_verdict(survey, names)
    if "verdict" in given.columns:
        if "verdict" not in given.values and names_the_worse(given.columns["verdict"]):
            raise DataError(
                f'--columns: "{given.columns["verdict"]}" seems to name the worse answer; say what its values mean, '
                f"such as verdict={given.columns['verdict']}:VALUE=second,VALUE=first"
            )
        called = (given.columns.get(names[0], names[0]), given.columns.get(names[1], names[1]))
        readers = [Verdicts("verdict", called, given.values.get("verdict"), given.columns["verdict"])]
        return "", readers, _ranks_of(readers, shared=True), set()
    if special is not None:
        return special
    free = {name: column for name, column in survey.items() if name not in {*names, *chain(*scores), *prompt}}
    judges = [name for name in free if _JUDGE.fullmatch(name)]
    named = [name for name in free if looks_like_verdict(name)]
    columns = judges or named or [name for name, column in free.items() if looks_like_verdict(name, column)]
    known: set[str] = set(_OF_ARENAS & survey.keys()) if {"model_a", "model_b"} <= survey.keys() else set()
    columns = [name for name in columns if name not in known and not names_the_worse(name)]
    if columns:
        if not judges:
            columns = [max(columns, key=lambda name: Verdicts(name, names).share_known(survey[name].scalars))]
        readers = [Verdicts(name, names) for name in columns]
        return "", readers, _ranks_of(readers, shared=not judges), known
    if scores:
        return "", [], lambda row: [(row, _ranks_of_scores(row, scores))], set()
    return "", [], None, set()


def _special_verdict(
    survey: Survey, names: tuple[str, str]
) -> tuple[str, list[Verdicts], Ranks | None, set[str]] | None:
    columns = set(survey)
    if "better_response_id" in columns:
        reader = Verdicts("better_response_id", names, {"0": "first", "1": "second"})
        known = {
            name for name in columns if name == "safer_response_id" or name.startswith(("is_response", "response_"))
        }
        return "pku", [reader], _ranks_of([reader], shared=True), known
    if {"human_ref_A", "human_ref_B", "labels"} <= columns:
        reader = Verdicts("labels", names, {"1": "first", "0": "second"})
        return "shp", [reader], _ranks_of([reader], shared=True), {"score_ratio", "upvote_ratio"} & columns
    for name in ("preference_strength", "overall_preference"):
        if name in columns:
            signs: dict[str, Outcome] = {str(n): "first" if n < 0 else "second" if n else "tie" for n in range(-3, 4)}
            reader = Verdicts(name, names, signs)
            return "helpsteer", [reader], _ranks_of([reader], shared=True), columns & _OF_HELPSTEER
    one_hot = [f"winner_model_{mark}" for mark in "ab"]
    if {*one_hot, "winner_tie"} <= columns:
        return "arena", [], lambda row: [(row, _one_hot(row, [*one_hot, "winner_tie"]))], {*one_hot, "winner_tie"}
    return None


def _ranks_of(readers: Sequence[Verdicts], shared: bool) -> Ranks:
    """One verdict a row, or one of each judge."""

    def read(row: Row) -> list[tuple[Row, tuple[float, float]]]:
        said = [(reader, reader.read(row[reader.column])) for reader in readers if row.get(reader.column, "") != ""]
        if not said:
            raise RowDroppedError(NO_VERDICT, f'no "{readers[0].column}"')
        return [(row if shared else {**row, "annotator": reader.column}, _RANKS[outcome]) for reader, outcome in said]

    return read


_RANKS: Mapping[Outcome, tuple[float, float]] = {"first": (1, 2), "second": (2, 1), "tie": (1, 1)}


def _ranks_of_scores(row: Row, scores: Sequence[tuple[str, str]]) -> tuple[float, float]:
    (first, second), *_ = scores
    if not {first, second} <= row.keys():
        raise RowDroppedError(NO_VERDICT, f'no "{first}" or no "{second}"')
    return -_number(row[first], first), -_number(row[second], second)


def _check_agreement(row: Row, scores: Sequence[tuple[str, str]], said: tuple[float, float]) -> None:
    """Refuse a row of which a verdict and scores say the opposite.

    Raises:
        RowDroppedError: they do.
    """
    for first, second in scores:
        if {first, second} <= row.keys():
            better, worse = _number(row[first], first), _number(row[second], second)
            if (better - worse) * (said[0] - said[1]) > 0:
                raise RowDroppedError("the verdict and the scores name different answers", f'"{first}", "{second}"')


def _one_hot(row: Row, columns: Sequence[str]) -> tuple[float, float]:
    won = [normalized(row.get(name, 0)) in ("1", "true") for name in columns]
    if sum(won) != 1:
        raise RowDroppedError(UNREADABLE, f"{sum(won)} of {', '.join(columns)} are set")
    return ((1, 2), (2, 1), (1, 1))[won.index(True)]


def find_answers(survey: Survey, given: GivenColumns, source: str, format_name: str) -> Form | None:
    """Rows with one answer: demonstrations, or unpaired feedback where a label stands beside it."""
    labels = [name for name in survey if name.lower() in _LABELS and _are_labels(survey, given, name)]
    prompt = find_prompt(survey, source, format_name, taken=("messages", *labels))
    read: Callable[[Row], tuple[dialogues.Messages, dialogues.Messages]]
    format_found, columns = "trl", {"messages"}
    if "messages" in survey and list in survey["messages"].types:
        read = _last_turn("messages")
    elif prompt is None:
        return None
    else:
        completion = next((n for n in _COMPLETIONS[prompt.format] if n in survey and n not in prompt.read), None)
        if completion is None and prompt.format != "sharegpt":
            return None
        qa = prompt.column == "question" and completion == "answer"
        format_found = "qa" if qa else prompt.format
        columns = {*prompt.read, *([completion] if completion else [])}
        read = _answered(prompt, completion)

    def convert(row: Row) -> Converted:
        if not labels:
            return [demonstration(*read(row))]
        if labels[0] not in row:
            raise RowDroppedError(dialogues.MISSING, f'no "{labels[0]}"')
        return [label(*read(row), _wanted(row[labels[0]], given), row)]

    kind = "labels" if labels else "demonstrations"
    read_columns = columns | set(labels[:1]) | (_attributes(survey) & {"annotator", "source"})
    return Form("kto" if labels else format_found, kind, frozenset(read_columns), convert)


def _last_turn(name: str) -> Callable[[Row], tuple[dialogues.Messages, dialogues.Messages]]:
    def read(row: Row) -> tuple[dialogues.Messages, dialogues.Messages]:
        if name not in row:
            raise RowDroppedError(dialogues.MISSING, f'no "{name}"')
        return split_answer(dialogues.turns(row[name], name))

    return read


def _answered(
    prompt: PromptReader, completion: str | None
) -> Callable[[Row], tuple[dialogues.Messages, dialogues.Messages]]:
    def read(row: Row) -> tuple[dialogues.Messages, dialogues.Messages]:
        if completion is None:
            return split_answer(prompt.of(row))
        asked, answer = prompt.of(row), _answer(row, completion, False)
        return asked, _after_marker(answer) if prompt.format == "hh" else answer

    return read


def _are_labels(survey: Survey, given: GivenColumns, name: str) -> bool:
    """Whether all values of a column say that an answer is wanted or is not."""
    if name == "label" and "label" in given.values:
        return True
    values = {normalized(value) for value in survey[name].scalars} or {""}
    return survey[name].types <= {bool, int, float, str} and values <= _WANTED | _UNWANTED


def _wanted(value: object, given: GivenColumns) -> bool:
    said: dict[str, bool] = {normalized(v): outcome == "wanted" for v, outcome in given.values.get("label", {}).items()}
    key = normalized(value) if isinstance(value, bool | int | float | str) else ""
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
        prompt.read | (_attributes(survey) & {"source"}),
        lambda row: [("prompts", {"prompt": prompt.of(row)})],
    )


def _attributes(survey: Survey) -> set[str]:
    """The columns that go into a preference as they are."""
    return {name for name in ("margin", "annotator", "criteria", "source") if name in survey}


def _listed(scores: Sequence[tuple[str, str]]) -> str:
    return " and ".join(f'"{name}"' for name in chain(*scores))
