"""What people said, made up from a seed: the truth that files are written from and that an import must give back."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from random import Random
from typing import Any

Row = dict[str, Any]
Message = dict[str, str]
Pair = tuple[str, str, str]

SHORT = (
    *("A", "B", "C", "a", "1", "2", "0", "-1", "1.0", "Yes", "No", "tie", "true", "False", "model_a", "model_b"),
    *("output_1", "response_2", "chosen", "rejected", "first", "second", "left", "good", "None", "null", "NaN", "[]"),
)
TRAPS = (
    "def f(x):\n    return x\n",
    "    if x:\n        return 1",
    "He wrote:\n\nHuman: hi\n\nAssistant: hello\n\nand left.",
    "Human: is that so?",
    "Assistant: it is.",
    "### Response:\nfine",
    '{"a": 1}',
    "[1, 2]",
    '["x", "y"]',
    "say {'role': 'user'}",
    "It ends here</s> or there",
    "<s>[INST] no [/INST]",
    "<|im_end|>\n<|im_start|>user\n",
    "a\u2028b",
    "a\u0085b\u2029c",
    "a\0b",
    "one\r\ntwo\r\n",
    "one\rtwo",
    "a;b,c|d\te",
    '"quoted"',
    "it's \"both\" kinds, 'really'",
    "\ufeffmark",
    "e\u0301 \U0001f3f3\ufe0f\u200d\U0001f308 \ufdfa",
    "=1+1",
    "#1",
    " leading",
    "trailing ",
    "\n\nlines above",
    "lines below\n\n",
    "one\n\ntwo\n\n\nthree",
    "\\n\\u0041 \\",
    "tab\tbed",
)
WORDS = ("how", "do", "I", "make", "a", "good", "soup", "small", "check", "it", "each", "never", "bread", "kites")


@dataclass(frozen=True)
class Comparison:
    """Answers to one prompt, and what people think of them.

    Attributes:
        prompt: messages, the last one the user's.
        answers: in the order in which a form shows them.
        ranks: 1 is the best; equal ones are ties.
    """

    prompt: tuple[Message, ...]
    answers: tuple[str, ...]
    ranks: tuple[int, ...]

    @property
    def text(self) -> str:
        """The last turn of the prompt."""
        return self.prompt[-1]["content"]

    @property
    def better(self) -> int | None:
        """Which of two answers is better, from 0; None for a tie."""
        first, second = self.ranks
        return None if first == second else int(second < first)

    @property
    def best(self) -> str:
        return self.answers[self.ranks.index(min(self.ranks))]

    @property
    def worst(self) -> str:
        return self.answers[self.ranks.index(max(self.ranks))]

    @property
    def demonstrations(self) -> list[str]:
        """The answers that none is better than, where one is worse."""
        ranked = zip(self.ranks, self.answers, strict=True)
        return [answer for rank, answer in ranked if rank == min(self.ranks) < max(self.ranks)]

    def pairs(self) -> list[Pair]:
        """Every prompt, better and worse answer."""
        ranked = sorted(zip(self.ranks, self.answers, strict=True))
        return [
            (key(self.prompt), better, worse) for (high, better), (low, worse) in combinations(ranked, 2) if high < low
        ]


def key(prompt: Any) -> str:
    """A prompt as something to compare."""
    return repr([(message["role"], message["content"]) for message in prompt])


def starts_a_turn(value: object) -> bool:
    """Whether a value is a text that may be a dialogue or quote one: where few of a file do, nobody can tell."""
    return isinstance(value, str) and value.lstrip().startswith(("Human:", "Assistant:"))


class Texts:
    """Texts of one file, of which a form can hold all.

    Args:
        rng: draws them.
        fits: whether the form can hold a text.
    """

    def __init__(self, rng: Random, fits: Callable[[str], bool]) -> None:
        self.rng, self.fits, self.count = rng, fits, 0
        self.kinds = rng.choice([["words"], ["words"], ["short"], ["trap"], ["words", "short", "trap", "unicode"]])

    def prompt(self) -> str:
        """A text that no other prompt of the file is."""
        self.count += 1
        return self._drawn(lambda text: f"{text} {self.count}?" if self.count % 2 else f"{self.count}. {text}")

    def answers(self, count: int) -> list[str]:
        """Different texts."""
        found: list[str] = []
        while len(found) < count:
            text = self._drawn(lambda text: text)
            # Some readers may rightly take two answers that differ in blanks alone for one.
            if text.strip() not in [other.strip() for other in found]:
                found.append(text)
        return found

    def _drawn(self, change: Callable[[str], str]) -> str:
        while True:
            text = change(self._text(self.rng.choice(self.kinds)))
            # Where every text of a file starts like a dialogue's turn it is one; few that do quote one.
            if text.strip() and self.fits(text) and (self.count > 3 or not starts_a_turn(text)):
                return text

    def _text(self, kind: str) -> str:
        rng = self.rng
        if kind == "short":
            return rng.choice(SHORT)
        if kind == "unicode":
            points = [rng.randrange(0x20, 0x110000 if rng.random() < 0.3 else 0x2FF) for _ in range(rng.randint(1, 9))]
            return "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)
        words = " ".join(rng.choices(WORDS, k=rng.randint(2, 9)))
        return words if kind == "words" else rng.choice([rng.choice(TRAPS), f"{words}\n\n{rng.choice(TRAPS)}"])


def message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def comparison(
    texts: Texts, num_answers: tuple[int, int] = (2, 2), ties: bool = False, turns: bool = False, system: bool = False
) -> Comparison:
    """A new comparison of the kind that a form can hold."""
    rng = texts.rng
    prompt = [message("system", texts.answers(1)[0])] if system and rng.random() < 0.5 else []
    for _ in range(rng.choice([0, 0, 1, 2]) if turns else 0):
        prompt += [message("user", texts.prompt()), message("assistant", texts.answers(1)[0])]
    prompt.append(message("user", texts.prompt()))
    count = rng.randint(*num_answers)
    ranks = [1, *range(2, count + 1)]
    if ties and rng.random() < 0.3:
        place = rng.randrange(count - 1)
        ranks = [rank if rank <= place + 1 else rank - 1 for rank in ranks]
    rng.shuffle(ranks)
    return Comparison(tuple(prompt), tuple(texts.answers(count)), tuple(ranks))
