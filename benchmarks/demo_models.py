"""The demo's three models, made by the project's own stages on configs/demo.yaml."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from benchmarks.made_models import ROOT, ModelSet
from rlhf.config.loading import load_config
from rlhf.config.model import LoraConfig
from rlhf.config.pipeline import PipelineConfig
from rlhf.data import calibrated_arithmetic
from rlhf.data.preparation.prepare import prepare_data
from rlhf.modeling.conversations import encode_prompts
from rlhf.modeling.tokenizer import load_tokenizer
from rlhf.references import DataSource
from rlhf.supervised.reward_model import train_reward_models
from rlhf.supervised.sft import train_sft
from rlhf.text.lines import read_json_lines
from rlhf.workspace import Workspace


def demo_config() -> PipelineConfig:
    """The demo's recipe."""
    return load_config(ROOT / "configs" / "demo.yaml")


def make_demo_models(made: ModelSet) -> None:
    """Run data, SFT and reward models. `data/` stays, for the evaluation's prompts."""
    config, work = demo_config(), made.folder / "work"
    calibrated_arithmetic.generate(work / "source")
    source = DataSource(path="source", md5="", tracked=False, embedded=config.data.embedded)
    prepare_data(config.data, config.model, config.policy.max_response_tokens, source, work, _workspace(work / "data"))
    data, start = work / "data" / "output", work / "sft" / "output"
    train_sft(config.sft, config.setup, data, _workspace(work / "sft"))
    train_reward_models(config.reward_model, config.setup, data, start, _workspace(work / "reward_models"))
    shutil.move(data, made.data)
    shutil.move(start / "policy", made.policy)
    shutil.move(work / "reward_models" / "output", made.reward.parent)
    shutil.rmtree(work)
    write_prompts(made)


def make_demo_adapters(made: ModelSet, demo: ModelSet) -> None:
    """The demo's data and policy, and reward models that are trained as adapters over it."""
    config, work = demo_config(), made.folder / "work"
    settings = config.reward_model.model_copy(update={"lora": LoraConfig()})
    train_reward_models(settings, config.setup, demo.data, demo.folder, _workspace(work))
    shutil.move(work / "output", made.reward.parent)
    shutil.rmtree(work)
    for name in ("policy", "prompts.jsonl", "data"):
        (made.folder / name).symlink_to(Path("..") / demo.folder.name / name)
    adapter = made.reward / "adapter" / "adapter_model.safetensors"
    if not adapter.exists():
        raise FileNotFoundError(
            f"{adapter}: the reward stage has not kept its adapter, so sharing has nothing to share"
        )


def write_prompts(made: ModelSet) -> None:
    """The training prompts as token ids."""
    rows = read_json_lines(made.data / "prompts" / "train.jsonl")
    ids = encode_prompts(load_tokenizer(made.policy), [row["prompt"] for row in rows])
    made.prompts.write_text("".join(json.dumps({"input_ids": prompt}) + "\n" for prompt in ids))


def _workspace(folder: Path) -> Workspace:
    workspace = Workspace(folder / "output", folder / "report", folder / "checkpoints", _log)
    for path in (workspace.output, workspace.report, workspace.checkpoints):
        path.mkdir(parents=True)
    return workspace


def _log(metrics: Mapping[str, float], step: int | None) -> None:
    shown = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    print(f"{'' if step is None else step} {shown}", flush=True)
