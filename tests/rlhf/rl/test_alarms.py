"""Every alarm is provoked: in real tiny runs where that can be, by metrics alone where it cannot."""

import json
import re
from dataclasses import asdict
from typing import ClassVar

import pytest
import torch
from interrupted import contents
from transformers import AutoModelForCausalLM

from rlhf.config.model import ComputeConfig
from rlhf.config.rl import AlarmsConfig
from rlhf.errors import StartError
from rlhf.modeling.models import save_model
from rlhf.policy.alarms import AlarmState, watch_evaluations, watch_update

CALM = {
    "policy/kl_mean": 0.5,
    "policy/entropy": 1.0,
    "policy/eos_rate": 0.9,
    "policy/response_tokens_mean": 10.0,
    "policy/explained_variance": 0.3,
    "policy/value_clip_fraction": 0.1,
    "policy/policy_loss": 0.01,
}
CONFIG = AlarmsConfig()
LOUD = {"patience": 2, "fatal": ()}
GREEDY = {"learning_rate": 2e-2, "kl_coef": 0.0, "learning_rate_schedule": "constant", "missing_eos_penalty": 0.0}


def summary(run):
    return json.loads((run.folder / "output" / "summary.json").read_text())


def raised(run):
    return {alarm["name"]: alarm for alarm in summary(run)["alarms"]}


def watch(*changes, config=CONFIG):
    """The alarms of a run whose first update is calm, by update."""
    memory, alarms = AlarmState(), []
    for update, change in enumerate([{}, *changes], start=1):
        memory, new = watch_update(config, memory, CALM | change, update)
        alarms += new
    assert memory.raised == [asdict(alarm) for alarm in alarms]
    return alarms


class TestByMetrics:
    @pytest.mark.parametrize(
        ("name", "bad", "good", "words"),
        [
            ("negative_kl", {"policy/kl_mean": -0.6}, {"policy/kl_mean": -0.4}, "temperature, masks and EOS"),
            ("entropy_collapse", {"policy/entropy": 0.09}, {"policy/entropy": 0.11}, "raise kl_coef or entropy_coef"),
            (
                "eos_rate_fall",
                {"policy/eos_rate": 0.69},
                {"policy/eos_rate": 0.71},
                "from 90% to 69%.*missing_eos_penalty",
            ),
            (
                "length_growth",
                {"policy/response_tokens_mean": 20.1},
                {"policy/response_tokens_mean": 19.9},
                "from 10.0 to 20.1 tokens.*length_penalty",
            ),
            (
                "explained_variance",
                {"policy/explained_variance": -0.1},
                {"policy/explained_variance": 0.0},
                "value_learning",
            ),
            (
                "value_clipping",
                {"policy/value_clip_fraction": 0.51},
                {"policy/value_clip_fraction": 0.5},
                "value_clip_range",
            ),
        ],
    )
    def test_it_goes_off_once_its_condition_has_held_for_some_updates(self, name, bad, good, words):
        (alarm,) = watch(bad, bad, bad, bad, bad, bad)
        assert (alarm.name, alarm.update, alarm.fatal) == (name, 5, name == "negative_kl")
        assert re.search(words, alarm.message)
        assert watch(bad, bad, bad, good, bad, bad, bad) == []
        assert watch(good, good, good, good, good) == []
        assert [alarm.update for alarm in watch(*[bad] * 5, good, *[bad] * 4)] == [5, 11], "again, once it had ended"
        off = CONFIG.model_copy(update={name: None})
        assert watch(bad, bad, bad, bad, bad, config=off) == []

    def test_while_only_the_critic_learns_its_variance_is_no_alarm(self):
        warming_up = {name: value for name, value in CALM.items() if name != "policy/policy_loss"}
        memory = AlarmState()
        for update in range(1, 9):
            memory, alarms = watch_update(CONFIG, memory, warming_up | {"policy/explained_variance": -1.0}, update)
            assert alarms == []

    def test_one_rollout_cannot_hide_the_start(self):
        """Thresholds compare with the first rollout, not with the one before: a slow fall is seen."""
        fall = [{"policy/entropy": 0.8**update} for update in range(1, 16)]
        assert [alarm.update for alarm in watch(*fall)] == [15]

    def test_several_go_off_together(self):
        bad = {
            "policy/kl_mean": -3.0,
            "policy/entropy": 0.0,
            "policy/eos_rate": 0.0,
            "policy/response_tokens_mean": 99.0,
        }
        names = {alarm.name for alarm in watch(bad, bad, bad, bad)}
        assert names == {"negative_kl", "entropy_collapse", "eos_rate_fall", "length_growth"}

    @pytest.mark.parametrize("split", range(1, 12))
    def test_a_memory_that_went_through_json_remembers_all(self, split):
        bad = {"policy/entropy": 0.01}
        metrics = [CALM | change for change in ({}, {}, bad, bad, bad, bad, {}, bad, bad, bad, bad, bad)]
        evaluations = [point(update, update * 0.1, -0.06 * update) for update in range(13)]

        def go(memory, first, last):
            for update in range(first, last):
                memory, _ = watch_update(CONFIG, memory, metrics[update], update + 1)
                memory, _ = watch_evaluations(CONFIG, memory, evaluations[: update + 2], 20.0)
            return memory

        whole = go(AlarmState(), 0, 12)
        before = go(AlarmState(), 0, split)
        assert go(AlarmState(**json.loads(json.dumps(asdict(before)))), split, 12) == whole
        assert [alarm["name"] for alarm in whole.raised] == ["overoptimization", "entropy_collapse", "entropy_collapse"]


