"""Finding runs: by id, by its beginning, by a name of the registered policy; in a real store, by both readers of it."""

import contextlib
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.cli.main import main
from rlhf.errors import InputError, RLHFError
from rlhf.paths import tracking_database
from rlhf.references import ModelCardRef
from rlhf.tracking import artifacts, sqlite_store
from rlhf.tracking import client as tracking_client
from rlhf.tracking.client import experiment_id
from rlhf.tracking.groups import open_group
from rlhf.tracking.models import register_policy
from rlhf.tracking.queries import ClientStore
from rlhf.tracking.records import IS_PIPELINE, Condition, RunStore
from rlhf.tracking.run_ids import find_in
from rlhf.tracking.runs import close_run, finish_stage, log_dataset, log_metrics, metric_log, open_pipeline, open_stage
from rlhf.tracking.sqlite_store import DatabaseStore
from rlhf.tracking.stores import find_pipeline, open_store
from rlhf.tracking.tags import SEEDS_TAG
from rlhf.tracking.versions import aliases

pytestmark = pytest.mark.usefixtures("project_root")


@pytest.fixture(params=["client", "database"])
def store(request: pytest.FixtureRequest, project_root: Path) -> RunStore:
    return ClientStore() if request.param == "client" else DatabaseStore(tracking_database())


@pytest.fixture
def pipeline() -> str:
    return open_pipeline("demo, seed 0", None, {"seed": 0, "rl": {"kl_coef": 0.1}}, {"recipe": "demo"})


@pytest.fixture
def card(pipeline: str, tmp_path: Path) -> ModelCardRef:
    run_id = open_stage(pipeline, "model_card", "f", {}, {})
    (tmp_path / "card").mkdir()
    (tmp_path / "card" / "README.md").write_text("card")
    uri, sha256 = artifacts.save_output(run_id, tmp_path / "card")
    card = ModelCardRef(run_id=run_id, uri=uri, sha256=sha256)
    finish_stage(run_id, card)
    register_policy(card, "demo")
    return card


def changed(text: str, place: int) -> str:
    return text[:place] + ("0" if text[place] != "0" else "1") + text[place + 1 :]


def test_an_id_its_beginning_and_its_stage(store: RunStore, pipeline: str):
    stage = open_stage(pipeline, "sft", "f", {}, {})
    for text in (pipeline, pipeline.upper(), f" {pipeline} ", pipeline[:6], stage, stage[:8]):
        assert find_in(store, text) == pipeline
    assert find_pipeline(pipeline[:8]) == pipeline


def test_names_of_the_registered_policy(store: RunStore, pipeline: str, card: ModelCardRef):
    assert find_in(store, "candidate") == pipeline
    assert find_in(store, "v1") == pipeline
    for text in ("demo@candidate", "demo/1", "Candidate", "V1"):
        assert find_in(store, text) == pipeline
    for text in ("champion", "v2", "demo@champion", "nobody@candidate", "demo/2", "nobody/1"):
        with pytest.raises(
            InputError, match=rf"no registered policy is {text}; the aliases that there are: demo@candidate \(demo/1\)"
        ):
            find_in(store, text)
    with pytest.raises(InputError, match="did you mean champion"):
        find_in(store, "chmpion")
    tracking_client.client().delete_run(card.run_id)
    with pytest.raises(InputError, match=f"version demo/1: run {card.run_id} was deleted in MLflow; restore"):
        find_in(store, "candidate")


def test_an_alias_of_several_recipes_is_named_with_its_recipe(store: RunStore, pipeline: str, card: ModelCardRef):
    register_policy(card, "other")
    for text in ("candidate", "v1"):
        with pytest.raises(InputError, match=f"{text}: several recipes have such a version: demo.*, other"):
            find_in(store, text)
    for text in ("demo@candidate", "other@candidate", "demo/1", "other/1"):
        assert find_in(store, text) == pipeline


def test_an_alias_of_the_shared_model_is_its_recipes_until_that_has_its_own(
    store: RunStore, pipeline: str, card: ModelCardRef
):
    mlflow = tracking_client.client()
    mlflow.create_registered_model("rlhf-policy")
    mlflow.create_model_version("rlhf-policy", card.uri, run_id=card.run_id)
    for alias in ("candidate", "champion"):
        mlflow.set_registered_model_alias("rlhf-policy", alias, "1")
    assert aliases(store) == {"demo@candidate": "demo/1", "demo@champion": "rlhf-policy/1"}
    for text in ("champion", "demo@champion", "rlhf-policy@champion", "rlhf-policy/1"):
        assert find_in(store, text) == pipeline
    with pytest.raises(InputError, match=r"v1: several recipes have such a version: demo/1, rlhf-policy/1; say which"):
        find_in(store, "v1")


