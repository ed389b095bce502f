"""Rows with two answers, and what a judge, or several, said of them."""

import re
from collections.abc import Callable, Sequence
from itertools import chain, cycle

from rlhf.data.importing import dialogues
from rlhf.data.importing.answers import answer_in, attributes_in, listed, number_in, scores_and_properties
from rlhf.data.importing.columns import Column, GivenColumns, Survey, looks_like_verdict
from rlhf.data.importing.dialogues import RowDroppedError
from rlhf.data.importing.form import Converted, Form, comparison
from rlhf.data.importing.prompts import find_prompt, join
from rlhf.data.importing.verdicts import (
    NO_VERDICT,
    RANKS,
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


def find_judged(survey: Survey, given: GivenColumns, source: str, format_name: str) -> Form | None:
    """Rows with two answers and what a judge, or several, said of them."""
    names = ("first", "second") if {"first", "second"} <= given.columns.keys() else _numbered(survey)
    if names is None:
        return None
    stem = " ".join(words_of(names[0])[:-1])
    prompt = find_prompt(survey, source, format_name, taken=names)
    if prompt is None and not all(survey[name].types & {list, dict} for name in names):
        return None
    scores, properties = scores_and_properties(survey, names)
    form, readers, ranks, known = _verdict_of(survey, given, names, scores, prompt.read if prompt else frozenset())
    if ranks is None:
        return None

    by_turn = prompt is not None and all(_lists_texts(survey[name]) for name in (prompt.column, *names))

    def convert(row: Row) -> Converted:
        asked = prompt.of(row) if prompt and not by_turn else None
        answers = (
            _alternating(row, prompt.column, name) if prompt and by_turn else answer_in(row, name, False)
            for name in names
        )
        asked, first, second = join(asked, *answers)
        judged = ranks(row)
        for _, said in judged if readers else ():
            _check_agreement(row, scores, said)
        return [comparison(by, asked, (first, second), said) for by, said in judged]

    read = {*names, *(prompt.read if prompt else ()), *attributes_in(survey), *(reader.column for reader in readers)}
    return Form(
        form or ("arena" if stem == "conversation" else "judgments"),
        "preferences",
        frozenset(read | {*chain(*scores)}),
        convert,
        frozenset(properties | known),
        verdicts=tuple(readers),
        notes=() if readers or not scores else (f"the answer with the greater {listed(scores)} is the better one",),
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


def points_at_answers(survey: Survey, name: str) -> bool:
    """Whether a column `chosen` does not hold answers, but says which of two others it is."""
    names = _numbered({other: column for other, column in survey.items() if other != name})
    return (
        names is not None
        and survey[name].types == {str}
        and Verdicts(name, names).share_known(survey[name].scalars) > 0.9
    )


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
    taken = {*names, *chain(*scores), *prompt}
    marks = {words_of(name)[-1] for name in names}
    # What is said of one of the answers, such as rank_b, is no choice between the two.
    free = {
        name: column
        for name, column in survey.items()
        if name not in taken and (_JUDGE.fullmatch(name) or not marks & set(words_of(name)))
    }
    judges = [name for name in free if _JUDGE.fullmatch(name)]
    named = [name for name in free if looks_like_verdict(name)]
    columns = judges or named or [name for name, column in free.items() if looks_like_verdict(name, column)]
    known: set[str] = set(_OF_ARENAS & survey.keys()) if {"model_a", "model_b"} <= survey.keys() else set()
    columns = [name for name in columns if name not in known and not names_the_worse(name)]
    if columns:
        if not judges:
            columns = [max(columns, key=lambda name: Verdicts(name, names).share_known(survey[name].scalars))]
        readers = [Verdicts(name, names) for name in columns]
        # Beside a column "chosen" that names an answer, "rejected" names the other one.
        known |= {"rejected"} & survey.keys() if columns == ["chosen"] else set()
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
    one_hot = ["winner_model_a", "winner_model_b", "winner_tie"]
    if columns.issuperset(one_hot):
        readers = [Verdicts(name, names) for name in one_hot]
        return "arena", readers, lambda row: [(row, _one_hot(row, readers))], set()
    return None


def _ranks_of(readers: Sequence[Verdicts], shared: bool) -> Ranks:
    """One verdict a row, or one of each judge."""

    def read(row: Row) -> list[tuple[Row, tuple[float, float]]]:
        said = [(reader, reader.read(row[reader.column])) for reader in readers if row.get(reader.column, "") != ""]
        if not said:
            raise RowDroppedError(NO_VERDICT, f'no "{readers[0].column}"')
        return [(row if shared else {**row, "annotator": reader.column}, RANKS[outcome]) for reader, outcome in said]

    return read


def _ranks_of_scores(row: Row, scores: Sequence[tuple[str, str]]) -> tuple[float, float]:
    (first, second), *_ = scores
    if not {first, second} <= row.keys():
        raise RowDroppedError(NO_VERDICT, f'no "{first}" or no "{second}"')
    return -number_in(row[first], first), -number_in(row[second], second)


def _check_agreement(row: Row, scores: Sequence[tuple[str, str]], said: tuple[float, float]) -> None:
    """Refuse a row of which a verdict and scores say the opposite.

    Raises:
        RowDroppedError: they do.
    """
    for first, second in scores:
        if {first, second} <= row.keys():
            better, worse = number_in(row[first], first), number_in(row[second], second)
            if (better - worse) * (said[0] - said[1]) > 0:
                raise RowDroppedError("the verdict and the scores name different answers", f'"{first}", "{second}"')


def _one_hot(row: Row, readers: Sequence[Verdicts]) -> tuple[float, float]:
    won = [normalized(row.get(reader.column, 0)) in ("1", "true") for reader in readers]
    if sum(won) != 1:
        raise RowDroppedError(UNREADABLE, f"{sum(won)} of {', '.join(reader.column for reader in readers)} are set")
    outcomes: tuple[Outcome, ...] = ("first", "second", "tie")
    said = outcomes[won.index(True)]
    readers[won.index(True)].count(row[readers[won.index(True)].column], said)
    return RANKS[said]
