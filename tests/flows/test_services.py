"""`rlhf up` on real servers: runs through the worker, cancelled, killed and retried, and the end of it all."""

import itertools
import json
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from crashing import KINDS, KNOBS, SECONDS, SEED, crash, undisturbed
from ports import free_port
from prefect.blocks.webhook import Webhook
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr
from smoke_runs import FLOW, LONG, long_run, policy, recipe, stages_of
from started_services import ROOT, Up, command_line, continue_project, services, wait_for, wait_until_gone

from flows.servers.supervision import Supervisor

pytestmark = pytest.mark.services
# A budget that is never reached gives another fingerprint for the same numbers. Each is used once: a test that failed
# starts anew.
NEVER_REACHED = itertools.count(21)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, trained: Path, registered_prefect: Path) -> Path:
    return continue_project(tmp_path_factory.mktemp("up") / "project", trained, registered_prefect)


@pytest.fixture(scope="module")
def up(root: Path) -> Iterator[Up]:
    with services(root) as started:
        yield started


def submit_into_ppo(up: Up) -> str:
    """Submit a long run whose PPO is not there yet; return once that has written a checkpoint."""
    before = up.checkpoints("policy-*")
    run_id = up.submit("smoke", long_run(kl_budget=next(NEVER_REACHED)))

    def look() -> bool:
        if set(up.checkpoints("policy-*")) - set(before):
            return True
        assert up.state(run_id) not in ("Completed", "Failed", "Crashed"), up.log(run_id)
        return False

    wait_for(look, 240, every=0.1)
    return run_id


def test_both_servers_answer_and_all_deployments_are_there(up: Up):
    assert httpx.get(f"http://127.0.0.1:{up.prefect_port}/api/health").json() is True
    assert httpx.get(f"http://127.0.0.1:{up.mlflow_port}/health").text == "OK"
    assert "<html" in httpx.get(f"http://127.0.0.1:{up.prefect_port}/", follow_redirects=True).text
    names = set(up.deployments())
    wanted = {one["name"] for one in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]}
    assert names == wanted
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert up.deployment("demo")["version"] == commit
    wait_for(lambda: up.deployment("demo")["status"] == "READY", 60)  # the worker's first look follows its start


def test_a_run_through_the_worker_and_the_same_again(up: Up):
    first = up.submit("smoke", recipe())
    assert up.wait_until_ended(first) == "Completed", up.log(first)
    assert set(stages_of(up, first)) == FLOW
    assert up.flow_run(first)["name"] == "smoke, embedded none, num_threads 1, seed 0"
    again = up.submit("smoke", recipe())
    assert up.wait_until_ended(again) == "Completed"
    cached = {name for name, state in stages_of(up, again).items() if state == "cached"}
    assert cached >= FLOW - {"model_card"}
    assert {state for _, state in up.task_states(again)} <= {"Cached", "Completed"}


@pytest.mark.parametrize(
    ("parameters", "what"),
    [
        ({"advanced": {"rl": {"kl_coef": -1}}}, "less than the minimum"),
        ({"advanced": {"rl": {"kl_coeff": 1}}}, "unexpected"),
        ({"advanced": {"compute": {"device": "tpu"}}}, "is not one of"),
        ({"overrides": "rl.kl_coef: 0.2"}, "does not match"),
        ({"seed": -1}, "less than the minimum"),
    ],
)
def test_wrong_parameters_are_refused_at_once(up: Up, parameters: dict[str, Any], what: str):
    answer = up.api.post(
        f"/deployments/{up.deployment('smoke')['id']}/create_flow_run", json={"parameters": parameters}
    )
    assert answer.status_code in (409, 422)
    assert what in answer.text


def test_an_error_says_in_the_run_what_the_command_line_would_print(up: Up):
    wrong = up.submit("smoke", recipe(rewards=[{"kind": "function", "name": "nowhere"}]))
    assert up.wait_until_ended(wrong) == "Failed"
    assert "nowhere" in up.flow_run(wrong)["state"]["message"]
    shown = up.artifact(wrong, "failure")
    assert shown.startswith("**")
    assert "nowhere" in shown
    assert "*Retry* goes on with the stage that failed" in shown


