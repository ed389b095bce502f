"""Who is let in by the servers of `rlhf up`: its operator, and no page, no other name, no other user of the machine."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
from browser import opened
from playwright.sync_api import Page
from started_services import ROOT, Up, services
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

pytestmark = pytest.mark.services

WRONG = ("rlhf", "wrong-password-of-some-length")
# Health, which a probe without a password asks; the pages that ask for the password, and descriptions of the interface.
OPEN_IN_PREFECT = {("GET", "/api/health"), ("GET", "/api/ready")}
OPEN_IN_MLFLOW = {
    ("GET", "/health"),
    ("GET", "/api/3.0/mlflow/server-info"),
    ("GET", "/ajax-api/3.0/mlflow/server-info"),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, registered_prefect: Path) -> Path:
    folder = tmp_path_factory.mktemp("a") / "project"
    folder.mkdir()
    shutil.copytree(registered_prefect, folder / ".prefect")
    return folder


@pytest.fixture(scope="module")
def locked(project: Path) -> Iterator[Up]:
    """As a person starts it who gives no flag."""
    with services(project, with_password=True) as up:
        yield up


@pytest.fixture(scope="module")
def unlocked(tmp_path_factory: pytest.TempPathFactory, registered_prefect: Path) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("b") / "project"
    folder.mkdir()
    shutil.copytree(registered_prefect, folder / ".prefect")
    with services(folder) as up:
        yield up
        up.stop()


def status(method: str, url: str, **keywords: Any) -> int:
    return httpx.request(method, url, timeout=30, **keywords).status_code


# What both servers have, from their own routers: a route that a new version brings is asked as well.

WALK = """
import json
def walk(routes):
    for route in routes:
        if hasattr(route, "original_router"):  # FastAPI's own for what was included
            yield from walk(route.original_router.routes)
        elif hasattr(route, "path"):
            for method in getattr(route, "methods", None) or ("WEBSOCKET",):
                yield method, route.path
"""
PREFECT_ROUTES = f"""{WALK}
from prefect.server.api.server import create_api_app
print(json.dumps([(method, "/api" + path) for method, path in walk(create_api_app().routes)]))
"""
MLFLOW_ROUTES = f"""{WALK}
from rlhf.tracking.app import create_app
found = list(walk(create_app()._app.routes))
import mlflow.server
for rule in mlflow.server.app.url_map.iter_rules():
    found += [(method, str(rule)) for method in rule.methods]
print(json.dumps(found))
"""


def routes(program: str, up: Up, **variables: str) -> list[tuple[str, str]]:
    environment = up.environment | {"PYTHONPATH": str(ROOT)} | variables
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, cwd=up.root
    )
    asked = {(method, filled(path)) for method, path in json.loads(done.stdout.splitlines()[-1])}
    return sorted((method, path) for method, path in asked if method not in ("HEAD", "OPTIONS"))


def of_http(asked: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(method, path) for method, path in asked if method != "WEBSOCKET"]


def filled(path: str) -> str:
    """A path with something in the place of what it leaves open."""
    for opening, closing in (("{", "}"), ("<", ">")):
        while opening in path:
            before, rest = path.split(opening, 1)
            path = f"{before}1{rest.split(closing, 1)[1]}"
    return path


def let_in(up_port: int, asked: list[tuple[str, str]], auth: tuple[str, str] | None) -> set[tuple[str, str]]:
    """Routes that answer something else than that one is not let in."""
    with httpx.Client(base_url=f"http://127.0.0.1:{up_port}", timeout=30, auth=auth) as client:
        answers = {(method, path): client.request(method, path) for method, path in asked}
    # 403 is what Prefect says before it looks at the password: there is no CSRF token.
    return {route for route, answer in answers.items() if answer.status_code not in (401, 403)}


@pytest.mark.parametrize("auth", [None, WRONG], ids=["no password", "a wrong password"])
def test_no_route_of_prefect_answers_strangers(locked: Up, auth: tuple[str, str] | None):
    asked = of_http(routes(PREFECT_ROUTES, locked))
    assert len(asked) > 150
    assert let_in(locked.prefect_port, asked, auth) == OPEN_IN_PREFECT


@pytest.mark.parametrize("token", [None, ":".join(WRONG)], ids=["no password", "a wrong password"])
def test_no_websocket_of_prefect_answers_strangers(locked: Up, token: str | None):
    paths = {path for method, path in routes(PREFECT_ROUTES, locked) if method == "WEBSOCKET" and "static" not in path}
    assert len(paths) >= 4
    for path in paths:
        address = f"ws://127.0.0.1:{locked.prefect_port}{path}"
        with pytest.raises((ConnectionClosed, InvalidStatus)):
            be_let_in(address, token)


def be_let_in(address: str, token: str | None) -> None:
    """Ask as Prefect's clients do; what ends a connection is raised."""
    with connect(address, subprotocols=["prefect"]) as socket:
        socket.send(json.dumps({"type": "auth", "token": token}))
        while True:
            assert "success" not in socket.recv(timeout=20)