@pytest.mark.parametrize("place", [0, 3, 20])
def test_an_id_with_a_slip_names_the_one_that_was_meant(store: RunStore, pipeline: str, place: int):
    for _ in range(5):
        open_pipeline("other", None, {}, {"recipe": "other"})
    with pytest.raises(InputError, match="there is no run") as failure:
        find_in(store, changed(pipeline, place))
    first = str(failure.value).partition("the nearest ones are ")[2]
    assert first.startswith(f"{pipeline} (demo, 20")
    assert "`rlhf runs` lists them" in first


def test_what_is_no_id(store: RunStore):
    with pytest.raises(InputError, match="there are no runs yet"):
        find_in(store, "deadbeef")
    newest = open_pipeline("demo", None, {}, {"recipe": "demo"})
    with pytest.raises(InputError, match="at least 6 characters"):
        find_in(store, newest[:5])
    with pytest.raises(InputError, match=f"the newest ones are {newest}"):
        find_in(store, "f" * 32)
    for text in ("", "no run", "x'; drop", "%"):
        with pytest.raises(InputError, match="is no run: give the id"):
            find_in(store, text)


def test_an_ambiguous_beginning(store: RunStore, monkeypatch: pytest.MonkeyPatch):
    import uuid

    for number in (1, 2):
        monkeypatch.setattr(
            uuid, "uuid4", lambda number=number: uuid.UUID(f"abcdef00-0000-4000-8000-00000000000{number}")
        )
        open_pipeline("demo", None, {}, {})
    with pytest.raises(InputError, match=r"abcdef stands for 2 runs .*0001 .*give more characters"):
        find_in(store, "abcdef")


def test_a_run_that_is_of_no_pipeline(store: RunStore):
    run_id = tracking_client.client().create_run(experiment_id()).info.run_id
    with pytest.raises(InputError, match="is no run of a pipeline"):
        find_in(store, run_id)


def test_a_group_is_told_from_a_run(store: RunStore):
    group, _ = open_group("demo, 2 seeds", "key", "flow", {}, {"recipe": "demo", SEEDS_TAG: "7,11"})
    message = rf"run {group} is a group of several seeds \(7,11\).* `rlhf runs --group {group[:8]}` lists the runs of"
    with pytest.raises(InputError, match=message):
        find_in(store, group[:8])


def test_a_project_without_a_store(project_root: Path):
    tracking_database().unlink()
    for call in (open_store, lambda: find_pipeline("abcdef")):
        with pytest.raises(InputError, match="nothing was run in this project yet"):
            call()
    assert not tracking_database().exists()


def test_both_readers_see_the_same(pipeline: str, card: ModelCardRef):
    time.sleep(0.01)
    other = open_pipeline("other", None, {"seed": 1}, {"recipe": "other"})
    deleted = open_pipeline("deleted", None, {}, {"recipe": "demo"})
    tracking_client.client().delete_run(deleted)
    with metric_log(pipeline) as log:
        for step in (3, 1, 2):
            log({"policy/kl_mean": step / 10}, step)
        log({"policy/kl_mean": float("nan"), "policy/entropy": float("inf")}, 4)
    log_metrics(pipeline, {"evaluation/win_rate": 0.75})
    log_dataset(pipeline, "data", "1234.dir", "data")
    close_run(pipeline, "FINISHED")
    client, database = ClientStore(), DatabaseStore(tracking_database())
    questions: list[list[Condition]] = [
        [],
        [IS_PIPELINE],
        [Condition("tag", "recipe", "=", "demo")],
        [Condition("tag", "recipe", "!=", "demo"), IS_PIPELINE],
        [Condition("tag", "recipe", "LIKE", "de%"), IS_PIPELINE],
        [Condition("metric", "evaluation/win_rate", ">=", 0.75)],
        [Condition("metric", "evaluation/win_rate", "<", 0.75)],
        [Condition("attribute", "status", "=", "FINISHED")],
        [Condition("attribute", "start_time", ">", client.runs([pipeline])[pipeline].started.timestamp() * 1000)],
        [Condition("attribute", "run_id", "LIKE", f"__{other[2:9]}%")],
    ]
    for question in questions:
        assert database.search(question, 100) == client.search(question, 100)
        assert database.search(question, 1) == client.search(question, 1)
        assert database.count(question) == client.count(question) == len(client.search(question, 100))
    assert client.count([IS_PIPELINE]) == 2
    ids = [pipeline, card.run_id, deleted, "0" * 32]
    assert database.runs(ids) == client.runs(ids)
    assert set(database.runs(ids)) == {pipeline, card.run_id}
    names = ["policy/kl_mean", "policy/entropy", "sft/loss"]
    assert database.curves(pipeline, names) == client.curves(pipeline, names)
    assert database.curves(pipeline, names) == {"policy/kl_mean": [(1, 0.1), (2, 0.2), (3, 0.3)]}
    assert database.aliases() == client.aliases() == {"demo@candidate": "demo/1"}
    assert database.policies() == client.policies() == ["demo"]
    assert database.version_run("demo/1") == client.version_run("demo/1") == card.run_id
    assert database.version_run("demo/7") is client.version_run("demo/7") is None


