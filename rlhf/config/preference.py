"""Settings of the methods that learn from given preferences, without sampling: DPO, IPO, KTO, SimPO."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from rlhf.config.base import NonNegative, Positive
from rlhf.config.offline import OfflineConfig
from rlhf.config.policy import EvaluationAlarms


@dataclass(frozen=True)
class PreferenceMethod:
    """A method that learns from given preferences; `rlhf.preference.losses` has what it computes.

    Attributes:
        title: for people.
        source: where it is from.
        beta: the default of `preference.beta`.
        uses: settings that this method has and others have not.
    """

    title: str
    source: str
    beta: float
    uses: tuple[str, ...]


PREFERENCE_METHODS: Mapping[str, PreferenceMethod] = {
    "dpo": PreferenceMethod("DPO", "2305.18290", 0.1, ("label_smoothing", "length_normalized")),
    "ipo": PreferenceMethod("IPO", "2310.12036", 0.1, ("length_normalized",)),
    "kto": PreferenceMethod("KTO", "2402.01306", 0.1, ("desirable_weight", "undesirable_weight")),
    "simpo": PreferenceMethod("SimPO", "2405.14734", 2.0, ("label_smoothing", "target_margin")),
}


class PreferenceAlarms(EvaluationAlarms):
    """Thresholds of the alarms. Empty: the alarm is off."""

    likelihood_displacement: NonNegative | None = 0.1
    """Nats per token by which held-out chosen responses may become less likely than under the SFT policy while the
    rejected ones do too (2410.08847): the likelihood goes to responses that nobody has rated."""
    fatal: tuple[Literal["overoptimization", "likelihood_displacement"], ...] = ()
    """Alarms that end the run, with the best checkpoint kept. The others are shown and logged."""


class PreferenceConfig(OfflineConfig):
    """Learning from given preferences: pairs, or (KTO) responses that are wanted or not.

    The rows are those that the first reward model learns from: the selection reward model, which chooses the
    checkpoint, has seen none of them.
    """

    beta: Positive | None = None
    """Factor of the implicit reward, which is the log-ratio of policy to SFT policy; of SimPO, of the mean
    log-probability of a token. IPO aims at a log-ratio difference of 1/(2 beta). Empty: 0.1; of SimPO 2.0."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.0
    """Of DPO and SimPO: share of the pairs whose label is taken to be wrong (conservative DPO). It keeps the difference
    of implicit rewards at logit(1 - label_smoothing) where all pairs agree."""
    length_normalized: bool = False
    """Of DPO and IPO: whether log-ratios are means over a response's tokens, not sums. SimPO's always are."""
    target_margin: NonNegative | None = None
    """Of SimPO: implicit reward by which the chosen response must lead. Empty: 1.0."""
    desirable_weight: Positive | None = None
    """Of KTO: weight of the wanted responses. Empty: so that wanted and unwanted ones count the same in sum; the more
    frequent kind has 1."""
    undesirable_weight: Positive | None = None
    """Of KTO: weight of the unwanted responses. Empty: as for desirable_weight."""
    alarms: PreferenceAlarms = PreferenceAlarms()
    """Thresholds at which training says that something is wrong."""


OF_SOME = ("label_smoothing", "length_normalized", "target_margin", "desirable_weight", "undesirable_weight")


def preference_error(name: str, config: PreferenceConfig) -> str | None:
    """The reason why a method would ignore a setting, with advice; else None.

    Args:
        name: of the method, one of PREFERENCE_METHODS.
        config: its settings.
    """
    method, defaults = PREFERENCE_METHODS[name], PreferenceConfig()
    for setting in OF_SOME:
        if setting not in method.uses and getattr(config, setting) != getattr(defaults, setting):
            return f"preference.{setting} is set, but {method.title} has no use for it, so it would be ignored; drop it"
    return None