def test_without_mlflow_a_run_is_refused_within_seconds(up: Up):
    held = Supervisor(up.root / ".rlhf" / "services" / "supervisor.sock")
    held.stop("mlflow")
    try:
        run_id = up.submit("smoke", recipe())
        assert up.wait_until_ended(run_id) == "Failed"
    finally:
        held.start("mlflow")
    run = up.flow_run(run_id)
    assert f"the MLflow store http://127.0.0.1:{up.mlflow_port} failed" in run["state"]["message"]
    assert "look whether it runs" in run["state"]["message"]
    assert run["total_run_time"] < 10
    wait_for(up.mlflow_reachable, 120)


@pytest.mark.soak
def test_killed_in_ppo_a_run_is_crashed_and_its_retry_goes_on(up: Up):
    whole = up.submit("smoke", long_run())
    assert up.wait_until_ended(whole) == "Completed", up.log(whole)
    run_id = submit_into_ppo(up)
    up.process_of(run_id).kill()
    assert up.wait_until_ended(run_id, 60) == "Crashed"
    assert up.checkpoints("policy-*")
    up.retry(run_id)
    wait_for(lambda: up.state(run_id) in ("Running", "Completed"), 60)
    assert [run.info.status for run in up.mlflow_runs(run_id)].count("KILLED") <= 1
    assert wait_for(lambda: (s := up.state(run_id)) in ("Completed", "Failed") and s, 240) == "Completed"
    states = [run.info.status for run in up.mlflow_runs(run_id)]
    assert states[0] == "FINISHED"
    assert "RUNNING" not in states
    assert states.count("KILLED") == 1
    assert policy(up, run_id) == policy(up, whole)
    assert curve(up, run_id) == curve(up, whole)
    assert {name for name, state in stages_of(up, run_id).items() if state == "trained"} <= {"policy", "model_card"}


def curve(up: Up, run_id: str) -> list[tuple[int, float]]:
    trained = next(run for run in reversed(up.mlflow_runs(run_id)) if run.data.tags.get("rlhf.stage") == "policy")
    points = up.mlflow().get_metric_history(trained.info.run_id, "policy/kl_mean")
    assert [point.step for point in points] == list(range(1, LONG + 1))
    return [(point.step, point.value) for point in points]


def test_cancelled_in_ppo_a_run_keeps_its_checkpoint(up: Up):
    run_id = submit_into_ppo(up)
    up.cancel(run_id)
    assert up.wait_until_ended(run_id, 90) == "Cancelled"
    kept = up.checkpoints("policy-*")
    assert kept
    assert {run.info.status for run in up.mlflow_runs(run_id)} == {"KILLED"}
    up.retry(run_id)
    wait_for(lambda: up.state(run_id) == "Completed", 240)
    assert up.mlflow_runs(run_id)[0].info.status == "FINISHED"


@pytest.mark.soak
def test_the_mlflow_server_may_go_and_come_back(up: Up):
    run_id = submit_into_ppo(up)
    server = next(one for one in up.processes() if "mlflow server" in command_line(one))
    for one in (*server.children(recursive=True), server):
        one.kill()
    assert up.wait_until_ended(run_id) == "Completed", up.log(run_id)
    assert curve(up, run_id)


