"""The registered rules, by name."""

from rlhf.config.data import GoldName
from rlhf.gold.rules import GoldRule


def gold_rule(name: GoldName) -> GoldRule:
    """The rule of a name."""
    from rlhf.gold import calibrated_arithmetic, pleasant_words

    rules: dict[GoldName, GoldRule] = {
        "calibrated_arithmetic": calibrated_arithmetic.RULE,
        "pleasant_words": pleasant_words.RULE,
    }
    return rules[name]
