"""Agreement of an LLM judge with people, on pairs that people have labelled: what its verdicts are worth."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf.config.judge import EvaluationJudgeConfig
from rlhf.data.preparation.annotations import FILE as ANNOTATIONS
from rlhf.data.preparation.annotations import TIE
from rlhf.data.preparation.splits import prompt_key
from rlhf.data.schema import is_of_judge, is_tie, pairs_of, read_rows
from rlhf.evaluation.agreement import Agreement, annotator_agreement, cohen_kappa
from rlhf.evaluation.intervals import prompt_numbers
from rlhf.evaluation.statistics import Estimate, share_interval
from rlhf.files.names import below
from rlhf.judges.preference import Judgment, Pair, dialogue_text
from rlhf.modeling.conversations import Conversation
from rlhf.text.lines import read_json_lines

FIRST, SECOND = "first", "second"
_CLASSES = (FIRST, SECOND, TIE)


@dataclass(frozen=True)
class LabelledPair:
    """Two responses that people compared, in an order that says nothing.

    Attributes:
        prompt: the dialogue.
        responses: texts of the first and the second.
        verdicts: what each annotator said: `first`, `second` or `tie`.
    """

    prompt: Conversation
    responses: tuple[str, str]
    verdicts: Mapping[str, str]

    def asked(self, criteria: str) -> Pair:
        """The pair as a judge is asked of it."""
        return Pair(dialogue_text(self.prompt), *self.responses, criteria)


@dataclass(frozen=True)
class Labels:
    """Pairs that people have labelled.

    Attributes:
        source: where they are from, in words.
        pairs: those that the judge is asked of.
        people: agreement of annotators who judged the same two responses; None where nobody did.
    """

    source: str
    pairs: Sequence[LabelledPair]
    people: Agreement | None

    @property
    def are_decided(self) -> bool:
        """Whether a person prefers a response of any of them."""
        return any(verdict != TIE for pair in self.pairs for verdict in pair.verdicts.values())


@dataclass(frozen=True)
class JudgeAgreement:
    """An LLM judge on pairs that people have labelled; every verdict of a person counts, intervals are by prompt.

    Attributes:
        num_verdicts: of people.
        num_prompts: different prompts among them.
        agreement: share of the verdicts that decide on which the judge says the same; where it decides nothing, half.
        decided: the same of those in which the judge decides, too; None where it decides none.
        with_ties: share on which both say the same, a tie being a verdict like others; None where none could be read.
        kappa: agreement beyond chance (Cohen) of the same; None where chance alone explains it.
        num_abstentions: pairs of which the judge's answers could not be read.
    """

    num_verdicts: int
    num_prompts: int
    agreement: Estimate
    decided: Estimate | None
    with_ties: Estimate | None
    kappa: Estimate | None
    num_abstentions: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def read_labels(config: EvaluationJudgeConfig, data: Path, root: Path) -> Labels:
    """Pairs that people have labelled: of the file that is named, else the held-out ones of the data.

    Of the pairs a hash chooses those that the judge is asked of, and the order of their two responses.

    Args:
        config: which, and how many.
        data: the data stage's output.
        root: the project's root.

    Raises:
        DataError: the file is not there, or a row is at fault.
    """
    if config.labelled is None:
        rule = json.loads((data / "report.json").read_text(encoding="utf-8"))["gold"]
        source = "the data's held-out pairs" + (", whose raters are simulated" if rule is not None else "")
        pairs, people = _pairs(data / "preferences" / "test.jsonl"), _annotators(data)
    else:
        pairs, source = _pairs(below(root, config.labelled, "evaluation.judge.labelled")), config.labelled
        people = annotator_agreement(
            [pair.verdicts for pair in pairs], TIE, [prompt_key(pair.prompt) for pair in pairs]
        )
    return Labels(source, sorted(pairs, key=_hash)[: config.num_measured], people)


def agreement_with_people(
    pairs: Sequence[LabelledPair], judgments: Sequence[Judgment], num_resamples: int, seed: int
) -> JudgeAgreement | None:
    """Agreement of a judge with people; None where they have decided nothing.

    Args:
        pairs: N of them.
        judgments: the judge's, [N].
        num_resamples: of kappa's bootstrap over prompts.
        seed: of the bootstrap.

    Source:
        Accuracy with and without ties: Zheng et al., "Judging LLM-as-a-judge", 2306.05685, section 4.1.
    """
    said = [
        (prompt_key(pair.prompt), verdict, judgment)
        for pair, judgment in zip(pairs, judgments, strict=True)
        for verdict in pair.verdicts.values()
    ]
    decided = [
        (key, judgment.agrees(prefers_first=verdict == FIRST)) for key, verdict, judgment in said if verdict != TIE
    ]
    if not decided:
        return None
    both_decide = [(key, same) for key, same in decided if same != 0.5]
    readable = [(key, (verdict, _verdict(judgment))) for key, verdict, judgment in said if _verdict(judgment)]
    return JudgeAgreement(
        num_verdicts=len(said),
        num_prompts=len({key for key, *_ in said}),
        agreement=_share(decided),
        decided=_share(both_decide) if both_decide else None,
        with_ties=_share([(key, float(one == other)) for key, (one, other) in readable]) if readable else None,
        kappa=kappa_interval([two for _, two in readable], [key for key, _ in readable], num_resamples, seed),
        num_abstentions=sum(judgment.probability is None for judgment in judgments),
    )


def kappa_interval(
    verdicts: Sequence[tuple[str, str]], prompts: Sequence[str], num_resamples: int, seed: int
) -> Estimate | None:
    """Cohen's kappa with its bootstrap interval over prompts; None where chance alone explains the agreement.

    Args:
        verdicts: `first`, `second` or `tie` of both, [N] of two.
        prompts: the prompt of each, [N].
        num_resamples: samples of prompts.
        seed: of the samples.
    """
    kappa = cohen_kappa(verdicts) if verdicts else None
    if kappa is None:
        return None
    which = prompt_numbers(prompts)
    size = int(which.max()) + 1
    tables = np.zeros((size, len(_CLASSES), len(_CLASSES)))
    places = np.array([[_CLASSES.index(verdict) for verdict in two] for two in verdicts])
    np.add.at(tables, (which, places[:, 0], places[:, 1]), 1)
    drawn = np.random.default_rng(seed).multinomial(size, np.full(size, 1 / size), size=num_resamples)
    kappas = _kappas(np.tensordot(drawn.astype(np.float64), tables, axes=1))
    low, high = np.nanquantile(kappas, [0.025, 0.975])
    return Estimate(kappa, min(kappa, float(low)), max(kappa, float(high)))


def _kappas(tables: NDArray[np.float64]) -> NDArray[np.float64]:
    """Kappa of each of S tables of verdicts, [S, C, C]; not a number where chance alone explains the agreement."""
    shares = tables / tables.sum((1, 2), keepdims=True)
    agreement = np.trace(shares, axis1=1, axis2=2)
    by_chance = (shares.sum(1) * shares.sum(2)).sum(1)
    beyond = np.where(by_chance < 1, 1 - by_chance, np.nan)
    return np.asarray((agreement - by_chance) / beyond)


def _verdict(judgment: Judgment) -> str:
    """The judge's verdict; empty where it could not be read."""
    if judgment.probability is None:
        return ""
    return TIE if judgment.is_tie else FIRST if judgment.probability > 0.5 else SECOND