def point(update, score, objective):
    """An evaluation of four prompts; a difference to another one has a standard error of 0.01 times their distance."""
    spread = 0.01 * 3**0.5 * update
    evaluation = {"update": update, "score": score, "objective": objective, "kl": 1.0}
    return evaluation | {
        f"{name}s": [evaluation[name] + spread * sign for sign in (-1, 1, -1, 1)] for name in ("score", "objective")
    }


class TestEvaluations:
    def watch(self, *points, config=CONFIG):
        memory, alarms = AlarmState(), []
        for number in range(len(points)):
            memory, new = watch_evaluations(
                config, memory, [point(4 * i, *p) for i, p in enumerate(points)][: number + 1], 20.0
            )
            alarms += new
        return alarms

    def test_a_score_that_rises_while_evidence_falls(self):
        (alarm,) = self.watch((0.0, 0.0), (1.0, 0.5), (2.0, 0.45), (3.0, 0.2), (4.0, 0.0))
        assert (alarm.name, alarm.update, alarm.fatal) == ("overoptimization", 12, False)
        assert (
            "rose from 1.00 (update 4) to 3.00, by 25.0 standard errors, while held-out evidence fell from 0.50 to 0.20"
            in alarm.message
        )
        assert "by 3.8 standard errors" in alarm.message

    def test_the_units_of_the_score_make_no_difference(self):
        """Evidence in units of a tenth, with the noise that it then has, sets off the same alarm, and no other."""
        for scale in (0.1, 1.0, 30.0):
            points = [point(4 * i, scale * s, o) for i, (s, o) in enumerate([(0, 0), (1, 0.5), (2, 0.45), (3, 0.2)])]
            scaled = [p | {"objective": scale * p["objective"]} for p in points]
            for p, unscaled in zip(scaled, [point(4 * i, s, 0) for i, s in enumerate(range(4))], strict=True):
                p["objectives"] = [scale * value for value in p["objectives"]]
                p["scores"] = [scale * value for value in unscaled["scores"]]
            assert [alarm.update for alarm in watch_evaluations(CONFIG, AlarmState(), scaled, 20.0)[1]] == [12]
            assert watch_evaluations(CONFIG, AlarmState(), scaled[:3], 20.0)[1] == []

    def test_a_score_that_rose_within_its_noise_did_not_rise(self):
        assert self.watch((0.0, 0.0), (1.0, 0.5), (2.0, 0.45), (1.2, 0.0)) == []

    def test_both_falling_is_another_matter(self):
        assert self.watch((0.0, 0.0), (1.0, 0.5), (0.9, 0.0)) == []
        assert self.watch((0.0, 0.0), (1.0, 0.5), (2.0, 0.41)) == []
        assert self.watch((0.0, 0.0), (1.0, 0.5), (2.0, 0.0), config=AlarmsConfig(overoptimization=None)) == []

    def test_an_update_between_two_evaluations_does_not_end_it(self):
        memory, alarms = watch_evaluations(CONFIG, AlarmState(), [point(0, 0.0, 0.0), point(4, 1.0, -1.0)], 20.0)
        assert len(alarms) == 1
        memory, _ = watch_update(CONFIG, memory, CALM, 5)
        assert watch_evaluations(CONFIG, memory, [point(0, 0.0, 0.0), point(8, 2.0, -2.0)], 20.0)[1] == []


