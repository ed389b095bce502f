"""Rows with two answers, and what a judge, or several, said of them."""

import re
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import chain

from rlhf.data.importing.columns import Column, GivenColumns, Survey, looks_like_verdict
from rlhf.data.importing.dialogues import (
    NO_VERDICT,
    NOT_MESSAGES,
    NOT_TEXT,
    UNREADABLE,
    Messages,
    RowDroppedError,
    answer_of,
    message,
    number_of,
    value_in,
)
from rlhf.data.importing.form import ATTRIBUTES, Form, comparison
from rlhf.data.importing.prompts import find_prompt, join
from rlhf.data.importing.scores import listed, score_differences, scores_and_properties
from rlhf.data.importing.verdicts import RANKS, Outcome, Verdicts, names_the_worse, normalized, word_set, words_of
from rlhf.data.schema import Row
from rlhf.errors import DataError

_STEMS = word_set(
    "output response answer completion candidate reply summary generation text result prediction conversation message"
)
_MARKS = (("1", "2"), ("0", "1"), ("a", "b"), ("left", "right"), ("first", "second"))
_SIGNS: Mapping[str, Outcome] = {str(n): "first" if n < 0 else "second" if n else "tie" for n in range(-3, 4)}
# HelpSteer's columns with the statements of each person, from which the overall preference was made.
_OF_HELPSTEER = (
    "preference_(statement|elaboration)|three_most_similar_preferences|all_preferences_unprocessed|"
    "individual_preference"
)
# Name of the form, its characteristic columns, of which the first is the verdict, the meaning of the verdict's values,
# and a pattern for the names of other columns that are understood.
_SPECIAL: Sequence[tuple[str, Sequence[str], Mapping[str, Outcome], str]] = (
    ("pku", ["better_response_id"], {"0": "first", "1": "second"}, "safer_response_id|(is_response|response_).*"),
    ("shp", ["labels", "human_ref_A", "human_ref_B"], {"1": "first", "0": "second"}, "score_ratio|upvote_ratio"),
    ("helpsteer", ["preference_strength"], _SIGNS, _OF_HELPSTEER),
    ("helpsteer", ["overall_preference"], _SIGNS, _OF_HELPSTEER),
)
# Chatbot Arena's columns that do not change who won: whether the models were hidden, and moderation of the dialogue.
_OF_ARENAS = frozenset(["anony", "toxic_chat_tag", "openai_moderation"])
_ONE_HOT: Sequence[tuple[str, Outcome]] = (
    ("winner_model_a", "first"),
    ("winner_model_b", "second"),
    ("winner_tie", "tie"),
)
_JUDGE = re.compile(r"(annotator|rater|judge|worker|evaluator|labell?er|verdict|vote)[ _-]?\d+", re.IGNORECASE)


@dataclass(frozen=True)
class _Judgment:
    """The rule that says which of two answers is the better one.

    Attributes:
        ranks: for each judge of a row, the row with its annotator and the ranks of the answers.
        readers: of the columns of verdicts; none where scores decide.
        format: name of the form, where it is a special one.
        known: other columns that are understood.
    """

    ranks: Callable[[Row], Sequence[tuple[Row, tuple[float, float]]]]
    readers: Sequence[Verdicts] = ()
    format: str = ""
    known: Set[str] = frozenset()


def find_judged(survey: Survey, given: GivenColumns, source: str, format_name: str) -> Form | None:
    """Rows with two answers and what a judge, or several, said of them."""
    names = ("first", "second") if {"first", "second"} <= given.columns.keys() else _numbered(survey)
    if names is None:
        return None
    prompt = find_prompt(survey, source, format_name, taken=names)
    if prompt is None and not all(survey[name].types & {list, dict} for name in names):
        return None
    scores, properties = scores_and_properties(survey, names)
    judgment = _find_judgment(survey, given, names, scores, prompt.read if prompt else set())
    if judgment is None:
        return None
    by_turn = prompt is not None and all(_lists_texts(survey[name]) for name in (prompt.column, *names))

    def convert(row: Row) -> list[Row]:
        if prompt and by_turn:
            joined = join(None, *(_alternating(row, prompt.column, name) for name in names))
        else:
            joined = join(prompt.of(row) if prompt else None, *(answer_of(value_in(row, n), n) for n in names))
        judged = judgment.ranks(row)
        for _, ranks in judged if judgment.readers else ():
            score_differences(row, scores, ranks, "the verdict and the scores name different answers")
        return [comparison(by, joined[0], joined[1:], ranks) for by, ranks in judged]

    read = {*names, *(prompt.read if prompt else ()), *(reader.column for reader in judgment.readers), *chain(*scores)}
    return Form(
        judgment.format or ("arena" if words_of(names[0])[:-1] == ["conversation"] else "judgments"),
        "preferences",
        read | ATTRIBUTES,
        convert,
        properties | judgment.known,
        verdicts=judgment.readers,
        note="" if judgment.readers else f"the answer with the greater {listed(scores)} is the better one",
    )


def _lists_texts(column: Column) -> bool:
    """Whether a column holds lists of texts, a text for each turn, as LMSYS's competition has them."""
    return list in column.types and column.num_messages < 0.5 * column.num_rows


