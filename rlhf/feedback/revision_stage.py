"""The revision stage: answers of the SFT policy, criticized and revised, as demonstrations for a new SFT policy."""

from contextlib import ExitStack
from pathlib import Path

from rlhf.config.data import GoldName
from rlhf.config.feedback import RevisionConfig
from rlhf.data.schema import write_rows
from rlhf.errors import DataError
from rlhf.feedback.ask import Author, Sampling
from rlhf.feedback.report import revised_markdown
from rlhf.feedback.revise import as_lines, revise
from rlhf.feedback.simulated import endpoint_of
from rlhf.modeling.device import derive_seed
from rlhf.workspace import Workspace

_NAME = "revisions"


def make_revisions(
    config: RevisionConfig,
    seed: int,
    sampling: Sampling,
    gold: GoldName | None,
    author: Author,
    root: Path,
    workspace: Workspace,
) -> None:
    """Have a policy answer prompts, and have the answers criticized and revised.

    Args:
        config: prompts, principles, critic.
        seed: of the run.
        sampling: how the policy answers.
        gold: the rule behind the data, where it is embedded.
        author: answers.
        root: the project's root.
        workspace: demonstrations and all steps go to its output.

    Raises:
        DataError: there are too few prompts, or no answer was changed.
        ConfigError: a file is not there, or holds something else.
        EndpointError: the critic does not answer, or its budget is spent. What it answered is kept.
    """
    with ExitStack() as stack:
        critic = None
        if config.critic is not None:
            critic = stack.enter_context(endpoint_of(config.critic, gold, seed, workspace.checkpoints))
        revisions = revise(sampling, config, derive_seed(seed, _NAME), critic, author, root)
    rows = [row for one in revisions if (row := one.as_row(_NAME)) is not None]
    if not rows:
        raise DataError(
            f"of {len(revisions):,} answers none was changed, or every revision is empty or cut off, so nothing would "
            f"be learned of them; take another critic or other principles, "
            f"or drop the section revision"
        )
    workspace.output.mkdir(parents=True, exist_ok=True)
    write_rows(workspace.output / "demonstrations.jsonl", rows)
    (workspace.output / "revisions.jsonl").write_text(as_lines(revisions), encoding="utf-8")
    note = revised_markdown(_NAME, config.num_revisions, critic.config.model if critic else None, revisions, len(rows))
    if config.critic is not None and config.critic.simulated is not None:
        note += "\n\nThe critic is simulated: an endpoint on loopback that knows the gold rule, and errs."
    (workspace.output / "note.md").write_text(note + "\n", encoding="utf-8")
    workspace.report.mkdir(parents=True, exist_ok=True)
    (workspace.report / "revisions.md").write_text(note + "\n", encoding="utf-8")
    workspace.log_metrics({"revision/num_answers": len(revisions), "revision/num_demonstrations": len(rows)}, None)
