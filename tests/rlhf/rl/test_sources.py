"""Reward sources in PPO: installed functions, reward models with tokenizers of their own, weights, normalization."""

import json
import sys

import numpy as np
import pytest
import torch
from interrupted import contents, run_whole_and_broken
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

from rlhf.config.policy import RewardSourceConfig
from rlhf.config.rl import RLConfig
from rlhf.errors import ConfigError, ModelError
from rlhf.modeling.batches import pad_sequences
from rlhf.modeling.context import StageContext
from rlhf.modeling.models import save_model
from rlhf.rewards.scoring import ScoringError
from rlhf.rewards.sources import RunningMoments, SampledResponses, Source, combine, is_unsafe, load_sources, raw_scores
from rlhf.rl.checkpoint import CheckpointError

LENGTH = "def length(prompts, responses):\n    return [len(text) for text in responses]\n"
ONLY_LENGTH = ({"kind": "function", "name": "length"},)


@pytest.fixture
def offer(install):
    """Installs one function under its own name."""

    def offer(code, name="length"):
        return install(code, f"{name} = my_rewards:{name}")

    return offer


@pytest.fixture
def rows(tiny_tokenizer):
    """One response that ended and one that did not."""
    prompts = [[{"role": "user", "content": "What is 7 + 5 ?"}], [{"role": "user", "content": "What is 1 + 2 ?"}]]
    asked = tiny_tokenizer.apply_chat_template(prompts, add_generation_prompt=True, tokenize=False)
    ids = tiny_tokenizer(asked, add_special_tokens=False)["input_ids"]
    answers = tiny_tokenizer(["The answer is 12 .", "I believe"], add_special_tokens=False)["input_ids"]
    responses = [[*answers[0], tiny_tokenizer.eos_token_id], answers[1]]
    batch = pad_sequences(ids, responses, tiny_tokenizer.pad_token_id)
    return SampledResponses(batch, prompts, responses, torch.tensor([True, False]))


@pytest.fixture
def context(tiny_setup, tiny_tokenizer):
    return StageContext(RLConfig(), tiny_setup, tiny_tokenizer)


def ensemble(*sources, **settings):
    """Configuration and sources of functions, each a name with its settings."""
    config = RLConfig(rewards=tuple({"kind": "function", "name": name, **own} for name, own in sources), **settings)
    return config, [Source(source) for source in config.rewards]


def call(rows, context, name="length"):
    from rlhf.rewards.functions import load_function

    source = Source(RewardSourceConfig(kind="function", name=name), function=load_function(name))
    return raw_scores(context, source, rows)


