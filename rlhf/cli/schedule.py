"""`rlhf schedule`: retrain every day at a time, where there is something new."""

import argparse
from pathlib import Path

from rlhf.cli.environment import be_client_of
from rlhf.errors import ConfigError
from rlhf.paths import root
from rlhf.services.schedule import Schedule, read_schedule, write_schedule
from rlhf.services.settings import running
from rlhf.text.terminal import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = (
        "Retrain with a recipe every day at a time, where data or feedback is new, while `rlhf up` is up. Without "
        "arguments: say what is scheduled."
    )
    parser.add_argument("config", metavar="CONFIG", nargs="?", type=Path, help="YAML file of the recipe")
    parser.add_argument("--at", metavar="HH:MM", help="the time of day")
    parser.add_argument("--timezone", metavar="NAME", default="UTC", help="such as Europe/Berlin; default: UTC")
    parser.add_argument("--inbox", metavar="DIR", help="take new preferences from there, as `rlhf chat` leaves them")
    parser.add_argument("--off", action="store_true", help="retrain at no time")


def run(options: argparse.Namespace) -> None:
    """Set, remove or show the schedule."""
    if options.config is None and options.at is None and options.inbox is None and not options.off:
        _say(read_schedule())
        return
    write_schedule(None if options.off else _asked(options))
    services = running()
    if services is None:
        _say(read_schedule())
        say("`rlhf up` is not up; it takes this with its next start.")
        return
    be_client_of(services)
    from flows.servers.deployments import deploy, make_deployments

    deploy(make_deployments())
    _say(read_schedule())


def _asked(options: argparse.Namespace) -> Schedule:
    from rlhf.config.loading import load_config
    from rlhf.data.versions.inbox import inbox_folder

    if options.config is None or options.at is None:
        raise ConfigError("a schedule has a recipe and a time, as in rlhf schedule configs/mine.yaml --at 02:00")
    config = load_config(options.config)
    if not config.registered:
        raise ConfigError(
            f"{options.config}: registered is false, and retraining promotes registered policies only; set it to true, "
            "or schedule another recipe"
        )
    if options.inbox is not None:
        inbox_folder(options.inbox, root(), "--inbox")
        if config.data.embedded is not None or config.data.path != "data":
            raise ConfigError(
                f"{options.config}: --inbox adds feedback to data/, and this recipe reads other data; leave --inbox "
                "away, or set data.embedded to none and data.path to data"
            )
    schedule = Schedule(str(options.config.resolve()), options.at, options.timezone, options.inbox)
    schedule.check()
    return schedule


def _say(schedule: Schedule | None) -> None:
    if schedule is None:
        say("Nothing is scheduled; `rlhf schedule CONFIG --at 02:00` retrains every night.")
        return
    source = f"feedback in {schedule.inbox}/" if schedule.inbox else "new data in data/"
    say(f"Every day at {schedule.at} {schedule.timezone}: {schedule.recipe}, where there is {source}.")
