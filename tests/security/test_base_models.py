"""Models from elsewhere: their templates are programs, and their config says what code computes them."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf.config.model import ArchitectureConfig, ComputeConfig, ModelConfig, Setup
from rlhf.config.pipeline import PipelineConfig
from rlhf.config.policy import RewardSourceConfig
from rlhf.errors import ModelError
from rlhf.modeling import template_trial
from rlhf.modeling.checks import check_model
from rlhf.modeling.models import load_policy, save_model, start_policy
from rlhf.modeling.template_choice import settled, source_settled
from rlhf.modeling.template_trial import check_ends
from rlhf.modeling.tokenizer import load_tokenizer, prepare_tokenizer

LOOPS = "".join(f"{{% for {x} in range(99999) %}}" for x in "abc") + "{% endfor %}" * 3
ENDLESS = {
    "three loops in one another": LOOPS,
    "three loops for an answer alone": "{% if messages|length > 2 %}" + LOOPS + "{% endif %}",
    "three loops where transformers renders": "{% if strftime_now is defined %}" + LOOPS + "{% endif %}",
    "a power that is worked out as it is compiled": "{% if false %}{{ 9 ** (9 ** 9) }}{% endif %}",
}
ENDLESS_TEXT = {
    "doubles": "{% set n = namespace(x='aaaa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "is worked out as the template is compiled": "{% if false %}{{ 'a' * 99999999999 }}{% endif %}",
}
PLAIN = "{% for m in messages %}<|user|>{{ m['content'] }}{{ eos_token }}{% endfor %}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    shape = ArchitectureConfig(hidden_size=16, num_layers=1, num_heads=1, feed_forward_size=16)
    setup = Setup(seed=0, model=ModelConfig(architecture=shape), compute=ComputeConfig(dtype="fp32"))
    tokenizer, _ = prepare_tokenizer(setup.model, ["What is 1 + 1 ? It is 2 ."])
    folder = tmp_path_factory.mktemp("made")
    save_model(start_policy(setup, tokenizer), tokenizer, folder)
    return folder, setup


@pytest.fixture
def base(made: tuple[Path, Any], tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(made[0], tmp_path / "base"))


@pytest.fixture
def change(base: Path) -> Callable[..., Path]:
    """Changes what a JSON file of the model says."""

    def put(file: str = "config.json", **values: object) -> Path:
        content = json.loads((base / file).read_text())
        (base / file).write_text(json.dumps(content | values))
        return base

    return put


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seconds of computing in place of ten."""
    monkeypatch.setattr(template_trial, "CPU_SECONDS", 2)


def _refused(base: Path, template: str, why: str) -> None:
    (base / "chat_template.jinja").write_text(template)
    with pytest.raises(ModelError, match=rf"chat_template\.jinja\): the chat template does not come to .*{why}"):
        settled(PipelineConfig(model=ModelConfig(base=str(base))))


