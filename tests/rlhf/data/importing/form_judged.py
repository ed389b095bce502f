"""Forms in which two answers stand side by side and a verdict says which is better."""

import json
from collections.abc import Callable
from random import Random
from typing import Any

from form_kinds import Form, Maker, assistant, maybe
from form_texts import Comparison, Row

Verdict = Callable[[Comparison], Any]

_ANSWERS = (
    *(("output_1", "output_2"), ("response_1", "response_2"), ("response1", "response2"), ("answer_1", "answer_2")),
    *(
        ("output_a", "output_b"),
        ("response_a", "response_b"),
        ("answer_a", "answer_b"),
        ("completion_a", "completion_b"),
    ),
)
_PROMPTS = ("instruction", "prompt", "question", "input")
_VERDICTS = ("preference", "winner", "label", "choice", "verdict", "preferred", "better", "judgment", "annotation")


def coded(first: Any, second: Any, tie: Any = None) -> Verdict:
    """A verdict by one of three values."""
    return lambda of: (first, second)[of.better] if of.better is not None else tie


def judged(rng: Random) -> Form:
    """A judge's or a person's verdict, in codings that say what they mean."""
    answers, prompt, name = rng.choice(_ANSWERS), rng.choice(_PROMPTS), rng.choice(_VERDICTS)
    codings: list[tuple[Any, ...]] = [(1, 2, 0), ("1", "2", "0"), answers, ("first", "second", "tie")]
    if answers[0].endswith("a"):
        codings = [("A", "B", "tie"), ("a", "b", "tie"), ("model_a", "model_b", "tie"), answers]
    coding = rng.choice(codings)
    return _judged(answers, prompt, name, coded(*coding), ties=len(coding) == 3, both_ways=True)


def judged_oddly(rng: Random) -> Form:
    """Codings that may be understood or refused."""
    answers, prompt, name = rng.choice(_ANSWERS), rng.choice(_PROMPTS), rng.choice(_VERDICTS)
    coding = rng.choice(
        [
            *(("left", "right", "tie"), ("Response 1", "Response 2", "Tie"), ("A", "B", "C"), (1.0, 2.0, 1.5)),
            *((1, 2, 3), ("[[A]]", "[[B]]", "[[C]]"), ("A>B", "B>A", "A=B"), ("A is better", "B is better", "equal")),
            *(
                ("model_1", "model_2", "tie"),
                ("1", "2", "tie"),
                ("win", "lose", "tie"),
                (1, 2, None),
                ("one", "two", ""),
            ),
            *(
                (answers[0][:-1] + "A", answers[0][:-1] + "B", "Tie"),
                ("a", "B", "tie"),
                ("Output (a)", "Output (b)", ""),
            ),
        ]
    )
    return _judged(answers, prompt, name, coded(*coding), ties=True, readable="perhaps")


def judged_by_the_worse(rng: Random) -> Form:
    """Columns that name or measure the worse answer."""
    answers = rng.choice(_ANSWERS)
    ends = ("a", "b") if answers[0].endswith("a") else ("1", "2")
    if rng.random() < 0.7:
        name = rng.choice(
            ["worse", "loser", "rejected", "more_harmful", "dispreferred", "worst_answer", "not_preferred"]
        )
        return _judged(answers, "prompt", name, coded(*reversed(ends)), both_ways=True, readable="never")
    stem = rng.choice(["toxicity_score", "harm_rating", "penalty_score", "loss"])

    def write(of: Comparison) -> list[Row]:
        row: Row = {"prompt": of.text, **dict(zip(answers, of.answers, strict=True))}
        return [row | {f"{stem}_{end}": rank for end, rank in zip(ends, of.ranks, strict=True)}]

    return Form(write, "judgments", ("prompt", *answers), readable="never")


def judged_by_index(rng: Random) -> Form:
    """Answers counted from zero, and the number of the better one."""
    stem = rng.choice(["response", "answer", "output"])
    name = rng.choice(["better", "preference", "label", f"better_{stem}_id"])
    return _judged((f"{stem}_0", f"{stem}_1"), "prompt", name, coded(0, 1), both_ways=True, readable="perhaps")