class TestInRealRuns:
    def test_a_sound_run_raises_none(self, tiny_run):
        run = tiny_run()
        run(num_updates=12, rollout_size=64, learning_rate=3e-4, value_learning_rate=3e-3, evaluate_every=4)
        assert summary(run)["alarms"] == []
        assert [m for m, step in run.logged if step is None][-1] == {"policy/num_alarms": 0}

    def test_a_huge_learning_rate_collapses_the_entropy(self, tiny_run, caplog):
        run = tiny_run()
        run(num_updates=10, rollout_size=32, alarms=LOUD, **GREEDY)
        alarm = raised(run)["entropy_collapse"]
        assert "the policy says one thing only" in alarm["message"]
        assert run.curve("policy/entropy")[alarm["update"]] < 0.1 * run.curve("policy/entropy")[1]
        assert f"alarm entropy_collapse after update {alarm['update']}: the entropy fell" in caplog.text
        (flag,) = [flag for flag in summary(run)["flags"] if "entropy" in flag]
        assert flag == f"Alarm `entropy_collapse` after update {alarm['update']}: {alarm['message']}."
        assert summary(run)["stopped_because"] == "finished"
        assert {"policy/num_alarms": len(raised(run))} in [metrics for metrics, _ in run.logged]

    def test_a_reward_model_that_hates_eos_makes_fewer_responses_end(self, tiny_run, tiny_tokenizer, like_last_token):
        run = tiny_run()
        like_last_token(run.reward_models / "reward_model", tiny_tokenizer.eos_token_id, -2.0)
        run(num_updates=10, rollout_size=32, max_response_tokens=24, alarms=LOUD, **GREEDY | {"learning_rate": 5e-3})
        assert "the score likes them unfinished, or longer" in raised(run)["eos_rate_fall"]["message"]

    def test_a_source_that_loves_length_makes_it_run_away(self, tiny_run, install):
        install(
            "def wordy(p, responses):\n    return [len(text) / 10 for text in responses]\n", "wordy = my_rewards:wordy"
        )
        run = tiny_run()
        run(
            num_updates=8,
            rollout_size=64,
            max_response_tokens=32,
            value_learning_rate=1e-2,
            gae_lambda=1.0,
            rewards=({"kind": "function", "name": "wordy"},),
            alarms=LOUD | {"length_growth": 1.3},
            **GREEDY,
        )
        assert "set length_penalty" in raised(run)["length_growth"]["message"]

    def test_a_selection_model_that_disagrees_sees_overoptimization(self, tiny_run, tiny_tokenizer, like_last_token):
        run = tiny_run()
        like_last_token(run.reward_models / "selection_reward_model", tiny_tokenizer.eos_token_id, -2.0)
        run(num_updates=12, rollout_size=32, evaluate_every=3, alarms={"fatal": ["overoptimization"]}, **GREEDY)
        alarm = raised(run)["overoptimization"]
        assert alarm["fatal"]
        assert summary(run)["stopped_because"] == "overoptimization"
        assert summary(run)["num_updates"] == alarm["update"] < 12
        assert summary(run)["chosen_update"] == 0
        assert any(flag.endswith("It ended the run.") for flag in summary(run)["flags"])

    def test_a_run_stops_after_its_turn_where_it_is_asked_to(self, tiny_run, tiny_tokenizer, like_last_token):
        """The reward model likes EOS, the selection model does not, and the selection score falls from the start."""
        run, unasked = tiny_run(), tiny_run("unasked")
        like_last_token(run.reward_models / "selection_reward_model", tiny_tokenizer.eos_token_id, -2.0)
        settings = {"num_updates": 14, "rollout_size": 32, "evaluate_every": 2, **GREEDY}
        run(stop_after_turn=2, **settings)
        unasked(**settings)
        assert (summary(run)["stopped_because"], summary(unasked)["stopped_because"]) == ("turn", "finished")
        ended = summary(run)["num_updates"]
        assert 4 <= ended < 14
        assert run.evaluations() == unasked.evaluations()[: len(run.evaluations())]
        (flag,) = [flag for flag in summary(run)["flags"] if flag.startswith("Training was stopped early.")]
        assert f"to update {ended} the score went on rising" in flag

    def test_a_value_model_that_knows_nothing_explains_less_than_nothing(
        self, tiny_run, tiny_tokenizer, like_last_token
    ):
        """It says 8 after one word and 0 after the others, whatever is to come, and learns nothing."""
        run = tiny_run()
        like_last_token(run.reward_models / "reward_model", tiny_tokenizer.convert_tokens_to_ids("▁answer"), 8.0)
        rewards = ({"weight": 1e-3},)
        run(num_updates=6, rewards=rewards, value_learning_rate=1e-12, alarms=LOUD, gae_lambda=1.0, kl_coef=0.0)
        assert "worse than their mean does" in raised(run)["explained_variance"]["message"]
        assert raised(run)["explained_variance"]["update"] == 3, "the first update is the critic's alone"

    def test_values_that_cannot_follow_are_clipped(self, tiny_run):
        run = tiny_run()
        rewards = ({"weight": 50.0},)
        alarms = LOUD | {"value_clipping": 0.25}  # a third to a half of them are, whatever is sampled
        run(num_updates=5, rewards=rewards, value_learning_rate=1e-2, value_clip_range=1e-4, alarms=alarms, kl_coef=0.0)
        assert "of the value losses are clipped" in raised(run)["value_clipping"]["message"]