@pytest.mark.parametrize(
    ("auth", "every"),
    [
        pytest.param(None, 1, id="no password"),
        # The server takes its time over a wrong one.
        pytest.param(WRONG, 7, id="a wrong password, some routes"),
        pytest.param(WRONG, 1, id="a wrong password", marks=pytest.mark.soak),
    ],
)
def test_no_route_of_mlflow_answers_strangers(locked: Up, auth: tuple[str, str] | None, every: int):
    folder = locked.root / ".rlhf" / "services"
    variables = {"MLFLOW_AUTH_CONFIG_PATH": str(folder / "mlflow-auth.ini"), "MLFLOW_FLASK_SERVER_SECRET_KEY": "x"}
    variables["_MLFLOW_SGI_NAME"] = "uvicorn"
    variables |= {"RLHF_SERVER_NAMES": "127.0.0.1", "MLFLOW_TRACKING_URI": f"sqlite:///{locked.root}/unused.db"}
    asked = of_http(routes(MLFLOW_ROUTES, locked, **variables))
    assert len(asked) > 300
    found = let_in(locked.mlflow_port, asked[::every], auth)
    missing = {route for route in found if status(route[0], f"http://127.0.0.1:{locked.mlflow_port}{route[1]}") == 404}
    assert found - missing <= OPEN_IN_MLFLOW


def test_the_operator_is_let_in_and_nothing_runs_what_a_form_names(locked: Up, tmp_path: Path):
    """SECURITY 1: job variables named a command, and the worker ran it."""
    deployment = locked.deployment("smoke")["id"]
    marker = tmp_path / "marker"
    for variables in (
        {"command": f"touch {marker}"},
        {"env": {"PYTHONSTARTUP": "x"}},
        {"working_dir": "/tmp"},
        {"image": "x"},
    ):
        answer = locked.api.post(
            f"/deployments/{deployment}/create_flow_run", json={"parameters": {}, "job_variables": variables}
        )
        assert answer.status_code == 422, answer.text
        assert next(iter(variables)) in answer.text
    assert locked.flow_runs_of("smoke") == []
    assert not marker.exists()


def test_the_password_is_kept_for_its_owner_alone(locked: Up):
    """SECURITY 18: other users read whatever umask 022 left readable."""
    folder = locked.root / ".rlhf" / "services"
    assert (folder / "password").stat().st_mode & 0o777 == 0o600
    open_to_others = [path for path in (locked.root / ".rlhf").rglob("*") if path.lstat().st_mode & 0o077]
    assert [path for path in open_to_others if not path.is_socket()] == []
    assert locked.login is not None
    assert locked.said.count(locked.login[1]) == 1  # once, as it was made


@pytest.mark.skipif(os.geteuid() != 0, reason="another user can only be had by root")
def test_another_user_of_the_machine_reads_nothing_and_starts_nothing(locked: Up):
    password = locked.root / ".rlhf" / "services" / "password"
    as_nobody = {"user": "nobody", "group": "nogroup", "extra_groups": [], "capture_output": True, "check": False}
    assert subprocess.run(["cat", str(password)], **as_nobody).returncode != 0
    asked = f"http://127.0.0.1:{locked.prefect_port}/api/deployments/filter"
    done = subprocess.run(["curl", "-s", "-X", "POST", "-w", "%{http_code}", asked], **as_nobody)
    assert done.stdout[-3:] in (b"401", b"403")


# The operator's browser.


class EvilPage(BaseHTTPRequestHandler):
    """A page that asks the servers for whatever a page can ask for."""

    targets: ClassVar[dict[str, str]] = {}

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(PAGE.replace("TARGETS", json.dumps(self.targets)).encode())

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