def judged_darkly(rng: Random) -> Form:
    """Codings that could mean the one or the other: nobody may guess."""
    coding = rng.choice([(0, 1), (1, 0), (False, True), (True, False), ("0", "1"), ("1", "0"), (-1, 1, 0), (1, -1, 0)])
    answers, prompt, name = rng.choice(_ANSWERS[:4]), rng.choice(_PROMPTS), rng.choice(_VERDICTS)
    return _judged(answers, prompt, name, coded(*coding), ties=len(coding) == 3, both_ways=True, readable="never")


def judged_as_told(rng: Random) -> Form:
    """Any coding, and columns of any name, said with `--columns`."""
    coding = rng.choice([("0", "1"), ("1", "0"), ("-1", "1", "0"), ("x", "y", "z"), ("B", "A"), ("2", "1", "0")])
    numbers = rng.random() < 0.5 and all(code.lstrip("-").isdigit() for code in coding)
    answers = rng.choice([("output_1", "output_2"), ("left text", "right text"), ("chosen", "rejected"), ("b", "a")])
    values = ",".join(f"{code}={side}" for code, side in zip(coding, ("first", "second", "tie"), strict=False))
    columns = f"prompt=q,first={answers[0]},second={answers[1]},verdict=mark:{values}"
    verdict = coded(*([int(code) for code in coding] if numbers else coding))
    return _judged(answers, "q", "mark", verdict, ties=len(coding) == 3, columns=columns)


def judged_half_told(rng: Random) -> Form:
    """Which answers are compared, in either order, and where the verdict is, but not what its values mean."""
    answers = rng.choice(_ANSWERS)[:: rng.choice([1, -1])]
    letters = answers[0].endswith(("a", "b"))
    shown = sorted(answers)
    # The names of the answers say what the values mean, and not the order in which a person gives them.
    codings: list[tuple[Any, ...]] = [
        answers,
        *([tuple("AB"[shown.index(name)] for name in answers)] if letters else []),
    ]
    codings += [] if letters else [tuple(1 + shown.index(name) for name in answers)]
    columns = f"prompt=q,first={answers[0]},second={answers[1]},verdict=mark"
    verdict = coded(*rng.choice(codings))
    return _judged(answers, "q", "mark", verdict, both_ways=True, columns=columns, readable="perhaps")


def webgpt(rng: Random) -> Form:
    """WebGPT's comparisons: a question with its source, and scores of which the greater is the better."""

    def write(of: Comparison) -> list[Row]:
        scores = [0.5 if rank == 1 else -0.5 for rank in of.ranks]
        row: Row = {"question": {"dataset": "eli5", "id": "x", "full_text": of.text}}
        return [row | {f"answer_{side}": answer for side, answer in enumerate(of.answers)}
                | {f"score_{side}": score for side, score in enumerate(scores)}]  # fmt: skip

    return Form(write, "", ("question", "answer_0", "answer_1"), readable="perhaps", tabular=False)


def summaries(rng: Random) -> Form:
    """The summaries of OpenAI's "learning to summarize": a post, two summaries, and the number of the better one."""

    def write(of: Comparison) -> list[Row]:
        row: Row = {"info": {"id": "t3", "post": of.text, "title": "t"}, "choice": of.better, "worker": "w1"}
        return [row | {"summaries": [{"text": answer, "policy": "ref", "note": None} for answer in of.answers]}]

    return Form(write, "", ("info", "summaries"), readable="perhaps")


def judged_by_scores(rng: Random) -> Form:
    """Two scores in place of a verdict."""
    answers, stem = rng.choice(_ANSWERS), rng.choice(["score", "rating"])
    ends = ("a", "b") if answers[0].endswith("a") else ("1", "2")

    def write(of: Comparison) -> list[Row]:
        low = rng.randint(1, 5)
        scores = [low + (rank == 1) for rank in of.ranks]
        row: Row = {"prompt": of.text, **dict(zip(answers, of.answers, strict=True))}
        return [row | {f"{stem}_{end}": score for end, score in zip(ends, scores, strict=True)}]

    return Form(write, "", ("prompt", *answers), readable="perhaps")


