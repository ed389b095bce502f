"""Models of every family, whole and sharded: the same logits, states and gradients. For `sharded_runs.py`."""

import torch
import torch.distributed as dist
from families import make_family
from peft import LoraConfig, get_peft_model
from tiny_world import SETUP, WORDS

from rlhf.config.model import ComputeConfig
from rlhf.modeling.batches import pad_sequences
from rlhf.modeling.logprobs import chosen_logprobs, response_logits
from rlhf.modeling.models import freeze
from rlhf.modeling.tokenizer import prepare_tokenizer
from rlhf.policy.sharding import gathered, make_mesh, shard, shard_parts, whole

BATCH = pad_sequences([[6, 7, 8], [9]], [[10, 11], [12, 13, 14, 5]], 0)


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
    freeze(model, SETUP.compute)
    fan = any("Conv1D" in type(module).__name__ for module in model.modules())
    config = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", r=2, fan_in_fan_out=fan)
    peft = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    return peft.get_base_model()


def largest_differences(families, sharding):
    """The largest of each family, relative. All processes pass over the same rows, and gradients are summed."""
    size = dist.get_world_size()
    mesh = make_mesh(ComputeConfig(num_processes=size, sharding=sharding))
    tokenizer = prepare_tokenizer(SETUP.model, [WORDS])[0]
    return {family: max(_differences(family, tokenizer, mesh, size)) for family in families}


def _differences(family, tokenizer, mesh, size):
    def make():
        return make_family(family, tokenizer)

    parts = adapted(make())
    shard_parts(parts, mesh)
    pairs = ((of_policy(make()), of_policy(shard(make(), mesh))), (of_parts(adapted(make())), of_parts(parts)))
    for expected, sharded in pairs:
        assert expected.keys() == sharded.keys(), expected.keys() ^ sharded.keys()
        for name, tensor in expected.items():
            of_all = tensor if name in ("logits", "again", "states") else size * tensor
            yield float((sharded[name] - of_all).abs().max()) / (float(of_all.abs().max()) or 1.0), name