class TestFunctions:
    def test_it_is_given_prompts_and_texts(self, offer, rows, context):
        offer(
            "def length(prompts, responses):\n"
            "    assert [p[-1]['content'] for p in prompts] == ['What is 7 + 5 ?', 'What is 1 + 2 ?'], prompts\n"
            "    assert responses == ['The answer is 12 .', 'I believe'], responses\n"
            "    return (len(text) for text in responses)\n"
        )
        assert call(rows, context).tolist() == [18.0, 9.0]

    def test_it_cannot_change_the_prompts(self, offer, rows, context):
        offer(
            "def length(prompts, responses):\n"
            "    for prompt in prompts:\n"
            "        prompt[0]['content'] = 'other'\n"
            "        prompt.clear()\n"
            "    return [1, 2]\n"
        )
        before = json.dumps(rows.prompts)
        assert call(rows, context).tolist() == [1.0, 2.0]
        assert json.dumps(rows.prompts) == before

    def test_numbers_of_numpy_are_numbers(self, offer, rows, context):
        offer("import numpy as np\ndef length(prompts, responses):\n    return np.array([0.5, 2], dtype=np.float32)\n")
        assert call(rows, context).tolist() == [0.5, 2.0]

    def test_its_own_model_is_not_rounded(self, offer, rows, context):
        offer(
            "import torch\n"
            "def length(prompts, responses):\n"
            "    product = torch.full((2, 3), 1.0009765625) @ torch.ones(3, 1)\n"
            "    assert product.dtype == torch.float32\n"
            "    return product.squeeze(1).tolist()\n"
        )
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert call(rows, context).tolist() == [3.0029296875, 3.0029296875]

    @pytest.mark.parametrize(
        ("body", "what"),
        [
            ("raise KeyError('no key')", "raised KeyError: 'no key'; it was given 2 responses"),
            ("return (1 / 0 for _ in responses)", "raised ZeroDivisionError"),
            ("return [0.0]", "returned 1 numbers for 2 responses"),
            ("return []", "returned 0 numbers for 2 responses"),
            ("return [0.0, float('nan')]", "returned nan for the response 'I believe'; it must return a finite number"),
            ("return [float('-inf'), 0.0]", "returned -inf for the response 'The answer is 12 .'"),
            ("return [1e39, 0.0]", r"returned 1e\+39 .* that fp32 holds"),
            ("return [10 ** 400, 0.0]", "returned 10+ .* that fp32 holds"),
            ("return [True, 0.0]", "returned True for"),
            ("return [None, 0.0]", "returned None for"),
            ("return ['1', 0.0]", "returned '1' for"),
            ("return __import__('torch').zeros(2)", r"returned tensor\(0.\) for"),
            ("return None", "returned None; it must return a list of numbers"),
            ("return 0.5", "returned 0.5; it must return a list of numbers"),
        ],
    )
    def test_what_it_must_not_do_is_one_clear_error(self, offer, rows, context, body, what):
        offer(f"def length(prompts, responses):\n    {body}\n")
        with pytest.raises(ScoringError, match=f"the reward function 'length' {what}"):
            call(rows, context)


class TestRuns:
    def test_several_sources_have_weights_and_curves(self, tiny_run, offer):
        offer(LENGTH)
        run = tiny_run()
        run(rewards=({"weight": 0.5}, {"kind": "function", "name": "length", "weight": -0.1}), missing_eos_penalty=0.0)
        model, length, score = (
            run.curve(f"policy/{name}")
            for name in ("source_score_mean/reward_model", "source_score_mean/length", "score_mean")
        )
        assert length[1] > 1.0
        assert score == pytest.approx({step: 0.5 * model[step] - 0.1 * length[step] for step in model}, abs=1e-5)
        for evaluation in run.evaluations():
            path = run.folder / "output" / "generations" / f"update_{evaluation['update']:04d}.jsonl"
            texts = [json.loads(line)["response"] for line in path.read_text().splitlines()]
            assert evaluation["score"] < -0.1 * sum(map(len, texts)) / len(texts) + 0.5 * 2.1

    def test_one_source_has_no_curve_of_its_own(self, tiny_run):
        run = tiny_run()
        run(num_updates=2)
        assert not [name for metrics, _ in run.logged for name in metrics if "source_score_mean" in name]

    def test_a_negative_weight_is_a_penalty(self, tiny_run, offer):
        offer(LENGTH)
        run = tiny_run()
        source = ONLY_LENGTH[0] | {"weight": -1.0}
        settings = {"num_updates": 16, "rollout_size": 64, "evaluate_every": 16, "learning_rate": 3e-3}
        run(**settings, rewards=(source,), kl_coef=0.0, missing_eos_penalty=0.0, value_learning_rate=3e-3)
        length = run.curve("policy/response_tokens_mean")
        assert length[16] < 0.6 * length[1]

    def test_a_function_that_fails_loses_nothing(self, tiny_run, offer, tmp_path):
        """It fails in the third rollout; once it is mended the run ends as one that was left alone."""
        flag = tmp_path / "judge-is-away"
        offer(
            f"import pathlib\n{LENGTH}"
            f"_length = length\n"
            f"def length(prompts, responses):\n"
            f"    if pathlib.Path({str(flag)!r}).exists():\n"
            f"        raise OSError('the judge is away')\n"
            f"    return _length(prompts, responses)\n"
        )
        whole, broken = tiny_run("whole"), tiny_run("broken")
        expected = contents(whole(rewards=ONLY_LENGTH))
        log = broken._log_metrics

        def log_and_break(metrics, step):
            log(metrics, step)
            if step == 2 and "policy/validation_score" in metrics:
                flag.touch()

        broken._log_metrics = log_and_break
        with pytest.raises(ScoringError, match="'length' raised OSError: the judge is away"):
            broken(rewards=ONLY_LENGTH)
        assert sorted(path.name for path in broken.folder.glob("checkpoints/update_*")) == [
            "update_000001",
            "update_000002",
        ]
        assert not list((broken.folder / "output").iterdir())
        flag.unlink()
        broken._log_metrics = log
        assert contents(broken(rewards=ONLY_LENGTH)) == expected
        assert broken.curve("policy/score_mean") == whole.curve("policy/score_mean")

    def test_an_unknown_function_is_refused_before_the_first_update(self, tiny_run):
        run = tiny_run()
        with pytest.raises(ConfigError, match="no installed package offers a reward function 'length'"):
            run(rewards=ONLY_LENGTH)
        assert run.logged == []
        assert not [path for path in run.folder.rglob("*") if path.is_file()]

    @pytest.mark.parametrize("interrupt_at", [2, 5])
    def test_the_normalization_survives_a_resume(self, tiny_run, offer, interrupt_at):
        offer(LENGTH)
        rewards = ({"normalize": True}, ONLY_LENGTH[0] | {"normalize": True, "weight": 0.5})
        settings = {"num_updates": 6, "checkpoint_every": 2, "learning_rate": 1e-3, "rewards": rewards}
        whole, broken = run_whole_and_broken(tiny_run, interrupt_at, **settings)
        for name in ("policy/score_mean", "policy/source_score_mean/length", "policy/value_loss", "policy/kl_mean"):
            assert broken.curve(name) == whole.curve(name)
        (state,) = (json.loads((p / "state.json").read_text())["state"] for p in whole.folder.rglob("update_000006"))
        means = whole.curve("policy/source_score_mean/length")
        assert state["moments"]["length"]["count"] == 6 * 16
        assert state["moments"]["length"]["mean"] == pytest.approx(sum(means.values()) / 6)


