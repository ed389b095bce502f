"""The schedule of nightly retraining: none until a recipe and a time are named, and kept from one start to the next."""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from zoneinfo import ZoneInfo

from rlhf.errors import ConfigError
from rlhf.files.atomic import write_file
from rlhf.paths import local_folder

_TIME = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")


@dataclass(frozen=True)
class Schedule:
    """Retraining at a time of every day.

    Attributes:
        recipe: file of the recipe.
        at: hour and minute, as in 02:00.
        timezone: a name of the IANA database.
        inbox: folder of new feedback below the project's root; None where new versions of data/ are what is new.
    """

    recipe: str
    at: str
    timezone: str = "UTC"
    inbox: str | None = None

    @property
    def cron(self) -> str:
        """For Prefect."""
        hour, minute = map(int, self.at.split(":"))
        return f"{minute} {hour} * * *"

    @property
    def retrain(self) -> dict[str, str]:
        """Settings of the section `retrain`."""
        return {} if self.inbox is None else {"source": "inbox", "inbox": self.inbox}

    def check(self) -> None:
        """Refuse a time that there is not.

        Raises:
            ConfigError: time or timezone is none.
        """
        if not _TIME.fullmatch(self.at):
            raise ConfigError(f"--at is {self.at}; give hour and minute, such as 02:00")
        try:
            ZoneInfo(self.timezone)
        except (KeyError, ValueError, OSError):  # no such name, a path, a folder
            raise ConfigError(f"--timezone is {self.timezone}; give a name such as Europe/Berlin, or UTC") from None


def schedule_file() -> Path:
    """The file that keeps it."""
    return local_folder("services") / "schedule.json"


def read_schedule() -> Schedule | None:
    """The schedule; None where there is none.

    Raises:
        ConfigError: the file is damaged.
    """
    file = schedule_file()
    if not file.is_file():
        return None
    try:
        schedule = Schedule(**json.loads(file.read_text(encoding="utf-8")))
        schedule.check()
    except (ValueError, TypeError, ConfigError) as error:
        raise ConfigError(f"{file}: this is no schedule ({error}); `rlhf schedule --off` removes it") from None
    return schedule


def write_schedule(schedule: Schedule | None) -> None:
    """Keep a schedule, or none."""
    if schedule is None:
        schedule_file().unlink(missing_ok=True)
    else:
        write_file(schedule_file(), json.dumps(asdict(schedule), indent=2) + "\n")