class TestFatal:
    SETTINGS: ClassVar = {
        "num_updates": 14,
        "rollout_size": 32,
        "evaluate_every": 3,
        "alarms": {"patience": 2, "fatal": ["entropy_collapse"]},
        **GREEDY,
    }

    def test_it_ends_the_run_and_the_best_checkpoint_is_kept(self, tiny_run):
        run = tiny_run()
        output = run(**self.SETTINGS)
        end = summary(run)
        assert end["stopped_because"] == "entropy_collapse"
        assert end["num_updates"] == raised(run)["entropy_collapse"]["update"] < 14
        evaluations = run.evaluations()
        assert evaluations[-1]["update"] == end["num_updates"], "what it ended with is evaluated too"
        assert end["chosen_objective"] == max(evaluation["objective"] for evaluation in evaluations)
        assert (output / "policy" / "model.safetensors").exists()
        (flag,) = [flag for flag in end["flags"] if "entropy_collapse" in flag]
        assert flag.endswith("It ended the run.")

    @pytest.mark.parametrize("where", ["before", "after"])
    def test_after_a_resume_it_goes_off_just_the_same(self, tiny_run, where):
        """Killed in the last update before it goes off, and once it has gone off and is in the checkpoint."""
        whole, broken = tiny_run("whole"), tiny_run("broken")
        expected = contents(whole(**self.SETTINGS))
        last, log = summary(whole)["num_updates"], broken._log_metrics
        assert last > 3

        def log_and_break(metrics, step):
            log(metrics, step)
            if (where == "before" and step == last) or (where == "after" and "policy/chosen_update" in metrics):
                raise KeyboardInterrupt

        broken._log_metrics = log_and_break
        with pytest.raises(KeyboardInterrupt):
            broken(**self.SETTINGS)
        broken._log_metrics = log
        assert contents(broken(**self.SETTINGS)) == expected
        assert broken.curve("policy/score_mean") == whole.curve("policy/score_mean")

    def test_a_spent_kl_budget_ends_the_resumed_run_too(self, tiny_run):
        run, settings = tiny_run(), {"num_updates": 30, "kl_budget": 0.5, **GREEDY}
        log = run._log_metrics

        def log_and_break(metrics, step):
            log(metrics, step)
            if "policy/chosen_update" in metrics:
                raise KeyboardInterrupt

        run._log_metrics = log_and_break
        with pytest.raises(KeyboardInterrupt):
            run(**settings)
        run._log_metrics, ended_at = log, max(run.curve("policy/score_mean"))
        run(**settings)
        assert summary(run)["stopped_because"] == "kl_budget"
        assert max(run.curve("policy/score_mean")) == summary(run)["num_updates"] == ended_at < 30


