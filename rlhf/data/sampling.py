"""Demonstrations and pairs of responses that the base model wrote itself, labelled by the gold rule and with noise.

The base goes on with every prompt several times. One of these responses becomes a demonstration, so that supervised
training leaves the base about where it is and teaches where a response ends; the others are compared two by two.

All draws are keyed by fixed seeds, by the prompt and by the sample: data is the same for all seeds of a run.
"""

import random
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from math import exp
from pathlib import Path
from typing import Any

from rlhf.config.data import RULE_BEHIND, DataConfig
from rlhf.config.model import ComputeConfig, ModelConfig, Setup
from rlhf.data import stories
from rlhf.data.schema import DATASHEET, Row, json_lines, read_rows, write_rows
from rlhf.errors import DataError
from rlhf.files.atomic import write_file
from rlhf.gold.registered import gold_rule
from rlhf.modeling.conversations import Conversation, decode_responses, encode_prompts
from rlhf.modeling.device import configure
from rlhf.modeling.generation import sample, sampling_noise
from rlhf.modeling.models import start_policy
from rlhf.modeling.tokenizer import prepare_tokenizer
from rlhf.progress import report_progress
from rlhf.text.lines import read_json_lines

NUM_SAMPLES = 9
"""Responses to a prompt: one demonstration and four pairs."""
LABEL_TEMPERATURE = 0.05
"""Difference of gold rewards, in shares of a response's words, at which raters prefer the better one in 73%."""
LABEL_NOISE = 0.05
"""Share of labels that are flipped after that."""
_SEED = 1
_CHUNK = 32
"""Prompts that are sampled together; a kill loses at most one such piece of work."""
# The end of a sentence, closing quotation marks included.
_END = re.compile(r"[.!?][\"'\N{RIGHT DOUBLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}]?(?=\s|$)")


def sample_folder(
    folder: Path,
    config: DataConfig,
    model: ModelConfig,
    max_response_tokens: int,
    compute: ComputeConfig,
    checkpoints: Path,
) -> None:
    """Make a data folder: the embedded prompts, demonstrations and preferences that the base writes, and the datasheet.

    Args:
        folder: made if need be.
        config: which data, and how many of its prompts are kept.
        model: the base that is sampled.
        max_response_tokens: longest response, its EOS included.
        compute: device, threads, precision. Another one gives other samples.
        checkpoints: keeps what was sampled before a kill.

    Raises:
        DataError: the base writes hardly any whole sentences.
        ModelError: the base cannot be loaded.
    """
    assert config.embedded == "stories", "the configuration sees to it"
    assert model.base is not None, "a run without a base is refused at its start"
    stories.generate(folder)
    rows = [row for _, row in islice(read_rows(folder / "prompts.jsonl", "prompts"), config.max_rows)]
    prompts: list[Conversation] = [row["prompt"] for row in rows]
    responses = list(_responses(prompts, model, max_response_tokens, compute, checkpoints))
    rule = gold_rule(RULE_BEHIND[config.embedded])
    demonstrations: list[Row] = []
    pairs: list[Row] = []
    rng = random.Random(_SEED)
    for prompt, texts in zip(prompts, responses, strict=True):
        sentences = [text for text in map(whole_sentences, texts) if text]
        demonstrations += [{"prompt": prompt, "completion": _answer(text)} for text in sentences[:1]]
        rewards = rule.judge([prompt] * len(sentences), sentences).rewards.tolist()
        judged = list(zip(sentences, rewards, strict=True))[1:]
        # Nobody would learn from the answer about two of equal value.
        for first, second in zip(judged[::2], judged[1::2], strict=False):
            if first[1] != second[1]:
                pairs.append(_pair(rng, prompt, first, second))
    _check_enough(model, max_response_tokens, len(prompts), len(demonstrations), len(pairs))
    write_rows(folder / "prompts.jsonl", rows)
    write_rows(folder / "demonstrations.jsonl", demonstrations)
    write_rows(folder / "preferences.jsonl", pairs)
    with (folder / DATASHEET).open("a", encoding="utf-8") as file:
        file.write(_datasheet(model, max_response_tokens, rule.meaning, len(demonstrations), len(pairs)))


def whole_sentences(text: str) -> str:
    """The text up to the end of its last whole sentence, without white space around it; empty if that has no word."""
    ends = [match.end() for match in _END.finditer(text)]
    sentences = text[: ends[-1]].strip() if ends else ""
    return sentences if any(character.isalpha() for character in sentences) else ""


