"""Whether a chat template comes to an end: tried in a process of its own, which the system stops.

A template is a program from elsewhere. Three loops in one another run for years, and a product of text takes all
memory, even where it is only compiled. The trial writes short dialogues; what a template does with certain contents
alone it cannot tell.
"""

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rlhf.errors import ModelError
from rlhf.files.limits import memory_taken
from rlhf.modeling.jinja import jinja_environment
from rlhf.modeling.verdicts import keep, recall

CPU_SECONDS = 10
MEMORY_BYTES = 10**9
_START_SECONDS = 300
_NO_MEMORY = 3
_DIALOGUES = (
    (("user",), True),
    (("user", "assistant"), False),
    (("user", "assistant", "user"), True),
    (("system", "user", "assistant", "user"), True),
)


def check_ends(template: str, special_tokens: Mapping[str, str], where: str) -> None:
    """Refuse a template that does not come to an end. What it says or refuses otherwise is not looked at.

    Args:
        template: its text.
        special_tokens: by the names that templates know them by.
        where: the model, for the message.

    Raises:
        ModelError: compiling it, or writing short dialogues, takes more than `CPU_SECONDS` or `MEMORY_BYTES`.
    """
    given = {"template": template, "special_tokens": dict(special_tokens)}
    digest = hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()
    key = [version("jinja2"), version("transformers"), digest]
    if recall("template", key) is not None:
        return
    path = os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path)
    command = [sys.executable, "-P", "-m", "rlhf.modeling.template_trial"]
    try:
        done = subprocess.run(
            command,
            input=json.dumps({**given, "seconds": CPU_SECONDS}).encode(),
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            check=False,
            timeout=_START_SECONDS,
        )
        code = done.returncode
    except subprocess.TimeoutExpired:
        code = -signal.SIGXCPU
    if code == 0:
        keep("template", key, True)
        return
    why = f"{MEMORY_BYTES // 10**9} GB of memory" if code == _NO_MEMORY else f"{CPU_SECONDS} s of computing"
    if code not in (_NO_MEMORY, -signal.SIGXCPU, -signal.SIGKILL):
        why = f"what this system allows (its trial ended with {code})"
    raise ModelError(
        f"{where}: the chat template does not come to an end: for a question and its answer it takes more than {why}; "
        f"correct it there, or name another of the model's templates with chat_template"
    )


def main() -> None:
    """Compile a template from standard input and write dialogues, within the limits."""
    from transformers.utils import chat_template_utils

    jinja_environment()  # what takes time counts before the limits
    as_transformers: Any = chat_template_utils.render_jinja_template
    given = json.loads(sys.stdin.buffer.read())
    template, tokens = given["template"], given["special_tokens"]
    _bound(given["seconds"])
    for roles, asks in _DIALOGUES:
        dialogue = [{"role": role, "content": f"What {role} says"} for role in roles]
        said = {**tokens, "messages": dialogue, "add_generation_prompt": asks, "tools": None, "documents": None}
        _try(partial(_write, template, said))
        _try(partial(as_transformers, [dialogue], chat_template=template, add_generation_prompt=asks, **tokens))


def _write(template: str, said: Mapping[str, Any]) -> None:
    jinja_environment().from_string(template).render(**said)


def _try(write: Callable[[], object]) -> None:
    """Write once; errors of a template that comes to an end are reported where the template is used."""
    try:
        write()
    except MemoryError:
        os._exit(_NO_MEMORY)
    except Exception:  # noqa: BLE001  # a template from elsewhere raises anything
        return


def _bound(seconds: int) -> None:
    """Seconds that are computed count, and not those that a busy machine takes."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds += int(used.ru_utime + used.ru_stime)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    _limit_memory()


def _limit_memory() -> None:
    """Jinja leaves constants that cannot be worked out for later, those too for which there is no memory."""
    from jinja2 import nodes

    class Impossible(nodes.Impossible):
        def __init__(self) -> None:
            if isinstance(sys.exc_info()[1], MemoryError):
                os._exit(_NO_MEMORY)

    nodes.Impossible = Impossible  # type: ignore[misc, assignment]
    now = memory_taken()
    if now is not None:
        resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY_BYTES, now + MEMORY_BYTES))


if __name__ == "__main__":
    main()
