"""Lean layers compute what transformers' own do: to the bit where they are not used, within bf16's rounding where they
are."""

import copy

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaDecoderLayer, apply_rotary_pos_emb

from rlhf.config.model import ComputeConfig
from rlhf.errors import ModelError
from rlhf.modeling import models
from rlhf.modeling.batches import pad_sequences
from rlhf.modeling.cpu import attention as lean
from rlhf.modeling.cpu import layers
from rlhf.modeling.cpu.attention import attend
from rlhf.modeling.cpu.layers import use_fused_layers
from rlhf.modeling.kv_cache import decoding_cache
from rlhf.modeling.logprobs import response_logits
from rlhf.modeling.needed_positions import prepare_last_block, select_positions, supports_position_selection

SHAPE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPE |= {"num_key_value_heads": 2, "vocab_size": 50, "tie_word_embeddings": False}
KINDS = [
    (LlamaForCausalLM, LlamaConfig),
    (MistralForCausalLM, MistralConfig),
    (Qwen2ForCausalLM, Qwen2Config),
    (Qwen3ForCausalLM, Qwen3Config),
]
IDS = torch.randint(50, (3, 9), generator=torch.Generator().manual_seed(0))


def model_of(kind=LlamaForCausalLM, config=LlamaConfig, **more):
    torch.manual_seed(0)
    return kind(config(**SHAPE, attn_implementation="eager", **more)).eval()


def gradients(model, dtype):
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bf16"):
        logits = model(input_ids=IDS, use_cache=False).logits.float()
    (logits.log_softmax(-1)[..., 3].sum() / 27).backward()
    return logits.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def relative(ours, theirs):
    return float((ours - theirs).norm() / theirs.norm())


def test_fp32_is_left_to_transformers():
    own = model_of()
    ours, theirs = gradients(use_fused_layers(copy.deepcopy(own)), "fp32"), gradients(own, "fp32")
    assert torch.equal(ours[0], theirs[0])
    # The gated feed-forward is computed here in fp32 as well, by the same formula.
    for name, gradient in theirs[1].items():
        torch.testing.assert_close(ours[1][name], gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_is_as_near_to_fp32_as_transformers_own(kind):
    own = model_of(*kind)
    exact, theirs = gradients(own, "fp32"), gradients(own, "bf16")
    lean_model = use_fused_layers(copy.deepcopy(own))
    lean_model.set_attn_implementation(lean.register_attention())
    ours = gradients(lean_model, "bf16")
    assert relative(ours[0], exact[0]) < 1.5 * relative(theirs[0], exact[0]) + 1e-3
    for name, gradient in exact[1].items():
        assert relative(ours[1][name], gradient) < 1.5 * relative(theirs[1][name], gradient) + 5e-3, name


def test_frozen_norms_get_no_gradient():
    model = use_fused_layers(model_of())
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("norm" not in name)
    _, found = gradients(model, "bf16")
    assert not [name for name in found if "norm" in name]
    assert [name for name in found if "q_proj" in name]


def test_another_activation_is_left_alone():
    own = model_of(hidden_act="gelu")
    assert torch.equal(gradients(use_fused_layers(copy.deepcopy(own)), "fp32")[0], gradients(own, "fp32")[0])
    assert "forward" not in vars(use_fused_layers(own).model.layers[0].mlp)


def test_a_model_without_known_layers_says_so_once(caplog):
    model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=50))
    layers._log_once.cache_clear()
    with caplog.at_level("INFO"):
        assert use_fused_layers(use_fused_layers(model)) is model
    assert [record.message for record in caplog.records if record.name == "rlhf.modeling.cpu.layers"] == [
        "gpt2 is computed by transformers' own layers: none of them has a leaner form here"
    ]


def test_a_copy_of_a_lean_model_is_its_own(tmp_path):
    model = use_fused_layers(model_of())
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.model.layers[0].input_layernorm.weight.zero_()
    assert not torch.equal(gradients(model, "bf16")[0], gradients(other, "bf16")[0])
    model.save_pretrained(tmp_path)
    saved = LlamaForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(gradients(saved, "fp32")[0], gradients(model, "fp32")[0])


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_step_by_step_gives_the_logits_of_one_pass(kind):
    """Padding in front of one row, and a cache: positions, masks and groups of heads are those of a whole pass."""
    model = use_fused_layers(model_of(*kind))
    model.set_attn_implementation(lean.register_attention())
    mask = torch.ones_like(IDS)
    mask[1, :3] = 0
    position = (mask.cumsum(1) - 1).clamp(min=0)
    cache = decoding_cache(model, *IDS.shape)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        whole = model(input_ids=IDS, attention_mask=mask, position_ids=position, use_cache=False).logits
        for start, end in [(0, 5), *((column, column + 1) for column in range(5, 9))]:
            piece = model(
                input_ids=IDS[:, start:end],
                attention_mask=mask[:, :end],
                position_ids=position[:, start:end],
                past_key_values=cache,
                use_cache=True,
            )
            torch.testing.assert_close(piece.logits[:, -1], whole[:, end - 1], rtol=0.02, atol=0.01)


