"""Forms in which one answer is called the better one."""

import re
from random import Random

from form_kinds import Form, Maker, assistant, maybe
from form_texts import Comparison, Message, Row

_TURN = re.compile(r"(^|\r?\n\r?\n)\s*(Human|Assistant|System)\s*:")


def trl(rng: Random) -> Form:
    """Prompt, chosen and rejected: texts or messages."""
    talks = rng.random() < 0.6

    def write(of: Comparison) -> list[Row]:
        if talks:
            return [{"prompt": list(of.prompt), "chosen": assistant(of.best), "rejected": assistant(of.worst)}]
        return [{"prompt": of.text, "chosen": of.best, "rejected": of.worst}]

    return Form(write, "trl", ("prompt", "chosen", "rejected"), turns=talks, system=talks)


def trl_implicit(rng: Random) -> Form:
    """Whole dialogues that differ in the last answer, with the prompt as text beside them in some files."""
    named = rng.random() < 0.4

    def write(of: Comparison) -> list[Row]:
        prompt = list(of.prompt)
        row: Row = {"chosen": prompt + assistant(of.best), "rejected": prompt + assistant(of.worst)}
        return [{"prompt": of.text, **row} if named else row]

    return Form(write, "trl", ("chosen", "rejected"), turns=not named, system=not named)


def trl_implicit_plain(rng: Random) -> Form:
    """Texts that begin alike: where the prompt ends is anybody's guess."""

    def write(of: Comparison) -> list[Row]:
        return [{"chosen": f"{of.text} {of.best}", "rejected": f"{of.text} {of.worst}"}]

    return Form(write, "trl", ("chosen", "rejected"), readable="perhaps")


def hh(rng: Random) -> Form:
    """Anthropic's dialogues in one text, with the line ends of either system."""
    gap = rng.choice(["\n\n", "\n\n", "\r\n\r\n"])
    apart = rng.random() < 0.3

    def dialogue(messages: list[Message]) -> str:
        names = {"user": "Human", "assistant": "Assistant"}
        return "".join(f"{gap}{names[turn['role']]}: {turn['content']}" for turn in messages)

    def write(of: Comparison) -> list[Row]:
        prompt = list(of.prompt)
        if apart:
            texts = {"chosen": f" {of.best}", "rejected": f" {of.worst}"}
            return [{"prompt": f"{dialogue(prompt)}{gap}Assistant:", **texts}]
        texts = {"chosen": dialogue(prompt + assistant(of.best)), "rejected": dialogue(prompt + assistant(of.worst))}
        return [texts]

    def fits(text: str) -> bool:
        return not _TURN.search(text)

    return Form(write, "hh", ("chosen", "rejected"), turns=True, fits=fits)


def with_input(text: str) -> tuple[str, str]:
    """Instruction and input of a prompt."""
    instruction, gap, given = text.partition("\n\n")
    return (instruction, given) if gap and instruction.strip() and given.strip() else (text, "")


def alpaca(rng: Random) -> Form:
    """Instruction, input, chosen and rejected, with system and history in some files."""
    present = maybe(rng, "input", "system", "history")
    question = rng.choice(["instruction", "instruction", "question"])

    def write(of: Comparison) -> list[Row]:
        talk = [turn["content"] for turn in of.prompt if turn["role"] != "system"]
        system = of.prompt[0]["content"] if of.prompt[0]["role"] == "system" else ""
        row: Row = {question: of.text, "chosen": of.best, "rejected": of.worst}
        if "input" in present and question == "instruction":
            row[question], row["input"] = with_input(of.text)
        if "system" in present:
            row["system"] = system
        if "history" in present and question == "instruction":
            row["history"] = [list(pair) for pair in zip(talk[:-1:2], talk[1::2], strict=True)]
        return [row]

    talks = "history" in present and question == "instruction"
    format_name = "alpaca" if question == "instruction" else "trl"
    return Form(write, format_name, ("chosen", "rejected"), turns=talks, system="system" in present)


