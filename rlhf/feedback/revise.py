"""Critique and revision: a policy's answers, criticized by a principle and written anew, as demonstrations.

Source: Constitutional AI (2212.08073), section 3.1.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rlhf.config.feedback import RevisionsConfig
from rlhf.data.schema import Row
from rlhf.errors import ConfigError, DataError
from rlhf.feedback.ask import Author, Sampling, different_prompts
from rlhf.files.names import below
from rlhf.judges.constitution import read_critiques
from rlhf.judges.endpoint import Endpoint
from rlhf.modeling.conversations import Conversation, decode_responses, encode_prompts
from rlhf.modeling.device import configure, derive_seed
from rlhf.modeling.generation import generate_responses
from rlhf.modeling.models import load_policy
from rlhf.modeling.tokenizer import load_tokenizer
from rlhf.progress import report_progress

SOURCE = "revision"
_MAX_TOKENS = 1024
"""Of an endpoint's critique or revision."""
Written = tuple[str, bool]
"""A text, and whether it came to its end."""
Write = Callable[[Sequence[Conversation], str], list[Written]]
"""Writes what follows each dialogue; the text names the step, for its seed."""


@dataclass(frozen=True)
class Revision:
    """An answer, and what became of it.

    Attributes:
        prompt: the dialogue.
        answers: the policy's, and each revision of it.
        critiques: of each answer but the last.
        principles: names of those drawn.
        policy: who wrote the first answer.
        ended: whether each answer came to its end.
    """

    prompt: Conversation
    answers: list[str]
    policy: str
    ended: list[bool]
    critiques: list[str] = field(default_factory=list)
    principles: list[str] = field(default_factory=list)

    def as_row(self, name: str) -> Row | None:
        """A demonstration of the last revision; None where it is empty or cut off, or nothing was changed."""
        last = self.answers[-1].strip()
        if not last or not self.ended[-1] or last == self.answers[0].strip():
            return None
        completion = [{"role": "assistant", "content": last}]
        return {"prompt": [dict(one) for one in self.prompt], "completion": completion, "source": SOURCE, "round": name}


def revise(
    sampling: Sampling,
    settings: RevisionsConfig,
    seed: int,
    critic: Endpoint | None,
    author: Author,
    root: Path,
) -> list[Revision]:
    """Have a policy answer prompts, and have the answers criticized and revised.

    Args:
        sampling: how the policy answers.
        settings: prompts, principles, number of revisions.
        seed: of answers and principles.
        critic: a model behind an endpoint that criticizes and revises; None for the policy itself.
        author: answers.
        root: the project's root.

    Raises:
        DataError: there are too few prompts.
        ConfigError: a file is not there, or holds something else.
        EndpointError: the critic does not answer, or its budget is spent. What it answered is kept.
    """
    configure(sampling.compute)
    principles = read_critiques(settings.constitution, root)
    prompts = _prompts(settings, root)
    own = _by_policy(sampling, settings.temperature, seed, author)
    write = own if critic is None else _by_endpoint(critic)
    revisions = [
        Revision(prompt, [answer], author.name, [ended])
        for prompt, (answer, ended) in zip(prompts, own(prompts, "answer"), strict=True)
    ]
    for number in range(settings.num_revisions):
        drawn = [principles[_drawn(seed, number, place, len(principles))] for place in range(len(revisions))]
        asked = [_asked(one, principle.critique) for one, principle in zip(revisions, drawn, strict=True)]
        critiques = write(asked, f"critique {number}")
        for one, principle, (critique, _) in zip(revisions, drawn, critiques, strict=True):
            one.principles.append(principle.name)
            one.critiques.append(critique)
        asked = [
            [*dialogue, {"role": "assistant", "content": one.critiques[-1]}, {"role": "user", "content": of.revision}]
            for dialogue, one, of in zip(asked, revisions, drawn, strict=True)
        ]
        for one, (revised, ended) in zip(revisions, write(asked, f"revision {number}"), strict=True):
            one.answers.append(revised)
            one.ended.append(ended)
        report_progress("revision", number + 1, settings.num_revisions)
    return revisions


def as_lines(revisions: Sequence[Revision]) -> str:
    """All of it as JSON Lines: answers, principles, critiques."""
    return "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in revisions)


def _asked(revision: Revision, request: str) -> list[Any]:
    """The dialogue with the answer as it is now, and a request about it."""
    return [
        *revision.prompt,
        {"role": "assistant", "content": revision.answers[-1] or "(nothing)"},
        {"role": "user", "content": request},
    ]


def _by_endpoint(endpoint: Endpoint) -> Write:
    def write(dialogues: Sequence[Conversation], _: str) -> list[Written]:
        written = [("", False)] * len(dialogues)
        for place, completion in endpoint.ask_all(dialogues, _MAX_TOKENS):
            written[place] = completion.text.strip(), completion.ended
        return written

    return write


def _by_policy(sampling: Sampling, temperature: float, seed: int, author: Author) -> Write:
    tokenizer, model = load_tokenizer(author.folder), load_policy(author.folder, sampling.compute)
    longest = sampling.max_response_tokens

    def write(dialogues: Sequence[Conversation], step: str) -> list[Written]:
        ids = encode_prompts(tokenizer, dialogues)
        most = max(map(len, ids))
        if most + longest > sampling.max_length:
            raise ConfigError(
                f"the {step.partition(' ')[0]}'s dialogue has {most} tokens, which leaves no room for {longest} more "
                f"in model.max_length ({sampling.max_length}); shorten principles or max_response_tokens, or let an "
                f"endpoint criticize (--url, --model; in a recipe revision.critic)"
            )
        responses = generate_responses(
            model,
            tokenizer,
            ids,
            compute=sampling.compute,
            max_response_tokens=longest,
            temperature=temperature,
            seed=derive_seed(seed, step),
            batch_size=sampling.batch_size,
        )
        texts = decode_responses(tokenizer, responses)
        return [(text.strip(), ids[-1] == tokenizer.eos_token_id) for text, ids in zip(texts, responses, strict=True)]

    return write


def _prompts(settings: RevisionsConfig, root: Path) -> list[Conversation]:
    path = below(root, settings.prompts, "prompts")
    prompts = different_prompts(path)
    if settings.num_prompts is not None and len(prompts) < settings.num_prompts:
        raise DataError(
            f"{path}: {len(prompts)} different prompts, and num_prompts is {settings.num_prompts}; give more, or lower "
            f"it"
        )
    return prompts[: settings.num_prompts]


def _drawn(seed: int, number: int, place: int, num_principles: int) -> int:
    return int(np.random.default_rng(derive_seed(seed, "principle", number, place)).integers(num_principles))
