"""A policy for Ollama: a GGUF file and the Modelfile beside it, and what Ollama answers where it is here."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from rlhf.chat.endpoint import Defaults
from rlhf.chat.policies import ChatPolicy
from rlhf.errors import InputError, one_line
from rlhf.export.answers import Questions, answers, first_difference, questions
from rlhf.export.folder import check_free
from rlhf.export.gguf import adds_bos, export_gguf, find_server, serving
from rlhf.export.go_template import Texts, go_template, observed, trims, write
from rlhf.files.atomic import install, staged
from rlhf.modeling.tokenizer import load_tokenizer

PROGRAM = "ollama"
MODELFILE = "Modelfile"
_WEIGHTS = "policy.gguf"
_ADDRESS = "127.0.0.1:11434"


@dataclass(frozen=True)
class Exported:
    """A folder for Ollama.

    Attributes:
        asked: how many prompts llama.cpp was asked; None where no llama-server is here.
        difference: a sentence about answers of llama.cpp that are others; None where all are the same.
        misread: prompts that llama.cpp reads as other tokens than the policy does.
        trims: the policy's chat template takes blanks off the ends of messages, and Ollama's cannot.
    """

    asked: int | None
    difference: str | None
    misread: int
    trims: bool


def export_ollama(policy: ChatPolicy, destination: Path, converter: Path, kind: str, number: int) -> Exported:
    """Write the folder.

    Args:
        policy: what is written.
        destination: a folder that is not there, or empty.
        converter: llama.cpp's script.
        kind: of the weights, as the converter names it.
        number: how many prompts are asked.

    Raises:
        InputError: there is something at the destination, the converter refuses the model, or the chat template cannot
            be written for Ollama. Nothing is left at the destination then.
    """
    check_free(destination)
    tokenizer = load_tokenizer(policy.folder)
    texts = observed(tokenizer)
    with staged(destination) as folder:
        difference, asked = export_gguf(policy, folder / _WEIGHTS, converter, kind, number)
        if tokenizer.bos_token and adds_bos(folder / _WEIGHTS, converter):
            texts = {
                step: text.removeprefix(tokenizer.bos_token) if not step[0] else text for step, text in texts.items()
            }
        (folder / MODELFILE).write_text(modelfile(policy, texts, tokenizer.eos_token), encoding="utf-8")
        server = find_server(converter)
        misread = _misread(folder / _WEIGHTS, server, texts, questions(policy, number)) if server else 0
        install(folder, destination)
    return Exported(asked, difference, misread, trims(tokenizer))


def modelfile(policy: ChatPolicy, texts: Texts, eos_token: str) -> str:
    """The Modelfile, with the sampling that the run's evaluation measured."""
    defaults = Defaults.of(policy)
    parameters = {
        "stop": f'"""{eos_token}"""',
        "temperature": f"{defaults.temperature:g}",
        "num_predict": str(defaults.max_response_tokens),
        # Off, as in the run: Ollama has others by default.
        **{"top_k": "0", "top_p": "1", "min_p": "0", "repeat_penalty": "1"},
    }
    if "model.max_length" in policy.settings:
        parameters["num_ctx"] = policy.settings["model.max_length"]
    lines = [f"PARAMETER {name} {value}" for name, value in parameters.items()]
    return "\n".join([f"FROM ./{_WEIGHTS}", f'TEMPLATE """{go_template(texts)}"""', *lines, ""])


def create_command(destination: Path) -> list[str]:
    """The command by which Ollama takes the folder, as a model of the folder's name."""
    return [PROGRAM, "create", destination.resolve().name, "-f", str(destination / MODELFILE)]


def find_ollama(destination: Path) -> str | None:
    """The program, where it is on PATH.

    Raises:
        InputError: it has a model of that name, which would be replaced.
    """
    program = shutil.which(PROGRAM)
    name = create_command(destination)[2]
    if program is not None and _run([program, "show", name]).returncode == 0:
        raise InputError(f"{destination}: Ollama has a model {name} already; give the folder another name")
    return program


def create(program: str, destination: Path, policy: ChatPolicy, number: int) -> str | None:
    """Let Ollama take the folder, and ask it the same prompts.

    Returns:
        A sentence about answers that are others, None where all are the same.

    Raises:
        InputError: Ollama refuses it, or does not answer. The folder stays.
    """
    command = create_command(destination)
    done = _run([program, *command[1:]])
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip()).rpartition("\n")[2]
        raise InputError(
            f"{destination} is written, but Ollama did not take it ({reason}); see to that, such as by `ollama serve`, "
            f"and run {shlex.join(command)}"
        )
    asked = questions(policy, number)
    tokenizer = load_tokenizer(policy.folder)
    told = tokenizer.batch_decode(answers(policy.folder, asked), skip_special_tokens=True)
    return first_difference(
        *([_tokens(tokenizer, text) for text in texts] for texts in (told, _told(command[2], asked)))
    )


def _told(name: str, asked: Questions) -> list[str]:
    """Ollama's greedy answers as texts; its interface tells no tokens."""
    host = os.environ.get("OLLAMA_HOST") or _ADDRESS
    options = {"temperature": 0, "num_predict": asked.num_tokens, "seed": 0}
    try:
        with httpx.Client(base_url=host if "://" in host else f"http://{host}", timeout=300.0) as client:
            bodies = [
                {"model": name, "messages": list(dialogue), "stream": False, "options": options}
                for dialogue in asked.dialogues
            ]
            replies = [client.post("/api/chat", json=body).raise_for_status().json() for body in bodies]
    except httpx.HTTPError as error:
        raise InputError(f"Ollama has the model {name}, but does not answer at {host} ({one_line(error)})") from error
    return [str(reply["message"]["content"]) for reply in replies]


def _tokens(tokenizer: object, text: str) -> list[int]:
    ids: list[int] = tokenizer(text.strip(), add_special_tokens=False)["input_ids"]  # type: ignore[operator]
    return ids


def _misread(file: Path, server: Path, texts: Texts, asked: Questions) -> int:
    """Prompts that llama.cpp, which Ollama reads with, takes for other tokens once the Go template has written them."""
    with serving(file, server) as client:
        found = [_read(client, write(texts, dialogue)) for dialogue in asked.dialogues]
    return sum(ids != list(prompt) for ids, prompt in zip(found, asked.prompts, strict=True))


def _read(client: httpx.Client, text: str) -> Sequence[int]:
    body = {"content": text, "add_special": True, "parse_special": True}
    ids: list[int] = client.post("/tokenize", json=body).raise_for_status().json()["tokens"]
    return ids


def _run(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, check=False)
