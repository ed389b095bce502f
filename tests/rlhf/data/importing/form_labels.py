"""Unpaired feedback: one answer to a prompt, and whether it is wanted."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from form_kinds import assistant, maybe
from form_pairs import with_input
from form_texts import Message, Row, Texts, comparison


@dataclass(frozen=True)
class Labelled:
    """What people think of one answer."""

    prompt: tuple[Message, ...]
    answer: str
    wanted: bool


@dataclass(frozen=True)
class LabelForm:
    """One form, as one file has it: how a labelled answer is written, and whether it must be read."""

    write: Callable[[Labelled], Row]
    turns: bool = False
    columns: str = ""
    readable: str = "always"


def kto_trl(rng: Random) -> LabelForm:
    """TRL's prompt, completion and label, as texts or messages."""
    talks = rng.random() < 0.5

    def write(of: Labelled) -> Row:
        if talks:
            return {"prompt": list(of.prompt), "completion": assistant(of.answer), "label": of.wanted}
        return {"prompt": of.prompt[-1]["content"], "completion": of.answer, "label": of.wanted}

    return LabelForm(write, turns=talks)


def kto_alpaca(rng: Random) -> LabelForm:
    """Alpaca's instruction, input and output, with a label."""
    name, bare = rng.choice(["label", "kto_tag"]), rng.random() < 0.3

    def write(of: Labelled) -> Row:
        text = of.prompt[-1]["content"]
        if bare:
            return {"instruction": text, "output": of.answer, name: of.wanted}
        instruction, given = with_input(text)
        return {"instruction": instruction, "input": given, "output": of.answer, name: of.wanted}

    return LabelForm(write)


def kto_sharegpt(rng: Random) -> LabelForm:
    """A whole conversation whose last answer is labelled, in either vocabulary."""
    name, old = rng.choice(["label", "kto_tag"]), rng.random() < 0.5
    names = {"system": "system", "user": "human", "assistant": "gpt"}

    def write(of: Labelled) -> Row:
        messages = [*of.prompt, *assistant(of.answer)]
        if old:
            return {
                "conversations": [{"from": names[turn["role"]], "value": turn["content"]} for turn in messages],
                name: of.wanted,
            }
        return {"messages": messages, name: of.wanted}

    return LabelForm(write, turns=True)


def labelled_oddly(rng: Random) -> LabelForm:
    """Marks that may be understood or refused."""
    marks: list[tuple[Any, Any]] = [(1, 0), (1, -1), ("good", "bad"), ("up", "down"), ("yes", "no"), (5, 1)]
    marks += [("desirable", "undesirable"), ("safe", "unsafe"), (0.9, 0.1), ("thumbs_up", "thumbs_down"), (0, 1)]
    good, bad = rng.choice(marks)
    name = rng.choice(["label", "rating", "thumb", "feedback", "kto_tag", "score", "is_wanted", "quality"])

    def write(of: Labelled) -> Row:
        return {"prompt": of.prompt[-1]["content"], "completion": of.answer, name: good if of.wanted else bad}

    # Nobody means 0 by what is good, but a file that does must not be read the wrong way round in silence: it can be
    # told from the others by nothing, so it is left to `labelled_as_told`.
    return LabelForm(write, readable="perhaps") if good != 0 else kto_trl(rng)


def labelled_as_told(rng: Random) -> LabelForm:
    """Columns and marks of one's own, said with `--labels-columns`."""
    good, bad = rng.choice([("up", "down"), ("0", "1"), ("x", "y"), ("false", "true")])

    def write(of: Labelled) -> Row:
        return {"q": of.prompt[-1]["content"], "a": of.answer, "mark": good if of.wanted else bad}

    return LabelForm(write, columns=f"prompt=q,completion=a,label=mark:{good}=wanted,{bad}=unwanted")


LABELS = {maker.__name__: maker for maker in (kto_trl, kto_alpaca, kto_sharegpt, labelled_oddly, labelled_as_told)}


def make_labelled(rng: Random, form: LabelForm) -> tuple[list[Row], list[Labelled]]:
    """Labelled answers that are drawn, of either kind, and their rows with columns in one order."""
    texts = Texts(rng, lambda text: True)
    found = []
    for place in range(rng.choice([2, 3, 8, 20])):
        drawn = comparison(texts, turns=form.turns, system=form.turns)
        wanted = bool(place) and (place == 1 or rng.random() < 0.5)
        found.append(Labelled(drawn.prompt, drawn.answers[0], wanted))
    rng.shuffle(found)
    extra = maybe(rng, "row_id", "url")
    rows = [form.write(item) | {name: f"{name} 7" for name in sorted(extra)} for item in found]
    names = list(rows[0])
    rng.shuffle(names)
    return [{name: row[name] for name in names} for row in rows], found
