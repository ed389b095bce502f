"""The model card: what was done, with what, how well it went and where not to trust it. Beside the policy's weights."""

import json
import re
import shutil
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from rlhf.config.pipeline import METHOD_TITLES, PipelineConfig
from rlhf.config.policy import RewardSourceConfig
from rlhf.data.preparation.report import in_tokens_table, tokenizer_sentences
from rlhf.data.preparation.report import sets_table as held_out_sets_table
from rlhf.figure_gates import refusal
from rlhf.headline import FITNESS, verdict
from rlhf.model_card.audit_tables import (
    agreement_of_annotators,
    annotators_sentence,
    audit_table,
    ensemble_table,
    group_tables,
    learning_curve_table,
    length_table,
    robustness_table,
    scaling_table,
)
from rlhf.model_card.lineage import lineage_markdown
from rlhf.model_card.metadata import card_metadata
from rlhf.model_card.set_tables import categories_table, sets_table, sets_too_small, verbosity_text
from rlhf.model_card.tables import (
    JUDGES,
    PLACEHOLDER,
    best_of_n_table,
    combination_text,
    composition_table,
    count_text,
    curve_table,
    gates_table,
    lengths_table,
    portable,
    portable_command,
    preparation_table,
    results_table,
    settings_table,
    share_text,
    sources_table,
    stages_table,
    value_text,
    wins_table,
)
from rlhf.modeling.hub import is_hub_id
from rlhf.provenance.record import RECORD_FILE, ProvenanceRecord, record_bytes
from rlhf.references import DataSource, GateVerdict, StageReport
from rlhf.text.lines import lines_of, read_json_lines
from rlhf.text.markdown import as_code, escape
from rlhf.workspace import Workspace

_TEMPLATE = Path(__file__).with_name("card.md.jinja")
_NUM_SAMPLES = 8
_MAX_SAMPLE_CHARACTERS = 300
_MAX_DATASHEET_CHARACTERS = 20_000
_SMALL_MODEL = 1_000_000_000
_LICENCE = re.compile(r"#+ *licen[cs]e\b", re.IGNORECASE)
_WHERE = "cluster"
"""Section of the hosts that computed, which no result depends on, and whose addresses are nobody's business."""
_STARTS = {"sft": "SFT", "previous": "the round before"}
_STOPS = {
    "kl_budget": "the KL to the SFT policy passed its budget",
    "turn": "the held-out score had turned while the score went on rising",
}


@dataclass(frozen=True)
class CardFacts:
    """The facts of the card that are in no stage's output.

    Attributes:
        run_id: MLflow run of the pipeline.
        record: where the run comes from.
        data_source: the data set that was read.
        stages: how the stages before the card went, in their order.
        gates: verdicts of the recipe's gates on the run's figures.
        command: what was typed, where a command line started the run.
        notes: further limits of this run, in sentences.
    """

    run_id: str
    record: ProvenanceRecord
    data_source: DataSource
    stages: tuple[StageReport, ...]
    gates: tuple[GateVerdict, ...] = ()
    command: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Measured:
    """The stages' results as their JSON files hold them."""

    report: Mapping[str, Any]
    audit: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    curve: Sequence[Mapping[str, Any]]
    policy: Mapping[str, Any]
    num_parameters: int
    llm_judge: str | None


