"""Forms of annotation tools: what people answered, beside what models suggested and what was taken back."""

from random import Random
from typing import Any

from form_kinds import Form, Maker, maybe
from form_texts import Comparison, Row


def label_studio(rng: Random) -> Form:
    """Label Studio's JSON export of its pairwise template."""
    answers = rng.choice([("answer1", "answer2"), ("response1", "response2"), ("answer_1", "answer_2")])
    cancelled, extras = rng.random() < 0.3, rng.random() < 0.5

    def annotation(side: str, was_cancelled: bool) -> Row:
        result: Row = {"id": "YcxjdCyEwz", "from_name": "comparison", "to_name": ",".join(answers), "type": "pairwise"}
        result |= {"origin": "manual", "value": {"selected": side}}
        return {"id": 7, "completed_by": 1, "result": [result], "was_cancelled": was_cancelled, "ground_truth": False}

    def write(of: Comparison) -> list[Row]:
        assert of.better is not None
        sides = ("left", "right")
        made = [annotation(sides[of.better], False)]
        if cancelled:
            made.insert(rng.randint(0, 1), annotation(sides[1 - of.better], True))
        row: Row = {"id": rng.randint(1, 999), "annotations": made}
        row["data"] = {"prompt": of.text, answers[0]: of.answers[0], answers[1]: of.answers[1]}
        if extras:
            row |= {"file_upload": "x.json", "drafts": [], "predictions": [], "meta": {}, "total_annotations": 1}
            row |= {"created_at": "2024-01-01T00:00:00Z", "updated_at": "2024-01-01T00:00:00Z", "project": 3}
        return [row]

    return Form(write, "label_studio", ("data",), tabular=False)


def label_studio_flat(rng: Random) -> Form:
    """Its short JSON or CSV export."""
    whole = rng.random() < 0.5

    def write(of: Comparison) -> list[Row]:
        assert of.better is not None
        side: Any = ("left", "right")[of.better]
        row: Row = {"prompt": of.text, "answer1": of.answers[0], "answer2": of.answers[1], "id": 1, "annotator": 1}
        row["comparison"] = {"selected": side} if whole else side
        return [{**row, "annotation_id": 7, "created_at": "2024-01-01T00:00:00Z", "lead_time": 2.5}]

    return Form(write, "label_studio", ("prompt", "answer1", "answer2"), readable="perhaps")


_ARGILLA_ANSWERS = (("response1", "response2"), ("response_1", "response_2"), ("response-1", "response-2"))


def argilla_flat(rng: Random) -> Form:
    """Argilla 2's data set on the hub: a column for the responses to each question."""
    answers, prompt = rng.choice(_ARGILLA_ANSWERS), rng.choice(["prompt", "instruction"])
    suggested, discarded = rng.random() < 0.5, rng.random() < 0.3

    def write(of: Comparison) -> list[Row]:
        assert of.better is not None
        given, state = [answers[of.better]], ["submitted"]
        if discarded:
            given, state = [*given, answers[1 - of.better]], [*state, rng.choice(["discarded", "draft"])]
        row: Row = {"id": "r1", "status": "completed", "_server_id": "s1", prompt: of.text}
        row |= dict(zip(answers, of.answers, strict=True))
        row |= {"preference.responses": given, "preference.responses.status": state}
        row["preference.responses.users"] = [f"user-{place}" for place in range(len(given))]
        if suggested:
            row |= {"preference.suggestion": rng.choice(answers), "preference.suggestion.agent": "gpt-4"}
            row["preference.suggestion.score"] = None
        return [row]

    return Form(write, "argilla", (prompt, *answers), tabular=False)


def argilla_records(rng: Random) -> Form:
    """Argilla's records as JSON: fields, responses and suggestions apart, of version 1 or 2."""
    answers, old = rng.choice(_ARGILLA_ANSWERS), rng.random() < 0.5
    present = maybe(rng, "metadata", "vectors", "external_id")

    def write(of: Comparison) -> list[Row]:
        assert of.better is not None
        better, worse = answers[of.better], answers[1 - of.better]
        row: Row = {"fields": {"prompt": of.text, **dict(zip(answers, of.answers, strict=True))}}
        if old:
            discarded = {"user_id": "u2", "status": "discarded", "values": {"preference": {"value": worse}}}
            submitted = {"user_id": "u1", "status": "submitted", "values": {"preference": {"value": better}}}
            row["responses"] = [submitted, discarded] if rng.random() < 0.3 else [submitted]
            row["suggestions"] = [{"question_name": "preference", "value": worse, "agent": "gpt-4"}]
        else:
            row |= {"id": "r1", "status": "completed", "_server_id": "s1"}
            row["responses"] = {"preference": [{"value": better, "user_id": "u1"}]}
            row["suggestions"] = {"preference": {"value": worse, "score": None, "agent": "gpt-4"}}
        optional: Row = {"metadata": {}, "vectors": {}, "external_id": "x"}
        return [row | {name: optional[name] for name in sorted(present)}]

    return Form(write, "argilla", ("fields",), readable="perhaps", tabular=False)


def argilla_dicts(rng: Random) -> Form:
    """Argilla 1's data set on the hub: the responses to a question are a list of objects in a column of its name."""
    answers, question = rng.choice(_ARGILLA_ANSWERS), rng.choice(["preference", "choose-best"])

    def write(of: Comparison) -> list[Row]:
        assert of.better is not None
        given = [{"user_id": "u1", "value": answers[of.better], "status": "submitted"}]
        row: Row = {"prompt": of.text, **dict(zip(answers, of.answers, strict=True)), question: given}
        row |= {f"{question}-suggestion": None, f"{question}-suggestion-metadata": {"type": None, "score": None}}
        return [{**row, "external_id": "x", "metadata": "{}"}]

    return Form(write, "argilla", ("prompt", *answers), readable="perhaps", tabular=False)


EXPORTS: dict[str, Maker] = {
    maker.__name__: maker for maker in (label_studio, label_studio_flat, argilla_flat, argilla_records, argilla_dicts)
}
