"""Tiny models and data for the library's tests."""

import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.config.model import ArchitectureConfig, ComputeConfig, ModelConfig, Setup
from rlhf.data import calibrated_arithmetic

TEXTS = ["What is 7 + 5 ?", "The answer is 12 .", "I believe the answer is 1234567890 , but please verify ."]


@pytest.fixture(scope="session")
def tiny_setup() -> Setup:
    """fp32 on one thread, a Llama of two layers."""
    return Setup(
        seed=0,
        model=ModelConfig(
            architecture=ArchitectureConfig(hidden_size=32, num_layers=2, num_heads=2, feed_forward_size=64),
            max_length=48,
        ),
        compute=ComputeConfig(dtype="fp32", num_threads=1),
    )


@pytest.fixture
def tiny_tokenizer(tiny_setup: Setup) -> Any:
    from rlhf.modeling.tokenizer import prepare_tokenizer

    return prepare_tokenizer(tiny_setup.model, TEXTS)[0]


@pytest.fixture
def tiny_policy(tiny_setup: Setup, tiny_tokenizer: Any) -> Any:
    from rlhf.modeling.models import start_policy

    return start_policy(tiny_setup, tiny_tokenizer).eval()


@pytest.fixture
def save_reward_model(tiny_setup: Setup, tiny_tokenizer: Any, tiny_policy: Any, tmp_path: Path) -> Callable[..., Path]:
    """Saves a reward model with random weights, as the reward stage lays it out."""

    def save(name: str = "reward_model", seed: int = 1, score_offset: float = 0.0, num_labels: int = 1) -> Path:
        from transformers import AutoModelForSequenceClassification

        from rlhf.modeling.models import save_model

        save_model(tiny_policy, tiny_tokenizer, tmp_path / "backbone")
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "backbone", num_labels=num_labels)
        model.config.score_offset = score_offset
        folder = tmp_path / "reward_models" / name
        save_model(model, tiny_tokenizer, folder)
        return folder

    return save


@pytest.fixture(scope="session")
def small_data(tiny_setup: Setup, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `arithmetic_data`, for tests that only read it."""
    from rlhf.modeling.tokenizer import prepare_tokenizer

    return write_arithmetic_data(
        tmp_path_factory.mktemp("small") / "data", prepare_tokenizer(tiny_setup.model, TEXTS)[0]
    )


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Public data that people made, and a model, which are no part of the project; skips where they are missing."""
    folder = Path(os.environ.get("RLHF_SHARED", Path(__file__).parents[3] / "shared")) / "realdata"
    if not folder.is_dir():
        pytest.skip(f"the real data is not at {folder}; RLHF_SHARED says where its parent is")
    return folder


@pytest.fixture(scope="session")
def pretrained_model(real_data: Path) -> Path:
    """A small Llama that somebody else trained on stories, with SentencePiece's tokens."""
    return real_data / "model" / "stories260K-hf"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Really installs a package that offers reward functions: its files, and the dist-info that pip would write."""
    before = set(sys.modules)

    def put(
        code: str, *offers: str, package: str = "my-rewards", version: str = "1.0", module: str = "my_rewards"
    ) -> Path:
        site = tmp_path / f"site-{package}"
        info = site / f"{package.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text("\n".join(["[rlhf.rewards]", *offers]) + "\n")
        path = site / f"{module.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
        monkeypatch.syspath_prepend(site)
        importlib.invalidate_caches()
        return path

    yield put
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def arithmetic_data(tmp_path: Path, tiny_tokenizer: Any) -> Path:
    """The data stage's output on a few questions of the embedded data set."""
    return write_arithmetic_data(tmp_path / "data", tiny_tokenizer)


def write_arithmetic_data(folder: Path, tokenizer: Any) -> Path:
    """The same, in a folder."""
    import random

    tokenizer.save_pretrained(folder / "tokenizer")
    questions = [f"What is {a} + {b} ?" for a in range(10) for b in range(10)]
    rng = random.Random(0)
    rng.shuffle(questions)
    for name, part in (("train", questions[:64]), ("validation", questions[64:80]), ("test", questions[80:])):
        prompts = [[{"role": "user", "content": q}] for q in part]
        plain = [_answer(f"The answer is {calibrated_arithmetic.true_answer(q)} .") for q in part]
        hedged = [_answer(f"I believe the answer is {rng.randint(0, 18)} , but please verify .") for q in part]
        write_jsonl(folder / "prompts" / f"{name}.jsonl", [{"prompt": p} for p in prompts])
        write_jsonl(
            folder / "demonstrations" / f"{name}.jsonl",
            [{"prompt": p, "completion": c} for p, c in zip(prompts, plain, strict=True)],
        )
        pairs = [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in zip(prompts, plain, hedged, strict=True)]
        write_jsonl(folder / "preferences" / f"{name}.jsonl", pairs[: len(pairs) // 2] if name == "train" else pairs)
        if name == "train":
            write_jsonl(folder / "preferences" / "selection.jsonl", pairs[len(pairs) // 2 :])
    (folder / "report.json").write_text(json.dumps({"gold": "calibrated_arithmetic"}))
    (folder / "datasheet.md").write_text("# Sums\n")
    return folder


def _answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]
