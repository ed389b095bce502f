"""The task of critique and revision of the SFT policy's answers."""

from rlhf.config.data import GoldName
from rlhf.config.feedback import RevisionConfig
from rlhf.config.model import Setup
from rlhf.paths import root
from rlhf.references import FileDigests, ModelRef, RevisionsRef
from tasks.give_feedback import digests
from tasks.prefect_artifacts import show_round
from tasks.stage import Attempt, stage


def revise_sft(
    config: RevisionConfig,
    setup: Setup,
    max_response_tokens: int,
    batch_size: int,
    gold: GoldName | None,
    policy: ModelRef,
) -> RevisionsRef:
    """Have answers of the SFT policy criticized and revised.

    Args:
        config: prompts, principles, critic.
        setup: seed and models.
        max_response_tokens: of the recipe.
        batch_size: responses that are sampled together.
        gold: the rule behind the data, where it is embedded.
        policy: answers.
    """
    files = digests(prompts=config.prompts, constitution=config.constitution)
    longest = config.max_response_tokens or max_response_tokens
    return _revise(config, setup, longest, batch_size, gold, files, policy)


@stage("revision", version="1", module="rlhf.feedback.revision_stage")
def _revise(
    attempt: Attempt,
    config: RevisionConfig,
    setup: Setup,
    max_response_tokens: int,
    batch_size: int,
    gold: GoldName | None,
    files: FileDigests,
    policy: ModelRef,
) -> RevisionsRef:
    """Criticize answers of the SFT policy by principles, and revise them."""
    from rlhf.feedback.ask import Author, Sampling
    from rlhf.feedback.revision_stage import make_revisions

    author = Author("SFT policy", attempt.path(policy) / "policy", None)
    sampling = Sampling(setup.compute, batch_size, setup.model.max_length, max_response_tokens)
    make_revisions(config, setup.seed, sampling, gold, author, root(), attempt.workspace)
    show_round((attempt.workspace.report / "revisions.md").read_text(encoding="utf-8"))
    return attempt.save(RevisionsRef)
