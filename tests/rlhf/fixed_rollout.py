"""What one process or several make of one rollout. Run by `test_processes.py`, alone and under torchrun."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from tiny_world import SETUP

from rlhf.config.model import ComputeConfig
from rlhf.config.rl import ROLLOUT_METHODS, RLConfig
from rlhf.errors import RLHFError
from rlhf.modeling.context import start_stage
from rlhf.policy import distributed as processes
from rlhf.policy.context import Prompts
from rlhf.policy.sharding import gathered, local_part, make_mesh, part_like
from rlhf.policy.validation import validate
from rlhf.rl.context import make_context
from rlhf.rl.models import load_models
from rlhf.rl.optimization import _shuffled, train_minibatch
from rlhf.rl.rollout import Rollout, collect_rollout

BASE = {"rollout_size": 16, "num_minibatches": 2, "max_response_tokens": 24, "max_grad_norm": 1e9, "temperature": 0.8}
CASES = {
    "none": {},
    "micro_batches": {"micro_batch_size": 2, "entropy_coef": 0.1},
    "ptx": {"ptx_coef": 2.0, "ptx_batch_size": 5},
    "one_demonstration": {"ptx_coef": 2.0, "ptx_batch_size": 1},
    "trunk": {"sharing": "trunk"},
    "trunk_warm_up": {"sharing": "trunk", "num_critic_warmup_updates": 9},
    "adapters": {"sharing": "adapters", "lora": {"rank": 2}},
    "grpo": {"num_responses_per_prompt": 4, "micro_batch_size": 2},
    "online_dpo": {"num_responses_per_prompt": 4},
}
ROUNDED = {"bf16": {"micro_batch_size": 2}, "bf16_trunk": {"micro_batch_size": 2, "sharing": "trunk"}}
"""In bf16, where a product's rounding depends on its rows, so one process is no measure for two."""
UPDATE = 5


@dataclass
class World:
    """The folder that all processes read and write."""

    folder: Path

    def path(self, case, name):
        return self.folder / f"{case}-{name}.pt"


def compute(world, case, sharding="none"):
    """Collect a rollout; then take one step on the rollout that the single process had, and note its gradients."""
    context = make(world, case, sharding)
    perturb(context.models.policy_parameters, 0.02)
    rollout = collect_rollout(context, UPDATE, 0.1, {})
    few = context.prompts.pick([3])
    evaluation, generations, _ = validate(context, few, UPDATE, 0, None)
    of_case = "micro_batches" if case in ROUNDED else case
    fixed = load(world.path(of_case, "rollout-1-0")) if processes.num_processes() > 1 else rollout
    perturb(context.models.policy_parameters, 0.02)
    gradients = {"policy": [], "value": []}
    for name, found in gradients.items():
        optimizer = getattr(context.optimizers, name)
        if optimizer is None:
            continue
        optimizer.register_step_pre_hook(lambda o, *_, found=found: found.extend(of(o)))
    index = _shuffled(context, torch.Generator().manual_seed(0))[:8]
    statistics = train_minibatch(context, fixed, index, UPDATE, number=1)
    weights = [gathered(p.detach()) for p in context.models.policy_parameters.values()]
    return {
        "rollout": rollout,
        "evaluation": (evaluation, generations),
        "gradients": gradients,
        "statistics": statistics,
        "weights": weights,
        "held": share_held(context.models),
    }


def share_held(models):
    """The share of all models' parameters that this process holds."""
    called = [models.policy, models.ref_policy, models.value_model, models.selection_reward_model]
    called += [source.model for source in models.sources]
    modules = [getattr(model, "part", model) for model in called if model is not None]  # of a role on a shared one
    held = {id(p): p for module in modules if isinstance(module, torch.nn.Module) for p in module.parameters()}.values()
    return sum(local_part(p).numel() for p in held) / sum(p.numel() for p in held)


