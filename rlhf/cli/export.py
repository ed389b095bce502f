"""`rlhf export`: take a policy elsewhere."""

import argparse
import shlex
from pathlib import Path

from rlhf.cli.environment import use_the_store
from rlhf.errors import ConfigError, InputError
from rlhf.text.terminal import say

_KINDS = ("folder", "vllm", "hub", "gguf", "ollama")
_BY_LLAMA_CPP = ("gguf", "ollama")
_ONLY: dict[str, tuple[str, ...]] = {"push": ("hub",), "public": ("hub",)}
_ONLY |= dict.fromkeys(("llama_cpp", "outtype", "num_prompts"), _BY_LLAMA_CPP)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = (
        "Take a policy elsewhere, with its tokenizer, chat template, end of answers and card. Before anything is in "
        "its place, prompts of the run's evaluation are answered greedily by both, token by token."
    )
    parser.add_argument(
        "policy",
        metavar="POLICY",
        help="run id or the beginning of one, RECIPE@champion, RECIPE/3, champion, or a model's folder",
    )
    parser.add_argument("destination", metavar="DESTINATION", help="a folder, a file (gguf), or OWNER/NAME (hub)")
    parser.add_argument(
        "--to",
        required=True,
        choices=_KINDS,
        help="folder: what transformers loads; vllm: the same, and the command that serves it; hub: a repository of a "
        "Hugging Face hub; gguf: a file of llama.cpp; ollama: a folder with such a file and a Modelfile, which Ollama "
        "takes where it is here",
    )
    parser.add_argument("--push", action="store_true", help="hub: do it; without it you are told what would be pushed")
    parser.add_argument("--public", action="store_true", help="hub: let everybody see a repository that is made")
    parser.add_argument(
        "--llama-cpp", metavar="DIR", type=Path, help="gguf, ollama: a checkout of llama.cpp; default: LLAMA_CPP"
    )
    parser.add_argument(
        "--outtype", choices=("f32", "f16", "bf16", "q8_0"), help="gguf, ollama: of the weights; default f32"
    )
    parser.add_argument(
        "--num-prompts", metavar="N", type=int, help="gguf, ollama: how many prompts are asked; default 10"
    )


def run(options: argparse.Namespace) -> None:
    """Export, and say what was seen.

    Raises:
        ConfigError: a flag that this kind of export would ignore.
        InputError: there is no such policy, the destination is taken, or what does the export is missing.
        ModelError: what was exported does not answer as before.
    """
    for flag, kinds in _ONLY.items():
        if getattr(options, flag) and options.to not in kinds:
            name = flag.replace("_", "-")
            raise ConfigError(
                f"--{name} is for --to {' or '.join(kinds)}, and would be ignored with --to {options.to}; drop it"
            )
    use_the_store()
    {"folder": _folder, "vllm": _vllm, "hub": _hub, "gguf": _gguf, "ollama": _ollama}[options.to](options)


def _folder(options: argparse.Namespace) -> None:
    from rlhf.chat.policies import find_policy
    from rlhf.export.folder import check_free, export_folder

    destination = Path(options.destination)
    check_free(destination)
    number = export_folder(find_policy(options.policy), destination)
    say(f"Written: {destination}. Transformers loads it, and its greedy answers to {number} prompts are the policy's.")


def _vllm(options: argparse.Namespace) -> None:
    _folder(options)
    folder = Path(options.destination)
    say(f"vLLM serves it as it is: vllm serve {folder} --served-model-name {folder.name} --host 127.0.0.1")


def _hub(options: argparse.Namespace) -> None:
    from rlhf.chat.policies import find_policy
    from rlhf.export.hub import check_name, push

    check_name(options.destination)
    policy = find_policy(options.policy)
    if not options.push:
        files = [file for file in policy.folder.rglob("*") if file.is_file()]
        megabytes = sum(file.stat().st_size for file in files) / 1e6
        say(f"Nothing was pushed. {options.destination} would get {len(files)} files, {megabytes:,.1f} MB:")
        for file in sorted(files):
            say(f"  {file.relative_to(policy.folder)}")
        say(f"A repository that is made is {'public' if options.public else 'private'}. To do it: --push")
        return
    done = push(policy, options.destination, options.public, f"{policy.title} of run {policy.name}")
    seen = "private" if done.private else "public: everybody can see it"
    say(f"Pushed: {done.url} at commit {done.commit} ({seen}).")
    say(f"Fetched again, it has the same files, and its greedy answers to {done.num_prompts} prompts are the policy's.")


def _gguf(options: argparse.Namespace) -> None:
    from rlhf.export.gguf import export_gguf, find_converter

    number = _number(options)
    converter = find_converter(options.llama_cpp)
    from rlhf.chat.policies import find_policy

    destination = Path(options.destination)
    difference, asked = export_gguf(
        find_policy(options.policy), destination, converter, options.outtype or "f32", number
    )
    say(f"Written: {destination}")
    _say_of_llama_cpp(asked, difference)


def _ollama(options: argparse.Namespace) -> None:
    from rlhf.export.gguf import find_converter
    from rlhf.export.ollama import create, create_command, export_ollama, find_ollama

    number, destination = _number(options), Path(options.destination)
    converter = find_converter(options.llama_cpp)
    program = find_ollama(destination)
    from rlhf.chat.policies import find_policy

    policy = find_policy(options.policy)
    done = export_ollama(policy, destination, converter, options.outtype or "f32", number)
    say(f"Written: {destination}")
    _say_of_llama_cpp(done.asked, done.difference)
    if done.misread:
        say(f"llama.cpp reads {done.misread} of {done.asked} prompts as other tokens than the policy was trained on.")
    if done.trims:
        say("The policy's chat template takes blanks off the ends of messages, and Ollama's cannot: send none there.")
    if program is None:
        say(f"Ollama is not here. It takes the folder by: {shlex.join(create_command(destination))}")
        return
    difference = create(program, destination, policy, number)
    seen = "are the policy's" if difference is None else f"are not the policy's everywhere: {difference}"
    say(f"Ollama has it as {create_command(destination)[2]}; its greedy answers {seen}.")


def _number(options: argparse.Namespace) -> int:
    number = 10 if options.num_prompts is None else int(options.num_prompts)
    if number < 1:
        raise InputError(f"--num-prompts is {number}; give 1 or more")
    return number


def _say_of_llama_cpp(asked: int | None, difference: str | None) -> None:
    if asked is None:
        say("Not compared with the policy: llama-server is neither built in llama.cpp's folder nor on PATH.")
    elif difference is None:
        say(f"llama.cpp's greedy answers to {asked} prompts are the policy's, token by token.")
    else:
        say(f"llama.cpp does not answer as the policy everywhere: {difference}.")
