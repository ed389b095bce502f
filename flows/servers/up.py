"""`rlhf up` and `rlhf down`: all servers that a person needs on one machine, from start to end.

The process is a client of its own servers: `Services.client_environment` is set before Prefect is imported.
"""

import asyncio
import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable

import httpx
import psutil

from flows.servers import deployments
from flows.servers import flow_runs as runs
from flows.servers.supervision import START_SECONDS, ServiceError, Supervisor, last_words, started, supervisor
from flows.servers.waiting import wait_until
from rlhf.addresses import with_public_addresses
from rlhf.errors import ConfigError
from rlhf.services.ports import check_port_is_free
from rlhf.services.postgresql import prepare_database
from rlhf.services.settings import USER, Services, services_folder, services_running
from rlhf.text.terminal import say
from rlhf.tracking import registry
from rlhf.tracking.artifact_checks import check_no_folder
from rlhf.tracking.client import prepare_store, runs_url
from rlhf.tracking.runs import close_killed_runs

logger = logging.getLogger("rlhf.servers")
DOWN_SECONDS = 120.0
LOOK_SECONDS, MOST_SILENT = 10.0, 4
"""A server that has not answered so many looks in a row hangs: a minute, within which one answers that is only busy."""
_AUTH = """[mlflow]
default_permission = READ
database_uri = {database}
admin_username = {user}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
"""


def up(services: Services, on_ready: Callable[[], None] = lambda: None) -> None:
    """Start servers and worker, print where they are, and hold them until Ctrl-C, SIGTERM or `rlhf down`.

    Args:
        services: addresses, database, password.
        on_ready: called once all of them answer.

    Raises:
        ConfigError: a port is taken, or the database does not answer.
        LockedError: the services are up already.
        ServiceError: something does not start.
    """
    services.check()
    with services_running(services):
        if supervisor().is_up():
            raise ConfigError("the services outlived the `rlhf up` that started them; `rlhf down` stops them")
        for name, port in (("prefect", services.prefect_port), ("mlflow", services.mlflow_port)):
            check_port_is_free(services.host, port, name, f"--{name}-port")
        say(f"Starting Prefect, MLflow and a worker; their logs are in {services_folder()}", flush=True)
        _prepare_stores(services)
        with started(services) as process:
            registered = deployments.make_deployments()  # meanwhile the servers start
            _wait_until_healthy(services, supervisor())
            _set_up(registered)
            supervisor().start("worker")
            _print_addresses(services)
            on_ready()
            try:
                _hold(process, services)
            except KeyboardInterrupt:
                say()  # the terminal's ^C stands on a line of its own then
            finally:
                _stop(process)


def down() -> None:
    """Stop what `rlhf up` has started, here or in another terminal.

    Raises:
        ServiceError: it does not stop in time.
    """
    held = supervisor()
    if not held.is_up():
        say("rlhf: the services are not up")
        return
    _stop_all(held)
    if not wait_until(lambda: not held.is_up(), DOWN_SECONDS, every=0.2):
        raise ServiceError(f"the services do not stop; see {services_folder()}")


def _prepare_stores(services: Services) -> None:
    """Stores and users, which must be there before the first server starts."""
    if services.database is not None:
        prepare_database(services.database, services.database_given)
    elif services.artifacts is not None:
        check_no_folder(services.artifacts)
    else:
        # Runs of the command line share the store, so the experiment has its artifacts where they look for them.
        prepare_store()
    if services.password is not None:
        # Prefect has no user store: the one user is in both.
        file = services_folder() / "mlflow-users.db"
        users = f"sqlite:///{file}"
        (services_folder() / "mlflow-auth.ini").write_text(_AUTH.format(database=users, user=USER))
        if file.is_file():
            from rlhf.tracking.logins import set_password

            set_password(users, USER, services.password)


def _health_pages(services: Services) -> dict[str, str]:
    return {"prefect": f"{services.prefect_url}/api/health", "mlflow": f"{services.mlflow_url}/health"}


