"""Forms in which answers are rated, ranked, or grow on trees."""

from random import Random

from form_kinds import Form, Maker, maybe
from form_pairs import with_input
from form_texts import Comparison, Row


def _points(of: Comparison) -> list[int]:
    """A number for each answer that grows as it gets better, 5 the best."""
    return [6 - rank for rank in of.ranks]


def ultrafeedback(rng: Random) -> Form:
    """UltraFeedback as it was made: completions with ratings of four aspects, a mean of these, and a score."""
    marks = rng.choice([("annotations",), ("overall_score",), ("fine-grained_score",), ("all",)])
    bare = rng.random() < 0.3

    def write(of: Comparison) -> list[Row]:
        completions = []
        for answer, points in zip(of.answers, _points(of), strict=True):
            aspects = ("instruction_following", "honesty", "truthfulness", "helpfulness")
            ratings = {name: {"Rating": str(points), "Rationale": "because"} for name in aspects}
            made: Row = {"annotations": ratings, "overall_score": points * 2.0, "fine-grained_score": points + 0.0}
            completion: Row = {"model": "llama", "response": answer}
            completion |= made if marks == ("all",) else {marks[0]: made[marks[0]]}
            if not bare:
                completion |= {"principle": "helpfulness", "custom_system_prompt": "Be kind.", "critique": "Too long."}
            completions.append(completion)
        row: Row = {"instruction": of.text, "completions": completions}
        more = {"source": "evol_instruct", "models": ["a"] * len(of.answers), "correct_answers": ["None"]}
        return [row if bare else row | more]

    # The ratings of four aspects alone are no verdict: whoever made the file has a rule of their own.
    readable = "perhaps" if marks == ("annotations",) else "always"
    return Form(
        write, "ultrafeedback", ("instruction", "completions"), num_answers=(2, 4), ties=True, readable=readable
    )


def helpsteer(rng: Random) -> Form:
    """HelpSteer: rated answers, two rows for each prompt. How complex and wordy an answer is makes it no better."""

    def write(of: Comparison) -> list[Row]:
        rows: list[Row] = []
        for answer, points in zip(of.answers, _points(of), strict=True):
            good = dict.fromkeys(("helpfulness", "correctness", "coherence"), points - 1)
            wordy = {"complexity": rng.randint(0, 4), "verbosity": rng.randint(0, 4)}
            rows.append({"prompt": of.text, "response": answer, **good, **wordy})
        return rows

    return Form(write, "helpsteer", ("prompt", "response"), ties=True)


def nectar(rng: Random) -> Form:
    """Nectar: seven ranked answers, or fewer, to a dialogue in one text."""
    present, number = maybe(rng, "turns", "num_responses", "source", "good_natured"), rng.choice([int, float])

    def write(of: Comparison) -> list[Row]:
        answers = [
            {"answer": answer, "model": f"m{place}", "rank": number(rank)}
            for place, (answer, rank) in enumerate(zip(of.answers, of.ranks, strict=True))
        ]
        optional: Row = {"turns": 1, "num_responses": len(answers), "source": ["lmsys"], "good_natured": True}
        names = {"user": "Human", "assistant": "Assistant"}
        said = "".join(f"\n\n{names[turn['role']]}: {turn['content']}" for turn in of.prompt)
        row: Row = {"prompt": f"{said}\n\nAssistant: ", "answers": answers}
        return [row | {name: optional[name] for name in sorted(present)}]

    def fits(text: str) -> bool:
        return not any(name in text for name in ("Human:", "Assistant:")) and text == text.strip()

    return Form(write, "nectar", ("prompt", "answers"), num_answers=(2, 7), turns=True, fits=fits)


def _post(rng: Random, text: str, role: str, **more: object) -> Row:
    return {"message_id": f"{rng.getrandbits(64):016x}", "text": text, "role": role, "lang": "en", **more}


def _thread(rng: Random, of: Comparison, ranks: list[int]) -> list[Row]:
    """The posts of one tree: each has its parent's id, and siblings are ranked from 0."""
    names = {"user": "prompter", "assistant": "assistant"}
    posts: list[Row] = []
    for turn in of.prompt:
        parent = posts[-1]["message_id"] if posts else None
        posts.append(_post(rng, turn["content"], names[turn["role"]], parent_id=parent, rank=None))
    above = posts[-1]["message_id"]
    answers = zip(of.answers, ranks, strict=True)
    return posts + [_post(rng, answer, "assistant", parent_id=above, rank=rank) for answer, rank in answers]


