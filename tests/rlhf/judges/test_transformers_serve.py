"""A judge behind `transformers serve`, which gives no probabilities: a model that says A whatever it is asked."""

import os
import subprocess
import sys
import time

import httpx
import pytest
from known_models import SETUP, saying_policy
from ports import free_port

from rlhf.config.judge import JudgeConfig
from rlhf.judges.endpoint import Endpoint
from rlhf.judges.grading import GradedAnswer, grade_answers
from rlhf.judges.preference import Pair, count_places, judge_pairs
from rlhf.modeling.models import save_model
from rlhf.modeling.tokenizer import prepare_tokenizer

pytestmark = pytest.mark.soak


@pytest.fixture
def served(tmp_path):
    tokenizer = prepare_tokenizer(SETUP.model, ["A", "B", "What is 1 + 1 ?"])[0]
    save_model(saying_policy(tokenizer, "A"), tokenizer, tmp_path / "model")
    port = free_port()
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(tmp_path / "model")]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    process = subprocess.Popen(command, env=os.environ | {"HF_HUB_OFFLINE": "1"}, stdout=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    for _ in range(3000):
        try:
            httpx.get(f"{address}/health").raise_for_status()
            break
        except httpx.HTTPError:
            assert process.poll() is None
            time.sleep(0.1)
    yield JudgeConfig(url=f"{address}/v1", model=str(tmp_path / "model"), concurrency=2)
    process.kill()
    process.wait()


def test_a_model_that_always_says_a(served, tmp_path):
    pairs = [Pair(f"User: {n}", f"one {n}", f"other {n}", "Which of the following is better?") for n in range(10)]
    endpoint = Endpoint(served, tmp_path)
    judgments = judge_pairs(endpoint, pairs, both_orders=True)
    assert {judgment.by_order for judgment in judgments} == {(1.0, 0.0)}
    assert all(judgment.is_tie for judgment in judgments)
    assert count_places(judgments) == {"first place": 10}
    assert grade_answers(endpoint, [GradedAnswer("User: 1", "one", "Be good.")]) == [None]
