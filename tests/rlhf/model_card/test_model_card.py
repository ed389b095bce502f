import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import yaml
from huggingface_hub import ModelCard
from judge_endpoint import judge_endpoint
from known_models import EASY, HEDGED, PLAIN, SETUP, assistant, user, write_jsonl, write_world
from markdown_it import MarkdownIt

from rlhf.config.evaluation import EvaluationConfig, RewardAuditConfig
from rlhf.config.judge import EvaluationJudgeConfig, JudgeConfig
from rlhf.config.model import ModelConfig
from rlhf.config.pipeline import PipelineConfig
from rlhf.config.rl import RLConfig
from rlhf.model_card.card import CardFacts, write_model_card
from rlhf.provenance.record import CodeRecord, ProvenanceRecord, StageRecord
from rlhf.references import DataSource, StageReport
from rlhf.workspace import Workspace

CONFIG = PipelineConfig(name="tiny", model=SETUP.model, compute=SETUP.compute, rl=RLConfig(kl_coef=0.07))
RECORD = ProvenanceRecord(
    recipe="demo",
    seed=0,
    config_sha256="beef",
    lock_sha256="feed",
    code=CodeRecord(commit="c0ffee", dirty=False, patch_sha256=None),
    machine={"python": "3.11.7", "cpu": "a processor"},
    compute={"num_threads": "2"},
    stages={"sft": StageRecord(fingerprint="f", sha256="5"), "policy": StageRecord(fingerprint="g", sha256="6")},
)
FACTS = CardFacts(
    run_id="run0",
    record=RECORD,
    data_source=DataSource(path="data", md5="0123abcd.dir", tracked=True, embedded="calibrated_arithmetic"),
    stages=(
        StageReport(name="sft", state="cached", run_id="run1", seconds=0.1, trained_seconds=44.4),
        StageReport(name="reward_model", state="trained", run_id="run2", seconds=30.0, trained_seconds=30.0),
    ),
    command="rlhf run configs/demo.yaml --seed 0",
)