def test_more_runs_than_one_answer_holds(pipeline: str):
    with contextlib.closing(sqlite3.connect(tracking_database())) as database, database:
        database.execute("CREATE TEMPORARY TABLE copies AS SELECT * FROM runs WHERE run_uuid = ?", [pipeline])
        for number in range(1001):
            database.execute("UPDATE copies SET run_uuid = ?", [f"{number:032}"])
            database.execute("INSERT INTO runs SELECT * FROM copies")
    assert len(ClientStore().runs([f"{number:032}" for number in range(1001)])) == 1001
    assert ClientStore().runs([]) == {}


def test_a_metric_that_is_no_number_meets_no_condition(pipeline: str):
    tracking_client.client().log_metric(pipeline, "policy/kl_mean", float("nan"))
    store = DatabaseStore(tracking_database())
    assert store.count([Condition("metric", "policy/kl_mean", "<", 1.0)]) == 0
    assert store.runs([pipeline])[pipeline].metrics == {}
    assert store.curves(pipeline, ["policy/kl_mean"]) == {}


def test_the_end_is_found_by_halves(monkeypatch: pytest.MonkeyPatch):
    for number in (0, 1, 2, 3, 7, 8, 9, 1000):
        rows: Callable[..., list[int]] = lambda _, limit, offset, number=number: list(range(number))[offset:][:limit]  # noqa: E731
        monkeypatch.setattr(ClientStore, "_page", staticmethod(rows))
        assert ClientStore().count([]) == number


def test_a_file_that_is_no_store(project_root: Path):
    tracking_database().write_text("x" * 5000)
    with pytest.raises(RLHFError, match=r"cannot be read as MLflow's store \(file is not a database\)"):
        open_store().aliases()


def change_store(*statements: str) -> None:
    with contextlib.closing(sqlite3.connect(tracking_database())) as database, database:
        for statement in statements:
            database.execute(statement)


@pytest.mark.parametrize("column", ["name", "title"])
def test_tables_of_another_mlflow_are_refused(pipeline: str, column: str):
    other = ["ALTER TABLE runs RENAME COLUMN name TO title"] if column == "title" else []
    change_store("UPDATE alembic_version SET version_num = 'ffffffffffff'", *other)
    # In a process of its own: MLflow keeps what it has opened.
    commands = [["runs"], ["verify", pipeline], ["gc", "--yes"]]
    script = f"from rlhf.cli.main import main; print(*map(main, {commands}))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["2", "2", "2"]
    assert done.stderr.count("out-of-date database schema (found version ffffffffffff") == len(commands)


def test_known_tables_whose_columns_differ(pipeline: str):
    change_store("ALTER TABLE runs RENAME COLUMN name TO title")
    with pytest.raises(InputError, match=r"cannot be read as MLflow's store \(no such column: name\)"):
        open_store().runs([pipeline])


def test_tables_that_only_mlflow_knows_are_read_through_it(
    pipeline: str, card: ModelCardRef, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    known = open_store().runs([pipeline, card.run_id])
    monkeypatch.setattr(sqlite_store, "KNOWN_SCHEMAS", {"ffffffffffff": "MLflow 9"})
    store = open_store()
    assert isinstance(store, ClientStore)
    assert store.runs([pipeline, card.run_id]) == known
    assert main(["runs", "--json"]) == 0
    assert pipeline in capsys.readouterr().out
    assert main(["gc", "--yes"]) == 2
    assert "mlflow.db: its tables are of an MLflow that is not known here" in capsys.readouterr().err
    assert (artifacts.stored_at(card), artifacts.local_path(card).is_dir()) == (None, True)