class TestCombination:
    def test_moments_are_those_of_all_rollouts_so_far(self):
        rng, moments, seen = np.random.default_rng(0), RunningMoments(), []
        for size, shift in ((16, 0.0), (1, 5.0), (64, -3.0)):
            new = rng.normal(shift, 2.0, size)
            scores = torch.tensor(new)
            if seen:
                before = np.concatenate(seen)
                expected = (new - before.mean()) / before.std() if before.std() else new - before.mean()
                assert moments.normalize(scores).numpy() == pytest.approx(expected)
            else:
                assert torch.equal(moments.normalize(scores), scores)
            moments = moments.updated(scores)
            seen.append(new)
        everything = np.concatenate(seen)
        assert (moments.count, moments.mean) == (81, pytest.approx(everything.mean()))
        assert moments.squares / 81 == pytest.approx(everything.var())

    def test_the_first_score_that_differs_is_not_millions_of_deviations_away(self):
        """A rare success: all scores were 0 so far, and then one is 1."""
        moments = RunningMoments().updated(torch.zeros(64)).updated(torch.full((64,), 0.1).zero_())
        assert moments.normalize(torch.tensor([0.0, 1.0])).tolist() == [0.0, 1.0]
        constant = RunningMoments().updated(torch.full((64,), 0.1))
        assert constant.normalize(torch.tensor([0.1, 1.1])).tolist() == pytest.approx([0.0, 1.0], abs=1e-6)

    def test_each_source_is_normalized_then_weighted_then_summed(self):
        one = Source(RewardSourceConfig(name="one", normalize=True, weight=-2.0))
        two = Source(RewardSourceConfig(name="two", weight=0.5))
        raw = {"one": torch.tensor([1.0, 4.0]), "two": torch.tensor([10.0, 20.0])}
        moments = {"one": RunningMoments(count=2, mean=1.0, squares=18.0)}  # a deviation of 3
        total, after = combine(RLConfig(), [one, two], raw, moments)
        assert total.tolist() == [5.0, 8.0]
        assert set(after) == {"one"}
        assert after["one"].count == 4
        assert moments["one"].count == 2

    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            ({"rewards_combination": "worst"}, [1.0, 4.0, -3.0]),
            # Means 3, 4 and 0; variances 14 / 3, 0 and 6.
            ({"rewards_combination": "mean_less_variance", "variance_coef": 0.3}, [1.6, 4.0, -1.8]),
            ({"rewards_combination": "mean_less_variance", "variance_coef": 0.0}, [3.0, 4.0, 0.0]),
        ],
    )
    def test_an_ensemble_is_combined(self, settings, expected):
        config, sources = ensemble(("a", {"weight": 2.0}), ("b", {}), ("c", {}), **settings)
        raw = {"a": [0.5, 2.0, 1.5], "b": [2.0, 4.0, 0.0], "c": [6.0, 4.0, -3.0]}
        raw = {name: torch.tensor(values) for name, values in raw.items()}
        combined, after = combine(config, sources, raw, {})
        assert combined.tolist() == pytest.approx(expected)
        assert after == {}
        turned, _ = combine(config, sources[::-1], raw, {})
        torch.testing.assert_close(turned, combined)

    def test_members_of_an_ensemble_are_climbed_together(self, tiny_run, save_reward_model):
        save_reward_model("reward_model_2", seed=3)
        run = tiny_run()
        run(
            num_updates=2,
            rewards=({}, {"kind": "trained", "name": "second", "member": 2}),
            rewards_combination="worst",
            missing_eos_penalty=0.0,
        )
        first, second, worst = (
            run.curve(f"policy/{name}")[1]
            for name in ("source_score_mean/reward_model", "source_score_mean/second", "score_mean")
        )
        assert worst <= min(first, second)
        assert first != second

    def test_safety_comes_first(self):
        """Where the probability of being safe is below 0.15, a score of -1.73, it is what counts; all is whitened."""
        config, sources = ensemble(
            ("help", {"weight": 2.0}), ("safe", {}), rewards_combination="safety_first", safety_source="safe"
        )
        raw = {"help": torch.tensor([3.0, 3.0, 1.0, 9.0]), "safe": torch.tensor([-1.8, -1.7, 4.0, -5.0])}
        assert is_unsafe(config, raw).tolist() == [True, False, False, True]
        combined, after = combine(config, sources, raw, {})
        gated = torch.tensor([-1.8, 6.0, 2.0, -5.0])
        torch.testing.assert_close(combined, (gated - gated.mean()) / gated.std(correction=0))
        later, last = combine(config, sources, raw, after)
        torch.testing.assert_close(later, combined)  # by the moments of the rollouts before
        assert last["(combined)"].count == 8

    def test_the_share_under_the_gate_is_a_curve(self, tiny_run, offer):
        offer(
            "def safety(prompts, responses):\n    return [-9.0 if '7' in t else 9.0 for t in responses]\n",
            "safety",
        )
        run = tiny_run()
        run(
            num_updates=2,
            rewards=({}, {"kind": "function", "name": "safety"}),
            rewards_combination="safety_first",
            safety_source="safety",
            missing_eos_penalty=0.0,
        )
        share, mean = run.curve("policy/unsafe_share"), run.curve("policy/source_score_mean/safety")
        assert share == pytest.approx({step: (9.0 - mean[step]) / 18.0 for step in mean}, abs=1e-6)
        assert 0 < share[1] < 1
        assert run.curve("policy/score_mean")[1] == pytest.approx(0.0, abs=1e-5)

    def test_clipping_comes_after_the_sum_and_before_the_penalties(self, tiny_run, offer):
        offer("def length(prompts, responses):\n    return [100.0 for _ in responses]\n")
        run = tiny_run()
        run(
            num_updates=2,
            rewards=({"weight": 1e-9}, ONLY_LENGTH[0] | {"weight": 2.0}),
            score_clip=5.0,
            missing_eos_penalty=3.0,
            length_penalty=0.5,
            length_penalty_free_tokens=2,
            max_response_tokens=8,
        )
        unfinished, length = 1 - run.curve("policy/eos_rate")[1], run.curve("policy/response_tokens_mean")[1]
        assert 0 < unfinished < 1
        # Some responses are shorter than the free tokens, so this is a bound and not an equation.
        assert run.curve("policy/score_mean")[1] <= 5.0 - 3.0 * unfinished - 0.5 * (length - 2) + 1e-5
        assert run.curve("policy/score_mean")[1] > 5.0 - 3.0 - 0.5 * 6


