"""`rlhf feedback`: rounds of comparisons that people are asked for, and what becomes of their answers."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markdown import Markdown
from rich.table import Table

from rlhf.cli.recipe import flow_environment, print_json
from rlhf.cli.section_flags import add_section, is_given, read_section
from rlhf.config.feedback import AskConfig, CollectConfig, ReviseConfig
from rlhf.config.judge import JudgeConfig, LabelConfig
from rlhf.text.console import TextConsole
from rlhf.text.terminal import say

if TYPE_CHECKING:
    from rlhf.references import FeedbackReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions, and what each takes."""
    actions = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, words in _WORDS.items():
        action = actions.add_parser(name, help=words, allow_abbrev=False, description=f"{words[0].upper()}{words[1:]}.")
        action.set_defaults(action=name, parser=action, note="", config=None)
        action.add_argument("--json", action="store_true", help="print one JSON object, and all else on standard error")
    ask, status, export, label, revise, collect = actions.choices.values()
    for action in (ask, revise):
        action.add_argument("config", metavar="CONFIG", type=Path, help="YAML file of the recipe whose policy answers")
    add_section(ask, AskConfig)
    for action in (status, export):
        action.add_argument("--round", required=True, metavar="NAME", help="name of the round")
    export.add_argument("--to", required=True, choices=("argilla", "label-studio"), help="whose form")
    export.add_argument("--folder", required=True, metavar="FOLDER", type=Path, help="where the files go; new or empty")
    export.add_argument(
        "--question",
        choices=("pairwise", "ranking", "rating"),
        default="pairwise",
        help="which response is better; both in an order (Argilla alone); one to five stars each [default: pairwise]",
    )
    add_section(label, LabelConfig)
    add_section(label, JudgeConfig)
    add_section(revise, ReviseConfig)
    add_section(revise.add_argument_group("a model behind an endpoint that criticizes and revises"), JudgeConfig, False)
    add_section(collect, CollectConfig)


def run(options: argparse.Namespace) -> None:
    """Do what was asked."""
    _ACTIONS[options.action](options)


def _ask(options: argparse.Namespace) -> None:
    from rlhf.config.loading import load_config

    config, ask = load_config(options.config), read_section(options, AskConfig)
    with flow_environment(options):
        from flows.feedback import ask_feedback

        report = ask_feedback(config, ask)
    if not _say(report, options):
        for person, url in report.queues.items():
            say(f"{person or 'anybody'}: {url}")
        say(f"Once they are answered: rlhf feedback collect --round {report.round}")


def _label(options: argparse.Namespace) -> None:
    label, judge = read_section(options, LabelConfig), read_section(options, JudgeConfig)
    with flow_environment(options):
        from flows.feedback import label_feedback

        report = label_feedback(label, judge)
    _show(report, options)


def _revise(options: argparse.Namespace) -> None:
    from rlhf.config.loading import load_config

    config, settings = load_config(options.config), read_section(options, ReviseConfig)
    critic = read_section(options, JudgeConfig) if is_given(options, JudgeConfig) else None
    with flow_environment(options):
        from flows.feedback import revise_answers_of

        report = revise_answers_of(config, settings, critic)
    _show(report, options)


def _collect(options: argparse.Namespace) -> None:
    config = read_section(options, CollectConfig)
    with flow_environment(options):
        from flows.feedback import collect_feedback

        report = collect_feedback(config)
    _show(report, options)


def _status(options: argparse.Namespace) -> None:
    from rlhf.cli.environment import use_the_store

    use_the_store()
    from rlhf.feedback.rounds import find_round, num_asked, num_complete

    asked = find_round(options.round)
    counts, complete = num_asked(asked), num_complete(asked)
    if options.json:
        print_json({"round": asked.name, "asked": counts, "complete": complete})
        return
    _print_status(counts, complete)


def _export(options: argparse.Namespace) -> None:
    from rlhf.cli.environment import use_the_store

    use_the_store()
    from rlhf.feedback.export import export_round
    from rlhf.feedback.rounds import find_round

    files = export_round(find_round(options.round), options.to, options.question, options.folder)
    if options.json:
        print_json({"round": options.round, "files": [str(file) for file in files]})
        return
    for file in files:
        say(str(file))
    say("What was labelled there comes back with `rlhf data import FILE`")


def _print_status(asked: Mapping[str, int], complete: Mapping[str, int | None]) -> None:
    table = Table("annotator", "asked", "complete")
    for person, count in sorted(asked.items()):
        done = complete[person]
        table.add_row(person or "anybody", f"{count:,}", "queue was deleted" if done is None else f"{done:,}")
    TextConsole().print(table)


def _show(report: "FeedbackReport", options: argparse.Namespace) -> None:
    if not _say(report, options):
        TextConsole().print(Markdown(report.text))


def _say(report: "FeedbackReport", options: argparse.Namespace) -> bool:
    """Print the report as JSON where that is asked for, and say whether it was."""
    if options.json:
        print_json(report.model_dump(mode="json"))
    return bool(options.json)


_WORDS = {
    "ask": "have a policy answer prompts, and put pairs of answers into people's queues in MLflow",
    "status": "say how far a round is",
    "export": "write a round's comparisons for another labelling tool, whose export `rlhf data import` reads",
    "label": "have a model behind an endpoint label a round's comparisons, measured against people first",
    "revise": "have answers criticized and revised by principles, and make demonstrations of that",
    "collect": "make a new version of data/ of what was answered, as often as wanted",
}
_ACTIONS = {"ask": _ask, "status": _status, "export": _export, "label": _label, "revise": _revise, "collect": _collect}