def _share(outcomes: Sequence[tuple[str, float]]) -> Estimate:
    return share_interval([value for _, value in outcomes], [key for key, _ in outcomes])


def _pairs(path: Path) -> list[LabelledPair]:
    """The pairs of a file of preferences, each once with all verdicts of people on it."""
    found: dict[tuple[str, str, str], tuple[Conversation, dict[str, str]]] = {}
    for line, row in read_rows(path, "preferences"):
        if is_of_judge(row):
            continue
        for pair in pairs_of(row, with_ties=True):
            key, chosen = prompt_key(pair["prompt"]), pair["chosen"][0]["content"]
            responses = sorted((chosen, pair["rejected"][0]["content"]), key=lambda text: _digest(key, text))
            verdict = TIE if is_tie(pair) else FIRST if responses[0] == chosen else SECOND
            verdicts = found.setdefault((key, *responses), (pair["prompt"], {}))[1]
            verdicts.setdefault(row.get("annotator") or f"line {line}", verdict)
    return [LabelledPair(prompt, (first, second), said) for (_, first, second), (prompt, said) in found.items()]


def _annotators(data: Path) -> Agreement | None:
    """Agreement of those who compared the same, as the data stage has kept it, ties among it."""
    path = data / ANNOTATIONS
    items = list(read_json_lines(path)) if path.is_file() else []
    return annotator_agreement([item["verdicts"] for item in items], TIE, [item["prompt"] for item in items])


def _hash(pair: LabelledPair) -> bytes:
    return _digest(prompt_key(pair.prompt), *pair.responses)


def _digest(*texts: str) -> bytes:
    return hashlib.sha256("\0".join(texts).encode()).digest()
