"""A policy as a GGUF file, written and asked by llama.cpp's own tools."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from rlhf.chat.policies import ChatPolicy
from rlhf.errors import InputError, ModelError, one_line
from rlhf.export.answers import Questions, first_difference
from rlhf.export.folder import check_free, copied

CONVERTER = "convert_hf_to_gguf.py"
SERVER = "llama-server"
FOLDER_VARIABLE = "LLAMA_CPP"
_START_SECONDS = 120.0
# Where the file does not say, llama.cpp adds one to SentencePiece's tokens alone.
_ADDS_BOS = """
import sys
from gguf import GGUFReader
fields = [GGUFReader(sys.argv[1]).get_field(f"tokenizer.ggml.{name}") for name in ("add_bos_token", "model")]
told, model = (field and field.contents() for field in fields)
sys.stdout.write(str(model == "llama" if told is None else told))
"""
_REASONS = ("Error", "error:", "NotImplementedError", "not supported", "not recognized")


def find_converter(folder: Path | None) -> Path:
    """llama.cpp's script that writes GGUF files.

    Args:
        folder: a checkout of llama.cpp; None for that in LLAMA_CPP, or on PATH.

    Raises:
        InputError: it is not there.
    """
    given = folder or (Path(os.environ[FOLDER_VARIABLE]) if os.environ.get(FOLDER_VARIABLE) else None)
    if given is not None:
        if (given / CONVERTER).is_file():
            return given / CONVERTER
        raise InputError(f"{given}: there is no {CONVERTER} in this folder; give the folder of a checkout of llama.cpp")
    found = shutil.which(CONVERTER)
    if found is None:
        raise InputError(
            f"GGUF files are written by llama.cpp's {CONVERTER}, which is not here; clone "
            f"https://github.com/ggml-org/llama.cpp and give its folder with --llama-cpp DIR, or set {FOLDER_VARIABLE}"
        )
    return Path(found)


def find_server(converter: Path) -> Path | None:
    """llama.cpp's server, beside the converter as it is built there, or on PATH; None where there is none."""
    built = [converter.parent / "build" / "bin" / SERVER, converter.parent / SERVER]
    on_path = shutil.which(SERVER)
    return next((file for file in (*built, *([Path(on_path)] if on_path else [])) if file.is_file()), None)


def export_gguf(
    policy: ChatPolicy, destination: Path, converter: Path, kind: str, number: int
) -> tuple[str | None, int | None]:
    """Write the file, and ask the same prompts of it.

    Args:
        policy: what is written.
        destination: a file that is not there.
        converter: llama.cpp's script.
        kind: of the weights, as the converter names it.
        number: how many prompts are asked.

    Returns:
        A sentence about answers that are others, None where all are the same; and the number of prompts that were
        asked, None where no llama-server is here.

    Raises:
        InputError: there is something at the destination, or the converter refuses the model or its tokenizer.
    """
    if destination.is_dir():
        raise InputError(
            f"{destination}: this is a folder, and a file is to be written; give a name such as policy.gguf"
        )
    check_free(destination)
    server = find_server(converter)
    with (
        tempfile.TemporaryDirectory(prefix="rlhf-export-", dir=destination.resolve().parent) as scratch,
        copied(policy, Path(scratch) / "policy", number) as copy,
    ):
        written = _convert(copy.folder, Path(scratch) / "model.gguf", converter, kind)
        difference = None
        if server is not None:
            difference = first_difference(copy.answers, _served_answers(written, server, copy.asked))
        written.replace(destination)
    return difference, len(copy.answers) if server is not None else None


def _convert(folder: Path, file: Path, converter: Path, kind: str) -> Path:
    command = [sys.executable, str(converter), str(folder), "--outfile", str(file), "--outtype", kind]
    done = _run(command, converter)
    if done.returncode or not file.is_file():
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        reason = next(
            (line for line in reversed(lines) if any(word in line for word in _REASONS)), (lines or ["?"])[-1]
        )
        if reason.startswith("ModuleNotFoundError"):
            raise InputError(
                f"llama.cpp's {converter.name} lacks what it needs ({reason}); install that with pip into this "
                "environment: the file requirements/requirements-convert_hf_to_gguf.txt of llama.cpp lists it"
            )
        raise InputError(
            f"llama.cpp's {converter.name} refuses this model ({reason}); use --to folder with a tool that loads "
            "transformers' models, such as vLLM, or a version of llama.cpp that knows it"
        )
    return file


def adds_bos(file: Path, converter: Path) -> bool:
    """Whether llama.cpp puts the BOS token before what it reads, by what the file says.

    Raises:
        InputError: llama.cpp's package gguf cannot read the file.
    """
    done = _run([sys.executable, "-c", _ADDS_BOS, str(file)], converter)
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[2]
        raise InputError(f"{file}: llama.cpp's package gguf does not read it ({reason}); update llama.cpp")
    return done.stdout.strip() == "True"


def _run(command: Sequence[str], converter: Path) -> "subprocess.CompletedProcess[str]":
    # The converter's own copy of the package gguf goes with it.
    beside = converter.parent / "gguf-py"
    path = os.pathsep.join([str(beside), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def _served_answers(file: Path, server: Path, asked: Questions) -> list[list[int]]:
    """Greedy answers of llama.cpp, token by token."""
    with serving(file, server) as client:
        return [_ask(client, prompt, asked) for prompt in asked.prompts]


@contextmanager
def serving(file: Path, server: Path) -> Iterator[httpx.Client]:
    """llama.cpp's server on a file, within the block.

    Raises:
        ModelError: it does not answer.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(server), "--model", str(file), "--host", "127.0.0.1", "--port", str(port), "--no-webui"]
    log = file.with_suffix(".log")
    with log.open("w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300.0) as client:
            _wait_until_loaded(client, process)
            yield client
    except (httpx.HTTPError, TimeoutError) as error:
        last = log.read_text(errors="replace").strip().rpartition("\n")[2]
        raise ModelError(
            f"llama.cpp's {server} does not answer for the file that was written ({one_line(error)}; it said "
            f"{last!r}); look whether it is of the same version as the converter"
        ) from error
    finally:
        process.kill()
        process.wait()
        log.unlink()


@retry(
    retry=retry_if_exception_type(httpx.HTTPError),
    wait=wait_fixed(0.2),
    stop=stop_after_delay(_START_SECONDS),
    reraise=True,
)
def _wait_until_loaded(client: httpx.Client, process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is not None:
        raise TimeoutError(f"it ended with exit code {process.returncode}")
    client.get("/health").raise_for_status()


def _ask(client: httpx.Client, prompt: Sequence[int], asked: Questions) -> list[int]:
    answer = client.post(
        "/completion",
        json={
            "prompt": list(prompt),
            "n_predict": asked.num_tokens,
            "temperature": 0.0,
            "return_tokens": True,
            "cache_prompt": False,
        },
    ).raise_for_status()
    told = answer.json()
    tokens: list[int] = told["tokens"]
    # The server leaves the EOS token out of what it returns.
    ended = told.get("stop_type") == "eos" and tokens[-1:] != [asked.eos_token_id]
    return [*tokens, asked.eos_token_id] if ended else tokens
