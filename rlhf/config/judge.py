"""Settings of a model that judges, behind an OpenAI-compatible endpoint."""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from rlhf.config.base import Count, Positive, Probability, Section, Seed
from rlhf.config.feedback import RoundName


class JudgeConfig(Section):
    """A model behind an OpenAI-compatible endpoint."""

    url: str
    """Address of the endpoint, such as http://127.0.0.1:8000/v1."""
    model: Annotated[str, Field(min_length=1, max_length=200)]
    """The model's name at the endpoint, which is also the judge's name in the data."""
    key_variable: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=100)] = "RLHF_JUDGE_KEY"
    """Environment variable that holds the key. The key itself stands in no settings."""
    timeout_seconds: Positive = 60.0
    """Seconds that an answer may take."""
    num_retries: Annotated[int, Field(ge=0, le=20)] = 5
    """Further tries, each after a longer wait, where the endpoint is away, busy (429) or at fault (5xx)."""
    concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    """Requests at the same time."""
    max_requests: Count | None = None
    """Requests that one command may send; answers that are known already cost none. Empty: as many as it takes."""

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        advice = "give one such as http://127.0.0.1:8000/v1"
        try:
            parts = urlsplit(url)
            parts.port  # noqa: B018  # it is read here, and may be none
        except ValueError:
            raise ValueError(f"{url} is no address of an endpoint; {advice}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url} is no address of an endpoint; {advice}")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError(
                "url holds a login, a query or a fragment, which would be recorded; put the key into key_variable"
            )
        return url.rstrip("/")


class LabelConfig(Section):
    """Labels of a round's comparisons by a judge."""

    round: RoundName
    """Name of the round."""
    constitution: str
    """File of principles below the project's root: a list in JSON or YAML. One is drawn for each comparison."""
    minimum_agreement: Probability = 0.6
    """Share of the comparisons that people decided too on which the judge must agree with them: the lower bound of its
    95% interval. Below it nothing is labelled."""
    unmeasured_judge: bool = False
    """Whether to label although no person has decided any of the comparisons. The data then says so."""
    both_orders: bool = True
    """Whether each comparison is asked in both orders, so that a bias for a place makes ties and no preferences."""
    seed: Seed = 0
    """Seed of the principles that are drawn."""
