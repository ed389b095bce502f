"""Registered policies: which version is a recipe's champion, and how another one becomes it.

A promotion is written down in MLflow before anything is done, and moves the alias last. Whatever ends the process on
the way, there is one champion, and the next start can tell whether the promotion was over. A lock keeps the promotions
of one machine apart. Other machines may share the registry, so what a promotion rests on is read again just before the
alias moves; MLflow has no write that compares.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from rlhf.errors import ArtifactMismatchError, RLHFError
from rlhf.files.locks import locked
from rlhf.paths import state_folder
from rlhf.references import SHARED_MODEL, Champion, ModelCardRef, PolicyVersion, RewardModelsRef
from rlhf.tracking.artifacts import find_output, local_path, stored_at
from rlhf.tracking.client import client, retry_while_unavailable
from rlhf.tracking.models import registered_models
from rlhf.tracking.queries import ClientStore, tags_of
from rlhf.tracking.run_details import get_run
from rlhf.tracking.tags import COMPARED_WITH, DATA_TAG, FINGERPRINT_TAG, OUTPUT_TAG, PARENT_TAG, PROMOTION_TAG
from rlhf.tracking.versions import aliases, recipe_of

logger = logging.getLogger(__name__)
CHAMPION = "champion"


class ChampionChangedError(RLHFError):
    """The champion is another one than the candidate was compared with, or is about to be."""


class Promotion(BaseModel):
    """A change of a recipe's champion, as the tag `promotion` of its registered model tells it."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    state: Literal["pending", "done", "undone"]
    """pending: under way, or cut off. undone: it was cut off before the alias moved."""
    champion: PolicyVersion | None = Field(alias="from")
    """The version that was the champion. None: there was none."""
    to: PolicyVersion
    """The version that is to be the champion."""
    flow_run_id: str
    """Prefect's id of the run that promotes."""
    at: str
    """When it began, UTC."""


def champion_version(recipe: str) -> str | None:
    """The version of a recipe with the alias `champion`; None where no version has it."""
    return aliases(ClientStore()).get(f"{recipe}@{CHAMPION}")


def champion(recipe: str) -> Champion | None:
    """A recipe's champion, its artifact verified; None where no version has the alias.

    Raises:
        ArtifactMismatchError: its artifact is gone or altered, or the version does not say which it is.
    """
    version = champion_version(recipe)
    if version is None:
        return None
    policy = policy_of(version)
    parent = tags_of(tags_of(policy.run_id).get(PARENT_TAG, ""))
    # The card's stage may have run under an earlier version of the data, so the promotion's word goes first.
    md5 = version_tags(version).get(DATA_TAG) or parent.get(DATA_TAG, "unknown")
    return Champion(version=version, policy=policy, data_md5=md5, reward_models=reward_models_of(policy))


def policy_of(version: str) -> ModelCardRef:
    """The policy's folder of a version, verified.

    Raises:
        ArtifactMismatchError: it is gone or altered, or no stage's run stands behind the version.
    """
    run_id = str(_model_version(version).run_id or "")
    tags = tags_of(run_id)
    if OUTPUT_TAG not in tags:
        raise ArtifactMismatchError(
            f"version {version}: its MLflow run {run_id or '(none)'} is gone, or is not of a "
            f"model card, so its policy cannot be found; restore the run, or give the alias {CHAMPION} to another "
            f"version"
        )
    policy = ModelCardRef.model_validate_json(tags[OUTPUT_TAG])
    try:
        local_path(policy)
    except ArtifactMismatchError as error:
        raise ArtifactMismatchError(
            f"version {version}: {stored_at(policy) or policy.uri} is not what MLflow run "
            f"{run_id} stored (sha256 {policy.sha256}): files are missing or altered; bring the folder back, or give "
            f"the alias {CHAMPION} to another version. Nothing is promoted until then"
        ) from error
    return policy


def reward_models_of(policy: ModelCardRef) -> RewardModelsRef | None:
    """The reward models that a registered policy was trained by, verified; None where they are gone or altered.

    They are found by what the runs have read: the card a policy, and PPO its reward models. What is cleared up keeps
    them for every version with an alias.
    """
    trained_by = _input_of(_input_of(policy.run_id, "policy"), "reward_models")
    fingerprint = tags_of(trained_by).get(FINGERPRINT_TAG)
    try:
        # By its fingerprint: what was removed may have been made again.
        return find_output("reward_model", fingerprint, RewardModelsRef) if fingerprint else None
    except ArtifactMismatchError as error:
        logger.warning("the champion's reward models: %s", error)
        return None


def note_comparison(recipe: str, champion: str | None, comparison: str) -> int:
    """Count a comparison with a recipe's champion, once however often it is read again.

    It is counted by tags of the champion's version, which stay where runs are deleted; where there is no champion, by
    tags of the recipe's registered model. A version that becomes the champion again goes on counting.

    Args:
        recipe: of the candidate.
        champion: the version; None where the candidate was compared with its own SFT policy.
        comparison: sha256 of what was compared.

    Returns:
        The comparison's number among those with this champion, from 1 on.
    """
    key = f"{COMPARED_WITH}{comparison[:16]}"
    with _one_at_a_time():
        counted = comparisons_with(recipe, champion)
        if key not in counted:
            counted[key] = 1 + max(counted.values(), default=0)
            number = str(counted[key])
            if champion is None:
                retry_while_unavailable(lambda: client().set_registered_model_tag(recipe, key, number))
            else:
                _set_version_tag(champion, key, number)
    return counted[key]