@pytest.fixture
def save_foreign_reward_model(tmp_path):
    """A reward model that reads bytes: it shares neither tokens nor template nor shape with the policy."""

    def save(max_length=256, num_labels=1, template=True):
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        special = ["</s>", "<pad>"]
        trainer = trainers.BpeTrainer(
            vocab_size=300, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        )
        backend.train_from_iterator(["The answer is", "I believe"] * 10, trainer)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="<pad>")
        if template:
            tokenizer.chat_template = (
                "{% for m in messages %}{{ m.role[0] }}: {{ m.content }}"
                "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
                "{% if add_generation_prompt %}a: {% endif %}"
            )
        torch.manual_seed(3)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=max_length,
            num_labels=num_labels,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        )
        model = LlamaForSequenceClassification(config)
        model.config.score_offset = 0.25
        save_model(model, tokenizer, tmp_path / "foreign")
        return tmp_path / "foreign", tokenizer, model

    return save


def foreign(folder, **settings):
    return RLConfig(rewards=({"kind": "model", "name": "safety", "path": str(folder), **settings},))


def nothing_trained(name):
    raise AssertionError("no source asks for the pipeline's own reward model")


class TestAnotherTokenizer:
    def test_the_score_is_that_of_the_models_own_encoding(
        self, save_foreign_reward_model, rows, context, tiny_setup, tiny_tokenizer
    ):
        folder, tokenizer, model = save_foreign_reward_model()
        (source,) = load_sources(StageContext(foreign(folder), tiny_setup, tiny_tokenizer), nothing_trained)
        scores = raw_scores(context, source, rows)
        # The template writes a line break after the EOS, which is not scored.
        texts = ["u: What is 7 + 5 ?\na: The answer is 12 .</s>", "u: What is 1 + 2 ?\na: I believe"]
        for text, got in zip(texts, scores.tolist(), strict=True):
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            assert (ids == tokenizer.eos_token_id).sum() == int(text.endswith("</s>"))
            with torch.no_grad():
                hidden = model.eval().model(input_ids=ids).last_hidden_state[0, -1]
                assert got == pytest.approx(float(model.score(hidden)) - 0.25, abs=1e-5)
        assert len(tokenizer(texts[1])["input_ids"]) != int(rows.batch.attention_mask[1].sum())

    def test_a_model_of_the_policys_own_tokens_is_not_encoded_again(
        self, save_reward_model, rows, context, tiny_setup, tiny_tokenizer
    ):
        folder = save_reward_model("safety", seed=9, score_offset=0.5)
        (source,) = load_sources(StageContext(foreign(folder), tiny_setup, tiny_tokenizer), nothing_trained)
        assert source.tokenizer is None
        again = Source(source.config, source.model, tiny_tokenizer)
        with torch.no_grad():
            torch.testing.assert_close(raw_scores(context, source, rows), raw_scores(context, again, rows))

    def test_ppo_runs_against_it(self, save_foreign_reward_model, tiny_run):
        run, folder = tiny_run(), save_foreign_reward_model()[0]
        run(num_updates=2, rewards=({}, dict(foreign(folder).rewards[0])))
        assert set(run.curve("policy/source_score_mean/safety")) == {1, 2}

    def test_a_dialogue_longer_than_it_reads_is_refused(
        self, save_foreign_reward_model, rows, context, tiny_setup, tiny_tokenizer
    ):
        folder, *_ = save_foreign_reward_model(max_length=20)
        (source,) = load_sources(StageContext(foreign(folder), tiny_setup, tiny_tokenizer), nothing_trained)
        with pytest.raises(ModelError, match=r"'safety' reads 20 tokens, and a dialogue has \d+ .*; lower"):
            raw_scores(context, source, rows)

    def test_without_a_chat_template_it_cannot_read_dialogues(
        self, save_foreign_reward_model, tiny_setup, tiny_tokenizer
    ):
        folder, *_ = save_foreign_reward_model(template=False)
        with pytest.raises(ModelError, match="foreign: the reward model's tokenizer has no chat template"):
            load_sources(StageContext(foreign(folder), tiny_setup, tiny_tokenizer), nothing_trained)

    def test_two_labels_are_refused(self, save_foreign_reward_model, tiny_run):
        run, folder = tiny_run(), save_foreign_reward_model(num_labels=2)[0]
        with pytest.raises(ModelError, match="foreign: a reward model has one label, this one has 2"):
            run(rewards=({}, dict(foreign(folder).rewards[0])))
        assert run.logged == []
        assert not [path for path in run.folder.rglob("*") if path.is_file()]

    def test_a_folder_that_is_not_there_is_refused(self, tiny_run, tmp_path):
        with pytest.raises(ModelError, match="nowhere: no such model folder"):
            tiny_run()(rewards=foreign(tmp_path / "nowhere").rewards)


