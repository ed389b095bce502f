"""Model folders of several families, built from a configuration."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from model_families import FAMILIES
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

CLASSES = {"policy": AutoModelForCausalLM, "reward_model": AutoModelForSequenceClassification}


@pytest.fixture(autouse=True)
def own_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing that another test found out is known."""
    monkeypatch.setenv("RLHF_ROOT", str(tmp_path / "project"))
    return tmp_path / "project"


@pytest.fixture
def save_family(tiny_tokenizer: Any, tmp_path: Path) -> Callable[..., Path]:
    """Saves a model of a family, with the tokenizer."""

    def save(family: str, role: str = "policy", dtype: torch.dtype = torch.float32, **saving: Any) -> Path:
        ids = {f"{kind}_token_id": getattr(tiny_tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
        more = {"num_labels": 1} if role == "reward_model" else {}
        config = FAMILIES[family](vocab_size=len(tiny_tokenizer), **ids, **more)
        torch.manual_seed(0)
        folder = tmp_path / "model"
        CLASSES[role].from_config(config).to(dtype).save_pretrained(folder, **saving)
        tiny_tokenizer.save_pretrained(folder)
        return folder

    return save
