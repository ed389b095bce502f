"""`rlhf init`: a recipe for a person's own data and model."""

import argparse
from pathlib import Path

import yaml

from rlhf.errors import ConfigError, InputError
from rlhf.paths import configure_environment, root
from rlhf.text.terminal import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = (
        "Look at data and base model, and write configs/NAME.yaml: lengths from the data, learning rates by size, LoRA "
        "and batch sizes by memory. Each setting has its reason beside it. Equal inputs give equal recipes."
    )
    parser.add_argument("name", metavar="NAME", help="of the recipe, and of its file")
    parser.add_argument("--base", metavar="MODEL", required=True, help="folder or hub id of a causal language model")
    parser.add_argument(
        "--data", metavar="DIR", default="data", help="data folder, as `rlhf data import` makes one; default: data"
    )
    parser.add_argument(
        "--hours", metavar="H", type=float, help="time for PPO, from which the number of updates follows"
    )
    parser.add_argument("--replace", action="store_true", help="write over a recipe of this name")


def run(options: argparse.Namespace) -> None:
    """Write the recipe, and say how to run it."""
    configure_environment()
    from rlhf.config.model import ModelConfig
    from rlhf.config.pipeline import PipelineConfig
    from rlhf.files.atomic import write_file
    from rlhf.planning.recipe_file import recipe_text
    from rlhf.planning.recommend import Choice, recommend
    from rlhf.planning.survey import survey_data, survey_model, this_machine

    file = _file(options.name, replace=options.replace)
    if options.hours is not None and not 0 < options.hours < float("inf"):
        raise ConfigError(f"--hours is {options.hours}; give a number above 0, such as 2")
    machine = this_machine()
    model = survey_model(ModelConfig(base=options.base))
    data = survey_data(_data_folder(options.data), model.tokenizer)
    choices = recommend(data, model, machine, options.hours)
    if options.data != "data":
        at = next(index for index, choice in enumerate(choices) if choice.name.startswith("data."))
        choices.insert(at, Choice("data.path", options.data))
    head = [
        f"{data.num_preferences:,} preferences and {data.num_demonstrations:,} demonstrations of {data.num_prompts:,} "
        "prompts,",
        f"on a base of {model.shape.parameters:,} parameters, {machine.device} with {machine.memory / 1e9:.0f} GB. "
        "What is not set here has its default:",
        "rlhf run --help all lists every setting.",
    ]
    text = recipe_text(options.name, choices, head)
    PipelineConfig.model_validate(yaml.safe_load(text))
    write_file(file, text)
    shown = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
    say(text)
    say(f"{shown} is written. Next:\n  rlhf run {shown}")


def _file(name: str, *, replace: bool) -> Path:
    if not name.replace("-", "").replace("_", "").replace(".", "").isalnum() or not name.isascii():
        raise ConfigError(f"{name} is no name of a recipe; use letters, digits, dots, underscores and hyphens")
    file = root() / "configs" / f"{name}.yaml"
    if file.exists() and not replace:
        raise InputError(f"{file}: there is such a recipe; give another name, or --replace to write over it")
    return file


def _data_folder(given: str) -> Path:
    """A path as in a recipe: of the project, unless it is there in the current directory."""
    path = Path(given)
    return path if path.exists() else root() / path