class TestStart:
    @pytest.fixture
    def sharp_policy(self, tiny_run, tiny_tokenizer):
        """The SFT policy with larger weights, so that what it says depends on what it reads."""
        folder = tiny_run().start / "policy"
        policy = AutoModelForCausalLM.from_pretrained(folder)
        with torch.no_grad():
            for parameter in policy.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(8.0)
        save_model(policy, tiny_tokenizer, folder)

    def test_a_kl_beyond_its_threshold_is_an_error(self, tiny_run, spoil_reference):
        run = tiny_run()
        with pytest.raises(
            StartError, match=r"not 0 before the first update: 0\.\d+ nats at a token, 0.0001 allowed"
        ) as e:
            run()
        assert e.value.alarm == "start_kl"
        assert not list((run.folder / "output").iterdir())

    def test_the_threshold_of_the_kl_is_a_setting(self, tiny_run, spoil_reference):
        tiny_run()(num_updates=2, alarms={"start_kl": 5.0})

    @pytest.fixture
    def spoil_decoding(self, monkeypatch):
        """A cache that forgets the prompt, but for its last two columns."""
        from rlhf.modeling import generation

        right, num_columns = generation._next_logits, [0]

        def forgetful(policy, cache, ids, mask, position):
            if ids.shape[1] > 1:
                num_columns[0] = ids.shape[1] - 2
            else:
                mask = mask.clone()
                mask[:, : num_columns[0]] = False
            return right(policy, cache, ids, mask, position)

        monkeypatch.setattr(generation, "_next_logits", forgetful)

    @pytest.mark.parametrize("dtype", ["fp32", "bf16"])
    def test_sampling_from_another_distribution_is_an_error(self, tiny_run, sharp_policy, spoil_decoding, dtype):
        run = tiny_run()
        run.setup = run.setup.model_copy(update={"compute": ComputeConfig(dtype=dtype, num_threads=1)})
        with pytest.raises(StartError, match=r"lies 0\.\d+ outside of its token's share, 0\.\d+ allowed") as error:
            run(max_response_tokens=24)
        assert error.value.alarm == "start_sampling"
        assert not list((run.folder / "output").iterdir())

    def test_the_threshold_of_sampling_is_a_setting(self, tiny_run, sharp_policy, spoil_decoding):
        tiny_run()(num_updates=2, max_response_tokens=24, alarms={"start_sampling": 0.99})

    @pytest.mark.parametrize(
        "settings",
        [{}, {"temperature": 0.3}, {"num_responses_per_prompt": 4}, {"sharing": "trunk", "lora": {"rank": 2}}],
    )
    def test_sound_sampling_is_far_from_its_threshold(self, tiny_run, sharp_policy, settings, monkeypatch):
        from rlhf.rl import update

        seen = []
        monkeypatch.setattr(update, "check_sampling_is_scored", lambda error, *_: seen.append(error))
        run = tiny_run()
        run(num_updates=2, max_response_tokens=24, **settings)
        run.setup = run.setup.model_copy(update={"compute": ComputeConfig(dtype="bf16", num_threads=1)})
        run.folder = run.folder.with_name("bf16")
        run(num_updates=2, max_response_tokens=24, **settings)
        assert seen[0] < 1e-5
        assert seen[1] < 0.03

    @pytest.fixture
    def spoil_training(self, monkeypatch):
        """Training sees other logits than sampling did."""
        from rlhf.rl import optimization as update

        logits = update.response_logits
        monkeypatch.setattr(update, "response_logits", lambda *arguments: 1.001 * logits(*arguments))

    def test_the_threshold_of_the_ratio_is_a_setting(self, tiny_run, spoil_training):
        tiny_run()(num_updates=2, alarms={"start_ratio": 0.1})

    def test_a_ratio_beyond_its_threshold_is_an_error_and_checkpoints_stay(self, tiny_run, spoil_training):
        run = tiny_run()
        with pytest.raises(StartError, match=r"not 1 on the first minibatch: off by 0.00\d+, 1e-05 allowed") as error:
            run(alarms={"start_ratio": 1e-5})
        assert error.value.alarm == "start_ratio"
        assert [path.name for path in run.folder.glob("checkpoints/update_*")] == ["update_000001"]
        assert not list((run.folder / "output").iterdir())
