"""Simulated raters, judges and critics, for trials with embedded data: they know its gold rule, and err.

They answer as others do: raters through MLflow's review page, judges and critics behind an OpenAI-compatible endpoint.
"""

import json
import math
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from rlhf.config.data import GoldName
from rlhf.config.feedback import SimulatedRatersConfig
from rlhf.config.judge import CriticConfig, JudgeConfig, SimulatedJudgeConfig, StepJudgeConfig
from rlhf.data.preparation.splits import prompt_key
from rlhf.evaluation.statistics import Estimate, mean_interval
from rlhf.feedback.comparisons import Comparison
from rlhf.feedback.guidelines import Guidelines, Level
from rlhf.feedback.rounds import Round, item_key
from rlhf.gold.registered import gold_rule
from rlhf.gold.rules import GoldRule
from rlhf.judges.endpoint import Endpoint
from rlhf.modeling.conversations import Conversation
from rlhf.modeling.device import derive_seed
from rlhf.progress import report_progress
from rlhf.tracking.reviews import ReviewRound

JUDGE = "simulated-judge"
CRITIC = "simulated-critic"
_MUCH = 1.0
"""Difference of gold rewards from which on an answer is much better."""
_QUESTION = re.compile(
    r"an assistant:\n\n(?:User: )?(?P<prompt>.*?)\n\n.*\n\n\(A\) (?P<first>.*)\n\n\(B\) (?P<second>.*)\n\nAnswer with",
    re.DOTALL,
)


def answer_as_raters(asked: Round, config: SimulatedRatersConfig, gold: GoldName, seed: int) -> None:
    """Have simulated raters answer what they are asked. What they have answered already stays.

    Args:
        asked: a round whose comparisons are in their queues.
        config: how often they err.
        gold: the rule that they know.
        seed: of their errors.
    """
    reviews = ReviewRound(asked.name)
    rule, done = gold_rule(gold), {rater: reviews.completed(rater) for rater in config.names}
    places = [(comparison, rater) for comparison in asked.comparisons for rater in comparison.annotators]
    for number, (comparison, rater) in enumerate(places, start=1):
        trace_id = reviews.trace_id(item_key(comparison, rater))
        if trace_id not in done[rater]:
            level = rated(comparison, asked.guidelines, rule, config.error_rate, rater, seed)
            reviews.answer(trace_id, asked.guidelines.question, level.says, rater, is_human=True)
            reviews.complete(rater, trace_id, rater)
        report_progress("feedback", number, len(places))


def rated(
    comparison: Comparison, guidelines: Guidelines, rule: GoldRule, error_rate: float, rater: str, seed: int
) -> Level:
    """The level that a rater chooses: by the rule, but for errors, which are the same at every call."""
    rng = np.random.default_rng(derive_seed(seed, rater, comparison.number))
    difference = preferred(rule, comparison.prompt, comparison.responses)
    errs, either = rng.random() < error_rate, 1.0 if rng.random() < 0.5 else -1.0
    if errs:
        difference = -difference or either
    side = "A" if difference > 0 else "B" if difference < 0 else "tie"
    levels = [level for level in guidelines.levels if level.prefers == side]
    if not levels:  # the guidelines know no tie
        levels = [level for level in guidelines.levels if level.prefers == ("A" if either > 0 else "B")]
    by_margin = sorted(levels, key=lambda level: level.margin)
    return by_margin[-1 if abs(difference) >= _MUCH else 0]


def preferred(rule: GoldRule, prompt: Conversation, responses: Sequence[str]) -> float:
    """Gold reward of the first of two responses, less that of the second."""
    first, second = rule.judge([prompt] * 2, responses).rewards.tolist()
    return float(first - second)


def mean_gold(comparisons: Sequence[Comparison], gold: GoldName) -> Estimate:
    """Mean gold reward of the answers that are compared, with its interval over prompts."""
    prompts = [comparison.prompt for comparison in comparisons for _ in comparison.responses]
    texts = [text for comparison in comparisons for text in comparison.responses]
    rewards = gold_rule(gold).judge(prompts, texts).rewards
    return mean_interval(rewards, [prompt_key(prompt) for prompt in prompts])


@contextmanager
def endpoint_of(
    config: StepJudgeConfig | CriticConfig, gold: GoldName | None, seed: int, kept: Path
) -> Iterator[Endpoint]:
    """The endpoint that a recipe's judge or critic is behind, within the block, be it simulated or not.

    Args:
        config: names the one or the other.
        gold: the rule that a simulated one knows.
        seed: of its errors.
        kept: folder of its answers, which are none to pay for again.
    """
    if config.endpoint is not None:
        yield Endpoint(config.endpoint)
        return
    assert config.simulated is not None, "the configuration sees to it"
    assert gold is not None, "the configuration sees to it"
    name = CRITIC if isinstance(config, CriticConfig) else JUDGE
    with simulated_endpoint(config.simulated, gold, seed, name) as simulated:
        yield Endpoint(simulated, kept)


@contextmanager
def simulated_endpoint(
    config: SimulatedJudgeConfig, gold: GoldName, seed: int, name: str = JUDGE
) -> Iterator[JudgeConfig]:
    """An endpoint on loopback that judges, criticizes and revises by a rule, within the block.

    Args:
        config: errors and bias.
        gold: the rule that it knows.
        seed: of its errors, which depend on nothing else but the question.
        name: of the model, as reports show it.
    """
    rule = gold_rule(gold)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            messages = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"]
            content = json.dumps(_completion(messages, rule, config, seed) | {"model": name}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield JudgeConfig(url=f"http://127.0.0.1:{server.server_address[1]}/v1", model=name)
    finally:
        server.shutdown()
        server.server_close()


def _completion(
    messages: Sequence[Mapping[str, str]], rule: GoldRule, config: SimulatedJudgeConfig, seed: int
) -> dict[str, Any]:
    text = messages[-1]["content"]
    rng = np.random.default_rng(derive_seed(seed, JUDGE, *(message["content"] for message in messages)))
    question = _QUESTION.search(text)
    logprobs = None
    if question is None:
        text = _written(messages, rule, errs=rng.random() < config.error_rate)
    else:
        prompt = [{"role": "user", "content": question["prompt"]}]
        difference = preferred(rule, prompt, [question["first"], question["second"]])
        sure = 1 - config.error_rate
        probability = 0.5 if difference == 0 else sure if (difference > 0) == (rng.random() < sure) else 1 - sure
        if rng.random() < config.position_bias:
            probability = sure
        text = "A" if probability > 0.5 else "B"
        tops = [
            {"token": letter, "logprob": math.log(share), "bytes": None}
            for letter, share in (("A", probability), ("B", 1 - probability))
            if share > 0
        ]
        logprobs = {"content": [{"token": text, "logprob": 0.0, "bytes": None, "top_logprobs": tops}], "refusal": None}
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": logprobs}
    return {"id": "1", "object": "chat.completion", "created": 0, "choices": [choice]}


def _written(messages: Sequence[Mapping[str, str]], rule: GoldRule, *, errs: bool) -> str:
    """A critique of the answer before the last message, or, after a critique, the revised answer."""
    assert rule.revise is not None, "the configuration sees to it"
    is_critique = len(messages) == 3
    *prompt, answer = messages[: 2 if is_critique else -3]
    revised = answer["content"] if errs else rule.revise(prompt, answer["content"])
    if not is_critique:
        return revised
    return "It is as it should be." if revised == answer["content"] else "It does not say how sure one can be of it."
