"""Chat templates of bases and reward models: chosen, fixed, or refused before anything is prepared."""

import json
from pathlib import Path
from typing import Any

import pytest
from made_tokenizers import CHATML, byte_level, sentencepiece_bpe

from rlhf.config.model import ModelConfig
from rlhf.config.pipeline import PipelineConfig
from rlhf.config.policy import RewardSourceConfig
from rlhf.config.retrain import SafetyGate
from rlhf.config.rl import RLConfig
from rlhf.errors import InputError, ModelError
from rlhf.modeling import templates
from rlhf.modeling.conversations import decode_responses, encode_pairs
from rlhf.modeling.template_choice import settled, source_settled
from rlhf.modeling.templates import fixed
from rlhf.modeling.tokenizer import load_source_tokenizer, load_tokenizer, prepare_tokenizer

QUESTION = [{"role": "user", "content": "Hi"}]
CLOCK = "{{ 'Today: ' + strftime_now('%d %b %Y %H:%M:%S') + '\n' }}" + CHATML


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return byte_level(tmp_path / "base", CHATML)


def with_template(base: Path, template: object) -> Path:
    """The base with a template, in tokenizer_config.json where it is no text."""
    if isinstance(template, str):
        (base / "chat_template.jinja").write_text(template, encoding="utf-8")
    else:
        (base / "chat_template.jinja").unlink()
        config = json.loads((base / "tokenizer_config.json").read_text())
        (base / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
    return base


def start(base: Path, **model: Any) -> ModelConfig:
    return settled(PipelineConfig(model=ModelConfig(base=str(base), **model))).model


def render(tokenizer: Any) -> str:
    return str(tokenizer.apply_chat_template(QUESTION, tokenize=False))


class TestClock:
    def test_the_day_is_decided_at_the_start_and_stays_in_the_saved_tokenizer(self, base: Path, tmp_path: Path) -> None:
        with_template(base, CLOCK)
        assert start(base).template_date is not None
        given = start(base, template_date="2026-01-05")
        assert given.template_date == "2026-01-05"
        tokenizer, report = prepare_tokenizer(given, [])
        tokenizer.save_pretrained(tmp_path / "saved")
        text = render(load_tokenizer(tmp_path / "saved"))
        assert text.startswith("Today: 05 Jan 2026 00:00:00\n")
        assert report.fixed == ("The chat template reads the clock; it was fixed to 2026-01-05, 00:00",)
        assert encode_pairs(tokenizer, [QUESTION], [[{"role": "assistant", "content": "x"}]])

    @pytest.mark.parametrize(
        "template",
        [CHATML, "{% if strftime_now is defined %}{% endif %}{# strftime_now('%d') #}strftime_now('%d')" + CHATML],
    )
    def test_another_template_names_no_day_so_that_a_new_day_trains_nothing_anew(
        self, base: Path, template: str
    ) -> None:
        with_template(base, template)
        assert start(base).template_date is None
        with pytest.raises(ModelError, match="does not read the clock; drop template_date"):
            start(base, template_date="2026-01-05")

    def test_as_llama_writes_it(self) -> None:
        template = (
            "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
            '{%- set date_string = strftime_now( "%d %b %Y" ) %}{%- else %}{%- set date_string = "26 Jul 2024" %}'
            "{%- endif %}{%- endif %}{{ date_string }}"
        )
        text, _ = fixed(template, "2026-01-05", "base")
        assert 'set date_string = "05 Jan 2026"' in text
        assert "strftime_now(" not in text

    @pytest.mark.parametrize(
        "call", ["{{ strftime_now(form) }}", "{% set now = strftime_now %}{{ now('%d') }}", "{{ lipsum() }}"]
    )
    def test_what_cannot_be_fixed_is_refused(self, base: Path, call: str) -> None:
        with_template(base, "{% set form = '%d' %}" + call + CHATML)
        with pytest.raises(ModelError, match=r"chat_template\.jinja.*in a way that cannot be fixed"):
            start(base)

    def test_no_draw_is_left(self, base: Path) -> None:
        with_template(base, "{{ ['Be brief.', 'Be kind.', 'Be good.'] | random }}" + CHATML)
        tokenizer, report = prepare_tokenizer(start(base), [])
        assert {render(tokenizer)[:9] for _ in range(20)} == {"Be brief."}
        assert report.fixed == ("The chat template draws at random; it was fixed to the first choice",)

    def test_reward_models_from_elsewhere_and_judges(self, base: Path) -> None:
        with_template(base, CLOCK)
        source = RewardSourceConfig(kind="model", name="safety", path=str(base))
        config = settled(PipelineConfig(rl=RLConfig(rewards=(RewardSourceConfig(), source))))
        assert config.rl.rewards[0] == RewardSourceConfig()
        pinned = config.rl.rewards[1].model_copy(update={"template_date": "2026-01-05"})
        assert render(load_source_tokenizer(pinned)).startswith("Today: 05 Jan 2026")
        gate = SafetyGate(name="safe", path=str(base), threshold=0.0, maximum_rate=0.1, template_date="2026-01-05")
        assert source_settled(gate.source).template_date == "2026-01-05"

    def test_a_day_is_one_of_the_calendar(self) -> None:
        assert ModelConfig.model_validate({"base": "b", "template_date": "2026-01-05"}).template_date == "2026-01-05"
        with pytest.raises(ValueError, match="template_date"):
            ModelConfig(base="b", template_date="2026-02-30")
        with pytest.raises(ValueError, match="template_date is set but base is not"):
            ModelConfig(template_date="2026-01-05")


class TestNames:
    @pytest.fixture
    def several(self, base: Path) -> Path:
        named = [{"name": "rag", "template": "R" + CHATML}, {"name": "tool_use", "template": "T" + CHATML}]
        return with_template(base, named)

    def test_without_a_default_one_is_to_be_named(self, several: Path) -> None:
        with pytest.raises(ModelError, match=r"tokenizer_config\.json.*none is the default.*one of: rag, tool_use"):
            start(several)
        with pytest.raises(ModelError, match=r"there is no chat template named 'other'.*one of: rag, tool_use"):
            start(several, chat_template="other")
        tokenizer, report = prepare_tokenizer(start(several, chat_template="tool_use"), [])
        assert report.template_name == "tool_use"
        assert render(tokenizer).startswith("T<|im_start|>")

    def test_the_only_one_needs_no_name(self, base: Path) -> None:
        with_template(base, [{"name": "rag", "template": "R" + CHATML}])
        assert render(prepare_tokenizer(start(base), [])[0]).startswith("R")

    def test_a_folder_of_templates(self, base: Path, tmp_path: Path) -> None:
        (base / "additional_chat_templates").mkdir()
        (base / "additional_chat_templates" / "brief.jinja").write_text("B" + CHATML)
        assert render(prepare_tokenizer(start(base), [])[0]).startswith("<|im_start|>")
        tokenizer, _ = prepare_tokenizer(start(base, chat_template="brief"), [])
        tokenizer.save_pretrained(tmp_path / "saved")
        assert render(load_tokenizer(tmp_path / "saved")).startswith("B")

    def test_a_model_without_templates_has_none_to_choose(self, tmp_path: Path) -> None:
        base = sentencepiece_bpe(tmp_path / "base")
        with pytest.raises(ModelError, match="there is no chat template; drop it"):
            start(base, chat_template="rag")
        with pytest.raises(ModelError, match=r"template is rag, but the base has no chat template.*to continuation"):
            prepare_tokenizer(ModelConfig(base=str(base), chat_template="rag"), [])

    @pytest.mark.parametrize("make", [sentencepiece_bpe, byte_level])
    def test_a_response_may_go_on_with_the_text_of_its_prompt(self, make: Any, tmp_path: Path) -> None:
        base = make(tmp_path / "base")
        tokenizer, report = prepare_tokenizer(start(base, chat_template="continuation"), [])
        assert (report.chat_template, report.template_name) == ("own", None)
        prompt, answer = [{"role": "user", "content": "The cat sat."}], [{"role": "assistant", "content": "It ran."}]
        [(asked, answered)] = encode_pairs(tokenizer, [prompt], [answer])
        assert decode_responses(tokenizer, [answered]) == ["It ran."]
        assert answered.count(tokenizer.eos_token_id) == 1
        whole = tokenizer.decode([*asked, *answered], skip_special_tokens=True)
        assert whole.replace("\n", " ").strip() == "The cat sat. It ran."


class TestBroken:
    @pytest.mark.parametrize(
        ("template", "message"),
        [
            (
                "{% for m in messages %}{{ m['content'] }{% endfor %}",
                r"chat_template\.jinja\).*broken, line 1: unexpected '}'",
            ),
            ("{% for m in messages %}\n{{ m.content | shout }}{% endfor %}", "broken, line 2: No filter named 'shout'"),
            ("{% for m in messages %}{{ m.content }}", "broken, line 1: Unexpected end of template"),
            (CHATML + "{{ shout(messages) }}", "refuses even a question and its answer .*'shout' is undefined"),
            (CHATML + "{{ 1 + messages }}", "refuses even a question and its answer .*unsupported operand"),
            ("{{ raise_exception('never') }}", "refuses even a question and its answer .*never"),
            (
                CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif"),
                r"in another way once an answer follows.*edit the template.*or choose another.*<think>",
            ),
        ],
    )
    def test_it_is_called_broken_before_anything_is_prepared(self, base: Path, template: str, message: str) -> None:
        with_template(base, template)
        with pytest.raises(ModelError, match=message):
            start(base)
        source = RewardSourceConfig(kind="model", name="safety", path=str(base))
        if "another way" in message:  # a reward model is asked for nothing
            assert source_settled(source) == source
        else:
            with pytest.raises(ModelError, match="the chat template is broken"):
                source_settled(source)

    def test_a_configuration_that_is_none(self, base: Path) -> None:
        (base / "chat_template.jinja").unlink()
        (base / "tokenizer_config.json").write_text("{")
        with pytest.raises(InputError, match=r"tokenizer_config\.json: this is not a tokenizer's configuration"):
            start(base)
        (base / "tokenizer_config.json").write_text('{"chat_template": ["a"]}')
        with pytest.raises(InputError, match="a list of other things than names with templates"):
            start(base)

    def test_a_sound_one_costs_no_import_of_transformers(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def loaded(model: object) -> None:
            raise AssertionError("a sound template needs no tokenizer")

        monkeypatch.setattr("rlhf.modeling.tokenizer.check_tokenizer", loaded)
        assert start(base) == ModelConfig(base=str(base))
        assert templates.reads_clock(CHATML, "base") is False