def _judged(answers: tuple[str, str], prompt: str, name: str, verdict: Verdict, **settings: Any) -> Form:
    def write(of: Comparison) -> list[Row]:
        return [{prompt: of.text, **dict(zip(answers, of.answers, strict=True)), name: verdict(of)}]

    form = "" if "columns" in settings else "judgments"
    return Form(write, form, (prompt, *answers), **settings)


def pku(rng: Random) -> Form:
    """PKU-SafeRLHF: which answer is more helpful, and much about their safety, which says nothing of that."""
    present = maybe(
        rng, "prompt_source", "response_0_source", "safety", "safer_response_id", "severity", "harm", "hash"
    )

    def write(of: Comparison) -> list[Row]:
        row: Row = {"prompt": of.text, "better_response_id": of.better}
        for side, answer in enumerate(of.answers):
            row[f"response_{side}"] = answer
            optional = {
                "response_0_source": {f"response_{side}_source": "Alpaca-7B"},
                "safety": {f"is_response_{side}_safe": rng.random() < 0.5},
                "severity": {f"response_{side}_severity_level": rng.randint(0, 3)},
                "harm": {
                    f"response_{side}_harm_category": {"Violence": rng.random() < 0.5, "Privacy Violation": False}
                },
                "hash": {f"response_{side}_sha256": f"{rng.getrandbits(256):x}"},
            }
            row |= {
                column: value for name in sorted(present & set(optional)) for column, value in optional[name].items()
            }
        if "prompt_source" in present:
            row["prompt_source"] = "BeaverTails"
        if "safer_response_id" in present:
            row["safer_response_id"] = rng.randint(0, 1)
        return [row]

    return Form(write, "pku", ("prompt", "response_0", "response_1"))


def helpsteer2(rng: Random) -> Form:
    """HelpSteer2's preferences: -3 where the first answer is much better, 3 where the second is."""
    present = maybe(rng, "preference_statement", "preference_elaboration", "split", "all_preferences_unprocessed")

    def write(of: Comparison) -> list[Row]:
        strength = 0 if of.better is None else rng.randint(1, 3) * (-1, 1)[of.better]
        optional: Row = {
            "preference_statement": None if strength == 0 else f"@Response {of.better or 2} is better than it looks.",
            "preference_elaboration": "It is longer.",
            "split": "train",
            "all_preferences_unprocessed": [{"strength": -strength, "statement": "s", "elaboration": "e"}],
        }
        row: Row = {"prompt": of.text, "response_1": of.answers[0], "response_2": of.answers[1]}
        return [{**row, "preference_strength": strength} | {name: optional[name] for name in sorted(present)}]

    return Form(write, "helpsteer", ("prompt", "response_1", "response_2"), ties=True)


def helpsteer3(rng: Random) -> Form:
    """HelpSteer3: a context of messages, and the overall preference of several people."""
    bare = rng.random() < 0.3

    def write(of: Comparison) -> list[Row]:
        strength = 0 if of.better is None else rng.randint(1, 3) * (-1, 1)[of.better]
        row: Row = {"context": list(of.prompt), "response1": of.answers[0], "response2": of.answers[1]}
        row["overall_preference"] = strength
        if not bare:
            row |= {"domain": "general", "language": "english"}
            reason = {"reasoning": "r", "feedback1": "f", "feedback2": "g"}
            row["individual_preference"] = [{"score": strength, **reason}, {"score": -1, **reason}]
        return [row]

    return Form(write, "helpsteer", ("context", "response1", "response2"), ties=True, turns=True, system=True)