def write_model_card(
    config: PipelineConfig,
    facts: CardFacts,
    data: Path,
    audit: Path,
    evaluation: Path,
    policy: Path,
    workspace: Workspace,
) -> None:
    """Copy the policy to `workspace.output`, with its card as README.md, its figures, and the recipe as config.yaml.

    Apart from `facts` the card is decided by its inputs: no time and no path of this machine is in it.

    Args:
        config: the run's whole configuration.
        facts: what no stage's output says.
        data: the data stage's output.
        audit: the reward-model audit's output.
        evaluation: the policy evaluation's output.
        policy: the policy stage's output.
        workspace: where the card and its files go.
    """
    from huggingface_hub import ModelCard

    output = workspace.output
    shutil.copytree(policy / "policy", output, dirs_exist_ok=True)
    figures = _copy_figures([evaluation, audit, policy], output / "figures")
    recipe = yaml.safe_dump(portable(config.model_dump(mode="json", exclude={_WHERE})), sort_keys=False, width=120)
    (output / "config.yaml").write_text(recipe, encoding="utf-8")
    (output / RECORD_FILE).write_bytes(record_bytes(facts.record))
    measured = _Measured(
        _read(data / "report.json"),
        _read(audit / "audit.json"),
        _read(evaluation / "evaluation.json"),
        _read(evaluation / "curve.json")["points"],
        _read(policy / "summary.json"),
        _count_parameters(output),
        judged.read_text(encoding="utf-8") if (judged := evaluation / "judge.md").is_file() else None,
    )
    datasheet = (data / "datasheet.md").read_text(encoding="utf-8")
    texts = _texts(config, facts, measured, datasheet)
    texts |= {
        "figures": figures,
        "samples": _samples(evaluation / "side_by_side.jsonl"),
        "config_has_placeholders": PLACEHOLDER in recipe,
    }
    metadata = card_metadata(config, facts.data_source, measured.audit, measured.evaluation)
    card = ModelCard.from_template(metadata, template_path=str(_TEMPLATE), **texts)
    card.save(output / "README.md")


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _texts(config: PipelineConfig, facts: CardFacts, measured: _Measured, datasheet: str) -> dict[str, Any]:
    """The texts that the template puts in, as Markdown."""
    evaluation = measured.evaluation
    method = METHOD_TITLES[config.method]
    overoptimization = evaluation.get("overoptimization", {})  # which earlier evaluations have not
    climbs = config.preference is None
    climbed = method if climbs and any(source.kind == "trained" for source in config.policy.rewards) else None
    sources = sources_table(config.policy.rewards) if config.policy.rewards != (RewardSourceConfig(),) else None
    return {
        "config": config,
        "method": method,
        "climbs": climbs,
        "rounds": [(METHOD_TITLES[choice.method], _STARTS[choice.start]) for choice in config.rounds],
        "facts": facts,
        "code": facts.record.code,
        "lineage": lineage_markdown(facts.record),
        "evaluation": evaluation,
        "audit": measured.audit,
        "audit_reasons": "; ".join(map(escape, measured.audit["reasons"])),
        "policy": measured.policy,
        "num_parameters": count_text(measured.num_parameters),
        "base": _base(config),
        "base_differences": [escape(sentence) for sentence in measured.report.get("base", [])],
        "verdict": " ".join(filter(None, (_verdict(measured), escape(refusal(facts.gates) or "")))),
        "gates_table": gates_table(facts.gates),
        "on_prompts": _on_prompts(evaluation),
        "judge": JUDGES[evaluation["judge"]],
        "win_rate": share_text(evaluation["win_rate"]["rate"]),
        "length_controlled": share_text(evaluation["length_controlled_win_rate"]),
        "gold_gain": value_text(evaluation["gains"]["gold"], "+.3f") if "gold" in evaluation["gains"] else None,
        "gold_is_behind_labels": config.evaluation.gold in (None, measured.report["gold"]),
        "kl": value_text(evaluation["kl"], ".2f"),
        "results_table": results_table(evaluation, climbed),
        "wins_table": wins_table(evaluation, climbed),
        "llm_judge": measured.llm_judge,
        "references_table": wins_table(evaluation["references"], climbed) if evaluation.get("references") else None,
        "curve_table": curve_table(measured.curve),
        "overoptimization": overoptimization.get("sentences", []),
        "best_of_n_table": best_of_n_table(overoptimization.get("best_of_n")),
        "sets_table": sets_table(evaluation),
        "categories_table": categories_table(evaluation),
        "sets_too_small": sets_too_small(evaluation, config.evaluation.smallest_set_change),
        "held_out_sets": held_out_sets_table(measured.report),
        "verbosity": verbosity_text(evaluation["verbosity"]),
        "limitations": _limitations(config, facts, measured),
        "composition_table": composition_table(measured.report),
        "preparation_table": preparation_table(measured.report),
        "lengths_table": lengths_table(measured.report),
        "in_tokens_table": in_tokens_table(measured.report),
        "tokenizer_sentences": tokenizer_sentences(measured.report["tokenizer"]),
        "datasheet": _nested(datasheet),
        "agreement": share_text(measured.audit["agreement"]["same_preference"]),
        "audit_table": audit_table(measured.audit),
        "agreement_of_annotators": agreement_of_annotators(measured.audit),
        "scaling_table": scaling_table(measured.audit),
        "annotators_sentence": annotators_sentence(measured.audit),
        "ensemble_table": ensemble_table(measured.audit),
        "learning_curve_table": learning_curve_table(measured.audit),
        "length_table": length_table(measured.audit),
        "robustness_table": robustness_table(measured.audit),
        "group_tables": group_tables(measured.audit),
        "sources_table": sources,
        "combination": combination_text(config.policy),
        "climbs_reward_model": climbed is not None,
        "stages_table": stages_table(facts.stages),
        "settings_tables": {name: settings_table(section) for name, section in _sections(config)},
        "command": portable_command(facts.command) if facts.command else None,
        "data_path": as_code(str(portable(facts.data_source.path))),
        "licence": _licence(datasheet),
    }