def test_broken_weights_are_named_by_their_source(save_reward_model, rows, context, tiny_setup, tiny_tokenizer):
    from rlhf.modeling.models import load_reward_model

    model = load_reward_model(save_reward_model(), tiny_setup.compute)
    with torch.no_grad():
        model.score.weight.fill_(float("nan"))
        source = Source(RewardSourceConfig(name="helpful"), model)
        with pytest.raises(ScoringError, match="the reward model 'helpful' gave a score that is not finite"):
            raw_scores(context, source, rows)


def test_a_model_of_the_policys_own_tokens_may_read_less_than_the_policy(
    save_reward_model, rows, context, tiny_setup, tiny_tokenizer
):
    folder = save_reward_model("safety")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 4}))
    (source,) = load_sources(StageContext(foreign(folder), tiny_setup, tiny_tokenizer), nothing_trained)
    assert source.tokenizer is None
    with pytest.raises(ModelError, match=r"'safety' reads 4 tokens, and a dialogue has \d+ in its tokens; lower"):
        raw_scores(context, source, rows)


def test_the_model_that_chooses_is_named_where_it_is_the_broken_one(tiny_run):
    from transformers import AutoModelForSequenceClassification

    run = tiny_run()
    folder = run.reward_models / "selection_reward_model"
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        model.score.weight.fill_(torch.nan)
    model.save_pretrained(folder)
    with pytest.raises(ScoringError, match="the reward model 'selection_reward_model' gave a score that is not"):
        run()


