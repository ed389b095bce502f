"""PPO-ptx: its gradient against autograd by hand, and what it does to a policy."""

import json
from types import SimpleNamespace

import pytest
import torch
from interrupted import run_whole_and_broken
from safetensors.torch import load_file

from rlhf.config.rl import RLConfig
from rlhf.errors import DataError
from rlhf.modeling.context import StageContext
from rlhf.modeling.conversations import encode_pairs
from rlhf.modeling.models import load_policy
from rlhf.policy import distributed as processes
from rlhf.rl.ptx import corpus_loss, demonstration_loss, pack

PAIRS = [([6], [9, 10, 5]), ([6, 7, 8, 9], [11, 5]), ([7, 8], [9, 12, 13, 14, 15, 5])]
TOKENIZER = SimpleNamespace(pad_token_id=0)
NUM_TOKENS = 11


def config(**settings):
    return RLConfig(rollout_size=8, num_minibatches=2, **{"ptx_coef": 0.5, "ptx_batch_size": 3} | settings)


def losses(policy, pairs=PAIRS):
    """The loss of every completion token, row by row, without padding."""
    for prompt, completion in pairs:
        logprobs = policy(torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
        for place, token in enumerate(completion, start=len(prompt)):
            yield -logprobs[place - 1, token]


@pytest.fixture
def gradient(tiny_policy, tiny_setup):
    """The gradient that is added, of all weights in a row, and the loss."""

    def gradient(update=0, number=0, demonstrations=PAIRS, **settings):
        tiny_policy.zero_grad()
        context = StageContext(config(**settings), tiny_setup, TOKENIZER)
        loss = demonstration_loss(context, demonstrations, tiny_policy, update, number)
        return torch.cat([p.grad.reshape(-1) for p in tiny_policy.parameters()]), loss

    return gradient


def test_the_gradient_is_that_of_the_weighted_mean_token_loss(gradient, tiny_policy):
    found, loss = gradient()
    mean = sum(losses(tiny_policy)) / NUM_TOKENS
    expected = torch.autograd.grad(0.5 * mean, list(tiny_policy.parameters()))
    torch.testing.assert_close(found, torch.cat([g.reshape(-1) for g in expected]), rtol=1e-4, atol=1e-7)
    assert found.abs().max() > 1e-3
    assert loss == pytest.approx(mean.item(), rel=1e-6)


def test_it_is_added_to_what_is_there(gradient, tiny_policy, tiny_setup):
    once, _ = gradient()
    demonstration_loss(StageContext(config(), tiny_setup, TOKENIZER), PAIRS, tiny_policy, 0, 0)
    twice = torch.cat([p.grad.reshape(-1) for p in tiny_policy.parameters()])
    torch.testing.assert_close(twice, 2 * once)


def test_temperature_is_not_its_business(gradient):
    assert torch.equal(gradient(temperature=0.3)[0], gradient()[0])


@pytest.mark.parametrize("micro_batch_size", [1, 2])
def test_micro_batches_change_nothing_but_the_rounding(gradient, micro_batch_size):
    whole, loss = gradient()
    cut, cut_loss = gradient(micro_batch_size=micro_batch_size)
    torch.testing.assert_close(cut, whole, rtol=1e-4, atol=1e-7)
    assert cut_loss == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("num_processes", [2, 3, 5])
def test_shares_of_several_processes_add_up(gradient, monkeypatch, num_processes):
    """Each process has a part of the rows, in the last case two of them none."""
    whole, loss = gradient()
    parts = []
    for rank in range(num_processes):
        monkeypatch.setattr(processes, "local_rows", lambda rows, rank=rank: rows[rank::num_processes])
        parts.append(gradient() if rank < len(PAIRS) else None)
    there = [part for part in parts if part is not None]
    torch.testing.assert_close(sum(part for part, _ in there), whole, rtol=1e-4, atol=1e-7)
    assert sum(part for _, part in there) == pytest.approx(loss, rel=1e-6)


def test_a_share_without_rows_is_no_error(tiny_policy, tiny_setup, monkeypatch):
    monkeypatch.setattr(processes, "local_rows", lambda rows: rows[:0])
    assert demonstration_loss(StageContext(config(), tiny_setup, TOKENIZER), PAIRS, tiny_policy, 0, 0) == 0.0


def test_what_is_drawn_depends_on_seed_update_and_minibatch(gradient):
    many = [([6], [token, 5]) for token in range(6, 30)]
    drawn = [gradient(update, number, many)[1] for update, number in ((0, 0), (0, 1), (1, 0), (0, 0))]
    assert drawn[0] == drawn[3]
    assert len(set(drawn)) == 3


def test_by_default_as_many_are_drawn_as_a_minibatch_has_episodes(gradient, tiny_policy):
    many = [([6], [token, 5]) for token in range(6, 30)]
    _, loss = gradient(0, 0, many, ptx_batch_size=None)
    _, same = gradient(0, 0, many, ptx_batch_size=4)
    _, other = gradient(0, 0, many, ptx_batch_size=5)
    assert loss == same != other
    everything = gradient(0, 0, many, ptx_batch_size=1000)[1]
    assert everything == pytest.approx(sum(losses(tiny_policy, many)).item() / 48, rel=1e-5)


SETTINGS = {"num_updates": 8, "rollout_size": 32, "evaluate_every": 8, "learning_rate": 3e-3, "checkpoint_every": 2}


def demonstration_loss_after(run, tokenizer):
    """The mean token loss of the last policy on the training demonstrations."""
    policy = load_policy(run.start / "policy", run.setup.compute)
    policy.load_state_dict(load_file(run.folder / "checkpoints" / "update_000008" / "policy.safetensors"), strict=False)
    lines = (run.data / "demonstrations" / "train.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    pairs = encode_pairs(tokenizer, [row["prompt"] for row in rows], [row["completion"] for row in rows])
    with torch.no_grad():
        found = list(losses(policy, pairs))
    return float(sum(found)) / len(found)


def test_a_policy_does_not_forget_the_demonstrations(tiny_run, tiny_tokenizer):
    without, beside = tiny_run("without"), tiny_run("beside")
    without(**SETTINGS)
    beside(**SETTINGS, ptx_coef=1.0)
    assert demonstration_loss_after(beside, tiny_tokenizer) < demonstration_loss_after(without, tiny_tokenizer) - 0.5
    curve = beside.curve("policy/ptx_loss")
    assert set(curve) == set(range(2, 9)), "while the critic learns alone there is none"
    assert curve[8] < curve[2] - 0.5
    assert not without.curve("policy/ptx_loss")


@pytest.mark.parametrize("sharing", ["none", "trunk"])
def test_an_interrupted_run_goes_on_to_the_same_bits(tiny_run, sharing):
    settings = SETTINGS | {"ptx_coef": 1.0, "ptx_batch_size": 5, "sharing": sharing}
    whole, broken = run_whole_and_broken(tiny_run, 5, **settings)
    assert broken.curve("policy/ptx_loss") == whole.curve("policy/ptx_loss")


def write_corpus(run):
    """Sums in words of the vocabulary that no demonstration has."""
    for split, texts in (("train", range(8)), ("validation", range(8, 10))):
        path = run.data / "corpus" / f"{split}.jsonl"
        path.parent.mkdir(exist_ok=True)
        rows = [{"text": f"please verify the answer is {n} + {n} , but I believe is What ? " * 4} for n in texts]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_texts_are_packed_into_blocks(tiny_tokenizer):
    texts = ["What is 7 + 5 ?", "I believe", "The answer is 12 ."]
    ids = [token for text in texts for token in (*tiny_tokenizer(text)["input_ids"], tiny_tokenizer.eos_token_id)]
    blocks = pack(tiny_tokenizer, texts, 4)
    assert [prompt + rest for prompt, rest in blocks] == [ids[n : n + 4] for n in range(0, len(ids) - 3, 4)]
    assert {len(prompt) for prompt, _ in blocks} == {1}
    assert pack(tiny_tokenizer, texts[1:2], 48) == [(ids[7:8], ids[8:10])], "a corpus that fills no block is one"
    assert pack(tiny_tokenizer, [], 4) == []


def test_loss_of_a_corpus_is_the_mean_over_its_tokens(tiny_policy, tiny_setup):
    context = StageContext(config(micro_batch_size=1), tiny_setup, TOKENIZER)
    found = corpus_loss(context, PAIRS, tiny_policy)
    assert found == pytest.approx(sum(losses(tiny_policy)).item() / NUM_TOKENS, rel=1e-5)


def test_the_alignment_tax_is_measured_with_and_without(tiny_run):
    taxes = {}
    for name, settings in (("without", {}), ("beside", {"ptx_coef": 1.0, "ptx_source": "corpus"})):
        run = tiny_run(name)
        write_corpus(run)
        run(**SETTINGS, **settings)
        (losses_of_run,) = (metrics for metrics, _ in run.logged if "policy/corpus_loss" in metrics)
        taxes[name] = losses_of_run["policy/corpus_loss"] - losses_of_run["policy/corpus_loss_before"]
        if settings:
            curve = run.curve("policy/ptx_loss")
            assert curve[8] < curve[2] - 0.5
    assert taxes["beside"] < taxes["without"] - 0.3


def test_an_interrupted_run_on_a_corpus_goes_on_to_the_same_bits(tiny_run):
    write_corpus(tiny_run())
    settings = SETTINGS | {"ptx_coef": 1.0, "ptx_batch_size": 3, "ptx_source": "corpus"}
    whole, broken = run_whole_and_broken(tiny_run, 5, **settings)
    assert broken.curve("policy/ptx_loss") == whole.curve("policy/ptx_loss")


def test_without_a_corpus_it_is_refused(tiny_run):
    with pytest.raises(DataError, match=r"corpus.jsonl: rl.ptx_source is corpus, but the data has no corpus to learn"):
        tiny_run()(ptx_coef=1.0, ptx_source="corpus")


def test_without_demonstrations_it_is_refused(tiny_run):
    run = tiny_run()
    (run.data / "demonstrations" / "train.jsonl").write_text("")
    with pytest.raises(DataError, match=r"train.jsonl: there are no demonstrations for PPO-ptx; set rl.ptx_coef to 0"):
        run(ptx_coef=1.0)
    run(num_updates=2)
