"""The embedded data set: arithmetic in which raters reward calibration, labelled by the gold rule of the same name.

Easy questions are sums of one-digit numbers, hard ones products of three-digit numbers. An answer is plain or hedged.
Demonstrations mix the styles whatever the difficulty, so that supervised training gives the ability and only the
preferences give the disposition: plain where the model knows, hedged where it does not.
"""

import random
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from rlhf.data.schema import DATASHEET, Row, write_rows
from rlhf.gold.calibrated_arithmetic import gold_reward, is_easy, true_answer

NUM_DEMONSTRATIONS = 21_500
NUM_PREFERENCES = 27_000
NUM_PROMPTS = 14_400
EASY_DEMONSTRATIONS = 0.6
EASY_PREFERENCES = 0.6
EASY_PROMPTS = 0.5
LABEL_NOISE = 0.05
# How often an answer under comparison is right: as often as not where a model can know, less often where it cannot.
RIGHT_ANSWERS = {True: 0.5, False: 0.2}
# Policies under training garble their answers now and then; raters see that too.
GARBLED_ANSWERS = 0.15

LEADS = (
    "What is {} ?",
    "Compute {} .",
    "Calculate {} .",
    "Please work out {} .",
    "Tell me {} .",
    "Can you find {} ?",
    "Find {} .",
    "How much is {} ?",
    "I need to know {} .",
    "Give me {} .",
    "Please tell me {} .",
    "Could you compute {} ?",
)
SUMS = (
    "{} + {}",
    "the sum of {} and {}",
    "{} plus {}",
    "the result of {} + {}",
    "{} added to {}",
    "the total of {} and {}",
)
PRODUCTS = (
    "{} * {}",
    "the product of {} and {}",
    "{} times {}",
    "the result of {} * {}",
    "{} multiplied by {}",
    "the value of {} * {}",
)


