"""The form of a file. A form fits only if it understands every column that could change a row's meaning."""

from collections.abc import Callable, Sequence

from rlhf.data.importing.columns import (
    ROLES,
    GivenColumns,
    Survey,
    doubtful_fields,
    looks_like_verdict,
    nearest,
    quoted,
)
from rlhf.data.importing.conversions import find_answers, find_pairs, find_prompts
from rlhf.data.importing.dialogues import RowDroppedError
from rlhf.data.importing.evaluation_sets import WANTED as SETS
from rlhf.data.importing.evaluation_sets import find_set, known_set
from rlhf.data.importing.exports import find_argilla, find_label_studio
from rlhf.data.importing.form import CATEGORIES, Form
from rlhf.data.importing.judged import find_judged
from rlhf.data.importing.nested import find_compared, find_rankings, find_rated, find_self_instruct, find_trees
from rlhf.data.schema import Row, is_ranking
from rlhf.errors import DataError

Finder = Callable[[Survey, GivenColumns, str, str], Form | None]

FORMATS = (
    *("auto", "trl", "hh", "alpaca", "sharegpt", "judgments", "rankings", "kto", "qa", "self_instruct"),
    *("ultrafeedback", "pku", "helpsteer", "shp", "arena", "openai", "nectar", "oasst", "finegrained"),
    *("label_studio", "argilla"),
)
"""Values of `--format`; `auto` recognizes the form."""
_KNOWN_COLUMNS = (
    *ROLES,
    *("instruction", "output", "question", "answer", "conversations", "preference", "winner", "kto_tag"),
    *("score_chosen", "score_rejected", "better_response_id", "history", "context"),
)
_ACCEPTED = {"demonstrations": ("demonstrations", "labels")}


def find_mixed(survey: Survey, given: GivenColumns, source: str, format_name: str) -> Form | None:
    """Our own preferences.jsonl, in which some rows are pairs and some are rankings."""
    pair, ranking = {"chosen", "rejected"}, {"responses", "ranks"}
    if not pair | ranking <= survey.keys():
        return None
    pairs = find_pairs({n: c for n, c in survey.items() if n not in ranking}, given, source, format_name)
    rankings = find_rankings({n: c for n, c in survey.items() if n not in pair}, given, source, format_name)
    if pairs is None or rankings is None:
        return None

    def convert(row: Row) -> list[Row]:
        if is_ranking(row) and pair & row.keys():
            raise RowDroppedError("a row is a pair and a ranking at the same time")
        return (rankings if is_ranking(row) else pairs).convert(row)

    return Form(pairs.format, "preferences", pairs.read | rankings.read, convert, pairs.known | rankings.known)


# Special forms first: of two forms that read equally many columns the first is taken.
_FINDERS: Sequence[Callable[[Survey, GivenColumns, str, str], Form | None]] = (
    *(find_mixed, find_trees, find_label_studio, find_argilla, find_compared, find_rated, find_self_instruct),
    *(find_rankings, find_judged, find_pairs, find_answers),
)


def settle_form(survey: Survey, given: GivenColumns, source: str, format_name: str, wanted: str) -> Form:
    """The form of a file.

    Args:
        survey: what its columns hold.
        given: what a person says of them.
        source: its name, for messages.
        format_name: one of `FORMATS`.
        wanted: the kind of rows that is asked for.

    Raises:
        DataError: its columns are of no known form, a column that may be a verdict is not understood, or the file holds
            rows of another kind.
    """
    if wanted == SETS:
        return find_set(survey, source)
    finders = [*([find_prompts] if wanted == "prompts" else []), *_FINDERS]
    forms = [form for find in finders if (form := find(survey, given, source, format_name))]
    forms = [form for form in forms if format_name in ("auto", form.format)]
    known = known_set(survey) if wanted == "preferences" and all(form.kind != wanted for form in forms) else None
    if known is not None:
        raise DataError(
            f"{source}: this is an evaluation set ({known.format}), of which nothing is learned; give it with "
            f"--evaluation beside a file of preferences, or add it to data/ with `rlhf data add --evaluation FILE`"
        )
    if not forms:
        raise DataError(_unknown(survey, source, format_name))
    if wanted == "prompts":
        return forms[0]
    fitting = [form for form in forms if form.kind in _ACCEPTED.get(wanted, (wanted,))]
    if not fitting:
        held = f"{source}: the file holds {forms[0].kind}"
        if wanted != "preferences":
            raise DataError(f"{held}, no {wanted}; give another file with --{wanted}")
        raise DataError(
            f"{held} and no preferences, and a data folder needs preferences; "
            f"import a file of preferences, and give this file with --{forms[0].kind}"
        )
    doubtful = [_suspicious(form, survey, given) for form in fitting]
    if all(doubtful):
        fewest = min(doubtful, key=len)
        raise DataError(_say_not_understood(fitting[doubtful.index(fewest)], fewest, source))
    clean = [form for form, names in zip(fitting, doubtful, strict=True) if not names]
    form = max(clean, key=lambda form: len(survey.keys() & form.read))
    if form.refusal:
        raise DataError(form.refusal)
    return form


def check_column(form: Form, name: str, source: str) -> None:
    """Refuse a column that came after the surveyed rows and looks like a verdict.

    Raises:
        DataError: the form does not understand it.
    """
    if name not in form.read | form.known and looks_like_verdict(name):
        raise DataError(_say_not_understood(form, [name], source))


def _suspicious(form: Form, survey: Survey, given: GivenColumns) -> list[str]:
    # A category may be "safe" and "unsafe": nobody said that it is not a verdict.
    understood = (form.read | form.known) - (CATEGORIES - given.columns.keys())
    names = [name for name, column in survey.items() if name not in understood and looks_like_verdict(name, column)]
    # Fields of unread columns are checked too; in columns that are read only the fields of messages are.
    looked_into = [name for name, column in survey.items() if name not in understood or column.num_messages]
    inner = [field for name in looked_into for field in doubtful_fields(name, survey[name])]
    return [*names, *(field for field in inner if field not in given.ignored)]


def _say_not_understood(form: Form, names: Sequence[str], source: str) -> str:
    which = "this column may change" if len(names) == 1 else "each of these columns may change"
    return (
        f"{source}: read as {form.format} ({form.kind}), and {which} what a row means, but is not understood: "
        f"{quoted(names)}; say what it holds with --columns (verdict={names[0]}:1=first,2=second or "
        f"label={names[0]}:VALUE=wanted,VALUE=unwanted), that it is not to be read with --columns ignored={names[0]}, "
        "or give another --format"
    )


def _unknown(survey: Survey, source: str, format_name: str) -> str:
    names = list(survey)
    guesses = [
        f'"{name}"{near}' for name in names if name not in _KNOWN_COLUMNS and (near := nearest(name, _KNOWN_COLUMNS))
    ]
    read = [name for name in names if name in _KNOWN_COLUMNS]
    how = "are in no known format" if format_name == "auto" else f"do not make rows of the format {format_name}"
    return (
        f"{source}: the fields {quoted(names) or 'of its rows'} {how}"
        + (f"; known fields: {quoted(read)}" if read else "; none of the fields is known")
        + (f"; similar to a known field: {', '.join(guesses)}" if guesses else "")
        + f"; give --format, one of {', '.join(FORMATS[1:])}, or say what the fields hold with --columns, such as "
        "--columns prompt=FIELD,chosen=FIELD,rejected=FIELD"
    )