def oasst_tree(rng: Random) -> Form:
    """OpenAssistant's trees, each in one row."""

    def write(of: Comparison) -> list[Row]:
        posts = _thread(rng, of, [rank - 1 for rank in of.ranks])
        for post in posts:
            post["replies"] = [other for other in posts if other["parent_id"] == post["message_id"]]
        root = posts[0]
        return [{"message_tree_id": root["message_id"], "tree_state": "ready_for_export", "prompt": root}]

    return Form(write, "oasst", ("prompt",), num_answers=(2, 4), turns=True, tabular=False)


def oasst_flat(rng: Random) -> Form:
    """OpenAssistant's messages, each in one row, a parent before its children."""
    present = maybe(rng, "user_id", "created_date", "review_result", "deleted", "synthetic", "tree_state", "detoxify")

    def write(of: Comparison) -> list[Row]:
        optional: Row = {"user_id": "u", "created_date": "2023-02-05T14:23:50", "review_result": True}
        optional |= {"deleted": False, "synthetic": False, "tree_state": "ready_for_export"}
        optional["detoxify"] = {"toxicity": 0.1, "insult": 0.2}
        posts = _thread(rng, of, [rank - 1 for rank in of.ranks])
        more = {name: optional[name] for name in sorted(present)}
        return [{**post, "message_tree_id": posts[0]["message_id"], **more} for post in posts]

    return Form(write, "oasst", ("text",), num_answers=(2, 4), turns=True)


def rankings(rng: Random) -> Form:
    """Answers and their ranks, 1 the best, with ties."""
    name = rng.choice(["ranks", "ranks", "rank", "ranking"])

    def write(of: Comparison) -> list[Row]:
        return [{"prompt": of.text, "responses": list(of.answers), name: list(of.ranks)}]

    readable = "always" if name == "ranks" else "perhaps"
    return Form(write, "rankings", ("prompt", "responses"), num_answers=(2, 5), ties=True, readable=readable)


def scored_lists(rng: Random) -> Form:
    """Answers and their scores, higher the better, by several names."""
    prompt, answers, scores = rng.choice(
        [
            ("prompt", "responses", "scores"),
            ("input", "generations", "rating"),
            ("instruction", "generations", "ratings"),
        ]
    )

    def write(of: Comparison) -> list[Row]:
        return [{prompt: of.text, answers: list(of.answers), scores: _points(of)}]

    return Form(write, "rankings", (prompt, answers), num_answers=(2, 4), ties=True, readable="perhaps")


def best_first(rng: Random) -> Form:
    """LLaMA-Factory's old rankings: a list of outputs, the best first."""
    bare = rng.random() < 0.3

    def write(of: Comparison) -> list[Row]:
        ordered = [answer for _, answer in sorted(zip(of.ranks, of.answers, strict=True))]
        if bare:
            return [{"instruction": of.text, "output": ordered}]
        instruction, given = with_input(of.text)
        return [{"instruction": instruction, "input": given, "output": ordered}]

    return Form(write, "rankings", ("output",), num_answers=(2, 4), tabular=False)


def own_rankings(rng: Random) -> Form:
    """A file of one's own that ranks."""

    def write(of: Comparison) -> list[Row]:
        return [{"q": of.text, "all": list(of.answers), "place": list(of.ranks)}]

    columns = "prompt=q,responses=all,ranks=place"
    return Form(write, "", ("q", "all"), num_answers=(2, 4), ties=True, columns=columns)


def finegrained(rng: Random) -> Form:
    """Fine-grained RLHF: four predictions, and a verdict on each of their six pairs."""

    def write(of: Comparison) -> list[Row]:
        question, given = with_input(of.text)
        sides = [(one, other) for one in range(4) for other in range(one + 1, 4)]
        verdicts = [
            0 if of.ranks[one] == of.ranks[other] else 1 + (of.ranks[other] < of.ranks[one]) for one, other in sides
        ]
        row: Row = {"question": question, "passages": [["Soup", given]] if given else [], "gold": "Warm."}
        row |= {f"prediction {place}": answer for place, answer in enumerate(of.answers, start=1)}
        error = {"error type": "Irrelevant", "explanation": "", "start": 0, "end": 1}
        return [{**row, "feedback": {"errors": [error], "corrected-prediction": "Wet."}, "preference": verdicts}]

    vital = ("question", "prediction 1", "prediction 2", "prediction 3", "prediction 4")
    return Form(write, "finegrained", vital, num_answers=(4, 4), ties=True, tabular=False)


RATED: dict[str, Maker] = {
    maker.__name__: maker
    for maker in (
        *(ultrafeedback, helpsteer, nectar, oasst_tree, oasst_flat, rankings, scored_lists, best_first, own_rankings),
        finegrained,
    )
}