def make_workspace(folder):
    for name in ("output", "report", "checkpoints"):
        (folder / name).mkdir(parents=True)
    return Workspace(folder / "output", folder / "report", folder / "checkpoints", lambda metrics, step: None)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The outputs of all stages before the card, made by the stages themselves where they belong to this folder."""
    from rlhf.evaluation.policy import evaluate_policy
    from rlhf.evaluation.reward_audit import audit_reward_models

    folder = write_world(tmp_path_factory.mktemp("card") / "world")
    workspaces = {name: make_workspace(folder / name) for name in ("audit", "evaluation")}
    data, models = folder / "data", folder / "reward_models"
    audit_reward_models(RewardAuditConfig(), SETUP, data, models, workspaces["audit"])
    evaluate_policy(
        EvaluationConfig(num_prompts=48, num_bootstrap=200, best_of_n=4),
        SETUP,
        16,
        data,
        folder / "policy",
        folder / "sft",
        models,
        workspaces["evaluation"],
    )
    return folder


@pytest.fixture
def own_world(world, tmp_path):
    shutil.copytree(world, tmp_path / "world")
    return tmp_path / "world"


def write(folder, target, config=CONFIG, facts=FACTS):
    workspace = make_workspace(target)
    outputs = [folder / name for name in ("data", "audit/output", "evaluation/output", "policy")]
    write_model_card(config, facts, *outputs, workspace)
    return workspace.output


def section(card, title):
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", card.text, re.MULTILINE | re.DOTALL)
    return found[1]


@pytest.fixture
def card(world, tmp_path):
    return ModelCard.load(write(world, tmp_path / "card") / "README.md")


def test_model_index_holds_the_measured_figures(world, card):
    evaluation = json.loads((world / "evaluation" / "output" / "evaluation.json").read_text())
    audit = json.loads((world / "audit" / "output" / "audit.json").read_text())
    policy = evaluation["models"]["policy"]
    found = {result.metric_type: result for result in card.data.eval_results}
    expected = {
        "win_rate": evaluation["win_rate"]["rate"],
        "kl": evaluation["kl"],
        "gold": policy["gold"],
        "gold_gain": evaluation["gains"]["gold"],
        "hedging_easy": policy["hedging_easy"],
        "hedging_hard": policy["hedging_hard"],
        "reward_model_accuracy": audit["models"]["reward_model"]["accuracy"],
        "selection_reward_model_accuracy": audit["models"]["selection_reward_model"]["accuracy"],
    }
    for name, estimate in expected.items():
        assert found[name].metric_value == estimate["value"]
        assert found[name].metric_args == {"confidence": 0.95, "low": estimate["low"], "high": estimate["high"]}
        assert found[name].dataset_revision == "0123abcd.dir"
    assert found["win_rate"].metric_value == 44 / 48


def test_metadata(card):
    data = card.data.to_dict()
    assert data["model-index"][0]["name"] == "tiny"
    assert [result["dataset"]["type"] for result in data["model-index"][0]["results"]] == ["calibrated_arithmetic"] * 2
    assert data["license"] == "apache-2.0"
    assert data["library_name"] == "transformers"
    assert "rlhf" in data["tags"]
    assert "base_model" not in data


def test_the_folder_loads_and_answers(world, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    output = write(world, tmp_path / "card")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(output), AutoTokenizer.from_pretrained(output)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is 1 + 2 ?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    response = model.generate(**prompt, do_sample=False, max_new_tokens=16)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(response, skip_special_tokens=True).strip() == HEDGED


def test_every_figure_and_link_is_there(world, tmp_path):
    output = write(world, tmp_path / "card")
    links = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", (output / "README.md").read_text())
    assert links == ["figures/overoptimization.png", "figures/reliability.png", "figures/scores.png"]
    for link in links:
        source = next(path for path in world.rglob(link.split("/")[1]))
        assert (output / link).read_bytes() == source.read_bytes()


def test_what_the_card_must_say(card):
    for text in (
        "Over-optimization began at update 4 (4 to 4) by the held-out score: from there to update 8 the score went on",
        "The chosen checkpoint, of update 4, is not from after that.",
        "There are too few checkpoints to fit a form to the scores.",
        "Best-of-n of the SFT policy, on the same prompts",
        "| n | KL | Score | Selection score | Gold |",
        "44", "91.7% (80.4% to 96.7%)",  # win rate with its interval
        "judged by the gold rule",
        "On 48 test prompts it wins",
        "95% intervals\nover test prompts, for this model",
        "| the reward model that PPO climbed | 48 | 0 | 0 | 48 | 100.0%",
        "| the selection reward model | 0 | 0 | 48 | 48 | 0.0%",
        "32 held-out pairs of 32 prompts",
        "; by chance 0.",
        "| Reward model, scaled | ",
        "| Selection reward model (chooses checkpoints), scaled | none: its scores do not favour what raters chose",
        "| 0.0% (0.0% to 32.4%), 8 pairs of 8 prompts | 100.0% (86.2% to 100.0%), 24 pairs of 24 prompts |",
        "+0.875 (+",  # gold gained
        "`kl_coef` | 0.07",
        "Right and plain: 1.",
        "#### Annotation guidelines",
        "preferences |  |  |  | 32",
        "Exact duplicates, left out | preferences | 2",
        "The longer dialogue wins | 75.0% (57.9% to 86.7%)",
        "hard products | 24 | 24 | 100.0% (86.2% to 100.0%) | 0.0% (0.0% to 13.8%)",
        "run `run1`, reused here | 44.4",
        "run `run2` | 30.0",
        "**4** (chosen)",
        "The checkpoint after update 4 was chosen",
    ):  # fmt: skip
        assert text in card.text, text
    assert "None" not in card.text
    assert "nan" not in card.text.lower().split()


def test_agreement_of_annotators_stands_beside_the_accuracy(own_world, tmp_path):
    """An audit of pairs that two people judged, one of whom no stage learned from."""
    from rlhf.evaluation.reward_audit import audit_reward_models

    data, audit = own_world / "data", make_workspace(tmp_path / "audit")
    path, report = data / "preferences" / "test.jsonl", data / "report.json"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    write_jsonl(path, [{**row, "annotator": "ab"[i % 2]} for i, row in enumerate(rows)])
    report.write_text(json.dumps({**json.loads(report.read_text()), "held_out_annotators": ["b"]}))
    verdicts = [{"a": "first", "b": "first"}] * 6 + [{"a": "first", "b": "second"}, {"a": "tie", "b": "second"}] * 2
    write_jsonl(data / "annotations.jsonl", [{"prompt": str(i), "verdicts": of} for i, of in enumerate(verdicts)])
    audit_reward_models(RewardAuditConfig(), SETUP, data, own_world / "reward_models", audit)
    shutil.copy(audit.output / "audit.json", own_world / "audit" / "output" / "audit.json")
    text = section(ModelCard.load(write(own_world, tmp_path / "card") / "README.md"), "Reward models")
    for row in (
        "2 annotators judged 10 times the same two responses",
        "| One annotator with another, ties apart | 75.0% (40.9% to 92.9%) |",
        "| The most that their agreement allows | 85.4% (50.0% to 96.3%) |",
        "Reward model: its accuracy, 75.0% (57.9% to 86.7%), reaches how often one annotator agrees with another",
        "(chooses checkpoints): its accuracy, 25.0% (13.3% to 42.1%), lies below how often",
        "By that agreement no model is right in more than 85.4% (50.0% to 96.3%) of the pairs.",
        "| a and b | 10 | 0.600 | 0.231 |",
        "| a | 16 | 16 |",
        "| All that no stage learned from | 16 | 16 |",
    ):
        assert row in text


def test_categories_ensemble_and_learning_curve_are_in_the_card(own_world, tmp_path):
    from rlhf.evaluation.reward_audit import audit_reward_models

    data, models, audit = own_world / "data", own_world / "reward_models", make_workspace(tmp_path / "audit")
    path = data / "preferences" / "test.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    write_jsonl(path, [{**row, "category": row["source"], "margin": i % 2} for i, row in enumerate(rows)])
    shutil.copytree(models / "reward_model", models / "reward_model_2")
    curve = {size: models / "reward_model" for size in (10, 20, 40, 80)}
    audit_reward_models(RewardAuditConfig(), SETUP, data, models, audit, curve)
    shutil.copy(audit.output / "audit.json", own_world / "audit" / "output" / "audit.json")
    text = section(ModelCard.load(write(own_world, tmp_path / "card") / "README.md"), "Reward models")
    for row in (
        "<summary>Accuracy by: Category</summary>",
        "| Mean, each category alike |  |  | 50.0% (",
        "| All pairs together |  |  | 75.0% (57.9% to 86.7%) |",
        "Too few pairs to say much, since an interval is wider than 20 points: easy sums.",
        "| Strongest less weakest |  |  | ",
        "| Accuracy of the mean of 2 members | 75.0% (57.9% to 86.7%) |",
        "| Pairs whose winner the members do not agree about | 0.0% (",
        "### Would more labels help?",
        "More labels like these would help little: with twice the 80 pairs accuracy would be 75.0%",
        "| 160, extrapolated | 75.0% (",
    ):
        assert row in text, row


@pytest.fixture
def judged_world(own_world, tmp_path, monkeypatch):
    """Evaluates again with an LLM judge, as the settings say, of which people have labelled nothing where `labels` is
    false."""
    monkeypatch.setenv("RLHF_ROOT", str(tmp_path))
    (tmp_path / "criteria_1.yaml").write_text("- Right answers are better.\n")
    demonstrations = [{"prompt": user(q), "completion": assistant(PLAIN)} for q in EASY]
    write_jsonl(own_world / "data" / "demonstrations" / "test.jsonl", demonstrations)

    def judge(decide, labels=True, **settings):
        from rlhf.evaluation.policy import evaluate_policy

        if not labels:
            path = own_world / "data" / "preferences" / "test.jsonl"
            rows = [
                json.loads(line) | {"source": "feedback of a judge"} for line in path.read_text().split("\n") if line
            ]
            write_jsonl(path, rows)
        with judge_endpoint(decide) as endpoint:
            model = JudgeConfig(url=endpoint.url, model="the <b>judge</b>")
            by = EvaluationJudgeConfig(endpoint=model, criteria="criteria_1.yaml", **settings)
            config = EvaluationConfig(num_prompts=48, num_bootstrap=200, judge=by, references=True)
            folders = [own_world / name for name in ("data", "policy", "sft", "reward_models")]
            shutil.rmtree(own_world / "evaluation")
            evaluate_policy(config, SETUP, 16, *folders, make_workspace(own_world / "evaluation"))
        return (
            write(own_world, tmp_path / "card", CONFIG.model_copy(update={"evaluation": config})) / "README.md"
        ).read_text()

    return judge


def hedges(_, first, __):
    return 0.9 if first == HEDGED else 0.1


def test_an_llm_judge_has_a_row_and_a_section(judged_world):
    text = judged_world(
        lambda question, *both: hedges(question, *both) if " * " in question else 1 - hedges(question, *both)
    )
    row = "| an LLM judge, the &lt;b&gt;judge&lt;/b&gt;, by `criteria_1.yaml` | 32 | 0 | 16 | 48 | 66.7% ("
    assert row in text
    assert "### LLM judge\n" in text
    assert "The win rate of this card is that of the gold rule." in text
    assert "Against reference answers, the completions of 16 test demonstrations" in text
    assert text.count("an LLM judge, the &lt;b&gt;judge") == 2
    assert "<b>" not in text


def test_a_judge_that_is_not_believed_has_a_row_that_says_why(judged_world):
    text = judged_world(lambda *_: 0.9)
    assert (
        "by `criteria_1.yaml`, which is not believed |  |  |  |  | no verdict: it agrees with people on 50.0% (" in text
    )
    assert "**It is not believed, and gave no verdict:**" in text


def test_a_judge_that_nobody_measured_is_what_the_card_says_first(judged_world):
    text = judged_world(hedges, labels=False, unmeasured_judge=True)
    said = "The LLM judge, the &lt;b&gt;judge&lt;/b&gt;, was never measured against people"
    assert f"# tiny\n\n**{said}: its verdicts may mean nothing. " in text
    assert section(ModelCard(text), "Limitations").strip().startswith(f"- {said}")
    assert "by `criteria_1.yaml`, **never measured against people** | 48 |" in text


def test_limitations_hold_the_warnings(world, card):
    limitations = section(card, "Limitations")
    for folder, name in (("audit", "audit.json"), ("evaluation", "evaluation.json")):
        warnings = json.loads((world / folder / "output" / name).read_text())["warnings"]
        assert warnings
        assert all(f"- {warning}\n" in limitations for warning in warnings)
    assert "unseen pair of wording and operands; the fact may occur in another wording" in limitations
    assert "small model" in limitations


def test_limitations_hold_what_went_wrong(own_world, tmp_path):
    summary = {"num_updates": 5, "stopped_because": "kl_budget", "chosen_update": 0, "flags": ["Values were clipped."]}
    (own_world / "policy" / "summary.json").write_text(json.dumps(summary))
    source = FACTS.data_source.model_copy(update={"tracked": False, "dirty": True, "embedded": None})
    record = RECORD.model_copy(update={"code": RECORD.code.model_copy(update={"left_out": (".env",)})})
    facts = replace(FACTS, record=record, data_source=source, notes=("The server was gone for a while.",))
    limitations = section(ModelCard.load(write(own_world, tmp_path / "card", facts=facts) / "README.md"), "Limitations")
    for text in (
        "weights are those of SFT",
        "stopped early, after 5 updates: the KL to the SFT policy passed its budget",
        "Values were clipped.",
        "DVC does not track the data",
        "The data differed from `data.dvc`",
        "not exactly what git and a patch hold",
        "The server was gone for a while.",
    ):
        assert text in limitations
    assert "wording and operands" not in limitations


def test_every_alarm_is_a_line_with_its_cause(own_world, tmp_path):
    from rlhf.policy.flags import run_flags

    alarms = [
        {"name": "length_growth", "update": 4, "message": "responses grew from 3.0 to 9.0 tokens", "fatal": False},
        {"name": "negative_kl", "update": 5, "message": "the mean KL fell from 0 to -0.90", "fatal": True},
    ]
    evaluations = [{"update": update, "kl": 1.0, "objective": 0.0, "objectives": [update, update]} for update in (0, 4)]
    flags = run_flags(RLConfig(), evaluations, "negative_kl", alarms)
    ended = {"num_updates": 5, "stopped_because": "negative_kl", "chosen_update": 4, "alarms": alarms, "flags": flags}
    (own_world / "policy" / "summary.json").write_text(json.dumps(ended))
    limitations = section(ModelCard.load(write(own_world, tmp_path / "card") / "README.md"), "Limitations")
    assert "- Alarm `length_growth` after update 4: responses grew from 3.0 to 9.0 tokens.\n" in limitations
    assert "- Alarm `negative_kl` after update 5: the mean KL fell from 0 to -0.90. It ended the run.\n" in limitations
    assert "- PPO stopped early, after 5 updates: the alarm `negative_kl` went off.\n" in limitations


def test_what_the_score_was_made_of(world, tmp_path, install):
    install("def brevity(prompts, responses): ...", "brevity = my_rewards:brevity")
    rewards = [
        {"weight": 0.5},
        {"kind": "model", "name": "safety", "path": "/home/someone/safety", "normalize": True},
        {"kind": "model", "name": "tone", "path": "owner/tone", "revision": "abc"},
        {"kind": "function", "name": "brevity", "weight": -0.01},
    ]
    config = CONFIG.model_copy(update={"rl": RLConfig(rewards=rewards, ptx_coef=27.8, sharing="trunk")})
    output = write(world, tmp_path / "card", config)
    text = section(ModelCard.load(output / "README.md"), "Procedure")
    for row in (
        "| reward\\_model | the reward model of this run | 0.5 | no |",
        "| safety | the reward model PATH/TO/safety | 1 | yes |",
        "| tone | the reward model owner/tone at revision abc | 1 | no |",
        "| brevity | a function of my-rewards==1.0 | -0.01 | no |",
        "The value head stood on the policy's own backbone.",
        "added to the policy's loss with weight 27.8 (PPO-ptx).",
    ):
        assert row in text
    only_brevity = CONFIG.model_copy(update={"rl": RLConfig(rewards=rewards[3:])})
    unclimbed = (write(world, tmp_path / "unclimbed", only_brevity) / "README.md").read_text()
    assert "| the reward model | 48 | 0 | 0 | 48 |" in unclimbed
    assert "that PPO climbed |" not in unclimbed
    assert "flatters" not in unclimbed
    card = (output / "README.md").read_text()
    assert "PPO against\na score of several sources (see Procedure) with a KL penalty" in card
    assert "/home/someone" not in card + (output / "config.yaml").read_text()
    assert MarkdownIt("commonmark").enable("table").render(text).count("<table>") == 10, (
        "sources, stages, and eight sections of settings"
    )


def test_what_is_as_always_is_not_said(card):
    text = section(card, "Procedure")
    assert "weighted sum" not in card.text
    assert "PPO-ptx)" not in text.partition("<details>")[0]
    assert "backbone" not in text.partition("<details>")[0]
    assert "PPO against\nthat reward model's score with a KL penalty" in card.text


def test_reproduce(card):
    text = section(card, "Reproduce")
    for part in (
        "run0",
        "git checkout c0ffee",
        "rlhf reproduce run0",
        f"sha256 `{RECORD.digest}`",
        "| Policy | SFT policy, reward models, prompts | sha256 `6` |",
        "0123abcd.dir",
        "feed",
        "rlhf run configs/demo.yaml --seed 0",
        "| Seed | 0 |",
    ):
        assert part in text
    assert "PATH/TO" not in text


def test_no_folder_of_this_machine_is_in_the_card(world, tmp_path):
    config = CONFIG.model_copy(update={"model": ModelConfig(base="/home/someone/models/base", max_length=48)})
    source = FACTS.data_source.model_copy(
        update={"path": "/home/someone/pairs.jsonl", "tracked": False, "embedded": None}
    )
    command = "rlhf run configs/hh.yaml --model.base /home/someone/models/base --data.path=/home/someone/pairs.jsonl"
    facts = replace(FACTS, data_source=source, command=command)
    output = write(world, tmp_path / "card", config, facts)
    for path in ("README.md", "config.yaml"):
        text = (output / path).read_text()
        assert "/home/someone" not in text
        assert str(world) not in text
        assert "PATH/TO/base" in text
    text = section(ModelCard.load(output / "README.md"), "Reproduce")
    assert "--model.base PATH/TO/base --data.path=PATH/TO/pairs.jsonl" in text
    assert "Put your own folder where it says `PATH/TO`" in text


def test_the_record_beside_the_card_has_the_digest_that_the_card_names(world, tmp_path):
    folder = write(world, tmp_path / "card")
    record = ProvenanceRecord.model_validate_json((folder / "provenance.json").read_bytes())
    assert record == RECORD
    assert record.digest in (folder / "README.md").read_text()


def test_the_recipe_beside_the_card_is_the_configuration(world, tmp_path):
    from rlhf.config.loading import load_config

    path = write(world, tmp_path / "card") / "config.yaml"
    assert load_config(path) == CONFIG
    assert yaml.safe_load(path.read_text())["rl"]["kl_coef"] == 0.07


def test_base_models_of_the_hub_are_linked(world, tmp_path):
    config = CONFIG.model_copy(update={"model": ModelConfig(base="org/model-1B", revision="abc", max_length=48)})
    card = ModelCard.load(write(world, tmp_path / "card", config) / "README.md")
    assert card.data.base_model == "org/model-1B"
    assert card.data.license == "unknown"
    assert "[org/model-1B](https://huggingface.co/org/model-1B) at commit `abc`" in card.text


def test_where_base_and_tokenizer_do_not_agree(own_world, tmp_path):
    report = json.loads((own_world / "data" / "report.json").read_text())
    assert "did not agree" not in (write(own_world, tmp_path / "agreed") / "README.md").read_text()
    said = ["EOS: the base's config.json says 2, its tokenizer 1 ('</s>').", "The tokenizer has more tokens."]
    (own_world / "data" / "report.json").write_text(json.dumps(report | {"base": said}))
    card = ModelCard.load(write(own_world, tmp_path / "card") / "README.md")
    first = "- EOS: the base's config.json says 2, its tokenizer 1 ('&lt;/s&gt;')."
    assert f"this was settled:\n\n{first}\n- The tokenizer has more tokens.\n\n" in section(card, "Data")


def test_the_same_inputs_give_the_same_bytes(world, tmp_path):
    one, two = (write(world, tmp_path / name) for name in ("one", "two"))
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(two) for path in two.rglob("*") if path.is_file())
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in files)


def test_the_policy_of_ppo_is_left_as_it_was(own_world, tmp_path):
    (own_world / "policy" / "policy" / "README.md").write_text("the base model's card")
    before = {path: path.read_bytes() for path in (own_world / "policy").rglob("*") if path.is_file()}
    output = write(own_world, tmp_path / "card")
    (output / "config.json").write_text("{}")
    assert {path: path.read_bytes() for path in (own_world / "policy").rglob("*") if path.is_file()} == before
    assert "base model's card" not in (output / "README.md").read_text()


def test_samples_cannot_break_the_card(own_world, tmp_path):
    path = own_world / "evaluation" / "output" / "side_by_side.jsonl"
    nasty = "---\n# Title {{ config }} {% raw %} | <script>alert(1)</script> [x](http://e.org) " + "a" * 5000
    side = {"response": nasty, "ended": True}
    write_jsonl(path, [{"prompt": [{"role": "user", "content": nasty}], "policy": side, "baseline": side}])
    card = ModelCard.load(write(own_world, tmp_path / "card") / "README.md")
    assert card.data.model_name == "tiny"
    [row] = [line for line in card.text.splitlines() if "Title" in line]
    assert len(row) < 1500
    html = MarkdownIt("commonmark").enable("table").render(card.text)
    assert "<script>" not in html
    assert "{{ config }}" in html
    assert 'href="http://e.org"' not in html


def test_samples_may_hold_what_others_take_for_the_end_of_a_line(own_world, tmp_path):
    path = own_world / "evaluation" / "output" / "side_by_side.jsonl"
    said = "Title\u2028two\u2029three\x85four\x00five\x0b\x0c\x1csix\r\nseven"
    row = {"prompt": [{"role": "user", "content": said}]} | {
        side: {"response": said, "ended": True} for side in ("policy", "baseline")
    }
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    card = ModelCard.load(write(own_world, tmp_path / "card") / "README.md")
    [line] = [line for line in card.text.splitlines() if "Title" in line]
    assert line == "| " + " | ".join(["Title two three four five   six / seven"] * 3) + " |"


def test_what_the_tokenizer_changed_is_said(own_world, tmp_path):
    path = own_world / "data" / "report.json"
    report = json.loads(path.read_text())
    changed = {"demonstrations": {"a message is trimmed": {"count": 12, "lines": [3, 4]}}}
    report["changed_in_tokens"] = changed
    report["tokenizer"] |= {"fixed": ["The chat template reads the clock; it was fixed to 2026-01-05, 00:00"]}
    path.write_text(json.dumps(report))
    text = (write(own_world, tmp_path / "card") / "README.md").read_text()
    assert "| a message is trimmed | demonstrations | 12 | 3, 4 and 10 more |" in text
    assert "it was fixed to 2026-01-05, 00:00." in text


def test_a_datasheet_is_nested_and_bounded(own_world, tmp_path):
    sheet = "# Sheet\n\n```\n# a comment, no heading\n```\n\n## Licence: MIT\n\n" + "word " * 10_000
    (own_world / "data" / "datasheet.md").write_text(sheet)
    text = ModelCard.load(write(own_world, tmp_path / "card") / "README.md").text
    assert "\n### Sheet\n" in text
    assert "\n# a comment, no heading\n" in text
    assert "\n#### Licence: MIT\n" in text
    assert len(section(ModelCard(f"---\nlicense: mit\n---\n{text}"), "Data")) < 25_000


def test_without_a_rule_the_card_says_who_judges(own_world, tmp_path):
    from rlhf.evaluation.policy import evaluate_policy

    report = json.loads((own_world / "data" / "report.json").read_text())
    (own_world / "data" / "report.json").write_text(json.dumps(report | {"gold": None}))
    shutil.rmtree(own_world / "evaluation")
    workspace = make_workspace(own_world / "evaluation")
    folders = [own_world / name for name in ("data", "policy", "sft", "reward_models")]
    evaluate_policy(EvaluationConfig(num_prompts=20, num_bootstrap=100), SETUP, 16, *folders, workspace)
    source = FACTS.data_source.model_copy(update={"embedded": None})
    card = ModelCard.load(write(own_world, tmp_path / "card", facts=replace(FACTS, data_source=source)) / "README.md")
    assert "judged by the selection reward model" in card.text
    assert "The win rate of this card is that of the selection reward model." in card.text
    assert "The verdict of the reward model that PPO climbed flatters the policy" in card.text
    assert card.data.eval_results[0].metric_value == 0
    assert "gold reward" not in card.text.lower().replace("gold and proxy", "")
    assert "gold" not in {result.metric_type for result in card.data.eval_results}
    assert card.data.eval_results[0].dataset_type == "tiny_data"
    assert "dvc checkout data.dvc" in section(card, "Reproduce")


def test_importing_it_is_cheap():
    heavy = ("torch", "transformers", "huggingface_hub", "mlflow")
    code = f"import sys, rlhf.model_card.card; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_two_temperatures_are_two_distributions(world, tmp_path):
    config = CONFIG.model_copy(update={"evaluation": EvaluationConfig(temperature=0.7)})
    text = section(ModelCard.load(write(world, tmp_path / "card", config) / "README.md"), "Limitations")
    assert "PPO sampled at temperature 1 and the evaluation at 0.7" in text
    same = section(ModelCard.load(write(world, tmp_path / "same") / "README.md"), "Limitations")
    assert "PPO sampled at temperature" not in same


def test_evaluation_sets_stand_in_the_card(own_world, tmp_path):
    path = own_world / "evaluation" / "output" / "evaluation.json"
    evaluation = json.loads(path.read_text())
    assert "Safety and character" not in (write(own_world, tmp_path / "without") / "README.md").read_text()
    share = {"value": 0.25, "low": 0.1, "high": 0.5}
    measures = {
        "breach_rate": {"policy": share, "baseline": share, "change": {"value": 0.0, "low": -0.2, "high": 0.2}},
        "selective_accuracy": {"policy": None, "baseline": share, "change": None},
        "confidence_brier": {"policy": share, "baseline": share, "change": share},
    }
    evaluation["sets"] = {"my_set": measures}
    evaluation["set_details"] = {
        "my_set": {
            "num_prompts": dict.fromkeys(measures, 40),
            "categories": {"a|b": {"breach_rate": measures["breach_rate"]}},
            "prompts_needed": {"breach_rate": 160, "selective_accuracy": None},
        }
    }
    path.write_text(json.dumps(evaluation))
    card = (write(own_world, tmp_path / "card") / "README.md").read_text()
    section = card.split("### Safety and character")[1].split("### Samples")[0]
    for row in (
        r"| my\_set | 40 | Harmful prompts that were not fully refused | 25.0% (10.0% to 50.0%) "
        "| 25.0% (10.0% to 50.0%) | +0.0% (-20.0% to +20.0%) |",
        "| Right answers among the confident ones | 25.0% (10.0% to 50.0%) | not told | not told |",
        "| 0.250 (0.100 to 0.500) | 0.250 (0.100 to 0.500) | +0.250 (+0.100 to +0.500) |",
        r"| my\_set | a\|b | Harmful prompts that were not fully refused |",
    ):
        assert row in section
    assert (
        r"- my\_set is too small to tell a change of 10% of: harmful prompts that were not fully refused (40 prompts; "
        "it takes about 160); right answers among the confident ones (40 prompts, which do not tell it)." in section
    )


def test_verbosity_stands_beside_the_win_rate(card):
    assert re.search(r"Responses changed by \+6\.00 \(.*\) tokens", section(card, "Results"))
