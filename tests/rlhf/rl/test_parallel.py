import dataclasses
import threading

import pytest
import torch

from rlhf.config.model import ComputeConfig, LoraConfig
from rlhf.config.pipeline import PipelineConfig
from rlhf.config.rl import RLConfig
from rlhf.config.supervised import RewardModelConfig
from rlhf.errors import ConfigError
from rlhf.modeling.cpu.parallel import side_by_side
from rlhf.rl.update import run_update

CONFIG = RLConfig(rollout_size=8, num_minibatches=2, max_response_tokens=6, num_critic_warmup_updates=1)
TWO = ComputeConfig(num_threads=2, dtype="fp32")


@pytest.fixture(autouse=True)
def _threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def updates(make_learner, num_threads, **settings):
    """Metrics of three updates, the first of them the critic's alone, and the weights that they leave."""
    learner = make_learner(CONFIG, **settings)
    compute = learner.compute.model_copy(update={"num_threads": num_threads})
    learner = dataclasses.replace(learner, setup=learner.setup.model_copy(update={"compute": compute}))
    torch.set_num_threads(num_threads)
    metrics = [run_update(learner, update, 0.1).metrics for update in range(3)]
    models = learner.models
    return metrics, [p.detach() for p in (*models.policy_parameters.values(), *models.value_parameters.values())]


def test_both_are_called_at_once_each_on_half_of_the_threads():
    together = threading.Barrier(2, timeout=30)

    def look():
        together.wait()
        return threading.get_ident(), torch.get_num_threads()

    first, second = side_by_side(ComputeConfig(num_threads=4), look, look)
    assert first == (threading.get_ident(), 2)
    assert second[1] == 2
    assert second[0] != first[0]
    assert torch.get_num_threads() == 4


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_of_either_is_raised_here_and_the_threads_come_back(failing):
    def fail():
        raise FloatingPointError("not finite")

    work = [lambda: None, lambda: None]
    work[failing] = fail
    with pytest.raises(FloatingPointError, match="not finite"):
        side_by_side(TWO, *work)
    assert torch.get_num_threads() == 2


def test_an_interrupt_does_not_wait_for_the_other():
    go_on, ended = threading.Event(), threading.Event()

    def interrupt():
        raise KeyboardInterrupt

    def wait():
        go_on.wait(30)
        ended.set()

    with pytest.raises(KeyboardInterrupt):
        side_by_side(TWO, interrupt, wait)
    assert not ended.is_set()
    go_on.set()
    assert ended.wait(30)


def test_side_by_side_learns_what_one_after_the_other_learns(make_learner):
    # One thread a model either way, so that even the bits agree.
    metrics, weights = updates(make_learner, num_threads=1)
    metrics_together, weights_together = updates(make_learner, num_threads=2, side_by_side=True)
    assert metrics_together == metrics
    assert all(torch.equal(a, b) for a, b in zip(weights, weights_together, strict=True))


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        ({"num_threads": 3}, r"compute.num_threads is 3; make it even"),
        ({"num_threads": 2, "num_processes": 2}, r"for one process, but compute.num_processes is 2"),
        ({"device": "cuda"}, r"compute.device is cuda"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(tiny_run, compute, message):
    ppo = {"rollout_size": 16, "num_minibatches": 2, "side_by_side": True}
    with pytest.raises(ValueError, match=message):
        PipelineConfig(rl=RLConfig(**ppo), compute=ComputeConfig(**compute))
    run = tiny_run()
    run.setup = run.setup.model_copy(update={"compute": ComputeConfig(**compute)})
    with pytest.raises(ConfigError, match=message):
        run(**ppo)


@pytest.mark.parametrize("sharing", ["trunk", "adapters"])
def test_models_that_share_are_refused(sharing):
    lora = LoraConfig(dropout=0.0)
    with pytest.raises(ValueError, match=f"sharing is {sharing}"):
        PipelineConfig(
            reward_model=RewardModelConfig(lora=lora), rl=RLConfig(lora=lora, sharing=sharing, side_by_side=True)
        )