def test_rotation_is_transformers_own_and_so_is_its_gradient():
    x = torch.randn(2, 5, 3, 8, dtype=torch.bfloat16)  # [B, T, heads, D]
    angles = torch.rand(2, 5, 4).repeat(1, 1, 2) * 6
    gradient = torch.randn(2, 3, 5, 8, dtype=torch.bfloat16)
    results = []
    for rotate in (
        lambda x: apply_rotary_pos_emb(x.transpose(1, 2), x.transpose(1, 2), angles.cos(), angles.sin())[0].bfloat16(),
        lambda x: lean._Rotation.apply(x, angles.cos(), angles.sin()),
    ):
        own = x.clone().requires_grad_()
        rotated = rotate(own)
        rotated.backward(gradient)
        results.append((rotated.detach(), own.grad))
    (theirs, of_theirs), (ours, of_ours) = results
    assert ours.is_contiguous()
    torch.testing.assert_close(ours, theirs)
    # Theirs is rounded to bf16 at each half of the sum.
    torch.testing.assert_close(of_ours, of_theirs, rtol=0.02, atol=0.02)


def test_dropout_is_refused():
    query = torch.zeros(1, 2, 3, 4)
    with pytest.raises(ModelError, match=r"Module: attention dropout of 0\.1 is asked for, .* switch it off"):
        attend(torch.nn.Module(), query, query, query, None, dropout=0.1)