def preference_rate(first: float, second: float) -> float:
    """How often raters prefer the first of two responses, by gold rewards: Bradley-Terry, then flipped labels."""
    rate = 1.0 / (1.0 + exp((second - first) / LABEL_TEMPERATURE))
    return rate * (1.0 - LABEL_NOISE) + (1.0 - rate) * LABEL_NOISE


def _check_enough(model: ModelConfig, max_tokens: int, num_prompts: int, num_answered: int, num_pairs: int) -> None:
    if num_answered >= num_prompts / 2 and num_pairs:
        return
    raise DataError(
        f"{_name(model)} wrote a whole sentence within {max_tokens} tokens for {num_answered} of "
        f"{num_prompts} prompts, and {num_pairs} pairs of responses of different gold reward; raise "
        f"rl.max_response_tokens, or take a base that was trained on such text"
    )


def _responses(
    prompts: Sequence[Conversation], model: ModelConfig, max_response_tokens: int, compute: ComputeConfig, kept: Path
) -> Iterator[list[str]]:
    """`NUM_SAMPLES` texts to each prompt. Pieces that an attempt before this one has written are read."""
    base: Any = None
    tokenizer, _ = prepare_tokenizer(model, [])
    for start in range(0, len(prompts), _CHUNK):
        report_progress("data", start, len(prompts))
        chunk, path = prompts[start : start + _CHUNK], kept / f"samples_{start:06d}.jsonl"
        if not path.exists():
            if base is None:
                configure(compute)
                setup = Setup(seed=_SEED, model=model, compute=compute)
                base = start_policy(setup, tokenizer).to(compute.device).eval()
            texts = _sample(base, tokenizer, chunk, start, max_response_tokens, compute)
            write_file(path, "".join(json_lines(texts)))
        yield from read_json_lines(path)


def _sample(
    base: Any, tokenizer: Any, prompts: Sequence[Conversation], start: int, max_tokens: int, compute: ComputeConfig
) -> list[list[str]]:
    keys = [(start + row, number) for row in range(len(prompts)) for number in range(NUM_SAMPLES)]
    rows = [ids for ids in encode_prompts(tokenizer, prompts) for _ in range(NUM_SAMPLES)]
    # One token is left for the EOS that a demonstration ends with.
    noise = sampling_noise(_SEED, [("data", *key) for key in keys], max_tokens - 1)
    ended = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    ids = [_until(row, ended) for row in sample(base, rows, noise, tokenizer, compute, temperature=1.0)]
    texts = decode_responses(tokenizer, ids)
    return [texts[first : first + NUM_SAMPLES] for first in range(0, len(texts), NUM_SAMPLES)]


def _until(ids: Sequence[int], special: set[int]) -> list[int]:
    """The ids before the first special token: some bases end a text with BOS, which starts the next one."""
    return list(ids[: next((place for place, token in enumerate(ids) if token in special), len(ids))])


def _pair(rng: random.Random, prompt: Conversation, first: tuple[str, float], second: tuple[str, float]) -> Row:
    chosen, rejected = (first, second) if rng.random() < preference_rate(first[1], second[1]) else (second, first)
    return {"prompt": prompt, "chosen": _answer(chosen[0]), "rejected": _answer(rejected[0])}


def _answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def _name(model: ModelConfig) -> str:
    """The base, without where it lies on this machine."""
    assert model.base is not None
    if Path(model.base).is_dir():
        return Path(model.base).name
    return f"{model.base} at {model.revision}" if model.revision else model.base


def _datasheet(model: ModelConfig, max_tokens: int, meaning: str, num_demonstrations: int, num_pairs: int) -> str:
    return f"""
## Composition
`{_name(model)}` went on with each opening {NUM_SAMPLES} times, at temperature 1 and for at most
{max_tokens} tokens; each text was cut after its last whole sentence, and left out where it had none.

- {num_demonstrations:,} demonstrations: the first text of each prompt.
- {num_pairs:,} preference pairs: the others two by two, those of equal value left out.

## Annotation guidelines
The value of a response is {meaning}.
Nobody was asked: of two responses the first is chosen with probability
sigmoid(difference of values / {LABEL_TEMPERATURE}) (Bradley-Terry), and {LABEL_NOISE:.0%} of the labels are flipped
after that, as tired raters would.

## Licence
The openings: Apache-2.0, as the project. The responses are under what the base's licence says of its output.
"""
