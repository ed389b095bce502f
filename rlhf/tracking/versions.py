"""Versions of registered policies, and the words by which a person names one.

The policies of a recipe are the versions of a registered model that bears the recipe's name: `demo/3` is the third of
`demo`. Until every recipe had a model, all were versions of `rlhf-policy`; an alias there belongs to the recipe that
made the version, until that recipe has the alias itself.
"""

import re
from collections.abc import Mapping

from rlhf.errors import InputError
from rlhf.references import SHARED_MODEL, whole_version
from rlhf.tracking.records import RunStore
from rlhf.tracking.tags import PARENT_TAG, RECIPE_TAG, VERSION_TAG

ALIASES = ("champion", "candidate")
_NUMBER = re.compile(r"v([1-9][0-9]*)", re.IGNORECASE)
_VERSION = re.compile(r"[A-Za-z0-9._-]+/([1-9][0-9]*)")
_ID = re.compile(r"[0-9a-f]+", re.IGNORECASE)
NAMES = "RECIPE@champion, RECIPE/3 (or champion, candidate, v3, where one recipe has it)"


def find_version(store: RunStore, text: str) -> str | None:
    """The version that a person names, as `RECIPE/NUMBER`; None where the text has another form than a version's name.

    Args:
        store: where the versions are.
        text: `RECIPE@ALIAS`, `RECIPE/NUMBER`; an alias alone, or `v3`, where one recipe has it.

    Raises:
        InputError: there is no such version, or several recipes have one; the message lists them.
    """
    number = _NUMBER.fullmatch(text)
    if number:
        versions = [f"{model}/{number[1]}" for model in store.policies()]
        return _only(text, {version: version for version in versions if store.version_run(version) is not None}, store)
    if _VERSION.fullmatch(text):
        return _only(text, {text: text} if store.version_run(text) is not None else {}, store)
    if _ID.fullmatch(text):
        return None
    known = aliases(store)
    if "@" in text:
        everywhere = store.aliases() | known
        return _only(text, {text: everywhere[text]} if text in everywhere else {}, store)
    named = {name: version for name, version in known.items() if name.rpartition("@")[2] == text.lower()}
    return _only(text, named, store) if named or text.lower() in ALIASES else None


def aliases(store: RunStore) -> dict[str, str]:
    """Versions by `RECIPE@ALIAS`."""
    known = store.aliases()
    by_recipe = {name: version for name, version in known.items() if not name.startswith(f"{SHARED_MODEL}@")}
    for name in known.keys() - by_recipe.keys():
        by_recipe.setdefault(f"{recipe_of(store, known[name])}@{name.rpartition('@')[2]}", known[name])
    return by_recipe


def aliases_by_version(store: RunStore) -> dict[str, tuple[str, ...]]:
    """The aliases of each version that has one, such as `champion`."""
    known = sorted(aliases(store).items())
    return {
        version: tuple(name.rpartition("@")[2] for name, other in known if other == version) for _, version in known
    }


def policy_version(tags: Mapping[str, str]) -> str | None:
    """The version that a pipeline run has registered; None where it has registered none.

    Args:
        tags: of the pipeline's run.
    """
    return whole_version(tags[VERSION_TAG]) if VERSION_TAG in tags else None


def recipe_of(store: RunStore, version: str) -> str:
    """The recipe whose policy a version is; `rlhf-policy` for a version of that model whose run is gone."""
    model = version.partition("/")[0]
    if model != SHARED_MODEL:
        return model
    run_id = store.version_run(version) or ""
    made_by = store.runs([run_id]).get(run_id)
    pipeline_id = made_by.tags.get(PARENT_TAG, "") if made_by else ""
    pipeline = store.runs([pipeline_id]).get(pipeline_id)
    return pipeline.tags.get(RECIPE_TAG, model) if pipeline else model


def _only(text: str, versions: dict[str, str], store: RunStore) -> str:
    if len(versions) == 1:
        return next(iter(versions.values()))
    if versions:
        raise InputError(f"{text}: several recipes have such a version: {_listed(versions)}; say which one")
    known = aliases(store)
    there = _listed(known) if known else "none at all; `rlhf runs` shows which runs made a version"
    raise InputError(f"no registered policy is {text}; the aliases that there are: {there}")


def _listed(versions: dict[str, str]) -> str:
    return ", ".join(name if name == version else f"{name} ({version})" for name, version in sorted(versions.items()))
