"""A world whose best policy is a finite sum: the sum itself, PPO beside it, and faults that must not get there."""

import json
import random

import pytest
import torch

from benchmarks import optimum, optimum_report, records
from benchmarks.closed_form import NUM_TOKENS, PROMPTS, grow_tree, make_world, solve
from benchmarks.optimum import CASES, FAULTY, PARTS
from benchmarks.optimum_report import Cell
from benchmarks.optimum_runs import Budget, Case, ascend, config_of, load, run_method

KL_COEF = 0.5


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def world(request, tmp_path_factory):
    return make_world(7, request.param, tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def tree(world):
    return grow_tree(world)


@pytest.fixture(scope="module")
def models(world):
    return load(world, config_of(Case(world.setup.compute.dtype, "none", 0.7)))


@pytest.fixture(scope="module")
def closed(world, tree, models):
    return solve(world, tree, models.ref_policy, KL_COEF, temperature=0.7)


def test_all_responses_are_there_once(tree, world):
    size, eos = len(world.tokenizer), world.tokenizer.eos_token_id
    assert len(tree.responses) == len(set(map(tuple, tree.responses))) == 1 + 15 + 15 * 15 * 16 == 3616
    assert size == 16
    assert all(eos not in response[:-1] for response in tree.responses)
    assert all(response[-1] == eos for response in tree.responses if len(response) < NUM_TOKENS)


def test_probabilities_add_up_to_one(closed):
    one = torch.ones(len(PROMPTS), dtype=torch.float64)
    torch.testing.assert_close(closed.ref_logprobs.exp().sum(1), one)
    torch.testing.assert_close(closed.optimum.exp().sum(1), one)


def test_the_pass_over_the_tree_is_the_pass_over_each_response(world, tree, models, closed):
    from rlhf.modeling.precision import autocast

    allowed = 1e-5 if world.setup.compute.dtype == "fp32" else 0.05
    for row, prompt in enumerate(world.prompts.ids):
        for number in random.Random(row).sample(range(len(tree.responses)), 20):
            response = tree.responses[number]
            with torch.no_grad(), autocast(world.setup.compute):
                logits = models.ref_policy(input_ids=torch.tensor([[*prompt, *response]])).logits[0].double() / 0.7
            logprobs = logits[len(prompt) - 1 : -1].log_softmax(-1)
            total = logprobs.gather(1, torch.tensor(response)[:, None]).sum()
            assert float(total) == pytest.approx(float(closed.ref_logprobs[row, number]), abs=allowed)


def test_the_optimum_is_what_backward_induction_finds(world, tree, models, closed):
    """Soft values from the last token to the first: V = kl_coef * log sum(reference * exp(Q / kl_coef))."""
    states = tree.state_logprobs(models.ref_policy, world.setup.compute, 0.7).detach()
    k, eos, on = len(tree.goes_on), tree.eos, tree.goes_on

    def soft(logprobs, worth):
        return KL_COEF * (logprobs + worth / KL_COEF).logsumexp(-1)

    scores = {tuple(response): closed.scores[:, number] for number, response in enumerate(tree.responses)}

    def worth_of(state, following):
        worth = torch.empty(len(PROMPTS), len(world.tokenizer), dtype=torch.float64)
        for token in range(len(world.tokenizer)):
            ended = token == eos or len(state) == NUM_TOKENS - 1
            worth[:, token] = scores[(*state, token)] if ended else following[token]
        return worth

    values = {}
    for i, first in enumerate(on.tolist()):
        for j, second in enumerate(on.tolist()):
            values[first, second] = soft(states[:, 1 + k + i * k + j], worth_of((first, second), {}))
        following = {second: values[first, second] for second in on.tolist()}
        values[first,] = soft(states[:, 1 + i], worth_of((first,), following))
    value = soft(states[:, 0], worth_of((), {first: values[first,] for first in on.tolist()}))
    torch.testing.assert_close(closed.values, value)


def test_a_table_of_free_logits_climbs_to_the_optimum(tree, closed):
    table = torch.zeros(len(PROMPTS), tree.num_states, 16, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([table], lr=0.1)
    for _ in range(250):
        objective = closed.objective(tree.response_logprobs(table.log_softmax(-1)))
        (-objective).backward()
        optimizer.step()
        optimizer.zero_grad()
    best = float(closed.values.mean())
    assert best - 2e-3 < float(objective.detach()) <= best + 1e-12


def test_what_a_policy_lacks_is_its_kl_to_the_optimum(closed):
    other = (closed.ref_logprobs + 0.3 * closed.scores).log_softmax(-1)
    exact = closed.measure(other)
    assert exact.objective == pytest.approx(float(closed.objective(other)), abs=1e-12)
    assert float(closed.values.mean()) - exact.objective == pytest.approx(KL_COEF * exact.to_optimum, abs=1e-9)
    assert closed.share(float(closed.objective(closed.optimum))) == pytest.approx(1.0)
    assert closed.measure(closed.ref_logprobs).kl == 0.0


def test_moments_are_those_of_samples(closed):
    exact = closed.measure(closed.optimum)
    drawn = torch.multinomial(
        closed.optimum.exp(), 40_000, replacement=True, generator=torch.Generator().manual_seed(1)
    )
    scores = closed.scores.gather(1, drawn)
    assert float(scores.mean()) == pytest.approx(exact.score, abs=0.01)
    assert float(scores.var(1).mean()) == pytest.approx(exact.score_variance, rel=0.03)


SHORT = Budget(num_updates=60, rollout_size=256)


def test_ppo_reaches_nine_tenths_of_the_optimum_in_a_short_run():
    ended = run_method(Case("fp32", "none", 1.0), seed=0, budget=SHORT)
    assert ended.share >= 0.9
    start, end = ended.kl_to_optimum
    assert ended.share == pytest.approx(1.0 - end / start, abs=1e-6)
    assert len(ended.curve) == SHORT.num_updates + 1
    assert ended.curve[0] == 0.0
    for surprise in (ended.score, ended.kl):
        assert surprise.beyond <= 9  # of 60, where 3 are expected; 10 or more come once in 2,000 runs
        assert abs(surprise.mean) < 4 / surprise.num**0.5


def test_a_planted_fault_does_not_get_there():
    ended = run_method(Case("fp32", "none", 1.0, "value-after-token"), seed=0, budget=Budget(30, 128))
    assert ended.share < 0.6


@pytest.mark.parametrize("method", ["rloo", "dr_grpo", "grpo"])
def test_a_method_without_a_critic_gets_there_too_and_not_with_a_fault(method):
    ended = run_method(Case("fp32", "none", 1.0, "", method), seed=0, budget=Budget(40, 128))
    faulty = run_method(Case("fp32", "none", 1.0, "handed-on", method), seed=0, budget=Budget(10, 128))
    assert ended.share >= 0.85
    assert faulty.share < 0.3


def test_a_reference_without_temperature_is_refused_at_the_start():
    ended = run_method(Case("fp32", "none", 0.7, "reference-at-T1"), seed=0, budget=Budget(4, 64))
    assert ended.refused == "start_kl"
    assert ended.share is None


@pytest.mark.parametrize("sharing", ["none", "trunk", "adapters"])
def test_exact_ascent_climbs_with_every_kind_of_sharing(sharing):
    case = Case("bf16", sharing, 0.7).ascent
    assert case == Case("fp32", "adapters" if sharing == "adapters" else "none", 0.7)
    ended = ascend(case, seed=0, budget=Budget(6, 64))
    assert 0.3 < ended.share <= 1.0


def made_row(case, seed, share, **fields):
    row = {
        "session": "s",
        "kind": "method",
        "case": case.name,
        "seed": seed,
        "dtype": case.dtype,
        "sharing": case.sharing,
    }
    row |= {"temperature": case.temperature, "fault": case.fault, "share": share, "kl_to_optimum": [1.0, 0.03]}
    surprise = {"num": 100, "mean": 0.01, "beyond": 5}
    row |= {"ceiling": 0.99, "seconds": 20.0, "score": surprise, "kl": surprise, "refused": "", "curve": [0.0, share]}
    return row | {"when": "2026-01-01 00:00", "commit": "abc1234", "machine": "a machine"} | fields


def made_rows():
    refused = {"share": None, "kl_to_optimum": None, "score": None, "kl": None, "refused": "start_kl", "curve": []}
    for seed in (1, 0):
        for sharing in ("trunk", "none", "adapters"):
            yield made_row(Case("fp32", sharing, 1.0), seed, 0.976 + 0.002 * seed)
        yield made_row(Case("fp32", "none", 1.0, "eos-masked"), seed, 0.6)
        yield made_row(Case("fp32", "none", 0.7, "reference-at-T1"), seed, **refused)
        yield made_row(Case("fp32", "none", 1.0), seed, 0.99, kind="ascent", ceiling=None)


def test_a_cell_is_met_by_its_mean_and_by_its_lowest_seed():
    case = Case("bf16", "none", 1.0)

    def met(*shares, case=case, **fields):
        return Cell([made_row(case, seed, share, **fields) for seed, share in enumerate(shares)]).met

    assert met(0.975, 0.966)  # 0.9705 in the mean, where 0.97 is wanted
    assert not met(0.973, 0.966)
    assert not met(0.999, 0.949)
    assert not met(0.99, 0.99, refused="start_kl")
    faulty = Case("fp32", "none", 1.0, "eos-masked")
    assert met(0.6, 0.74, case=faulty)
    assert not met(0.6, 0.76, case=faulty)
    assert met(None, None, case=faulty, refused="start_kl")


def test_report_prints_draws_and_writes(tmp_path, monkeypatch, capsys):
    written = {}
    monkeypatch.setattr(optimum_report, "_PICTURES", tmp_path / "pictures")
    monkeypatch.setattr(optimum_report.readme, "write_part", lambda name, new: written.update({name: new}))
    monkeypatch.setattr(optimum_report, "write_claim", lambda percent: written.update(percent=percent))
    optimum_report.report("optimum", list(made_rows()))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["case"] for line in lines] == [
        "fp32-none-T1",
        "fp32-trunk-T1",
        "fp32-adapters-T1",
        "fp32-none-T1-eos-masked",
        "fp32-none-T0.7-reference-at-T1",
    ]
    assert lines[0]["share"] == 0.977
    assert lines[0]["kl_to_optimum"] == [1.0, 0.03]
    assert lines[-1]["refused"] == ["start_kl", "start_kl"]
    assert (tmp_path / "pictures" / "optimum.png").stat().st_size > 10_000
    assert "| `fp32-trunk-T1` | 97.7% | 97.6% | 99.0% | 1.00 | 0.030 | 20 | met |" in written["optimum"]
    assert "| refused by `start_kl` |" in written["optimum"]
    assert "30 of 600 updates (5.0%)" in written["optimum"]
    assert written["percent"] == 97


def test_readme_says_what_was_recorded():
    claimed = optimum_report.CLAIM.findall((records.ROOT / "README.md").read_text(encoding="utf-8"))
    rows = records.read_rows(PARTS["ppo"].results)
    if not rows:
        pytest.skip("nothing is recorded; `make bench-optimum` does, and writes README.md's figure")
    newest = [row for row in rows if row["session"] == rows[-1]["session"]]
    found = optimum_report.cells(newest)
    assert {cell.name for cell in found} == {case.name for case in (*CASES, *FAULTY)}
    assert claimed == [str(optimum_report.claimed_percent(found))]


def test_a_claim_that_is_gone_is_not_written_past(tmp_path):
    page = tmp_path / "README.md"
    page.write_text("It reaches 12% of an optimum that is known in closed form.\n")
    optimum_report.write_claim(98, page)
    assert page.read_text() == "It reaches 98% of an optimum that is known in closed form.\n"
    page.write_text("Nothing.\n")
    with pytest.raises(ValueError, match="put the sentence back"):
        optimum_report.write_claim(98, page)


def test_what_was_done_is_not_done_again(monkeypatch):
    done = [made_row(case, 1, 0.99, kind="ascent") for case in PARTS["ppo"].ascents]
    done += [made_row(case, 1, 0.98) for case in CASES]
    jobs = optimum._jobs(PARTS["ppo"], 1)
    ran = list(optimum._measure(jobs, "s", Budget(4, 64), 1, done))
    assert [run.case for run in ran] == [case.name for case in FAULTY]
    assert [run.ceiling for run in ran] == [0.99] * len(FAULTY)
    assert ran[-1].refused == "start_kl"