def shp(rng: Random) -> Form:
    """Stanford's human preferences: labels is 1 where A is preferred, and 0 where B is."""
    present = maybe(rng, "post_id", "domain", "upvote_ratio", "score_ratio", "ids")

    def write(of: Comparison) -> list[Row]:
        low, more = rng.randint(1, 40), rng.randint(1, 40)
        scores = [low + more * (rank == 1) for rank in of.ranks]
        row: Row = {"history": of.text, "human_ref_A": of.answers[0], "human_ref_B": of.answers[1]}
        row |= {"labels": int(of.better == 0), "score_A": scores[0], "score_B": scores[1]}
        optional: dict[str, Row] = {
            "post_id": {"post_id": "q1"},
            "domain": {"domain": "askculinary_train"},
            "upvote_ratio": {"upvote_ratio": 0.9},
            "score_ratio": {"score_ratio": (low + more) / low, "seconds_difference": 12.0},
            "ids": {"c_root_id_A": "a1", "c_root_id_B": "b1", "created_at_utc_A": 1, "created_at_utc_B": 2},
        }
        return [row | {column: value for name in sorted(present) for column, value in optional[name].items()}]

    return Form(write, "shp", ("history", "human_ref_A", "human_ref_B"))


def arena(rng: Random) -> Form:
    """Chatbot Arena and MT-bench: two conversations, and which model has won."""
    present = maybe(rng, "question_id", "judge", "turn", "anony", "language", "tstamp", "toxic")

    def write(of: Comparison) -> list[Row]:
        ties = ["tie", "tie (bothbad)"]
        winner = rng.choice(ties) if of.better is None else ("model_a", "model_b")[of.better]
        optional: dict[str, Row] = {
            "question_id": {"question_id": "58210e39"},
            "judge": {"judge": "arena_user_973"},
            "turn": {"turn": 1},
            "anony": {"anony": True},
            "language": {"language": "English"},
            "tstamp": {"tstamp": 1682351591.1},
            "toxic": {"toxic_chat_tag": {"roberta-large": {"flagged": False, "probability": 0.01}}},
        }
        first, second = ([*of.prompt, *assistant(answer)] for answer in of.answers)
        row: Row = {"model_a": "koala-13b", "model_b": "vicuna-13b", "winner": winner}
        row |= {"conversation_a": first, "conversation_b": second}
        return [row | {column: value for name in sorted(present) for column, value in optional[name].items()}]

    return Form(write, "arena", ("conversation_a", "conversation_b"), ties=True, turns=True, system=True)


def arena_one_hot(rng: Random) -> Form:
    """LMSYS' competition: a column for each outcome, texts in a JSON list or bare."""
    listed, present = rng.random() < 0.5, maybe(rng, "id", "models")

    def text(value: str) -> str:
        return json.dumps([value]) if listed else value

    def write(of: Comparison) -> list[Row]:
        row: Row = {"prompt": text(of.text), "response_a": text(of.answers[0]), "response_b": text(of.answers[1])}
        row |= {"winner_model_a": int(of.better == 0), "winner_model_b": int(of.better == 1)}
        row["winner_tie"] = int(of.better is None)
        if "id" in present:
            row["id"] = 30192
        return [row | {"model_a": "gpt-4", "model_b": "koala"} if "models" in present else row]

    return Form(write, "arena", ("prompt", "response_a", "response_b"), ties=True)


def pandalm(rng: Random) -> Form:
    """Three people's verdicts on one pair: 1, 2, or 0 for a tie. Here they agree."""

    def write(of: Comparison) -> list[Row]:
        instruction, gap, given = of.text.partition("\n\n")
        whole = not (gap and instruction.strip() and given.strip())
        row: Row = {"instruction": of.text if whole else instruction, "input": "" if whole else given}
        row |= {"response1": of.answers[0], "response2": of.answers[1]}
        verdict = coded(1, 2, 0)(of)
        return [row | {f"annotator{number}": verdict for number in (1, 2, 3)}]

    return Form(write, "judgments", ("response1", "response2"), ties=True, both_ways=True, times=3)


JUDGED: dict[str, Maker] = {
    maker.__name__: maker
    for maker in (
        *(judged, judged_oddly, judged_by_index, judged_darkly, judged_as_told, judged_by_scores, pku, helpsteer2),
        *(judged_half_told, judged_by_the_worse, webgpt, summaries),
        *(helpsteer3, shp, arena, arena_one_hot, pandalm),
    )
}
