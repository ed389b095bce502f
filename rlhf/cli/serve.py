"""`rlhf serve`: a policy behind an OpenAI-compatible endpoint."""

import argparse
import re
import sys

from rlhf.cli.environment import use_the_store
from rlhf.errors import ConfigError
from rlhf.services.ports import check_port_is_free
from rlhf.services.settings import Services
from rlhf.text.terminal import say

_PORT = 8000
_ODD = re.compile(r"[^A-Za-z0-9._-]+")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = (
        "Serve a policy at an OpenAI-compatible endpoint (/v1/chat/completions, /v1/completions, /v1/models), until "
        "Ctrl-C, so that other tools can talk to it. Temperature and longest answer are those of the run's evaluation "
        "where a request says nothing else. Clients show a key: that in RLHF_API_KEY, or one that is made and printed."
    )
    parser.add_argument(
        "policy",
        metavar="POLICY",
        nargs="?",
        help="run id or the beginning of one, RECIPE@champion, RECIPE/3, champion, or a model's folder; the newest "
        "finished run by default",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at [default: 127.0.0.1]")
    parser.add_argument("--port", type=int, metavar="N", default=_PORT, help=f"[default: {_PORT}]")
    parser.add_argument("--name", help="by which clients ask for the model; default: the run's, or the folder's")


def run(options: argparse.Namespace) -> None:
    """Serve until the process is told to end.

    Raises:
        ConfigError: the port is taken, or a name that is none.
        InputError: there is no such policy.
    """
    if options.name is not None and (_ODD.search(options.name) or options.name.startswith(".")):
        raise ConfigError(f"--name is {options.name}; give letters, digits, '.', '_' and '-', such as help-desk")
    check_port_is_free(options.host, options.port, "the endpoint", "--port")
    use_the_store()
    from rlhf.chat.endpoint import new_key, serve
    from rlhf.chat.policies import find_policy
    from rlhf.modeling.device import best_device

    policy = find_policy(options.policy)
    name = options.name or (
        f"rlhf-{policy.run_id[:8]}" if policy.run_id else _ODD.sub("-", policy.folder.resolve().name)
    )
    services = Services(options.host)
    key = new_key()
    address = f"http://{f'[{options.host}]' if ':' in options.host else options.host}:{options.port}/v1"
    say(f"Loading {policy.title} ...", file=sys.stderr, flush=True)
    say(f"Endpoint: {address}\nModel: {name}\nKey: {key}\nCtrl-C ends it.", flush=True)
    serve(policy, name, key, options.host, options.port, services.names, best_device())