def comparisons_with(recipe: str, champion: str | None) -> dict[str, int]:
    """The numbers of the comparisons with a recipe's champion, or of those without one, by their tags.

    The recipe of the last candidate in the model that all recipes shared goes on counting from there.
    """
    if champion is None:
        store = ClientStore()
        last = store.aliases().get(f"{SHARED_MODEL}@candidate")
        shared = _model_tags(SHARED_MODEL) if last and recipe_of(store, last) == recipe else {}
        tags = shared | _model_tags(recipe)
    else:
        tags = version_tags(champion)
    return {key: int(number) for key, number in tags.items() if key.startswith(COMPARED_WITH)}


def version_tags(version: str) -> dict[str, str]:
    """The tags of a version."""
    return dict(_model_version(version).tags)


def is_registered(version: str) -> bool:
    """Whether there is such a version; a person may have deleted it."""
    return ClientStore().version_run(version) is not None


def tag_version(version: str, tags: Mapping[str, str]) -> None:
    """Set tags of a version."""
    for key, value in tags.items():
        _set_version_tag(version, key, value)


def promotions() -> list[Promotion]:
    """The last promotion that was begun of each registered model that has seen one."""
    texts = [model.tags.get(PROMOTION_TAG) for model in registered_models()]
    return [Promotion.model_validate_json(text) for text in texts if text is not None]


def promote(to: str, instead_of: str | None, flow_run_id: str, tags: Mapping[str, str]) -> None:
    """Make a version its recipe's champion, in steps of which the last that matters is one write.

    Args:
        to: the version.
        instead_of: the champion that it was compared with; None where there was none.
        flow_run_id: Prefect's id of the run that does this.
        tags: what the version shall say of itself as the champion.

    Raises:
        ChampionChangedError: the champion is another one by now, or another promotion has begun. The alias was left.
        ArtifactMismatchError: the version's artifact is gone or altered. The champion is the one that it was.
    """
    with _one_at_a_time():
        _check_champion(to, instead_of)
        at = datetime.now(UTC).isoformat(timespec="seconds")
        plan = Promotion(state="pending", champion=instead_of, to=to, flow_run_id=flow_run_id, at=at)
        _write(plan)
        try:
            _do_what_can_fail(to, tags)
            _check_champion(to, instead_of)
            _check_unchanged(plan)
        except RLHFError:
            if plan in promotions():
                _write(plan.model_copy(update={"state": "undone"}))
            raise
        _move_alias(to)
        _write(plan.model_copy(update={"state": "done"}))


def recover() -> list[Promotion]:
    """Finish or undo promotions whose process was killed. Call it when a process starts that may promote.

    Returns:
        What was found pending, as it ended.
    """
    with _one_at_a_time():
        return [_end(plan) for plan in promotions() if plan.state == "pending"]


def _end(plan: Promotion) -> Promotion:
    over = _champion_beside(plan.to) == plan.to
    ended = plan.model_copy(update={"state": "done" if over else "undone"})
    _write(ended)
    stays = f"the alias had not moved, so {_named(plan.champion)} stays the champion"
    happened = "the alias had moved" if over else stays
    logger.warning("the promotion of version %s, cut off at %s, is %s: %s", plan.to, plan.at, ended.state, happened)
    return ended


def _input_of(run_id: str, name: str) -> str:
    """The run whose output a run has read under a name; empty where it is not known."""
    run = get_run(run_id)
    read = run.inputs.get(name) if run else None
    return (read and read.made_by) or ""


def _champion_beside(version: str) -> str | None:
    """The champion of the recipe that a version is of."""
    return champion_version(recipe_of(ClientStore(), version))


def _check_champion(to: str, instead_of: str | None) -> None:
    now = _champion_beside(to)
    if now != instead_of:
        raise ChampionChangedError(
            f"version {to} was compared with {_named(instead_of)}, and now {_named(now)} is the champion; "
            "run the retraining again, so that it is compared with that one"
        )


def _check_unchanged(plan: Promotion) -> None:
    last = next((known for known in promotions() if _model_of(known.to) == _model_of(plan.to)), None)
    if last != plan:
        what = f"version {last.to}, {last.state}, flow run {last.flow_run_id}" if last else "it is gone"
        raise ChampionChangedError(
            f"version {plan.to} was not promoted: another machine has changed the record of the promotion meanwhile "
            f"({what}); run the retraining again once no other promotion is under way"
        )


def _write(plan: Promotion) -> None:
    text = plan.model_dump_json(by_alias=True)
    retry_while_unavailable(lambda: client().set_registered_model_tag(_model_of(plan.to), PROMOTION_TAG, text))


def _do_what_can_fail(to: str, tags: Mapping[str, str]) -> None:
    policy_of(to)
    tag_version(to, tags)


def _move_alias(to: str) -> None:
    model, number = to.split("/")
    retry_while_unavailable(lambda: client().set_registered_model_alias(model, CHAMPION, number))


def _set_version_tag(version: str, key: str, value: str) -> None:
    model, number = version.split("/")
    retry_while_unavailable(lambda: client().set_model_version_tag(model, number, key, value))


def _model_version(version: str) -> Any:
    model, number = version.split("/")
    return retry_while_unavailable(lambda: client().get_model_version(model, number))


def _model_of(version: str) -> str:
    return version.partition("/")[0]


def _model_tags(name: str) -> dict[str, str]:
    """The tags of a registered model; none before a first version was registered."""
    return next((dict(model.tags) for model in registered_models() if model.name == name), {})


def _named(version: str | None) -> str:
    return "no version" if version is None else f"version {version}"


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Hold a lock that dies with its process: what is found pending under it was cut off."""
    with locked(state_folder() / "promotion.lock"):
        yield