def make(world, case, sharding):
    config = RLConfig(**(BASE | (CASES | ROUNDED)[case]))
    folder = world.folder / ("adapter_models" if config.sharing == "adapters" else "reward_models")
    compute = {"num_threads": 1, "dtype": "bf16" if case in ROUNDED else "fp32"}
    if sharding != "none":
        compute |= {"num_processes": 2, "sharding": sharding}
    setup = SETUP.model_copy(update={"compute": ComputeConfig(**compute)})
    stage = start_stage(config, setup, world.folder / "sft" / "policy")
    method = case if case in ROLLOUT_METHODS else "ppo"
    models = load_models(stage, world.folder / "sft", folder, has_critic=ROLLOUT_METHODS[method].has_critic)
    ids = [[6 + (7 * row + column) % 20 for column in range(1 + row)] for row in range(16)]
    conversations = [[{"role": "user", "content": " ".join(map(str, row))}] for row in ids]
    pairs = [([6, 7 + i % 9], list(range(6, 8 + i % 5))) for i in range(12)]
    return make_context(stage, models, Prompts(conversations, ids), pairs if config.ptx_coef else None, method)


def perturb(parameters, size):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter += part_like(size * torch.randn(parameter.shape, generator=generator), parameter)


def of(optimizer):
    return [gathered(p.grad).clone() for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def load(path):
    with torch.serialization.safe_globals([Rollout]):
        return torch.load(path, weights_only=False)


def save_all(world, sharding="none"):
    """Compute every case and save what came of it, each process its own."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    suffix = f"{processes.num_processes() if sharding == 'none' else sharding}-{rank}"
    for case in CASES if processes.num_processes() == 1 else CASES | ROUNDED:
        found = compute(world, case, sharding)
        torch.save(found.pop("rollout"), world.path(case, f"rollout-{suffix}"))
        torch.save(found, world.path(case, f"step-{suffix}"))


def try_collectives():
    """What the functions of `rlhf.policy.distributed` give in this one of two processes."""
    rank = dist.get_rank()
    parameters = [torch.nn.Parameter(torch.ones(2)) for _ in range(3)]
    parameters[0].grad = torch.tensor([1.0, 10.0]) * (rank + 1)
    parameters[1].grad = torch.ones(2) if rank == 1 else None
    processes.sum_gradients(parameters)
    found = {"gradients": [None if p.grad is None else p.grad.tolist() for p in parameters]}
    for num_rows in (0, 1, 2, 5):
        own = processes.local_rows(torch.arange(num_rows)).tolist()
        found[f"gathered {num_rows}"] = processes.all_gather([str(row) for row in own], num_rows)
    kept = torch.tensor([rank, -rank])
    found["summed"] = [processes.all_reduce_sum(kept).tolist(), processes.all_reduce_max(kept).tolist(), kept.tolist()]
    processes.check_alike(parameters)
    with torch.no_grad():
        parameters[2][1] += 1e-7 * rank
    found["come apart"] = message_of(lambda: processes.check_alike(parameters))
    processes.check_agreed("newest checkpoint", "update_000003")
    found["other disk"] = message_of(lambda: processes.check_agreed("newest checkpoint", f"update_00000{rank}"))
    by_host = ComputeConfig(num_processes=2, sharding="node")
    for name, per_host in {"one per host": 1, "uneven hosts": rank + 1}.items():
        os.environ["LOCAL_WORLD_SIZE"] = str(per_host)
        found[name] = message_of(lambda: make_mesh(by_host))
    return found


def message_of(call):
    try:
        call()
    except RLHFError as error:
        return str(error)
    return None


if __name__ == "__main__":
    world = World(Path(sys.argv[1]))
    compute_config = SETUP.compute.model_copy(update={"num_processes": processes.num_started()})
    torch.set_num_threads(1)
    with processes.process_group(compute_config):
        save_all(world)
        save_all(world, "full")
        collectives = try_collectives()
        (world.folder / f"collectives-{dist.get_rank()}.json").write_text(json.dumps(collectives))
