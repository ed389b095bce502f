"""Champion and promotion in a real MLflow store, with real kills."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from tracking_server import Server

from rlhf.errors import ArtifactMismatchError, ConfigError
from rlhf.references import ModelCardRef, PolicyRef, Reference, RewardModelsRef
from rlhf.runs.gc.retention import find_needs
from rlhf.tracking import artifacts, registry
from rlhf.tracking.client import client, tracking_uri
from rlhf.tracking.models import check_recipe_name, register_policy
from rlhf.tracking.registry import ChampionChangedError, Promotion
from rlhf.tracking.run_details import search_runs
from rlhf.tracking.run_details import versions as version_facts
from rlhf.tracking.runs import finish_stage, open_pipeline, open_stage
from rlhf.tracking.tags import RECIPE_TAG

pytestmark = pytest.mark.usefixtures("project_root")
PROMOTING = Path(__file__).parents[1] / "promoting.py"
RECIPE = "demo"


@pytest.fixture
def versions(project_root: Path, tmp_path: Path) -> list[ModelCardRef]:
    """Two registered policies, versions 1 and 2, of two pipeline runs on two versions of the data."""
    return [register(tmp_path / "made", number) for number in (1, 2)]


def register(folder: Path, number: int, recipe: str = RECIPE) -> ModelCardRef:
    card = make(folder, number, recipe)
    assert register_policy(card, recipe) == f"{recipe}/{number}"
    return card


def make(folder: Path, number: int, recipe: str) -> ModelCardRef:
    tags = {registry.DATA_TAG: f"md5-{number}.dir", RECIPE_TAG: recipe}
    pipeline = open_pipeline(f"run {number}", None, {}, tags)
    run_id = open_stage(pipeline, "model_card", f"f{number}", {}, {})
    folder.mkdir(exist_ok=True)
    (folder / "weights").write_text(str(number))
    uri, sha256 = artifacts.save_output(run_id, folder)
    card = ModelCardRef(run_id=run_id, uri=uri, sha256=sha256)
    finish_stage(run_id, card)
    return card


def last_promotion() -> Promotion | None:
    return next(iter(registry.promotions()), None)


def promote(to: str, instead_of: str | None) -> None:
    registry.promote(to, instead_of, "flow-run", {registry.DATA_TAG: f"promoted-{to[-1]}.dir"})


def test_nothing_is_registered_yet():
    assert registry.champion(RECIPE) is None
    assert registry.promotions() == []
    assert registry.recover() == []


def test_the_first_champion_and_the_next(versions: list[ModelCardRef]):
    assert registry.champion(RECIPE) is None
    promote("demo/1", None)
    promote("demo/2", "demo/1")
    champion = registry.champion(RECIPE)
    assert champion is not None
    assert (champion.version, champion.policy, champion.data_md5) == ("demo/2", versions[1], "promoted-2.dir")
    last = last_promotion()
    assert last is not None
    assert (last.state, last.champion, last.to, last.flow_run_id) == ("done", "demo/1", "demo/2", "flow-run")
    assert registry.recover() == []


@pytest.mark.usefixtures("versions")
def test_an_alias_set_by_hand_has_the_data_of_its_pipeline_run():
    client().set_registered_model_alias(RECIPE, registry.CHAMPION, "2")
    champion = registry.champion(RECIPE)
    assert champion is not None
    assert (champion.version, champion.data_md5) == ("demo/2", "md5-2.dir")


def made(pipeline: str, stage: str, kind: type[Reference], folder: Path, **inputs: Reference) -> Reference:
    """A finished stage with an output of its own."""
    run_id = open_stage(pipeline, stage, f"print of {stage}", {}, inputs)
    folder.mkdir(exist_ok=True)
    (folder / "weights").write_text(stage)
    uri, sha256 = artifacts.save_output(run_id, folder)
    reference = kind(run_id=run_id, uri=uri, sha256=sha256)
    finish_stage(run_id, reference)
    return reference


def test_the_champions_reward_models(tmp_path: Path):
    """They are found by what was read on the way to the policy, also of a run that trained none of it."""
    trained, later = (open_pipeline(name, None, {}, {"rlhf.kind": "pipeline"}) for name in ("one", "two"))
    reward_models = made(trained, "reward_model", RewardModelsRef, tmp_path / "made")
    policy = made(trained, "policy", PolicyRef, tmp_path / "made", reward_models=reward_models)
    card = made(later, "model_card", ModelCardRef, tmp_path / "made", policy=policy)
    assert isinstance(card, ModelCardRef)
    promote(register_policy(card, RECIPE), None)
    champion = registry.champion(RECIPE)
    assert champion is not None
    assert champion.reward_models == reward_models
    # What is cleared up keeps them, however long ago that was.
    assert reward_models.run_id in find_needs(search_runs(), version_facts(), 0).outputs

    artifacts.remove_output(reward_models.run_id)
    assert registry.reward_models_of(card) is None
    again = made(later, "reward_model", RewardModelsRef, tmp_path / "made")
    assert registry.reward_models_of(card) == again
    (artifacts.local_path(again) / "weights").write_text("altered")
    assert registry.reward_models_of(card) is None


@pytest.mark.usefixtures("versions")
def test_a_champion_of_which_no_run_tells_the_reward_models():
    promote("demo/1", None)
    champion = registry.champion(RECIPE)
    assert champion is not None
    assert champion.reward_models is None


def test_comparisons_are_counted_by_champion_and_once(versions: list[ModelCardRef]):
    one, other = "1" * 64, "2" * 64
    assert [registry.note_comparison(RECIPE, None, sha256) for sha256 in (one, one, other)] == [1, 1, 2]
    assert [registry.note_comparison(RECIPE, "demo/1", sha256) for sha256 in (other, one, other)] == [1, 2, 1]
    for card in versions:
        client().delete_run(card.run_id)
    assert registry.note_comparison(RECIPE, "demo/1", "3" * 64) == 3
    assert registry.note_comparison(RECIPE, "demo/2", one) == 1
    assert sorted(registry.comparisons_with(RECIPE, None).values()) == [1, 2]


@pytest.mark.usefixtures("versions")
def test_another_champion_than_the_one_compared_with():
    promote("demo/1", None)
    with pytest.raises(ChampionChangedError, match="compared with no version, and now version demo/1 is the champion"):
        promote("demo/2", None)
    assert registry.champion_version(RECIPE) == "demo/1"
    last = last_promotion()
    assert last is not None
    assert (last.state, last.to) == ("done", "demo/1")


def test_a_candidate_that_is_gone_is_not_promoted(versions: list[ModelCardRef]):
    promote("demo/1", None)
    subprocess.run(["rm", "-r", str(artifacts.local_path(versions[1]))], check=True)
    with pytest.raises(ArtifactMismatchError, match="version demo/2"):
        promote("demo/2", "demo/1")
    assert registry.champion_version(RECIPE) == "demo/1"
    last = last_promotion()
    assert last is not None
    assert last.state == "undone"


@pytest.mark.parametrize("harm", ["gone", "altered"])
def test_a_champion_that_is_not_what_was_stored(versions: list[ModelCardRef], harm: str):
    promote("demo/1", None)
    folder = artifacts.local_path(versions[0])
    if harm == "gone":
        subprocess.run(["rm", "-r", str(folder)], check=True)
    else:
        (folder / "weights").write_text("other")
    with pytest.raises(ArtifactMismatchError) as error:
        registry.champion(RECIPE)
    for word in ("version demo/1", versions[0].run_id, str(folder), "bring the folder back", "alias champion"):
        assert word in str(error.value)


def test_a_champion_whose_run_is_gone(versions: list[ModelCardRef]):
    promote("demo/1", None)
    client().delete_run(versions[0].run_id)
    with pytest.raises(ArtifactMismatchError, match=f"version demo/1: its MLflow run {versions[0].run_id}"):
        registry.champion(RECIPE)


def test_over_a_server(project_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As workers see the store."""
    server = Server(tmp_path, project_root / "mlruns" / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    server.start()
    try:
        assert registry.champion(RECIPE) is None
        register(tmp_path / "made", 1)
        promote("demo/1", None)
        champion = registry.champion(RECIPE)
        assert champion is not None
        assert (champion.version, champion.data_md5) == ("demo/1", "promoted-1.dir")
        assert registry.is_registered("demo/1")
        assert not registry.is_registered("demo/2")
        last = last_promotion()
        assert last is not None
        assert last.state == "done"
    finally:
        server.stop()


@pytest.mark.usefixtures("versions")
@pytest.mark.parametrize(
    ("step", "champion", "state"),
    [(0, "demo/1", None), (1, "demo/1", "undone"), (2, "demo/1", "undone"), (3, "demo/2", "done"), (4, "demo/2", None)],
    ids=["before the note", "before what can fail", "before the alias", "before the second note", "after all"],
)
def test_killed_between_two_steps(step: int, champion: str, state: str | None, caplog: pytest.LogCaptureFixture):
    promote("demo/1", None)
    command = [sys.executable, str(PROMOTING), str(step), "demo/2", "demo/1"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -9
    assert registry.champion_version(RECIPE) == champion
    with caplog.at_level(logging.WARNING, "rlhf"):
        found = registry.recover()
    assert [plan.state for plan in found] == [state] * (state is not None)
    assert bool([record for record in caplog.records if "cut off" in record.message]) == (state is not None)
    assert registry.champion_version(RECIPE) == champion
    last = last_promotion()
    assert last is not None
    assert last.state != "pending"
    assert registry.recover() == []


@pytest.mark.usefixtures("versions")
def test_what_was_undone_can_be_done_again():
    promote("demo/1", None)
    subprocess.run([sys.executable, str(PROMOTING), "2", "demo/2", "demo/1"], capture_output=True, check=False)
    registry.recover()
    promote("demo/2", "demo/1")
    assert registry.champion_version(RECIPE) == "demo/2"


@pytest.mark.usefixtures("versions")
def test_the_first_champion_cut_off_leaves_none():
    subprocess.run([sys.executable, str(PROMOTING), "2", "demo/1", ""], capture_output=True, check=False)
    (found,) = registry.recover()
    assert (found.state, found.champion, registry.champion_version(RECIPE)) == ("undone", None, None)


@pytest.mark.parametrize("meanwhile", ["by hand", "promoted", "begun", "cleared up"])
def test_two_machines_share_a_registry(
    versions: list[ModelCardRef], meanwhile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The lock is one machine's; the second machine comes between the first one's decision and its write."""
    register(tmp_path / "made", 3)
    promote("demo/1", None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri())
    do_what_can_fail = registry._do_what_can_fail

    def interrupted(to: str, tags: dict[str, str]) -> None:
        do_what_can_fail(to, tags)
        monkeypatch.setattr(registry, "_do_what_can_fail", do_what_can_fail)
        monkeypatch.setenv("RLHF_ROOT", str(tmp_path / "second machine"))
        if meanwhile == "by hand":
            client().set_registered_model_alias(RECIPE, registry.CHAMPION, "3")
        elif meanwhile == "promoted":
            promote("demo/3", "demo/1")
        elif meanwhile == "begun":
            registry._write(theirs)
        else:
            registry.recover()  # it does not know that the first machine is at it

    theirs = registry.Promotion(state="pending", champion="demo/1", to="demo/3", flow_run_id="theirs", at="2026-01-01")
    monkeypatch.setattr(registry, "_do_what_can_fail", interrupted)
    with pytest.raises(ChampionChangedError) as error:
        promote("demo/2", "demo/1")
    last = last_promotion()
    assert last is not None
    taken = meanwhile in ("by hand", "promoted")
    assert registry.champion_version(RECIPE) == ("demo/3" if taken else "demo/1")
    states = {"by hand": ("demo/2", "undone"), "promoted": ("demo/3", "done"), "begun": ("demo/3", "pending")}
    assert (last.to, last.state) == states.get(meanwhile, ("demo/2", "undone"))
    said = (
        "compared with version demo/1, and now version demo/3 is the champion"
        if taken
        else "another machine has changed the record"
    )
    assert said in str(error.value)


def test_recipes_have_champions_of_their_own(tmp_path: Path):
    for recipe in ("demo", "other"):
        register(tmp_path / "made", 1, recipe)
    promote("demo/1", None)
    assert registry.champion_version("other") is None
    promote("other/1", None)
    champions = [registry.champion(recipe) for recipe in ("demo", "other")]
    assert [champion.version for champion in champions if champion] == ["demo/1", "other/1"]
    assert {plan.to for plan in registry.promotions()} == {"demo/1", "other/1"}
    registry.note_comparison("demo", "demo/1", "1" * 64)
    assert registry.note_comparison("other", "other/1", "2" * 64) == 1


def test_a_registered_model_of_somebody_else_is_left_alone(tmp_path: Path):
    client().create_registered_model("theirs")
    with pytest.raises(ConfigError, match="name is theirs, and this MLflow store has a registered model theirs that"):
        check_recipe_name("theirs")
    with pytest.raises(ConfigError):
        register_policy(make(tmp_path / "made", 1, "theirs"), "theirs")
    assert registry.promotions() == version_facts() == []


@pytest.fixture
def shared_model(project_root: Path, tmp_path: Path) -> list[ModelCardRef]:
    """A store in which all recipes share a registered model: versions 1 of demo, the champion, 2 and 3 of other."""
    cards = [make(tmp_path / "made", number, recipe) for number, recipe in enumerate(("demo", "other", "other"), 1)]
    client().create_registered_model("rlhf-policy")
    for card in cards:
        client().create_model_version("rlhf-policy", card.uri, run_id=card.run_id, tags={"sha256": card.sha256})
    client().set_registered_model_alias("rlhf-policy", "champion", "1")
    client().set_registered_model_alias("rlhf-policy", "candidate", "3")
    return cards


def test_the_first_champion_of_a_recipe_is_that_of_the_shared_model(shared_model: list[ModelCardRef], tmp_path: Path):
    champion = registry.champion("demo")
    assert champion is not None
    assert (champion.version, champion.policy) == ("rlhf-policy/1", shared_model[0])
    assert registry.champion("other") is None
    register(tmp_path / "made", 1)
    with pytest.raises(ChampionChangedError, match="compared with no version, and now version rlhf-policy/1"):
        promote("demo/1", None)
    promote("demo/1", "rlhf-policy/1")
    assert registry.champion_version("demo") == "demo/1"
    assert registry.champion_version("other") is None
    assert str(client().get_model_version_by_alias("rlhf-policy", "champion").version) == "1"


@pytest.mark.usefixtures("shared_model")
def test_what_was_under_way_in_the_shared_model_ends():
    """A question that was asked before, and a promotion that was cut off before."""
    pending = '{"state": "pending", "from": "1", "to": "2", "flow_run_id": "flow", "at": "then"}'
    client().set_registered_model_tag("rlhf-policy", registry.PROMOTION_TAG, pending)
    (ended,) = registry.recover()
    assert (ended.state, ended.champion, ended.to) == ("undone", "rlhf-policy/1", "rlhf-policy/2")
    with pytest.raises(ChampionChangedError, match="now no version is the champion"):
        promote("rlhf-policy/2", "rlhf-policy/1")  # other has no champion
    client().delete_registered_model_alias("rlhf-policy", "champion")
    promote("rlhf-policy/2", None)
    assert registry.champion_version("other") == "rlhf-policy/2"


@pytest.mark.usefixtures("shared_model")
def test_comparisons_without_a_champion_go_on_counting():
    for number in (1, 2):
        client().set_registered_model_tag("rlhf-policy", f"rlhf.compared.{number}", str(number))
    assert len(registry.comparisons_with("demo", None)) == 0
    assert registry.comparisons_with("other", None) == {"rlhf.compared.1": 1, "rlhf.compared.2": 2}
