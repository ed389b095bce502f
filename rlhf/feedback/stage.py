"""The feedback stage: answers of the newest policy, compared by people, simulated raters or a judge."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlhf.config.data import GoldName
from rlhf.config.feedback import AskConfig, CollectConfig, ComparisonsConfig, FeedbackConfig
from rlhf.config.judge import LabelConfig, LabelsConfig, StepJudgeConfig
from rlhf.config.model import Setup
from rlhf.data.preparation.splits import prompt_key
from rlhf.data.schema import Row, is_of_judge, is_ranking, write_rows
from rlhf.errors import InputError
from rlhf.evaluation.statistics import Estimate, share_interval
from rlhf.feedback.ask import SCORERS, Author, Sampling, different_prompts, make_comparisons, score_by_both
from rlhf.feedback.collect import Collected, as_dict, collect
from rlhf.feedback.comparisons import Comparison
from rlhf.feedback.guidelines import read_guidelines
from rlhf.feedback.label import Labelled, label
from rlhf.feedback.report import asked_markdown, collected_markdown, guidelines_markdown, labelled_markdown
from rlhf.feedback.rounds import Round, open_round, publish, record_comparisons
from rlhf.feedback.simulated import answer_as_raters, endpoint_of, mean_gold
from rlhf.modeling.conversations import encode_pairs
from rlhf.modeling.tokenizer import load_tokenizer
from rlhf.tracking.reviewers import Reviewers
from rlhf.tracking.runs import close_run, closing_run, reopen_run
from rlhf.workspace import Workspace

PREFERENCES = "preferences.jsonl"
NOTE = "note.md"
"""What came of the feedback, for the datasheet of the data that it becomes part of."""
_SPLITS = ("train", "validation", "test")


class NotAnsweredError(InputError):
    """People have not answered yet what they were asked."""


@dataclass(frozen=True)
class FeedbackStep:
    """A feedback stage's place in a recipe.

    Attributes:
        round_name: of the round in MLflow.
        number: of the round, from 1 on.
        recipe: name of the recipe.
        gold: the rule behind the data, where it is embedded.
    """

    round_name: str
    number: int
    recipe: str
    gold: GoldName | None

    @property
    def label(self) -> str:
        """The round's name in the data, which is the same for all runs of the recipe."""
        return f"round {self.number}"


def give_feedback(
    config: FeedbackConfig,
    setup: Setup,
    sampling: Sampling,
    step: FeedbackStep,
    author: Author,
    data: Path,
    root: Path,
    workspace: Workspace,
) -> None:
    """Have the newest policy answer prompts, and have the answers compared.

    Args:
        config: how many, and by whom.
        setup: seed and models.
        sampling: how the policy answers.
        step: place in the recipe.
        author: the newest policy, with the reward models that know it least.
        data: prepared data. Its prompts are answered, but for those that retraining decides on.
        root: the project's root.
        workspace: preferences, comparisons and figures go to its output.

    Raises:
        NotAnsweredError: people are asked, and too few comparisons are answered by now.
        InputError: one of them has no login.
        JudgeNotBelievedError: the judge agrees too little with those who answered.
        EndpointError: the judge does not answer.
        DataError: too few prompts have two answers that differ.
    """
    ask = _as_ask(config, setup, step)
    if config.simulated is None:
        Reviewers().check(config.annotators)
    asked = open_round(ask, step.recipe, read_guidelines(config.guidelines, root))
    with closing_run(asked.run_id):
        reopen_run(asked.run_id, {})
        if not asked.comparisons:
            prompts = different_prompts(*(data / "prompts" / f"{split}.jsonl" for split in _SPLITS))
            comparisons = make_comparisons(sampling, ask, [author], prompts)
            asked = record_comparisons(asked, [_with_people(one, config) for one in comparisons])
        queues = publish(asked, are_logins=config.simulated is None)
        close_run(asked.run_id, "FINISHED")
    if config.simulated is not None:
        assert step.gold is not None, "the configuration sees to it"
        answer_as_raters(asked, config.simulated, step.gold, setup.seed)
    collected = collect(CollectConfig(round=asked.name), asked)
    _check_answered(collected, config, asked, queues)
    labelled = None
    if config.judge is not None:
        labelled = _label(config.judge, setup, step, asked, root, workspace.checkpoints)
        collected = collect(CollectConfig(round=asked.name), asked, [labelled.judge])
    rows = [_named(row, step) for row in collected.rows if _is_learned(row, config.judge)]
    figures = _figures(asked, collected, labelled, rows, step) | accuracy_of_reward_models(author, rows, sampling)
    workspace.output.mkdir(parents=True, exist_ok=True)
    write_rows(workspace.output / PREFERENCES, rows)
    write_rows(workspace.output / "comparisons.jsonl", (comparison.as_row() for comparison in asked.comparisons))
    (workspace.output / "guidelines.yaml").write_text(asked.guidelines.as_yaml(), encoding="utf-8")
    details = {"collected": as_dict(collected), "labelled": labelled.as_dict() if labelled else None}
    details = json.loads(json.dumps(details).replace(asked.name, step.label))
    (workspace.output / "feedback.json").write_text(json.dumps(details, indent=2, sort_keys=True) + "\n", "utf-8")
    note = _note(config, asked, collected, labelled).replace(asked.name, str(step.number))
    (workspace.output / NOTE).write_text(note + "\n", encoding="utf-8")
    workspace.report.mkdir(parents=True, exist_ok=True)
    report = "\n\n".join([asked_markdown(asked, queues).rpartition("\n\n")[0], note, _figures_markdown(figures)])
    (workspace.report / "feedback.md").write_text(report + "\n", encoding="utf-8")
    workspace.log_metrics({f"feedback/{name}": value for name, value in _flat(figures)}, None)


