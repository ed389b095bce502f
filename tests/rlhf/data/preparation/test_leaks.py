from data_rows import assistant, user
from hypothesis import given
from hypothesis import strategies as st

from rlhf.data.preparation.leaks import BOILERPLATE_PROMPTS, NGRAM_WORDS, find_leaks
from rlhf.data.preparation.splits import Prompt, prompt_key

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen"
SYSTEM = {"role": "system", "content": LONG}


def leaks(training: list[Prompt], evaluation: list[Prompt]) -> list[str | None]:
    """The kind of leak of each training prompt."""
    found = find_leaks({prompt_key(p): p for p in training}, {prompt_key(p): p for p in evaluation})
    return [found.get(prompt_key(prompt)) for prompt in training]


def test_the_same_prompt_however_it_is_spelt() -> None:
    assert leaks([user("  WHAT is it ?"), user("What is that ?")], [user("What is it ?")]) == ["prompt", None]


def test_the_first_turn_of_an_evaluation_prompt() -> None:
    evaluation: list[Prompt] = [[*user("Hi"), *assistant("Hello"), *user("Bye")]]
    assert leaks([user("hi"), user("Bye")], evaluation) == ["prompt", None]


def test_a_dialogue_that_starts_like_an_evaluation_prompt() -> None:
    training: list[Prompt] = [
        [*user("Hi"), *assistant("Yes ?"), *user("Go")],
        [*user("Go"), *assistant("a"), *user("Hi")],
    ]
    assert leaks(training, [user("Hi")]) == ["first_turn", None]


def test_empty_turns_are_no_leak() -> None:
    training: list[Prompt] = [[*user(" "), *assistant("a"), *user("b")], [SYSTEM]]
    assert leaks(training, [[*user(""), *assistant("c"), *user("d")], [{**SYSTEM, "content": "x"}]]) == [None, None]


def test_thirteen_words_in_a_row() -> None:
    twelve = LONG.rsplit(maxsplit=1)[0]
    training = [user(f"Before, {LONG.upper()} after!"), user(f"Before {twelve} after"), user(LONG.replace(" ", ", "))]
    assert leaks(training, [user(f"Read this: {LONG}.")]) == ["13_gram", None, "13_gram"]
    assert len(LONG.split()) == NGRAM_WORDS


def test_thirteen_words_over_two_turns_of_the_user() -> None:
    first, second = LONG.split(" six ")
    dialogue: Prompt = [*user(f"{first} six"), *assistant("Go on"), *user(second)]
    assert leaks([dialogue], [user(f"a {LONG}")]) == ["13_gram"]


def test_a_system_message_is_no_leak() -> None:
    training: list[Prompt] = [[SYSTEM, *user(f"Question {number}")] for number in range(3)]
    assert leaks(training, [[SYSTEM, *user("Another")]]) == [None] * 3


def test_an_answer_in_the_dialogue_is_no_leak() -> None:
    training: list[Prompt] = [[*user("a"), *assistant(LONG), *user("b")]]
    assert leaks(training, [[*user("c"), *assistant(LONG), *user("d")]]) == [None]


def test_boilerplate_is_no_leak_but_the_question_behind_it_is() -> None:
    question = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu"
    training = [user(f"{LONG} : question {number}") for number in range(BOILERPLATE_PROMPTS + 1)]
    training.append(user(f"{LONG} ! {question}"))
    evaluation = [user(f"{LONG} : another"), user(f"a {question}")]
    assert leaks(training, evaluation) == [None] * (BOILERPLATE_PROMPTS + 1) + ["13_gram"]
    assert leaks(training[1:-1], evaluation) == ["13_gram"] * BOILERPLATE_PROMPTS


words = st.lists(st.sampled_from(["a", "b", "c"]), max_size=16).map(" ".join)
dialogues = st.lists(words, min_size=1, max_size=3).map(
    lambda turns: [message for text in turns for message in (*assistant("x"), *user(text))][1:]
)


@given(st.lists(dialogues), st.lists(dialogues))
def test_agrees_with_a_slow_search(training: list[Prompt], evaluation: list[Prompt]) -> None:
    def said(prompt: Prompt) -> list[str]:
        return [word for message in prompt if message["role"] == "user" for word in message["content"].split()]

    def runs(prompt: Prompt) -> list[list[str]]:
        found = said(prompt)
        return [found[i : i + 13] for i in range(len(found) - 12)]

    def first_said(prompt: Prompt) -> str:
        turns = (message["content"].strip() for message in prompt if message["role"] == "user")
        return next((turn for turn in turns if turn), "")

    def slow(prompt: Prompt) -> bool:
        first = first_said(prompt)
        return any(
            prompt_key(prompt) == prompt_key(other)
            or (first and first == first_said(other))
            or any(run in runs(other) for run in runs(prompt))
            for other in evaluation
        )

    # So few prompts that nothing is boilerplate.
    training = training[:BOILERPLATE_PROMPTS]
    assert [leak is not None for leak in leaks(training, evaluation)] == [slow(prompt) for prompt in training]