@pytest.mark.soak
def test_the_pages_of_a_run_are_opened(up: Up):
    done = subprocess.run(
        up.command("open", "smoke@candidate", "--no-browser"),
        env=up.environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    first, second = done.stdout.splitlines()
    assert first.startswith(f"Prefect: http://127.0.0.1:{up.prefect_port}/runs/flow-run/")
    assert second.startswith(f"MLflow: http://127.0.0.1:{up.mlflow_port}/#/experiments/1/runs/")


@pytest.mark.soak
def test_a_recipe_that_is_added_is_registered(up: Up):
    folder = up.root / "configs"
    folder.mkdir()
    file = folder / "mine.yaml"
    file.write_text("rl: {kl_coeff: 0.2}\n")
    time.sleep(1)
    file.write_text("name: mine\nrl: {kl_coef: 0.2}\n")
    wait_for(lambda: "mine" in up.deployments(), 180)
    assert up.deployment("mine")["parameters"] == {"recipe": "mine"}
    choices = up.deployment("seeds")["parameter_openapi_schema"]["properties"]["recipe"]["enum"]
    assert "mine" in choices


def test_a_form_that_names_no_setting_fails_at_once_and_says_which_was_meant(up: Up):
    run_id = up.submit("smoke", {"overrides": "rl.kl_coeff=0.2"})
    assert up.wait_until_ended(run_id) == "Failed"
    run = up.flow_run(run_id)
    assert run["name"] == "smoke, settings that are refused"
    said = "rl.kl_coeff is not a setting; the nearest known one is rl.kl_coef"
    assert said in run["state"]["message"]
    assert run["total_run_time"] < 5
    assert "*Copy to new run*" in up.artifact(run_id, "failure")


def test_a_schedule_is_taken_by_services_that_are_up(up: Up):
    def schedule(*arguments: str) -> str:
        done = subprocess.run(
            up.command("schedule", *arguments), env=up.environment, cwd=ROOT, capture_output=True, text=True, check=True
        )
        return done.stdout

    said = schedule("configs/stories.yaml", "--at", "3:05", "--timezone", "Europe/Berlin")
    assert said.startswith(f"Every day at 3:05 Europe/Berlin: {ROOT / 'configs' / 'stories.yaml'}, where there is new")
    nightly = up.deployment("nightly")
    (found,) = nightly["schedules"]
    assert (found["schedule"]["cron"], found["schedule"]["timezone"], found["active"]) == (
        "5 3 * * *",
        "Europe/Berlin",
        True,
    )
    assert nightly["parameters"]["recipe"] == "stories"
    assert schedule("--off").startswith("Nothing is scheduled")
    assert [one["active"] for one in up.deployment("nightly")["schedules"]] == [False]


@pytest.mark.soak
def test_nightly_retraining_fires_and_a_second_is_refused_meanwhile(up: Up):
    deployment = up.deployment("nightly")
    address = f"/deployments/{deployment['id']}"
    assert [one["schedule"]["cron"] for one in deployment["schedules"]] == ["0 2 * * *"]
    assert [one["active"] for one in deployment["schedules"]] == [False], "nobody has named a recipe"
    often = [{"schedule": {"interval": 20}, "active": True}]
    form = long_run(num_updates=2000)
    parameters = form | {"advanced": form["advanced"] | {"registered": True}, "retrain": {}}
    up.api.patch(address, json={"schedules": often, "parameters": parameters}).raise_for_status()

    def fired() -> list[dict[str, Any]]:
        waiting = ("Scheduled", "Late", "Pending", "Submitting")
        return [run for run in up.flow_runs_of("nightly") if run["state_name"] not in waiting]

    try:
        first, second = wait_for(lambda: len(fired()) >= 2 and fired(), 240, every=1)[:2]
        assert first["state_name"] == "Running"
        assert second["state_name"] == "Cancelled"
        assert second["state"]["message"] == "Deployment concurrency limit reached."
    finally:
        up.api.patch(address, json={"schedules": []}).raise_for_status()
        up.cancel(fired()[0]["id"])
    assert up.wait_until_ended(first["id"], 90) == "Cancelled"


@pytest.fixture
def told() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """The address of a web server of a person's own, and what it has been told."""
    found: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", found
        server.shutdown()


@pytest.mark.soak
def test_after_a_power_cut_the_run_is_crashed_told_of_and_goes_on(up: Up, told: tuple[str, list[dict[str, str]]]):
    """Every process at once, as when the machine goes down."""
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{up.prefect_port}/api"}):
        Webhook(url=SecretStr(told[0])).save("rlhf", overwrite=True)
    run_id = submit_into_ppo(up)
    up.kill()
    up.start()
    assert up.state(run_id) == "Crashed"
    (message,) = wait_for(lambda: told[1], 60)
    assert message["event"] == "Crashed"
    assert message["run"] == up.flow_run(run_id)["name"]
    assert "Retry goes on" in message["message"]
    assert message["url"].endswith(run_id)
    assert "Closed after a crash: 1 runs in Prefect" in up.said
    assert "RUNNING" not in {run.info.status for run in up.mlflow_runs(run_id)}
    up.retry(run_id)
    wait_for(lambda: up.state(run_id) == "Completed", 240)


@pytest.fixture(scope="module")
def expected(up: Up) -> str:
    return undisturbed(up)


@pytest.mark.parametrize("kind", ["flow", "worker", "mlflow hangs"])
def test_a_crash_ends_with_the_same_bits(up: Up, expected: str, kind: str):
    """The soak has all kinds in every stage."""
    draw = random.Random(f"{SEED} {kind}")
    stage = draw.choice([*KNOBS])
    seconds = draw.uniform(0.0, SECONDS[stage])
    print(f"RLHF_CRASH_SEED={SEED}: {kind} killed in {stage} after {seconds:.2f} s")
    crash(up, KINDS[kind], stage, 1 + [*KINDS].index(kind), seconds, expected)


def test_a_second_one_is_refused(up: Up):
    done = subprocess.run(up.command("up"), env=up.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "are up already" in done.stderr


def test_the_end_leaves_nothing_running(up: Up):
    """The last of this module: it stops what the others used."""
    run_id = submit_into_ppo(up)
    everything = up.processes()
    assert len(everything) >= 4
    assert up.stop(signal.SIGINT) == 0
    wait_until_gone(everything, 20)
    # They are started again by who wants to see a run.
    up.with_password = True
    up.api.close()
    del up.api
    up.start("open", "v1", "--no-browser", last_line="MLflow: h")
    assert f"\nPrefect: http://127.0.0.1:{up.prefect_port}/runs/flow-run/" in up.said
    assert f"\nMLflow: http://127.0.0.1:{up.mlflow_port}/#/experiments/1/runs/" in up.said
    assert up.state(run_id) == "Cancelled"
    assert {run.info.status for run in up.mlflow_runs(run_id)} == {"KILLED"}
    # Started again it can be stopped from elsewhere.
    done = subprocess.run(up.command("down"), env=up.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    up.process.communicate(timeout=60)
    assert up.process.returncode == 0


@pytest.fixture
def _not_under_nohup() -> Iterator[None]:
    """Whoever started the tests may have told them to ignore a closed terminal, and what they start inherits that."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.soak
@pytest.mark.usefixtures("_not_under_nohup")
def test_a_terminal_that_is_closed_stops_all(project_root: Path):
    with services(project_root) as up:
        everything = up.processes()
        assert len(everything) >= 3
        assert up.process.stdout is not None
        up.process.stdout.close()
        up.process.send_signal(signal.SIGHUP)
        assert up.process.wait(timeout=180) == 129
        wait_until_gone(everything, 60)


def run_up(root: Path, *flags: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    up = Up(root, flags, variables)
    return subprocess.run(
        up.command("up", *up.ports, *flags),
        env=up.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_a_taken_port_is_a_clear_error(project_root: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_up(project_root, "--mlflow-port", str(port))
    assert done.returncode == 2
    assert f"mlflow cannot listen at 127.0.0.1:{port}" in done.stderr
    assert "--mlflow-port" in done.stderr


@pytest.mark.parametrize(
    ("flags", "variables", "what"),
    [
        (("--host", "0.0.0.0", "--no-password"), {}, "lets other machines in"),
        (("--no-password",), {"RLHF_PASSWORD": "a long enough one"}, "leave one of the two away"),
        ((), {"RLHF_PASSWORD": "short"}, "fewer than 12 characters"),  # pragma: allowlist secret
        (("--database", "mysql://u@h/d"), {}, "postgresql://"),
        (("--database", f"postgresql://u@127.0.0.1:{free_port()}/d"), {}, "PostgreSQL at 127.0.0.1"),
        (("--prefect-port", "4999", "--mlflow-port", "4999"), {}, "are both 4999"),
    ],
)
def test_bad_flags(project_root: Path, flags: tuple[str, ...], variables: dict[str, str], what: str):
    done = run_up(project_root, *flags, **variables)
    assert done.returncode == 2, done.stderr
    assert what in done.stderr
