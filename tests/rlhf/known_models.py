"""Models whose every output is known beforehand, and the stages' outputs made of them."""

import json
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from rlhf.config.model import ComputeConfig, ModelConfig, Setup
from rlhf.modeling.conversations import encode_pairs
from rlhf.modeling.models import save_model
from rlhf.modeling.tokenizer import prepare_tokenizer

PLAIN = "The answer is 3 ."
HEDGED = "I believe the answer is 3 , but please verify ."
EASY = [f"What is {a} + {b} ?" for a in range(4) for b in range(4)]
HARD = [f"What is {a} * {b} ?" for a in range(120, 124) for b in range(310, 318)]
SETUP = Setup(seed=0, model=ModelConfig(max_length=48), compute=ComputeConfig(num_threads=1, dtype="fp32"))
LOGIT = 30.0


def make_tokenizer():
    return prepare_tokenizer(SETUP.model, [PLAIN, HEDGED, *EASY, *HARD, "0 1 2 3 4 5 6 7 8 9"])[0]


def user(text):
    return [{"role": "user", "content": text}]


def assistant(text):
    return [{"role": "assistant", "content": text}]


def saying_policy(tokenizer, text, logit=LOGIT):
    """Says `text` whatever it is asked. The next token hangs on the last one alone; after a token that is not in `text`
    all are as likely."""
    [(prompt, response)] = encode_pairs(tokenizer, [user("What is 1 + 1 ?")], [assistant(text)])
    chain = [prompt[-1], *response]
    assert len(set(chain)) == len(chain), "a token with two successors"
    model = LlamaForCausalLM(_config(tokenizer))
    size = _embed_one_hot(model.model)
    with torch.no_grad():
        model.lm_head.weight.zero_()
        for token, following in zip(chain, response, strict=False):
            model.lm_head.weight[following, token] = logit / size**0.5
    return model.eval()


def word_reward_model(tokenizer, **weights):
    """Its score is above that of another dialogue where the words of positive weight are more frequent."""
    model = LlamaForSequenceClassification(_config(tokenizer))
    _embed_one_hot(model.model)
    attention = model.model.layers[0].self_attn
    with torch.no_grad():
        attention.v_proj.weight.copy_(torch.eye(len(attention.v_proj.weight)))
        attention.o_proj.weight.copy_(torch.eye(len(attention.o_proj.weight)))
        model.score.weight.zero_()
        for word, weight in weights.items():
            model.score.weight[0, tokenizer.convert_tokens_to_ids(f"▁{word}")] = weight
    model.config.score_offset = 0.0
    return model.eval()


def write_world(folder, policy_says=HEDGED, gold="calibrated_arithmetic"):
    """The outputs of data, SFT, reward models and PPO. SFT always answers plainly, PPO always as told.

    The reward model likes hedging, the selection reward model dislikes it.
    """
    tokenizer = make_tokenizer()
    _write_data(folder / "data", tokenizer, gold)
    save_model(saying_policy(tokenizer, PLAIN), tokenizer, folder / "sft" / "policy")
    save_model(saying_policy(tokenizer, policy_says), tokenizer, folder / "policy" / "policy")
    for name, weight in (("reward_model", 4.0), ("selection_reward_model", -4.0)):
        save_model(word_reward_model(tokenizer, believe=weight), tokenizer, folder / "reward_models" / name)
    _write_ppo_history(folder / "policy")
    return folder


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _write_data(folder, tokenizer, gold):
    tokenizer.save_pretrained(folder / "tokenizer")
    for split in ("test", "gate"):
        write_jsonl(folder / "prompts" / f"{split}.jsonl", [{"prompt": user(q)} for q in [*EASY, *HARD]])
    pairs = [
        {"prompt": user(q), "chosen": assistant(HEDGED), "rejected": assistant(PLAIN), "source": "hard products"}
        for q in HARD[:24]
    ] + [
        {"prompt": user(q), "chosen": assistant(PLAIN), "rejected": assistant(HEDGED), "source": "easy sums"}
        for q in EASY[:8]
    ]
    write_jsonl(folder / "preferences" / "test.jsonl", pairs)
    report = {
        "gold": gold,
        "splits": {"demonstrations/train": 1000, "preferences/test": len(pairs), "prompts/test": len(EASY) + len(HARD)},
        "duplicates": {"preferences": 2},
        "leaks": {"prompts/exact": 3},
        "label_conflicts": 1,
        "cut_dialogues": {},
        "too_long": {},
        "left_out_in_tokens": {},
        "changed_in_tokens": {},
        "tokenizer": {
            "origin": "built",
            "vocab_size": 40,
            "pad_token": "<|pad|>",
            "pad_token_choice": "kept",
            "chat_template": "own",
            "template_name": None,
            "fixed": [],
            "turn_markers": [],
        },
        "lengths_in_tokens": {"prompts/prompt": {"min": 7, "median": 9, "p95": 11, "max": 11, "mean": 9.2}},
    }
    (folder / "report.json").write_text(json.dumps(report))
    (folder / "datasheet.md").write_text(
        "# Sums\n\n## Origin\nMade up.\n\n## Annotation guidelines\nRight and plain: 1.\n\n## Licence\nApache-2.0.\n"
    )


def _write_ppo_history(folder: Path):
    """Three evaluations: plain; half hedged; all hedged. Update 4 was chosen."""
    questions = [*EASY[:4], *HARD[:8]]
    for update, hedged in ((0, 0), (4, 6), (8, 12)):
        rows = [
            {
                "prompt": user(question),
                "response": HEDGED if index < hedged else PLAIN,
                "score": update / 4 + 0.01 * (index % 2),
                "selection_score": 1 - (update / 4 - 1) ** 2 + 0.01 * (index % 2),
                "kl": update / 4 + 0.1 * (index % 2),
                "ended": True,
            }
            for index, question in enumerate(questions)
        ]
        write_jsonl(folder / "generations" / f"update_{update:04d}.jsonl", rows)
    summary = {"num_updates": 8, "stopped_because": "finished", "chosen_update": 4, "chosen_objective": 0.9}
    (folder / "summary.json").write_text(json.dumps(summary))


def _config(tokenizer):
    size = len(tokenizer) + len(tokenizer) % 2
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size,
        intermediate_size=4,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=SETUP.model.max_length,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        num_labels=1,
    )


def _embed_one_hot(backbone):
    """A dimension a token; attention looks at all positions alike, and nothing is added by it or by the layers."""
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if "norm" not in name:
                parameter.zero_()
        weight = backbone.embed_tokens.weight
        weight.copy_(torch.eye(*weight.shape))
    return weight.shape[1]
