"""What a round takes from a recipe that was run: policies, prompts, lengths."""

from collections.abc import Sequence
from pathlib import Path

from rlhf.chat.policies import find_policy
from rlhf.config.feedback import AskConfig
from rlhf.config.pipeline import PipelineConfig
from rlhf.data.schema import Row, is_ranking, read_rows
from rlhf.data.versions.resolve import resolve
from rlhf.errors import ConfigError, DataError
from rlhf.feedback.ask import Author, Sampling, different_prompts, num_prompts
from rlhf.files.names import below
from rlhf.modeling.conversations import Conversation
from rlhf.runs.filters import Filters
from rlhf.runs.listing import list_runs
from rlhf.tracking.registry import CHAMPION, champion_version
from rlhf.tracking.stores import open_store


def find_authors(names: Sequence[str], recipe: str) -> list[Author]:
    """The policies that answer: those that are named, else the recipe's champion, else its newest finished run's.

    Raises:
        InputError: there is no such policy, or nothing is left of it.
    """
    policies = map(find_policy, names or [_newest(recipe)])
    return [Author(policy.name, policy.folder, policy.reward_models) for policy in policies]


def _newest(recipe: str) -> str:
    if champion_version(recipe) is not None:
        return f"{recipe}@{CHAMPION}"
    newest = list_runs(open_store(), Filters(recipe=recipe, state="finished"), 1).rows
    if not newest:
        raise ConfigError(
            f"recipe {recipe} has no champion and no finished run, so nobody would answer; run it first, or name a "
            f"run, a version or a folder (policies)"
        )
    return newest[0].run_id


def sampling_of(config: PipelineConfig, max_response_tokens: int | None) -> Sampling:
    """How the policies of a recipe answer.

    Raises:
        ConfigError: answers leave no room for prompts.
    """
    longest = max_response_tokens or config.max_response_tokens
    if longest >= config.model.max_length:
        raise ConfigError(
            f"max_response_tokens is {longest}, which leaves no room for a prompt in model.max_length "
            f"({config.model.max_length}); make it smaller"
        )
    return Sampling(config.compute, config.evaluation.batch_size, config.model.max_length, longest)


def prompts_of(config: PipelineConfig, ask: AskConfig, root: Path) -> list[Conversation]:
    """The prompts of a round, which are different: those of a file, else those of the recipe's data.

    Raises:
        DataError: there are too few.
        ConfigError: the file is not there.
    """
    if ask.prompts is not None:
        path = below(root, ask.prompts, "prompts")
    else:
        folder = root / resolve(config.data, root).path
        if not folder.is_dir():
            raise ConfigError(f"data.path is {config.data.path}, which is a file; name a file of prompts (prompts)")
        path = folder / "prompts.jsonl"
    prompts = different_prompts(path)
    if len(prompts) < num_prompts(ask):
        raise DataError(
            f"{path}: {len(prompts)} different prompts, and {num_prompts(ask)} are needed, since each pair is of "
            f"another prompt and choose is {ask.choose}; give more prompts, or lower num_pairs or pool"
        )
    return prompts


def gold_questions_of(ask: AskConfig, root: Path) -> list[Row]:
    """The pairs of a round whose answers are known; none where no file is named.

    Raises:
        ConfigError: the file is not there.
        DataError: a row has no known answer.
    """
    if ask.gold_questions is None:
        return []
    path = below(root, ask.gold_questions, "gold_questions")
    rows = [row for _, row in read_rows(path, "preferences")]
    for line, row in enumerate(rows, start=1):
        if is_ranking(row) or row.get("probability", 1.0) < 1:
            raise DataError(
                f"{path}:{line}: the answer to a gold question is known; give a pair of chosen and rejected"
            )
    return rows