class TestTemplatesWithoutEnd:
    """A template of three nested loops hung the start of a run for ever."""

    @pytest.mark.parametrize("template", ENDLESS.values(), ids=ENDLESS.keys())
    def test_is_refused_as_a_run_starts(self, base: Path, template: str, quick: None) -> None:
        started = time.monotonic()
        _refused(base, template, "2 s of computing")
        assert time.monotonic() - started < 60

    @pytest.mark.parametrize("template", ENDLESS_TEXT.values(), ids=ENDLESS_TEXT.keys())
    def test_text_without_end(self, base: Path, template: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A busy machine may need more than `quick`'s seconds to fill the memory."""
        monkeypatch.setattr(template_trial, "CPU_SECONDS", 120)
        _refused(base, template, "1 GB of memory")

    def test_of_a_reward_model_too(self, base: Path, quick: None) -> None:
        (base / "chat_template.jinja").write_text(LOOPS)
        with pytest.raises(ModelError, match="does not come to an end"):
            source_settled(RewardSourceConfig(name="other", kind="model", path=str(base)))

    def test_a_template_that_ends_is_tried_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        check_ends(PLAIN, {"eos_token": "</s>"}, "base")
        monkeypatch.setattr(template_trial.subprocess, "run", None)
        check_ends(PLAIN, {"eos_token": "</s>"}, "base")

    def test_what_it_says_is_not_looked_at(self) -> None:
        for template in ("{{ raise_exception('no') }}", "{% if %}", "{{ ''.__class__.__mro__ }}", "{{ (" * 3):
            check_ends(template, {}, "base")

    @pytest.mark.parametrize("template", ["{{ " + "(" * 3000 + " }}", "{{ ''.__class__.__mro__[1] }}", "{% if %}"])
    def test_others_are_refused_in_one_line(self, base: Path, template: str) -> None:
        (base / "chat_template.jinja").write_text(template)
        with pytest.raises(ModelError, match="the chat template") as raised:
            settled(PipelineConfig(model=ModelConfig(base=str(base))))
        assert "\n" not in str(raised.value)

    @pytest.mark.parametrize("given", [5, [5], {"default": 5}, {"default": ["a"]}])
    def test_a_template_that_is_no_text(self, base: Path, change: Callable[..., Path], given: object) -> None:
        (base / "chat_template.jinja").unlink(missing_ok=True)
        change("tokenizer_config.json", chat_template=given)
        with pytest.raises(ModelError, match="chat_template is"):
            settled(PipelineConfig(model=ModelConfig(base=str(base))))

    @pytest.mark.parametrize("text", ["[" * 100_000, "[]", "5"])
    def test_a_tokenizer_config_that_is_none(self, base: Path, text: str) -> None:
        (base / "chat_template.jinja").unlink(missing_ok=True)
        (base / "tokenizer_config.json").write_text(text)
        with pytest.raises(ModelError) as raised:
            settled(PipelineConfig(model=ModelConfig(base=str(base))))
        assert "\n" not in str(raised.value)


class TestForeignConfig:
    """A config named a kernel of the hub for its attention, which is code from there."""

    @pytest.mark.parametrize("setting", ["attn_implementation", "_attn_implementation", "_experts_implementation"])
    @pytest.mark.parametrize("value", ["somebody/kernel", "kernels-community/flash-attn", {"": "somebody/kernel"}])
    def test_a_kernel_is_not_asked_for(
        self, change: Callable[..., Path], made: tuple[Path, Any], setting: str, value: object
    ) -> None:
        base = change(**{setting: value})
        check_model(base, "policy")
        assert load_policy(base, ComputeConfig(dtype="fp32")).config._attn_implementation == "sdpa"

    @pytest.mark.parametrize(
        "values",
        [
            {"hidden_size": 10**15},
            {"num_hidden_layers": 10**9},
            {"vocab_size": -1},
            {"hidden_size": "many"},
            {"rope_parameters": 5},
            {"model_type": "no-such"},
            {"num_attention_heads": 0},
        ],
    )
    def test_absurd_settings_are_one_line(self, change: Callable[..., Path], values: dict[str, object]) -> None:
        base = change(**values)
        for read in (lambda: check_model(base, "policy"), lambda: load_policy(base, ComputeConfig(dtype="fp32"))):
            with pytest.raises(ModelError) as raised:
                read()
            assert "\n" not in str(raised.value)

    def test_a_broken_tokenizer_is_one_line(self, base: Path) -> None:
        for text in ("[" * 100_000, "{}", '{"version": 5, "model": 7}'):
            (base / "tokenizer.json").write_text(text)
            with pytest.raises(ModelError) as raised:
                load_tokenizer(base)
            assert "\n" not in str(raised.value)

    @pytest.mark.parametrize("name", ["../../secret.safetensors", "/etc/passwd", "a\0.safetensors", ""])
    def test_an_index_that_leads_out(self, base: Path, tmp_path: Path, name: str) -> None:
        (tmp_path.parent / "secret.safetensors").write_bytes((base / "model.safetensors").read_bytes())
        (base / "model.safetensors").unlink()
        index = {"metadata": {}, "weight_map": {"lm_head.weight": name}}
        (base / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(ModelError, match="which is not there"):
            check_model(base, "policy")
