"""Answers of loaded policies in a dialogue, and what the run's reward models give them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.chat.policies import ChatPolicy
from rlhf.config.flat import policy_setting
from rlhf.config.model import ComputeConfig
from rlhf.errors import ConfigError, ModelError
from rlhf.modeling.conversations import Conversation, cut_to_fit, decode_responses, encode_dialogues, encode_prompts
from rlhf.modeling.generation import sample, sampling_noise
from rlhf.modeling.models import load_policy, load_reward_model
from rlhf.modeling.tokenizer import load_tokenizer
from rlhf.rewards.scoring import score_rows

REWARD_MODELS = {"reward_model": "reward model", "selection_reward_model": "selection model"}
MAX_RESPONSE_TOKENS = 256
"""Of a model that no run here has made."""


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn.

    Attributes:
        seed: of the session. Equal questions at equal places of a session get equal answers.
        temperature: divides the logits; None is that of the run's evaluation, and 1 without a run.
        max_response_tokens: longest answer; None is that of the run.
    """

    seed: int
    temperature: float | None = None
    max_response_tokens: int | None = None


@dataclass(frozen=True)
class ChatAnswer:
    """One policy's answer.

    Attributes:
        policy: who gave it.
        text: without special tokens.
        num_tokens: of the answer, EOS included.
        ended: it ended by itself, and was not cut off.
        prompt: the dialogue as the policy read it: without its oldest turns where there was no room for them.
    """

    policy: ChatPolicy
    prompt: Conversation
    text: str
    num_tokens: int
    ended: bool


class Speaker:
    """A loaded policy that answers."""

    def __init__(self, policy: ChatPolicy, compute: ComputeConfig, sampling: Sampling) -> None:
        """Load it.

        Raises:
            ModelError: it cannot be loaded.
            ConfigError: the longest answer leaves no room for a question.
        """
        self.policy = policy
        self._tokenizer = load_tokenizer(policy.folder)
        self._model = load_policy(policy.folder, compute)
        self._compute = compute
        self._seed = sampling.seed
        recorded = policy.settings
        self.temperature = sampling.temperature or float(recorded.get("evaluation.temperature", 1))
        self.max_response_tokens = sampling.max_response_tokens or int(
            policy_setting(recorded, "max_response_tokens", MAX_RESPONSE_TOKENS)
        )
        context = getattr(self._model.config, "max_position_embeddings", None)
        self._max_length = int(recorded.get("model.max_length", context or 4 * self.max_response_tokens))
        if self.max_response_tokens >= self._max_length:
            raise ConfigError(
                f"--max-response-tokens is {self.max_response_tokens}, and {policy.title} reads {self._max_length} "
                "tokens with the question; make it smaller"
            )

    def answer(
        self, dialogue: Conversation, draw: Sequence[str | int], on_text: Callable[[str], None] = lambda _: None
    ) -> ChatAnswer:
        """The answer to a dialogue's last turn.

        Args:
            dialogue: ends with a user's message. Its oldest turns are dropped where it is too long.
            draw: names this draw in the session.
            on_text: called with the text so far after each token.

        Raises:
            DataError: the last turn alone is too long, or the chat template refuses the dialogue.
        """
        read, _ = cut_to_fit(self._tokenizer, dialogue, self._max_length - self.max_response_tokens)
        (prompt,) = encode_prompts(self._tokenizer, [read])
        noise = sampling_noise(self._seed, [("chat", *draw)], self.max_response_tokens)
        ids: list[int] = []

        def hear(tokens: list[int]) -> None:
            ids.extend(tokens)
            on_text(self._text(ids))

        (response,) = sample(
            self._model, [prompt], noise, self._tokenizer, self._compute, self.temperature, on_tokens=hear
        )
        ended = response[-1] == self._tokenizer.eos_token_id
        return ChatAnswer(self.policy, read, self._text(response), len(response), ended)

    def _text(self, ids: Sequence[int]) -> str:
        return decode_responses(self._tokenizer, [ids])[0]


class Scorer:
    """The two reward models of a run."""

    def __init__(self, folder: Path, tokenizer: Path, compute: ComputeConfig) -> None:
        """Load them.

        Args:
            folder: the output of the reward models' stage.
            tokenizer: of the run.
            compute: device and precision.

        Raises:
            ModelError: one cannot be loaded.
        """
        self._tokenizer = load_tokenizer(tokenizer)
        self._models: Mapping[str, Any] = {name: load_reward_model(folder / name, compute) for name in REWARD_MODELS}
        self._compute = compute

    def score(self, answer: ChatAnswer) -> dict[str, float]:
        """Scores of an answer, by the name of the reward model; none of a dialogue that is longer than it reads."""
        rows = encode_dialogues(self._tokenizer, [answer.prompt], [answer.text], [answer.ended])
        scores = {}
        for name, model in self._models.items():
            try:
                scores[name] = float(score_rows(model, name, self._compute, rows, batch_size=1)[0])
            except ModelError:
                continue
        return scores
