"""Models of the hub: at which commit a run takes them, from a hub that answers, has moved on, or does not answer."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants, hf_api
from made_hub import Hub, hub

from rlhf.config.model import ModelConfig, Setup
from rlhf.config.pipeline import PipelineConfig
from rlhf.config.policy import RewardSourceConfig
from rlhf.config.rl import RLConfig
from rlhf.errors import ModelError
from rlhf.modeling.context import StageContext
from rlhf.modeling.hub import at_commits, sources_at_commits
from rlhf.modeling.models import save_model, start_policy
from rlhf.modeling.run_models import check_hub_models
from rlhf.modeling.template_choice import settled
from rlhf.modeling.tokenizer import load_tokenizer
from rlhf.rewards.sources import load_sources

NAME = "team/tiny"


@pytest.fixture(scope="module")
def running() -> Iterator[Hub]:
    """One for all tests: the hub's client keeps the address that it was first given."""
    with hub() as started:
        yield started


@pytest.fixture
def served(running: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A hub with nothing on it, which the hub's client asks, with a cache of the test's own."""
    monkeypatch.setattr(hf_api.api, "endpoint", running.url)
    monkeypatch.setattr(constants, "ENDPOINT", running.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", running.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    running.repositories.clear()
    running.requests.clear()
    running.failing = False
    return running


@pytest.fixture
def model(tmp_path: Path, tiny_policy: Any, tiny_tokenizer: Any) -> Path:
    save_model(tiny_policy, tiny_tokenizer, tmp_path / "first")
    return tmp_path / "first"


def config(revision: str | None = None, **settings: Any) -> PipelineConfig:
    return PipelineConfig(model=ModelConfig(base=NAME, revision=revision, max_length=48), **settings)


def commit_of(revision: str | None = None) -> str | None:
    return at_commits(config(revision)).model.revision


def load(setup: Setup, pinned: PipelineConfig) -> Any:
    tokenizer = load_tokenizer(NAME, pinned.model.revision)
    return start_policy(setup.model_copy(update={"model": pinned.model}), tokenizer)


def test_a_branch_is_the_commit_that_it_stands_for(served: Hub, model: Path):
    first = served.repository(NAME).push(model)
    other = served.repository(NAME).push(model, branch="refs-of-others")
    assert commit_of() == commit_of("main") == first
    assert commit_of("refs-of-others") == other
    served.repository(NAME).push(model)
    assert commit_of() not in (first, other)


def test_a_commit_is_taken_at_its_word(served: Hub):
    assert commit_of("a" * 40) == "a" * 40
    assert served.requests == []


def test_folders_and_models_made_from_nothing_are_left_alone(served: Hub, project_root: Path):
    (project_root / "team" / "tiny").mkdir(parents=True)
    assert at_commits(config()) == config()
    assert at_commits(PipelineConfig()) == PipelineConfig()
    assert served.requests == []


def test_reward_models_have_their_commits_too(served: Hub, model: Path):
    commit = served.repository(NAME).push(model)
    source = RewardSourceConfig(kind="model", name="safety", path=NAME)
    pinned = at_commits(PipelineConfig(rl=RLConfig(rewards=(RewardSourceConfig(), source))))
    assert [one.revision for one in pinned.rl.rewards] == [None, commit]
    assert [judge.revision for judge in sources_at_commits((source, source))] == [commit, commit]


@pytest.mark.usefixtures("own_project")
def test_a_branch_is_asked_for_once_and_never_again(
    served: Hub, model: Path, save_reward_model: Any, tiny_setup: Setup, tiny_tokenizer: Any
):
    """Base and reward model, each named twice or more; then all that the stages of a run do with them."""
    served.repository(NAME).push(model)
    judge = save_reward_model("judge")
    tiny_tokenizer.save_pretrained(judge)
    served.repository("team/judge").push(judge)
    sources = [RewardSourceConfig(kind="model", name=name, path="team/judge") for name in ("safety", "tone")]
    pinned = settled(at_commits(config(rl=RLConfig(rewards=tuple(sources)))))
    asked = Counter(path for path in served.requests if "/main/" in path)
    assert set(asked) == {f"/{name}/resolve/main/config.json" for name in (NAME, "team/judge")}
    assert max(asked.values()) <= 2, "the commit, and the file"
    served.requests.clear()
    check(pinned)
    assert settled(at_commits(pinned)) == pinned
    load(tiny_setup, pinned)
    load_sources(StageContext(pinned.rl, tiny_setup, tiny_tokenizer), lambda name: None)
    assert served.requests
    assert not [path for path in served.requests if "main" in path.split("/")]


def test_what_is_loaded_is_that_commit_though_the_branch_has_moved(
    served: Hub, model: Path, tmp_path: Path, tiny_setup: Setup, tiny_policy: Any, tiny_tokenizer: Any
):
    served.repository(NAME).push(model)
    pinned = at_commits(config())
    before = {name: weight.clone() for name, weight in tiny_policy.state_dict().items()}
    with torch.no_grad():
        tiny_policy.get_input_embeddings().weight.add_(1.0)
    save_model(tiny_policy, tiny_tokenizer, tmp_path / "second")
    served.repository(NAME).push(tmp_path / "second")
    assert all(torch.equal(weight, before[name]) for name, weight in load(tiny_setup, pinned).state_dict().items())
    moved = load(tiny_setup, at_commits(config())).get_input_embeddings().weight
    assert torch.equal(moved, tiny_policy.get_input_embeddings().weight)


@pytest.mark.parametrize("how", ["is gone", "is busy", "may not be asked"])
def test_without_the_hub_what_was_loaded_last_is_taken(
    served: Hub, model: Path, how: str, tiny_setup: Setup, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
):
    commit = served.repository(NAME).push(model)
    load(tiny_setup, at_commits(config()))
    take_away(served, how, monkeypatch)
    pinned = at_commits(config())
    assert pinned.model.revision == commit
    start_policy(tiny_setup.model_copy(update={"model": pinned.model}), tiny_tokenizer)


@pytest.mark.parametrize("how", ["is gone", "is busy", "may not be asked"])
def test_without_the_hub_and_never_loaded(served: Hub, how: str, monkeypatch: pytest.MonkeyPatch):
    take_away(served, how, monkeypatch)
    with pytest.raises(
        ModelError, match=r"team/tiny: .* the hub does not answer, and its local cache does not have it at v1"
    ):
        commit_of("v1")


def take_away(served: Hub, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the hub's client asks five times
    match how:
        case "is gone":
            for name in ("ENDPOINT", "HUGGINGFACE_CO_URL_TEMPLATE"):
                monkeypatch.setattr(constants, name, getattr(constants, name).replace(served.url, "http://127.0.0.1:9"))
        case "is busy":
            served.failing = True
        case "may not be asked":
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def test_what_the_hub_does_not_have_is_refused(served: Hub, model: Path):
    with pytest.raises(
        ModelError, match=r"team/tiny: there is no such folder, and the hub does not give such a model; .*Not Found"
    ):
        commit_of()
    served.repository(NAME).push(model)
    with pytest.raises(ModelError, match=r"the hub does not give such a model at v9; .*Invalid rev id: v9"):
        commit_of("v9")


def test_a_name_that_no_repository_can_have_is_refused():
    with pytest.raises(
        ModelError, match=r"team/ti--ny: there is no such folder, and the hub does not give such a model"
    ):
        at_commits(PipelineConfig(model=ModelConfig(base="team/ti--ny")))


def check(pinned: PipelineConfig) -> None:
    check_hub_models(pinned.model, pinned.rl.rewards)


@pytest.fixture
def own_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was found out about a model before."""
    monkeypatch.setenv("RLHF_ROOT", str(tmp_path / "own"))


@pytest.mark.usefixtures("own_project")
def test_a_model_is_checked_by_the_headers_alone_and_once(
    served: Hub, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    served.repository(NAME).push(model)
    pinned = at_commits(config())
    check(pinned)
    assert list((tmp_path / "cache").rglob("config.json"))
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    take_away(served, "is gone", monkeypatch)
    served.requests.clear()
    check(pinned)
    assert served.requests == []


@pytest.mark.usefixtures("own_project")
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), r"model\.safetensors was cut off: it has"),
        (lambda path: path.unlink(), "there are no weights"),
        (lambda path: path.write_text("version https://git-lfs"), "pointer of Git LFS"),
        (lambda path: (path.parent / "adapter_config.json").write_text("{}"), "an adapter"),
        (lambda path: (path.parent / "tokenizer.json").write_text("{}"), "no tokenizer can be loaded"),
    ],
)
def test_a_model_that_is_broken_there(served: Hub, model: Path, damage: Any, message: str):
    damage(model / "model.safetensors")
    commit = served.repository(NAME).push(model)
    for pinned in (at_commits(config()), config(commit)):
        with pytest.raises(ModelError, match=rf"team/tiny.*{message}"):
            check(pinned)