def _hold(process: "subprocess.Popen[bytes]", services: Services) -> None:
    """Wait until supervisord ends, start a server again that hangs, and register recipes that are added.

    A server that dies is started by supervisord.
    """
    silent: Counter[str] = Counter()
    recipes = deployments.recipe_times()
    while True:
        try:
            process.wait(LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        else:
            return
        for name, page in _health_pages(services).items():
            silent[name] = 0 if _answers(page) else silent[name] + 1
            if silent[name] == MOST_SILENT and process.poll() is None:
                say(f"{name} does not answer any more, and is started again", flush=True)
                supervisor().restart(name)
                silent[name] = 0
        if recipes != (recipes := deployments.recipe_times()):
            _register()


def _register() -> None:
    """The services stay up where a recipe cannot be registered; the next change of a recipe tries again."""
    try:
        deployments.deploy(deployments.make_deployments(), unchanged=False)
    except ServiceError as error:
        say(f"{error}", file=sys.stderr, flush=True)


def _wait_until_healthy(services: Services, held: Supervisor) -> None:
    pages = _health_pages(services)

    def is_over() -> bool:
        for name in [name for name, page in pages.items() if _answers(page)]:
            del pages[name]
        return not pages or any(held.state(name) == "FATAL" for name in pages)

    wait_until(is_over, START_SECONDS, every=0.2)
    failed = sorted(pages, key=lambda name: held.state(name) != "FATAL")
    if failed:
        raise ServiceError(f"{failed[0]} does not start; its last words:\n{last_words(failed[0])}")


def _answers(page: str) -> bool:
    try:
        return httpx.get(page, timeout=5).is_success
    except httpx.HTTPError:
        return False


def _set_up(registered: deployments.Deployments) -> None:
    """Tell the servers what there is, and close the books of what died with the machine."""
    asyncio.run(deployments.set_up())
    ownerless = runs.mark_ownerless()
    killed = close_killed_runs()
    registry.recover()
    if ownerless or killed:
        say(f"Closed after a crash: {len(ownerless)} runs in Prefect, {len(killed)} in MLflow")
    deployments.deploy(registered)


def _print_addresses(services: Services) -> None:
    say(f"Prefect: {services.prefect_url}")
    say(f"MLflow:  {runs_url()}")
    if services.login is None:
        say("No password: every program and user of this machine may start runs, and read and change results")
    else:
        say(f"{services.login}; Prefect's page wants them as {USER}:PASSWORD")
    say("Ctrl-C or `rlhf down` stops both, and cancels the runs that are under way", flush=True)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """After Ctrl-C or SIGTERM: runs first, then the worker, the servers last. After `rlhf down` all is done."""
    if process.poll() is not None:
        return
    _say_if_heard("Stopping: runs that are under way are cancelled, and keep their checkpoints")
    _stop_all(supervisor())
    process.wait()


def _say_if_heard(line: str) -> None:
    """The terminal may be gone, and the services have to stop all the same."""
    try:
        say(line, flush=True)
    except OSError:
        # What could not be written would be tried once more as the process ends, and fail it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _stop_all(held: Supervisor) -> None:
    """Also where Prefect does not answer: the next start then says of the runs how they ended."""
    try:
        _stop_runs(held)
    except httpx.HTTPError as error:
        logger.warning(
            "Prefect does not answer, so runs are marked as Crashed at the next start: %s",
            with_public_addresses(repr(error)),
        )
    held.shut_down()


def _stop_runs(held: Supervisor) -> None:
    """Cancel, wait, kill."""
    asyncio.run(deployments.pause_pool(paused=True))
    runs.cancel_in_flight()
    worker = held.pid("worker")
    children = psutil.Process(worker).children(recursive=True) if worker else []
    held.stop("worker")
    for child in children:
        if child.is_running():
            child.kill()
    psutil.wait_procs(children, timeout=10)
    runs.crash_in_flight()