def _alternating(row: Row, prompt: str, answer: str) -> Messages:
    """The dialogue of a list of the user's turns and one of the assistant's."""
    asked, said = row.get(prompt), row.get(answer)
    if not isinstance(asked, list) or not isinstance(said, list) or len(asked) != len(said):
        raise RowDroppedError(NOT_MESSAGES, f'"{prompt}" and "{answer}" are not lists of as many turns')
    if not all(isinstance(turn, str) for turn in (*asked, *said)):
        raise RowDroppedError(NOT_TEXT, f'a turn of "{prompt}" or "{answer}"')
    pairs = zip(asked, said, strict=True)
    return [message(role, turn) for pair in pairs for role, turn in zip(("user", "assistant"), pair, strict=True)]


def points_at_answers(survey: Survey, name: str) -> bool:
    """Whether a column `chosen` does not hold answers, but says which of two others it is."""
    names = _numbered({other: column for other, column in survey.items() if other != name})
    is_text = survey[name].types == {str}
    return names is not None and is_text and Verdicts(name, names).share_known(survey[name].scalars) > 0.9


def _numbered(survey: Survey) -> tuple[str, str] | None:
    """The columns of two answers that are told apart by a number or a letter."""
    groups: dict[tuple[str, ...], dict[str, str]] = {}
    for name, column in survey.items():
        *stem, mark = words_of(name) or [""]
        if (set(stem) & _STEMS or stem[:2] == ["human", "ref"]) and column.types & {str, list, dict}:
            groups.setdefault(tuple(stem), {})[mark] = name
    pairs = [
        (by_mark[first], by_mark[second])
        for by_mark in groups.values()
        for first, second in _MARKS
        if {first, second} == by_mark.keys()
    ]
    whole = [pair for pair in pairs if len(words_of(pair[0])) == 2 or len(pairs) == 1]
    return whole[0] if len(whole) == 1 else None


def _find_judgment(
    survey: Survey,
    given: GivenColumns,
    names: tuple[str, str],
    scores: Sequence[tuple[str, str]],
    prompt: Set[str],
) -> _Judgment | None:
    """The columns that say which of two answers is the better one; None where there are none."""
    if "verdict" in given.columns:
        return _given_judgment(given, names)
    for format_name, columns, meanings, understood in _SPECIAL:
        if survey.keys() >= set(columns):
            known = {name for name in survey if re.fullmatch(understood, name)}
            return _of_judges([Verdicts(columns[0], names, meanings)], True, format_name, known)
    if survey.keys() >= {name for name, _ in _ONE_HOT}:
        readers = [Verdicts(name, names) for name, _ in _ONE_HOT]
        return _Judgment(lambda row: [(row, _one_hot(row, readers))], readers, "arena")
    taken = {*names, *chain(*scores), *prompt}
    marks = {words_of(name)[-1] for name in names}
    # A column about one answer, such as rank_b, is no choice between the two answers.
    free = [
        name for name in survey if name not in taken and (_JUDGE.fullmatch(name) or not marks & set(words_of(name)))
    ]
    judges = [name for name in free if _JUDGE.fullmatch(name)]
    columns = judges or [name for name in free if looks_like_verdict(name)]
    columns = columns or [name for name in free if looks_like_verdict(name, survey[name])]
    known = set(_OF_ARENAS) if survey.keys() >= {"model_a", "model_b"} else set()
    columns = [name for name in columns if name not in known and not names_the_worse(name)]
    if columns and not judges:
        columns = [max(columns, key=lambda name: Verdicts(name, names).share_known(survey[name].scalars))]
    if columns:
        # If the column "chosen" names an answer, the column "rejected" names the other answer.
        known |= {"rejected"} if columns == ["chosen"] else set()
        return _of_judges([Verdicts(name, names) for name in columns], not judges, "", known)
    return _Judgment(lambda row: [(row, _ranks_of_scores(row, *scores[0]))]) if scores else None


def _given_judgment(given: GivenColumns, names: tuple[str, str]) -> _Judgment:
    """The verdict that a person named."""
    column = given.columns["verdict"]
    if "verdict" not in given.values and names_the_worse(column):
        raise DataError(
            f'--columns: "{column}" seems to name the worse answer; say what its values mean, '
            f"such as verdict={column}:VALUE=second,VALUE=first"
        )
    called = (given.columns.get(names[0], names[0]), given.columns.get(names[1], names[1]))
    return _of_judges([Verdicts("verdict", called, given.values.get("verdict"), column)], True, "", set())


def _of_judges(readers: Sequence[Verdicts], shared: bool, format_name: str, known: Set[str]) -> _Judgment:
    """The judgment by one shared verdict, or by a verdict of each judge."""

    def read(row: Row) -> list[tuple[Row, tuple[float, float]]]:
        said = [(reader, reader.read(row[reader.column])) for reader in readers if row.get(reader.column, "") != ""]
        if not said:
            raise RowDroppedError(NO_VERDICT, f'no "{readers[0].column}"')
        return [(row if shared else {**row, "annotator": reader.column}, RANKS[outcome]) for reader, outcome in said]

    return _Judgment(read, readers, format_name, known)


def _ranks_of_scores(row: Row, first: str, second: str) -> tuple[float, float]:
    if not {first, second} <= row.keys():
        raise RowDroppedError(NO_VERDICT, f'no "{first}" or no "{second}"')
    return -number_of(row[first], first), -number_of(row[second], second)


def _one_hot(row: Row, readers: Sequence[Verdicts]) -> tuple[float, float]:
    won = [normalized(row.get(name, 0)) in ("1", "true") for name, _ in _ONE_HOT]
    if sum(won) != 1:
        raise RowDroppedError(UNREADABLE, f"{sum(won)} of {', '.join(name for name, _ in _ONE_HOT)} are set")
    name, outcome = _ONE_HOT[won.index(True)]
    readers[won.index(True)].count(row[name], outcome)
    return RANKS[outcome]