@pytest.mark.usefixtures("own_project")
def test_a_language_model_is_no_reward_model_there_either(served: Hub, model: Path):
    served.repository(NAME).push(model)
    source = RewardSourceConfig(kind="model", name="safety", path=NAME)
    with pytest.raises(
        ModelError, match=r"team/tiny: the weights of the head that scores \(score.weight\) are missing"
    ):
        check(at_commits(PipelineConfig(rl=RLConfig(rewards=(source,)))))


@pytest.mark.usefixtures("own_project")
@pytest.mark.parametrize("how", ["is gone", "is busy", "may not be asked"])
def test_without_the_hub_the_files_of_its_cache_are_checked(
    served: Hub, model: Path, how: str, tiny_setup: Setup, monkeypatch: pytest.MonkeyPatch
):
    served.repository(NAME).push(model)
    pinned = at_commits(config())
    load(tiny_setup, pinned)
    take_away(served, how, monkeypatch)
    check(pinned)


@pytest.mark.usefixtures("own_project")
@pytest.mark.parametrize("how", ["is gone", "is busy", "may not be asked"])
def test_without_the_hub_and_without_its_weights(served: Hub, model: Path, how: str, monkeypatch: pytest.MonkeyPatch):
    served.repository(NAME).push(model)
    pinned = at_commits(config())
    take_away(served, how, monkeypatch)
    with pytest.raises(
        ModelError, match=r"team/tiny at \w{40}: its files cannot be had: .*look whether the hub answers"
    ):
        check(pinned)


@pytest.mark.usefixtures("own_project")
def test_weights_that_are_not_finite_are_refused_once_they_are_here(
    served: Hub, tmp_path: Path, tiny_setup: Setup, tiny_policy: Any, tiny_tokenizer: Any
):
    with torch.no_grad():
        tiny_policy.get_input_embeddings().weight[3, 3] = torch.nan
    save_model(tiny_policy, tiny_tokenizer, tmp_path / "broken")
    served.repository(NAME).push(tmp_path / "broken")
    pinned = at_commits(config())
    check(pinned)
    with pytest.raises(ModelError, match=r"team/tiny/model.safetensors: numbers .*embed_tokens.weight \(1\)"):
        load(tiny_setup, pinned)