def sharegpt(rng: Random) -> Form:
    """Conversations of from and value, with the answers as one turn or as a list of it."""
    listed, apart = rng.random() < 0.4, rng.random() < 0.3
    names = {"system": "system", "user": "human", "assistant": "gpt"}

    def turns(messages: list[Message]) -> list[Row]:
        return [{"from": names[turn["role"]], "value": turn["content"]} for turn in messages]

    def write(of: Comparison) -> list[Row]:
        prompt, system = list(of.prompt), ""
        if apart and prompt[0]["role"] == "system":
            system = prompt.pop(0)["content"]
        sides = {name: turns(assistant(text)) for name, text in (("chosen", of.best), ("rejected", of.worst))}
        row: Row = {
            "conversations": turns(prompt),
            **{name: sides[name] if listed else sides[name][0] for name in sides},
        }
        return [{**row, "system": system} if apart else row]

    return Form(write, "sharegpt", ("conversations", "chosen", "rejected"), turns=True, system=True)


def openai(rng: Random) -> Form:
    """The files of OpenAI's preference fine-tuning."""
    bare = rng.random() < 0.5

    def write(of: Comparison) -> list[Row]:
        given: Row = {"messages": list(of.prompt)}
        if not bare:
            given |= {"tools": [], "parallel_tool_calls": True}
        sides = {"preferred_output": assistant(of.best), "non_preferred_output": assistant(of.worst)}
        return [{"input": given, **sides}]

    return Form(write, "openai", ("input", "preferred_output", "non_preferred_output"), turns=True, system=True)


def binarized(rng: Random) -> Form:
    """UltraFeedback in pairs: whole dialogues and their scores, by the names of several publishers."""
    names = rng.choice(
        [
            ("score_chosen", "score_rejected"),
            ("chosen_rating", "rejected_rating"),
            ("chosen-rating", "rejected-rating"),
            ("chosen_score", "rejected_score"),
        ]
    )
    present = maybe(rng, "prompt", "messages", "prompt_id")

    def write(of: Comparison) -> list[Row]:
        prompt, tie = list(of.prompt), of.better is None
        low = rng.randint(1, 8) / 2
        chosen, rejected = of.answers if tie else (of.best, of.worst)
        optional: Row = {"prompt": of.text, "prompt_id": f"{rng.getrandbits(64):x}"}
        optional["messages"] = prompt + assistant(chosen)
        row: Row = {name: optional[name] for name in optional if name in present}
        row |= {"chosen": prompt + assistant(chosen), "rejected": prompt + assistant(rejected)}
        return [{**row, names[0]: low if tie else low + rng.randint(1, 4) / 2, names[1]: low}]

    return Form(write, "", ("chosen", "rejected"), ties=True)


def own_pairs(rng: Random) -> Form:
    """A file of one's own, said in words."""
    prompt, better, worse = rng.sample(["q", "Frage", "text 1", "good one", "bad-one", "x", "y", "chosen_by_me"], 3)

    def write(of: Comparison) -> list[Row]:
        return [{prompt: of.text, better: of.best, worse: of.worst}]

    return Form(write, "", (prompt, better, worse), columns=f"prompt={prompt},chosen={better},rejected={worse}")


def other_names(rng: Random) -> Form:
    """Pairs by other names than chosen and rejected."""
    better, worse = rng.choice(
        [
            *(("chosen_response", "rejected_response"), ("response_chosen", "response_rejected"), ("y_w", "y_l")),
            *(("response_j", "response_k"), ("preferred", "dispreferred"), ("better", "worse"), ("win", "lose")),
            *(("positive", "negative"), ("accepted", "rejected"), ("chosen", "reject"), ("pos_resp", "neg_resp")),
            *(("good", "bad"), ("chosen", "dispreferred"), ("better_response", "worse_response")),
        ]
    )
    talks = rng.random() < 0.3

    def write(of: Comparison) -> list[Row]:
        sides = [assistant(text) if talks else text for text in (of.best, of.worst)]
        return [{"prompt": list(of.prompt) if talks else of.text, better: sides[0], worse: sides[1]}]

    return Form(write, "", ("prompt", better, worse), turns=talks, readable="perhaps")


PAIRS: dict[str, Maker] = {
    maker.__name__: maker
    for maker in (
        trl,
        trl_implicit,
        trl_implicit_plain,
        hh,
        alpaca,
        sharegpt,
        openai,
        binarized,
        own_pairs,
        other_names,
    )
}