def _as_ask(config: FeedbackConfig, setup: Setup, step: FeedbackStep) -> AskConfig:
    asked = {name: getattr(config, name) for name in ComparisonsConfig.model_fields}
    people = config.annotators if config.simulated is None else config.simulated.names
    return AskConfig(**{**asked, "annotators": people}, round=step.round_name, seed=setup.seed)


def _with_people(comparison: Comparison, config: FeedbackConfig) -> Comparison:
    """With a judge, people are asked of the first comparisons alone, whose order is drawn."""
    if config.judge is None or comparison.number < config.judge.num_measured:
        return comparison
    return replace(comparison, annotators=())


def _check_answered(collected: Collected, config: FeedbackConfig, asked: Round, queues: Mapping[str, str]) -> None:
    needed = config.minimum_answered * collected.asked
    if len(collected.verdicts) >= needed:
        return
    where = "; ".join(f"{person or 'anybody'}: {url}" for person, url in queues.items())
    raise NotAnsweredError(
        f"round {asked.name}: {len(collected.verdicts):,} of {collected.asked:,} comparisons are answered, and "
        f"{needed:,.0f} are needed (feedback.minimum_answered); answer them in MLflow ({where}), then start the same "
        f"run again, which goes on here"
    )


def _label(judge: StepJudgeConfig, setup: Setup, step: FeedbackStep, asked: Round, root: Path, kept: Path) -> Labelled:
    settings = {name: getattr(judge, name) for name in LabelsConfig.model_fields}
    config = LabelConfig(**settings, round=asked.name, seed=setup.seed)
    with endpoint_of(judge, step.gold, setup.seed, kept) as endpoint:
        return label(config, endpoint, asked, root)


def _is_learned(row: Row, judge: StepJudgeConfig | None) -> bool:
    return judge is None or judge.learn_from == "both" or is_of_judge(row)


def _named(row: Row, step: FeedbackStep) -> Row:
    """A row with the round's name in the recipe, by which the audit tells the rounds apart."""
    return row | {"round": step.label, "source": row["source"].replace(row["round"], step.label)}


def _figures(
    asked: Round, collected: Collected, labelled: Labelled | None, rows: Sequence[Row], step: FeedbackStep
) -> dict[str, float | Estimate]:
    figures: dict[str, float | Estimate] = {
        "num_comparisons": len(asked.comparisons),
        "num_answered": len(collected.verdicts),
        "num_preferences": len(rows),
        "num_ties": sum(map(is_ranking, rows)),
    }
    if collected.agreement is not None:
        figures["agreement"] = collected.agreement.all
    if labelled is not None and labelled.agreement is not None:
        figures["judge_agreement"] = labelled.agreement
    if step.gold is not None:
        figures["gold"] = mean_gold(asked.comparisons, step.gold)
    return figures


def accuracy_of_reward_models(author: Author, rows: Sequence[Row], sampling: Sampling) -> dict[str, Estimate]:
    """How often the reward models of before agree with the preferences, none of which they have seen; ties apart."""
    pairs = [row for row in rows if not is_ranking(row)]
    if author.reward_models is None or not pairs:
        return {}
    tokenizer = load_tokenizer(author.folder)
    sides = []
    for side in ("chosen", "rejected"):
        encoded = encode_pairs(tokenizer, [row["prompt"] for row in pairs], [row[side] for row in pairs])
        dialogues = [[*prompt, *response] for prompt, response in encoded]
        sides.append(score_by_both(author.reward_models, sampling.compute, dialogues, sampling.batch_size))
    keys = [prompt_key(row["prompt"]) for row in pairs]
    return {
        f"{name}_accuracy": share_interval((chosen > rejected) + 0.5 * (chosen == rejected), keys)
        for name, chosen, rejected in zip(SCORERS, *sides, strict=True)
    }


def _flat(figures: Mapping[str, float | Estimate]) -> list[tuple[str, float]]:
    flat: list[tuple[str, float]] = []
    for name, value in figures.items():
        if isinstance(value, Estimate):
            flat += [(name, value.value), (f"{name}_low", value.low), (f"{name}_high", value.high)]
        else:
            flat.append((name, float(value)))
    return flat


def _note(config: FeedbackConfig, asked: Round, collected: Collected, labelled: Labelled | None) -> str:
    parts: list[Any] = [collected_markdown(collected)]
    if labelled is not None:
        parts.insert(0, labelled_markdown(labelled))
        if config.judge is not None and config.judge.simulated is not None:
            parts.insert(1, "The judge is simulated: an endpoint on loopback that knows the gold rule, and errs.")
    if config.judge is not None and config.judge.learn_from == "judge" and collected.asked:
        parts.append("Only the judge's labels are learned from; the annotators' answers measure it.")
    parts.append(guidelines_markdown(asked.guidelines))
    if config.simulated is not None and collected.asked:
        parts.append("The annotators are simulated: they know the gold rule, and err. No person was asked.")
    return "\n\n".join(parts)


def _figures_markdown(figures: Mapping[str, float | Estimate]) -> str:
    said = []
    for name, value in figures.items():
        if isinstance(value, Estimate):
            said.append(f"- {name.replace('_', ' ')}: {value.value:.3f} ({value.low:.3f} to {value.high:.3f})")
    return "\n".join(said)
