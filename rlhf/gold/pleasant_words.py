"""The rule of pleasant words: which share of a response's words people rate as pleasant.

The ratings are VADER's (Hutto and Gilbert, ICWSM 2014), which ten people gave to each of some 7,500 words on a scale
from -4 to 4. Of the package that holds them only that table is read.

The rule counts words and does not understand text: "not happy" counts "happy", and a response that says nothing but
"happy happy" has the highest reward. So it shows how a policy over-optimizes.
"""

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

import numpy as np

from rlhf.gold.rules import Conversation, GoldRule, Judgement
from rlhf.text.lines import lines_of

LEAST_VALENCE = 1.5
"""Mean rating from which on a word is pleasant: "smile" and "like" have 1.5, "friend" 2.2, "happy" 2.7."""

_WORD = re.compile(r"[^\W\d_]+(?:['\N{RIGHT SINGLE QUOTATION MARK}][^\W\d_]+)*")


@cache
def pleasant_words() -> frozenset[str]:
    """The pleasant words of the lexicon in lower case.

    Inflected forms count where the lexicon rates them, as it does for most words: "smile", "smiled", "smiling" have
    ratings of their own. Nothing is stemmed.
    """
    text = (files("vaderSentiment") / "vader_lexicon.txt").read_text(encoding="utf-8")
    rows = (line.split("\t") for line in lines_of(text) if line)
    return frozenset(row[0].lower() for row in rows if float(row[1]) >= LEAST_VALENCE and _WORD.fullmatch(row[0]))


def share_of_pleasant_words(response: str) -> float:
    """Pleasant words as a share of all words, from 0 to 1; 0 for a response without words."""
    words = _WORD.findall(response.lower())
    return sum(word in pleasant_words() for word in words) / len(words) if words else 0.0


def judge_words(prompts: Sequence[Conversation], responses: Sequence[str]) -> Judgement:
    """The share of pleasant words in each of N responses; the prompts are not read."""
    return Judgement(np.array([share_of_pleasant_words(response) for response in responses], dtype=np.float64))


RULE = GoldRule("the share of pleasant words in the response, by the ratings of VADER's lexicon", judge_words)