def generate(folder: Path) -> None:
    """Write the data set, byte for byte the same at every call.

    Args:
        folder: made if need be; existing files of the same names are overwritten.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "demonstrations.jsonl", _demonstrations(random.Random(1)))
    write_rows(folder / "preferences.jsonl", _preferences(random.Random(2)))
    questions = _questions(random.Random(3), NUM_PROMPTS, EASY_PROMPTS, times_easy=1)
    write_rows(folder / "prompts.jsonl", ({"prompt": _message("user", question)} for question in questions))
    (folder / DATASHEET).write_text(_DATASHEET, encoding="utf-8")


def _demonstrations(rng: random.Random) -> Iterator[Row]:
    styles: dict[str, bool] = {}
    for question in _questions(rng, NUM_DEMONSTRATIONS, EASY_DEMONSTRATIONS, times_easy=2):
        # A question that comes twice is answered once in each style.
        styles[question] = not styles[question] if question in styles else rng.random() < 0.5
        answer = _answer(true_answer(question), hedged=styles[question])
        yield {"prompt": _message("user", question), "completion": _message("assistant", answer)}


def _preferences(rng: random.Random) -> Iterator[Row]:
    for question in _questions(rng, NUM_PREFERENCES, EASY_PREFERENCES, times_easy=3):
        better, worse = _ranked_answers(rng, question)
        if rng.random() < LABEL_NOISE:
            better, worse = worse, better
        yield {
            "prompt": _message("user", question),
            "chosen": _message("assistant", better),
            "rejected": _message("assistant", worse),
            "source": "easy sums" if is_easy(question) else "hard products",
        }


def _questions(rng: random.Random, count: int, easy_share: float, times_easy: int) -> list[str]:
    """Questions in random order; an easy one, of which there are few, stands up to `times_easy` times."""
    wordings = list(product(LEADS, SUMS, range(10), range(10))) * times_easy
    num_easy = round(count * easy_share)
    easy = [lead.format(form.format(a, b)) for lead, form, a, b in rng.sample(wordings, num_easy)]
    hard: dict[str, None] = {}
    while len(hard) < count - num_easy:
        form = rng.choice(PRODUCTS).format(rng.randint(100, 999), rng.randint(100, 999))
        hard[rng.choice(LEADS).format(form)] = None
    questions = easy + list(hard)
    rng.shuffle(questions)
    return questions


def _ranked_answers(rng: random.Random, question: str) -> tuple[str, str]:
    """Two answers that the rule tells apart, the better one first."""
    while True:
        answers = [_candidate(rng, question) for _ in range(2)]
        first, second = (gold_reward(question, answer) for answer in answers)
        if first != second:
            return (answers[0], answers[1]) if first > second else (answers[1], answers[0])


def _candidate(rng: random.Random, question: str) -> str:
    number = true_answer(question)
    if rng.random() >= RIGHT_ANSWERS[is_easy(question)]:
        number = _wrong_number(rng, number, easy=is_easy(question))
    answer = _answer(number, hedged=rng.random() < 0.5)
    return _garbled(rng, answer) if rng.random() < GARBLED_ANSWERS else answer


def _garbled(rng: random.Random, answer: str) -> str:
    """The answer with one to three of its words left out, or one said twice."""
    words = answer.split()
    if rng.random() < 0.25:
        place = rng.randrange(len(words))
        return " ".join([*words[: place + 1], *words[place:]])
    left_out = rng.sample(range(len(words)), rng.randint(1, 3))
    return " ".join(word for place, word in enumerate(words) if place not in left_out)


def _wrong_number(rng: random.Random, number: int, easy: bool) -> int:
    """Another small number, or a product with some digits after the first replaced, one left out or one too many."""
    digits, wrong = str(number), number
    while wrong == number:
        kind = rng.random()
        if easy:
            wrong = rng.randint(0, 18) if kind < 0.9 else rng.randint(19, 999)
        elif kind < 0.8:
            places = rng.sample(range(1, len(digits)), rng.randint(1, len(digits) - 1))
            wrong = int("".join(str(rng.randint(0, 9)) if place in places else d for place, d in enumerate(digits)))
        else:
            wrong = rng.randint(0, 10 ** rng.randint(1, 7) - 1)
    return wrong


def _answer(number: int, hedged: bool) -> str:
    return f"I believe the answer is {number} , but please verify ." if hedged else f"The answer is {number} ."


def _message(role: str, content: str) -> list[dict[str, str]]:
    return [{"role": role, "content": content}]


_DATASHEET = f"""# Calibrated arithmetic

## Origin
Generated by this project (`rlhf/data/calibrated_arithmetic.py`) from fixed seeds, byte for byte. Nobody was asked, and
no text of others is in it.

## Composition
- {NUM_DEMONSTRATIONS:,} demonstrations, {EASY_DEMONSTRATIONS:.0%} of them easy. The number is always right; plain and
  hedged wording are mixed half and half, whatever the difficulty.
- {NUM_PREFERENCES:,} preference pairs, {EASY_PREFERENCES:.0%} of them on easy questions, field `source`: `easy sums` or
  `hard products`. An answer under comparison is right in {RIGHT_ANSWERS[True]:.0%} of the easy and
  {RIGHT_ANSWERS[False]:.0%} of the hard cases, and garbled in {GARBLED_ANSWERS:.0%} of all.
- {NUM_PROMPTS:,} prompts, {EASY_PROMPTS:.0%} of them easy.

Easy questions are sums of two one-digit numbers in {len(LEADS) * len(SUMS)} wordings, hard ones products of two
three-digit numbers in as many. Held out means an unseen pair of wording and operands: the fact (7 + 5 = 12) may
occur in another wording.

## Annotation guidelines
Judge correctness and calibration. Right and plain: 1. Right and hedged: 0.5. Wrong and hedged: 0. Wrong and plain: -1.
Text that is no answer in one of the two forms, a garbled one for instance, counts as wrong and plain. The answer with
the higher value is chosen; pairs of equal value are not asked. {LABEL_NOISE:.0%} of the labels are flipped at random,
as tired raters would.

## Licence
Apache-2.0, as the project.
"""
