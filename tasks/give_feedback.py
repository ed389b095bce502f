"""The task of feedback on the newest policy's answers."""

from rlhf.config.data import GoldName
from rlhf.config.feedback import FeedbackConfig
from rlhf.config.model import Setup
from rlhf.paths import root
from rlhf.references import DatasetRef, FeedbackRef, FileDigests, ModelRef, PolicyRef, RewardModelsRef
from tasks.file_digests import digest
from tasks.pipeline_run import current
from tasks.prefect_artifacts import show_round
from tasks.stage import Attempt, stage


def give_feedback(
    config: FeedbackConfig,
    setup: Setup,
    max_response_tokens: int,
    batch_size: int,
    gold: GoldName | None,
    number: int,
    data: DatasetRef,
    policy: ModelRef | PolicyRef,
    reward_models: RewardModelsRef | None,
) -> FeedbackRef:
    """Have the newest policy answer, and have the answers compared.

    Args:
        config: how many, and by whom.
        setup: seed and models.
        max_response_tokens: of the recipe.
        batch_size: responses that are sampled or scored together.
        gold: the rule behind the data, where it is embedded.
        number: of the round, from 1 on.
        data: whose prompts are answered.
        policy: answers.
        reward_models: those that the policy was trained with; None where there are none.
    """
    files = digests(guidelines=config.guidelines, constitution=config.judge.constitution if config.judge else None)
    longest = config.max_response_tokens or max_response_tokens
    return _give(config, setup, longest, batch_size, gold, number, files, data, policy, reward_models)


def digests(**files: str | None) -> FileDigests:
    """The digests of files below the root, by the setting that names each.

    Raises:
        ConfigError: there is no such file.
    """
    return FileDigests(**{setting: digest(setting, name) for setting, name in files.items() if name is not None})


@stage("feedback", version="1", module="rlhf.feedback.stage")
def _give(
    attempt: Attempt,
    config: FeedbackConfig,
    setup: Setup,
    max_response_tokens: int,
    batch_size: int,
    gold: GoldName | None,
    number: int,
    files: FileDigests,
    data: DatasetRef,
    policy: ModelRef | PolicyRef,
    reward_models: RewardModelsRef | None,
) -> FeedbackRef:
    """Have the newest policy answer prompts, and have people, simulated raters or a judge compare the answers."""
    from rlhf.feedback.ask import Author, Sampling
    from rlhf.feedback.stage import FeedbackStep
    from rlhf.feedback.stage import give_feedback as give

    recipe = current().record.recipe
    name = f"{recipe[:40]}-{number}-{attempt.fingerprint[:8]}"
    author = Author(
        "SFT policy" if isinstance(policy, ModelRef) else f"policy of round {number - 1}",
        attempt.path(policy) / "policy",
        attempt.path(reward_models) if reward_models is not None else None,
    )
    sampling = Sampling(setup.compute, batch_size, setup.model.max_length, max_response_tokens)
    step = FeedbackStep(name, number, recipe, gold)
    give(config, setup, sampling, step, author, attempt.path(data), root(), attempt.workspace)
    show_round((attempt.workspace.report / "feedback.md").read_text(encoding="utf-8"))
    return attempt.save(FeedbackRef)