def _unmeasured(evaluation: Mapping[str, Any]) -> str | None:
    """A sentence about an LLM judge that nobody has measured; None where there is none."""
    judged = evaluation.get("llm_judge")
    if not judged or judged["agreement"] is not None:
        return None
    return (
        f"The LLM judge, {escape(judged['model'])}, was never measured against people: its verdicts may mean nothing."
    )


def _verdict(measured: _Measured) -> str | None:
    """The run's verdict, from what the stages wrote; first that an LLM judge was not measured, where it was not."""
    intervals = {
        "evaluation/gold_gain": measured.evaluation["gains"].get("gold"),
        "evaluation/win_rate": measured.evaluation["win_rate"]["rate"],
    }
    metrics = {
        "policy/chosen_update": measured.policy["chosen_update"],
        "evaluation/kl": measured.evaluation["kl"]["value"],
        "reward_audit/fitness": FITNESS[measured.audit["verdict"]],
    }
    for name, interval in intervals.items():
        if interval is not None:
            metrics |= {name: interval["value"], f"{name}_low": interval["low"], f"{name}_high": interval["high"]}
    return " ".join(filter(None, (_unmeasured(measured.evaluation), verdict(metrics)))) or None


def _on_prompts(evaluation: Mapping[str, Any]) -> str:
    responses, prompts = evaluation["num_responses"], evaluation["num_prompts"]
    rows = f"{responses:,} rows of " if responses != prompts else ""
    return f"{rows}{prompts:,} test prompts"


def _limitations(config: PipelineConfig, facts: CardFacts, measured: _Measured) -> list[str]:
    """The limits that a reader must know before trusting the model; the measured ones first."""
    limits = [*filter(None, (_unmeasured(measured.evaluation),))]
    limits += [f"{escape(reason)}." for reason in measured.audit["reasons"]]
    limits += [*measured.audit["warnings"], *measured.evaluation["warnings"], *measured.evaluation["notes"]]
    limits += [str(flag) for flag in measured.policy.get("flags", [])]
    method = METHOD_TITLES[config.method]
    if measured.policy["chosen_update"] == 0:
        limits.append(f"No {method} checkpoint was chosen: the weights are those of {_STARTS[config.start]}.")
    if config.start == "previous":
        limits.append(
            f"{method} started from the policy of the round before. What was measured on its way, by the curve and its "
            f"warnings, is set beside that policy, and so was its KL; the results on test prompts are set beside SFT."
        )
    if config.policy.temperature != config.evaluation.temperature:
        limits.append(
            f"{method} sampled at temperature {config.policy.temperature:g} and the evaluation at "
            f"{config.evaluation.temperature:g}: win rates, KL and lengths are of another distribution than {method}'s."
        )
    if measured.policy["stopped_because"] != "finished":
        cause = _STOPS.get(
            measured.policy["stopped_because"], f"the alarm `{measured.policy['stopped_because']}` went off"
        )
        limits.append(f"{method} stopped early, after {measured.policy['num_updates']} updates: {cause}.")
    if measured.num_parameters < _SMALL_MODEL:
        size = count_text(measured.num_parameters)
        limits.append(f"With {size} parameters this is a small model; expect nothing of it beyond its data.")
    if facts.data_source.embedded == "calibrated_arithmetic":
        limits.append(
            "Held out means an unseen pair of wording and operands; the fact may occur in another wording. The data is "
            "generated and says nothing about other tasks."
        )
    elif facts.data_source.embedded is not None:
        limits.append(
            "The prompts are generated and the responses under comparison are the base's own: the data says nothing "
            "about other tasks."
        )
    if not facts.data_source.tracked:
        limits.append("DVC does not track the data, so the run can be repeated only once the data is imported.")
    if facts.data_source.dirty:
        limits.append(
            "The data differed from `data.dvc`, and the run was allowed to go on: it cannot be repeated exactly."
        )
    code = facts.record.code
    if code.commit is None or code.left_out:
        limits.append("The code was not exactly what git and a patch hold, so the run cannot be repeated from them.")
    limits += facts.notes
    return list(dict.fromkeys(limits))


