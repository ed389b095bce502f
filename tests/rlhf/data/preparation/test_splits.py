import unicodedata

import pytest
from data_rows import assistant, user
from hypothesis import given
from hypothesis import strategies as st

from rlhf.config.data import DataConfig
from rlhf.data.preparation.splits import is_for_selection, normalize, prompt_key, split_of

texts = st.text(st.characters(exclude_categories=["Cs"]))
HELD_BACK = ("test", "gate")
configs = st.builds(
    lambda test, validation: DataConfig(test_fraction=test, validation_fraction=validation),
    st.floats(0.01, 0.49),
    st.floats(0.01, 0.49),
)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is  7 + 5 ?", " what IS 7\t+\n5 ?"),
        ("Straße", "STRASSE"),
        ("ﬁne", "fine"),
        ("e\u0301t\u00e9", "\u00e9te\u0301"),
        ("a\u00a0b", "a b"),
        ("１２", "12"),  # noqa: RUF001
    ],
)
def test_differences_that_a_reader_would_not_see(one: str, other: str) -> None:
    assert normalize(one) == normalize(other)


def test_other_words_and_other_roles_make_another_prompt() -> None:
    assert prompt_key(user("a b")) != prompt_key(user("ab"))
    assert prompt_key([*user("a"), *user("b")]) != prompt_key(user("a b"))
    assert prompt_key(user("a")) != prompt_key([{"role": "system", "content": "a"}])


@given(texts)
def test_normalizing_twice_changes_nothing(text: str) -> None:
    once = normalize(text)
    assert normalize(once) == once
    assert once == once.strip()
    assert normalize(unicodedata.normalize("NFD", text)) == once


@given(texts, texts, configs)
def test_spelling_does_not_move_a_prompt(text: str, answer: str, config: DataConfig) -> None:
    prompt = [*user(text), *assistant(answer), *user(text)]
    respelled = [{**message, "content": f"  {message['content'].casefold()}\n"} for message in prompt]
    assert split_of(prompt_key(prompt), config) == split_of(prompt_key(respelled), config)


@given(texts, st.floats(0.01, 0.4), st.floats(0.01, 0.2), st.floats(0.01, 0.2))
def test_the_validation_share_moves_nothing_into_or_out_of_test(
    text: str, test: float, first: float, second: float
) -> None:
    key = prompt_key(user(text))
    one, other = (DataConfig(test_fraction=test, validation_fraction=share) for share in (first, second))
    assert [split_of(key, one) == split for split in HELD_BACK] == [
        split_of(key, other) == split for split in HELD_BACK
    ]


@given(texts, st.floats(0.01, 0.4), st.floats(0.01, 0.4))
def test_the_test_share_moves_nothing_between_test_and_gate(text: str, first: float, second: float) -> None:
    key = prompt_key(user(text))
    found = {split_of(key, DataConfig(test_fraction=share)) for share in (first, second)}
    assert not found >= {"test", "gate"}


@given(texts, st.floats(0.01, 0.4), st.floats(0.01, 0.99))
def test_the_gate_takes_from_test_alone(text: str, test: float, gate: float) -> None:
    """So nothing was trained on its prompts by runs of before there was a gate."""
    key = prompt_key(user(text))
    splits = [split_of(key, DataConfig(test_fraction=test, gate_fraction=share)) for share in (1e-9, gate)]
    assert splits[0] == splits[1] or splits == ["test", "gate"]


def test_shares_are_as_configured_and_independent() -> None:
    config = DataConfig(test_fraction=0.2, validation_fraction=0.1, selection_fraction=0.3)
    keys = [prompt_key(user(f"Question {number}")) for number in range(10_000)]
    splits = [split_of(key, config) for key in keys]
    assert splits.count("test") == pytest.approx(1500, abs=140)
    assert splits.count("gate") == pytest.approx(500, abs=80)
    assert splits.count("validation") == pytest.approx(1000, abs=120)
    for split in ("test", "train"):
        chosen = [is_for_selection(key, config) for key, found in zip(keys, splits, strict=True) if found == split]
        assert sum(chosen) / len(chosen) == pytest.approx(0.3, abs=0.04)


def test_a_split_is_for_ever() -> None:
    """Another hash would move prompts that earlier runs trained on into the test split of the next."""
    config = DataConfig()
    letters = {"train": ".", "validation": "v", "test": "t", "gate": "g"}
    found = "".join(letters[split_of(prompt_key(user(f"Question {number}")), config)] for number in range(60))
    assert found == EXPECTED_SPLITS


EXPECTED_SPLITS = ".t...............v.........tv..............................."
