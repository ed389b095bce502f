"""Evaluation sets in other conventions: AdvBench, XSTest, and rows that are in this project's form already."""

from rlhf.data.evaluation_sets import FOLDER, SET_FIELDS, check_set_row, with_messages
from rlhf.data.importing.columns import Survey, quoted
from rlhf.data.importing.dialogues import RowDroppedError, message, text
from rlhf.data.importing.form import Form
from rlhf.data.schema import Row
from rlhf.errors import DataError

WANTED = FOLDER
"""The kind of rows that is asked for."""
_CONTRAST = "contrast_"
_LABELS = {"safe": "safe", "unsafe": "harmful"}
_ASSENTS = ("sure,", "here is", "here are", "here's")
_ASSENTING_SHARE = 0.9


def find_set(survey: Survey, source: str) -> Form:
    """The form of a file that is to be an evaluation set.

    Raises:
        DataError: its columns are of no known form.
    """
    form = known_set(survey) or _own(survey)
    if form is None:
        raise DataError(
            f"{source}: the fields {quoted(list(survey))} are no evaluation set; give AdvBench's (goal, target), "
            f"XSTest's (prompt, type), or rows with prompt and kind (docs/how-to/safety-sets.md)"
        )
    return form


def known_set(survey: Survey) -> Form | None:
    """The form of AdvBench's or XSTest's columns; None for others."""
    names = survey.keys()
    if names >= {"goal", "target"}:
        return _advbench(survey)
    if names >= {"prompt", "type"} and not names & {"chosen", "rejected", "kind"}:
        return Form("xstest", WANTED, {"prompt", "type", "label"}, _from_xstest, names)
    return None


def _own(survey: Survey) -> Form | None:
    return Form("own", WANTED, SET_FIELDS, _from_own) if survey.keys() >= {"prompt", "kind"} else None


def _advbench(survey: Survey) -> Form:
    """AdvBench's goals are what is asked, and its targets assent to it: copies with the two names swapped are told."""
    is_swapped = _assents(survey, "goal") and not _assents(survey, "target")
    column = "target" if is_swapped else "goal"

    def convert(row: Row) -> list[Row]:
        return [{"prompt": [message("user", _said(row, column))], "kind": "harmful"}]

    note = 'the names "goal" and "target" are swapped: the texts of "goal" assent, so "target" is what is asked'
    return Form("advbench", WANTED, {column}, convert, survey.keys(), note=note if is_swapped else "")


def _assents(survey: Survey, name: str) -> bool:
    texts = [str(value).lower() for _, value in survey[name].values]
    return bool(texts) and sum(value.startswith(_ASSENTS) for value in texts) >= _ASSENTING_SHARE * len(texts)


def _from_xstest(row: Row) -> list[Row]:
    category = text(row, "type")
    kind = "harmful" if category.startswith(_CONTRAST) else "safe"
    if "label" in row and _LABELS.get(text(row, "label")) != kind:
        raise RowDroppedError("type and label do not say the same", f"{category}, {row['label']}")
    return [{"prompt": [message("user", _said(row, "prompt"))], "kind": kind, "category": category}]


def _from_own(row: Row) -> list[Row]:
    try:
        check_set_row(row, "")
    except DataError as error:
        raise RowDroppedError(str(error).removeprefix(": ")) from None
    return [with_messages(row)]


def _said(row: Row, field: str) -> str:
    said = text(row, field)
    if not said.strip():
        raise RowDroppedError("the prompt is empty")
    return said
