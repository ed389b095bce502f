"""Models of every family, whole and sharded: the same logits, states and gradients. Run by `test_sharding.py`."""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from families import ALL, make_family
from peft import LoraConfig, get_peft_model
from tiny_world import SETUP, WORDS

from rlhf.config.model import ComputeConfig
from rlhf.modeling.batches import pad_sequences
from rlhf.modeling.logprobs import chosen_logprobs, response_logits
from rlhf.modeling.models import freeze
from rlhf.modeling.tokenizer import prepare_tokenizer
from rlhf.policy import distributed as processes
from rlhf.policy.sharding import gathered, make_mesh, shard, shard_parts, whole

BATCH = pad_sequences([[6, 7, 8], [9]], [[10, 11], [12, 13, 14, 5]], 0)
COMPUTE = ComputeConfig(dtype="fp32", num_threads=1, num_processes=2, sharding="full")


def of_policy(model):
    """Logits by a pass, and where all weights are gathered; gradients of the whole policy."""
    logits = response_logits(model, BATCH)
    chosen_logprobs(logits, BATCH.responses, 1.0).masked_fill(~BATCH.response_mask, 0.0).sum().backward()
    gradients = {name: gathered(p.grad) for name, p in model.named_parameters() if p.grad is not None}
    with whole(model), torch.no_grad():
        again = response_logits(model, BATCH)
    return {"logits": logits.detach(), "again": again} | gradients


def of_parts(model):
    """Logits of a frozen model and states of its backbone, called apart; gradients of its adapters by both."""
    logits = response_logits(model, BATCH)
    states = model.base_model(input_ids=BATCH.context, use_cache=False).last_hidden_state
    found = {"logits": logits.detach(), "states": states.detach()}
    (chosen_logprobs(logits, BATCH.responses, 1.0).sum() + states.square().mean()).backward()
    return found | {name: gathered(p.grad) for name, p in model.named_parameters() if p.grad is not None}


def adapted(model):
    torch.manual_seed(0)
    freeze(model, COMPUTE)
    fan = any("Conv1D" in type(module).__name__ for module in model.modules())
    config = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", r=2, fan_in_fan_out=fan)
    peft = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    return peft.get_base_model()


def largest_differences(family, tokenizer, mesh):
    """Relative, of what is computed by passes of two processes over the same rows, whose gradients are summed."""
    pairs = [
        (of_policy(make_family(family, tokenizer)), of_policy(shard(make_family(family, tokenizer), mesh))),
        (of_parts(adapted(make_family(family, tokenizer))), of_parts(sharded_parts(family, tokenizer, mesh))),
    ]
    found = []
    for expected, sharded in pairs:
        assert expected.keys() == sharded.keys(), expected.keys() ^ sharded.keys()
        for name, tensor in expected.items():
            factor = 1 if name in ("logits", "again", "states") else dist.get_world_size()
            scale = float((factor * tensor).abs().max()) or 1.0
            found.append((float((sharded[name] - factor * tensor).abs().max()) / scale, name))
    return max(found)


def sharded_parts(family, tokenizer, mesh):
    model = adapted(make_family(family, tokenizer))
    shard_parts(model, mesh)
    return model


if __name__ == "__main__":
    out, *families = sys.argv[1:]
    torch.set_num_threads(1)
    with processes.process_group(COMPUTE):
        tokenizer = prepare_tokenizer(SETUP.model, [WORDS])[0]
        mesh = make_mesh(COMPUTE)
        found = {family: largest_differences(family, tokenizer, mesh) for family in families or ALL}
        Path(out).write_text(json.dumps(found))