def _sections(config: PipelineConfig) -> Iterator[tuple[str, BaseModel]]:
    for name in type(config).model_fields:
        section = getattr(config, name)
        if isinstance(section, BaseModel) and name != _WHERE:
            yield name, section
        if name == "rounds":
            yield from ((f"rounds[{number}]", choice) for number, choice in enumerate(section))


def _samples(path: Path) -> list[dict[str, str]]:
    """The first of the side-by-side samples, escaped and cut, in the words of the template."""
    return [
        {
            "prompt": escape(row["prompt"][-1]["content"], _MAX_SAMPLE_CHARACTERS),
            "baseline": escape(row["baseline"]["response"], _MAX_SAMPLE_CHARACTERS) or "(empty)",
            "policy": escape(row["policy"]["response"], _MAX_SAMPLE_CHARACTERS) or "(empty)",
        }
        for row in islice(read_json_lines(path), _NUM_SAMPLES)
    ]


def _copy_figures(folders: Sequence[Path], target: Path) -> list[str]:
    target.mkdir(exist_ok=True)
    names = []
    for path in (path for folder in folders for path in sorted(folder.glob("*.png"))):
        shutil.copyfile(path, target / path.name)
        names.append(path.name)
    return names


def _count_parameters(folder: Path) -> int:
    """Numbers in the safetensors files, from their headers: a length of 8 bytes, then JSON with a shape per tensor."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        total += sum(prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    return total


def _nested(datasheet: str) -> str:
    """The datasheet as a part of the card: its headings two levels deeper, its length bounded."""
    if len(datasheet) > _MAX_DATASHEET_CHARACTERS:
        datasheet = datasheet[:_MAX_DATASHEET_CHARACTERS] + "\n\n[...]"
    lines, fenced = [], False
    for line in lines_of(datasheet.strip()):
        fenced ^= line.lstrip().startswith("```")
        lines.append(f"##{line}" if line.startswith("#") and not fenced else line)
    return "\n".join(lines)


def _licence(datasheet: str) -> str | None:
    """The text under the data sheet's heading of the licence; under all of them where there are several."""
    parts: list[list[str]] = []
    fenced = is_licence = False
    for line in lines_of(datasheet):
        fenced ^= line.lstrip().startswith("```")
        if line.startswith("#") and not fenced:
            is_licence = _LICENCE.match(line) is not None
            parts += [[]] if is_licence else []
        elif is_licence:
            parts[-1].append(line)
    said = dict.fromkeys(text for lines in parts if (text := "\n".join(lines).strip()))
    return "\n\nUnder another heading of that name it says: ".join(said) or None


def _base(config: PipelineConfig) -> str | None:
    """The base model's id or folder; None where the model was built from its configuration."""
    base = config.model.base
    if base is None:
        return None
    revision = f" at commit `{config.model.revision}`" if config.model.revision else ""
    if is_hub_id(base):
        return f"[{base}](https://huggingface.co/{base}){revision}"
    return f"a local model, {as_code(Path(base).name)}{revision}"