def test_a_functions_module_is_imported_once(offer, tiny_run):
    offer(f"IMPORTED = []\nIMPORTED.append(1)\n{LENGTH}")
    tiny_run()(num_updates=2, rewards=ONLY_LENGTH)
    assert sys.modules["my_rewards"].IMPORTED == [1]


class TestAnInterruptedRun:
    """With a reward model of its own, which is told by what is in its folder."""

    @pytest.fixture
    def interrupted(self, tiny_run, save_reward_model):
        folder = save_reward_model("safety", seed=9)
        run = tiny_run()
        run.interrupt_at = 2
        with pytest.raises(KeyboardInterrupt):
            run(rewards=foreign(folder).rewards)
        run.interrupt_at = None
        return run, folder

    def test_goes_on_where_the_folder_has_moved(self, interrupted, tmp_path, caplog):
        run, folder = interrupted
        with caplog.at_level("INFO", logger="rlhf.rl.trainer"):
            run(rewards=foreign(folder.rename(tmp_path / "moved")).rewards)
        assert "training goes on from" in caplog.text

    def test_is_refused_where_the_model_is_another(self, interrupted, save_reward_model):
        run, folder = interrupted
        save_reward_model("safety", seed=10)
        with pytest.raises(CheckpointError, match="rewards"):
            run(rewards=foreign(folder).rewards)