@pytest.mark.parametrize("groups", [1, 2])
def test_attention_with_padding_in_front(groups):
    """A row whose padding sees nothing gets numbers all the same, and no other row is touched by them."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, 5, 8, generator=generator)
    key, value = (torch.randn(2, 4 // groups, 5, 8, generator=generator) for _ in range(2))
    seen = torch.ones(5, 5, dtype=torch.bool).tril().repeat(2, 1, 1, 1)
    seen[1, :, :, :2] = False
    mask = torch.zeros(2, 1, 5, 5).masked_fill(~seen, torch.finfo(torch.float32).min)
    ours, _ = attend(torch.nn.Module(), query, key, value, mask, scaling=0.3)
    keys, values = (part.repeat_interleave(groups, 1) for part in (key, value))
    theirs = torch.nn.functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=0.3)
    assert torch.isfinite(ours).all()
    torch.testing.assert_close(ours, theirs.transpose(1, 2))


@pytest.mark.parametrize("piece_scores", [1, 60, 150, 10**6])  # a head, two of the three heads, two rows, all
@pytest.mark.parametrize("groups", [1, 2])
def test_attention_in_pieces(monkeypatch, piece_scores, groups):
    monkeypatch.setattr(lean, "_PIECE_SCORES", piece_scores * groups)
    generator = torch.Generator().manual_seed(0)
    shapes = [(5, 3 * groups, 5, 8), (5, 3, 5, 8), (5, 3, 5, 8)]
    given = [torch.randn(shape, generator=generator).bfloat16() for shape in shapes]
    mask = torch.zeros(5, 1, 5, 5).masked_fill(torch.ones(5, 5).triu(1).bool(), -1e9)
    mask[2, :, :, 1] = -1e9  # one row's own
    gradient = torch.randn(shapes[0], generator=generator)

    def output_and_gradients(compute, dtype):
        inputs = [one.to(dtype).detach().clone().requires_grad_() for one in given]
        output = compute(*inputs)
        output.backward(gradient.to(dtype))
        return [output.detach(), *(one.grad for one in inputs)]

    def exact(query, key, value):
        keys, values = (part.repeat_interleave(groups, 1) for part in (key, value))
        return torch.nn.functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=0.3)

    ours = output_and_gradients(lambda *inputs: lean._Attention.apply(*inputs, mask.bfloat16(), 0.3), torch.bfloat16)
    for got, wanted in zip(ours, output_and_gradients(exact, torch.float32), strict=True):
        assert relative(got.float(), wanted) < 0.01


def test_pieces_are_all_rows_and_heads_in_order():
    whole = torch.arange(5 * 3).view(5, 3)
    for num_scores, largest in ((2**21, 1), (2**20, 2), (2**19, 3), (2**18, 6), (2**17, 15), (2**22, 1)):
        pieces = [whole[at].flatten() for at in lean._pieces(5, 3, num_scores)]
        assert torch.cat(pieces).tolist() == list(range(15))
        assert max(map(len, pieces)) == largest


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize(("kind", "config"), KINDS)
def test_a_last_block_that_skips_what_nobody_reads_gives_the_rest_as_ever(kind, config, dtype):
    policy = prepare_last_block(model_of(kind, config))
    batch = pad_sequences([[6, 7, 8, 9, 10], [9]], [[10, 11], [12, 13, 14, 5]], 0)
    block, columns = policy.model.layers[-1], []
    block.mlp.register_forward_hook(lambda module, inputs, output: columns.append(inputs[0].shape[1]))

    def gradients_of(logits):
        policy.zero_grad()
        logits.float()[batch.response_mask].log_softmax(-1)[:, 3].sum().backward()
        return {name: parameter.grad.clone() for name, parameter in policy.named_parameters()}

    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bf16"):
        taken = response_logits(policy, batch)
        whole = batch.before_responses(policy(input_ids=batch.context, use_cache=False).logits)
    assert columns == [4, 6]
    limit = 1e-5 if dtype == "fp32" else 0.02
    assert relative(taken.detach(), whole.detach()) < limit
    expected = gradients_of(whole)
    for name, gradient in gradients_of(taken).items():
        assert relative(gradient, expected[name]) < limit, name


def test_after_an_error_all_positions_come_out_again():
    policy = prepare_last_block(model_of())

    def answer(first):
        with select_positions(policy, lambda hidden: hidden[:, :first]):
            assert policy(IDS).logits.shape[1] == 1
            raise RuntimeError("not now")

    with pytest.raises(RuntimeError, match="not now"):
        answer(1)
    assert policy(IDS).logits.shape[1] == 9


def test_a_family_that_is_not_known_reads_all_positions():
    torch.manual_seed(0)
    config = GPT2Config(n_embd=64, n_layer=2, n_head=4, vocab_size=50)
    policy = prepare_last_block(GPT2LMHeadModel(config).eval())
    assert not supports_position_selection(policy)
    with select_positions(policy, lambda hidden: hidden[:, :1]) as is_selected:
        assert not is_selected
        assert policy(IDS).logits.shape[1] == 9


def own_forward_of(module, change):
    """Have a layer compute otherwise, as after a release of transformers."""
    forward = type(module).forward
    return lambda self, *args, **kwargs: change(forward(self, *args, **kwargs))


CHANGES = {
    "input_layernorm": lambda output: 1.05 * output,
    "mlp": lambda output: output.detach() + 0.95 * (output - output.detach()),  # the gradient alone
    "self_attn": lambda output: (output[0].roll(1, 1), output[1]),
}


@pytest.mark.parametrize("layer", CHANGES)
def test_a_layer_that_computes_otherwise_is_left_alone(layer, monkeypatch, caplog):
    own = model_of()
    block = own.model.layers[0]
    kind = type(getattr(block, layer))
    monkeypatch.setattr(kind, "forward", own_forward_of(getattr(block, layer), CHANGES[layer]))
    state = torch.get_rng_state()
    fused = use_fused_layers(copy.deepcopy(own))
    assert torch.equal(torch.get_rng_state(), state)
    replaced = {name for name in CHANGES if "forward" in vars(getattr(fused.model.layers[1], name))}
    assert replaced == CHANGES.keys() - {layer}
    assert f"{kind.__name__} stays as transformers has it: what would stand in for it is off by" in caplog.text
    assert len(caplog.records) == 1
    torch.testing.assert_close(gradients(fused, "bf16")[0], gradients(own, "bf16")[0], rtol=0.03, atol=0.01)


def test_a_layer_that_takes_other_arguments_is_left_alone(monkeypatch, caplog):
    monkeypatch.setattr(LlamaAttention, "forward", lambda self, hidden_states, rotary, **kwargs: (hidden_states, None))
    model = use_fused_layers(model_of())
    assert "forward" not in vars(model.model.layers[0].self_attn)
    assert model.config._attn_implementation == "sdpa"
    assert "LlamaAttention stays as transformers has it: what would stand in for it fails (" in caplog.text


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_block_that_computes_otherwise_skips_nothing(dtype, monkeypatch, caplog):
    forward = own_forward_of(model_of().model.layers[0], lambda output: 0.5 * output)
    monkeypatch.setattr(LlamaDecoderLayer, "forward", forward)
    assert not supports_position_selection(prepare_last_block(model_of(), dtype))
    assert "LlamaDecoderLayer stays as transformers has it" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
def test_known_layers_pass_and_nothing_changes(kind, caplog):
    model = model_of(*kind)
    model.config._attn_implementation = lean.register_attention()
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    state = torch.get_rng_state()
    assert supports_position_selection(prepare_last_block(use_fused_layers(model)))
    assert supports_position_selection(prepare_last_block(model, torch.float32))
    assert not caplog.records
    assert torch.equal(torch.get_rng_state(), state)
    assert model.config._attn_implementation == lean.ATTENTION
    assert all(torch.equal(weights[name], weight) for name, weight in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_one_switch_turns_all_of_them_off(tmp_path):
    model_of().save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    loaded = [models._load("policy", str(tmp_path), ComputeConfig(fused_layers=fused)) for fused in (True, False)]
    last = [model.model.layers[-1] for model in loaded]
    kinds = ("input_layernorm", "mlp", "self_attn")
    assert [["forward" in vars(getattr(layer, name)) for name in kinds] for layer in last] == [
        [True] * 3,
        [False] * 3,
    ]
    assert [supports_position_selection(model) for model in loaded] == [True, False]
    assert [model.config._attn_implementation for model in loaded] == [lean.ATTENTION, "sdpa"]
    ours, theirs = (gradients(model, "bf16") for model in loaded)
    torch.testing.assert_close(ours[0], theirs[0], rtol=0.03, atol=0.01)
    for name, gradient in theirs[1].items():
        assert relative(ours[1][name], gradient) < 0.05, name