PAGE = """<!doctype html><title>evil</title><body><script>
const at = TARGETS, won = [];
async function read(what, url, options) {
  try {
    const answer = await fetch(url, options), text = await answer.text();
    if (answer.ok && text) won.push(what);
  } catch (error) {}
}
async function attack() {
  const run = JSON.stringify({parameters: {}, job_variables: {command: "touch " + at.marker}});
  for (const credentials of ["omit", "include"]) {
    await read("deployments", at.prefect + "/api/deployments/filter",
      {method: "POST", body: "{}", headers: {"Content-Type": "application/json"}, credentials});
    await read("deployment", at.prefect + "/api/deployments/" + at.deployment, {credentials});
    await read("experiments", at.mlflow + "/ajax-api/2.0/mlflow/experiments/search?max_results=5", {credentials});
    await read("graphql", at.mlflow + "/graphql", {method: "POST", body: "{}", credentials});
    for (const body of [run, JSON.stringify({parameters: {}})]) {
      const options = {method: "POST", mode: "no-cors", body, credentials};
      await read("run", at.prefect + "/api/deployments/" + at.deployment + "/create_flow_run", options);
    }
    await read("experiment", at.mlflow + "/api/2.0/mlflow/experiments/create",
      {method: "POST", mode: "no-cors", body: JSON.stringify({name: "evil"}), credentials});
  }
  await new Promise(done => {
    const image = new Image();
    image.onload = () => { won.push("image"); done(); };
    image.onerror = done;
    image.src = at.mlflow + "/static-files/favicon.ico";
  });
  await new Promise(done => {
    const socket = new WebSocket(at.prefect.replace("http", "ws") + "/api/events/in");
    socket.onopen = () => { won.push("websocket"); done(); };
    socket.onerror = socket.onclose = done;
    setTimeout(done, 5000);
  });
  const frame = document.createElement("iframe");
  frame.name = "frame";
  document.body.append(frame);
  const form = document.createElement("form");
  form.method = "post"; form.enctype = "text/plain"; form.target = "frame";
  form.action = at.prefect + "/api/deployments/" + at.deployment + "/create_flow_run";
  const field = document.createElement("input");
  field.name = '{"parameters": {}, "x": "'; field.value = '"}';
  form.append(field);
  document.body.append(form);
  form.submit();
  await new Promise(done => setTimeout(done, 2000));
  return won;
}
</script>"""


@pytest.fixture(scope="module")
def evil(unlocked: Up, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a server with the evil page, which has been told all that it could find out."""
    EvilPage.targets = {
        "prefect": f"http://127.0.0.1:{unlocked.prefect_port}",
        "mlflow": f"http://127.0.0.1:{unlocked.mlflow_port}",
        "deployment": unlocked.deployment("smoke")["id"],
        "marker": str(tmp_path_factory.mktemp("evil") / "marker"),
    }
    with ThreadingHTTPServer(("127.0.0.1", 0), EvilPage) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.fixture
def page() -> Iterator[Page]:
    """Of a browser to which names below .test are this machine, as DNS rebinding makes them."""
    with opened("--host-resolver-rules=MAP *.test 127.0.0.1") as browser_page:
        yield browser_page


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "evil.test"])
def test_a_page_of_another_origin_reads_nothing_and_starts_nothing(unlocked: Up, evil: int, page: Page, host: str):
    """SECURITY 1, without a password: a page made a flow run whose job variables named a command."""
    page.goto(f"http://{host}:{evil}/")
    assert page.evaluate("attack()") == []
    assert unlocked.flow_runs_of("smoke") == []
    assert unlocked.mlflow().get_experiment_by_name("evil") is None
    assert not Path(EvilPage.targets["marker"]).exists()


@pytest.mark.parametrize("server", ["prefect", "mlflow"])
def test_a_name_that_was_turned_to_this_machine_is_refused(unlocked: Up, page: Page, server: str):
    """DNS rebinding: the page's own origin is then the server's."""
    port = getattr(unlocked, f"{server}_port")
    answer = page.goto(f"http://evil.test:{port}/")
    assert answer is not None
    assert answer.status == 403
    assert "RLHF_ALLOWED_HOSTS" in page.content()


def test_the_servers_own_pages_work(unlocked: Up, page: Page):
    for address in (f"http://127.0.0.1:{unlocked.prefect_port}", f"http://localhost:{unlocked.prefect_port}"):
        page.goto(f"{address}/deployments")
        page.get_by_role("link", name="demo", exact=True).wait_for(timeout=30_000)


# A changed password.


def test_a_changed_password_is_taken_and_the_old_one_dies(locked: Up):
    """SECURITY 3: MLflow kept the old one and refused the new one. Other logins are kept.

    It ends what the fixture has started.
    """
    assert locked.login is not None
    old, new = locked.login[1], "another horse and staple"
    users = f"http://127.0.0.1:{locked.mlflow_port}/api/2.0/mlflow/users"
    annotator = {"username": "ann", "password": "ann's long password"}
    assert status("POST", f"{users}/create", json=annotator, auth=("rlhf", old)) == 200
    locked.stop()
    with services(locked.root, with_password=True, RLHF_PASSWORD=new) as up:
        assert all(new not in file.read_text(errors="replace") for file in files_of(locked.root))
        prefect = f"http://127.0.0.1:{up.prefect_port}/api/work_pools/rlhf"
        mlflow = f"http://127.0.0.1:{up.mlflow_port}/api/2.0/mlflow/experiments/get?experiment_id=0"
        assert [status("GET", url, auth=("rlhf", old)) for url in (prefect, mlflow)] == [401, 401]
        assert [status("GET", url, auth=("rlhf", new)) for url in (prefect, mlflow)] == [200, 200]
        assert status("GET", mlflow, auth=("ann", "ann's long password")) == 200
        up.stop()


def files_of(root: Path) -> list[Path]:
    found = [path for folder in (".rlhf", ".prefect") for path in (root / folder).rglob("*")]
    return [path for path in found if path.is_file()]
