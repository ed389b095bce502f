"""`make docs/scaling.md`: the tables of that page, from the model behind `rlhf size`. Nothing is run."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from benchmarks.readme import replace_part, table
from rlhf.config.loading import load_config
from rlhf.config.pipeline import PipelineConfig
from rlhf.planning.fit import rows_at_once
from rlhf.planning.hardware import GPUS, read_cluster
from rlhf.planning.memory import GB, Parts
from rlhf.planning.public_shapes import PUBLIC_SHAPES
from rlhf.planning.size import SHARDINGS, Sizing, size_recipe
from rlhf.planning.throughput import BEST, WORST

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "scaling.md"
SIZES = ("1B", "7B", "70B")
CLUSTERS = ("1xH100", "2xH100", "8xH100", "2x8xH100", "8x8xH100")
_COMMON = {"rl.rollout_size": "512", "rl.micro_batch_size": "2"}
_WHOLE = {f"{section}.lora": "none" for section in ("sft", "reward_model", "rl")}
RECIPES = {
    "full weights": {**_COMMON, **_WHOLE, "rl.sharing": "none"},
    "trunk": {**_COMMON, **_WHOLE, "rl.sharing": "trunk"},
    "adapters": _COMMON,
}
ROLES = (
    *("policy", "value model", "reference", "reward models", "backbone", "adapters", "optimizer", "gradients"),
    *("gathered blocks", "casts", "activations", "keys and values", "logits"),
    *("gathered policy", "copy that is saved", "process"),
)
_ADAPTERS = ("adapters that learn", "adapters of reward models")


def main() -> None:
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def page(text: str) -> str:
    """The page with its tables as the model has them."""
    parts = {
        "sizes-fit": fit_table(),
        "sizes-stages": stages_table(),
        "sizes-roles": "\n\n".join(map(roles_table, SIZES)),
        "sizes-assumed": assumed(),
        "sizes-seconds": seconds_table(),
        "sizes-gpus": gpus_table(),
    }
    for name, part in parts.items():
        text = replace_part(text, name, part)
    return text


def fit_table() -> str:
    """GB of the policy's stage, by size, recipe and GPUs."""
    rows = [[*labels, *map(_fits, sizings)] for labels, sizings in _grid()]
    return table(["model", "recipe", *_columns()], rows, right=range(2, 2 + len(CLUSTERS)))


def seconds_table() -> str:
    """Seconds of an update, by size, recipe and GPUs."""
    rows = [[*labels, *map(_seconds, sizings)] for labels, sizings in _grid() if any(map(_policy_fits, sizings))]
    return table(["model", "recipe", *_columns()], rows, right=range(2, 2 + len(CLUSTERS)))


def stages_table() -> str:
    """GB of the stages of one process, by size and recipe."""
    rows = []
    for size in SIZES:
        for recipe in ("full weights", "adapters"):
            config = _recipe(recipe)
            few = load_config(ROOT / "configs" / "gpu.yaml", RECIPES[recipe] | _texts(rows_at_once(config, 1)))
            sizing = size_recipe(few, PUBLIC_SHAPES[size][1], read_cluster("1xH100"))
            totals = {stage: sum(parts.values()) for stage, parts in sizing.stages.items() if stage != "policy"}
            rows.append([PUBLIC_SHAPES[size][0], recipe, *(_gb(total, sizing.room) for total in totals.values())])
    header = ["model", "recipe", *(stage.replace("_", " ") for stage in totals)]
    return table(header, rows, right=range(2, len(header)))


def roles_table(size: str) -> str:
    """GB of each role in the policy's stage on 8 GPUs, as it samples, learns and saves."""
    columns: dict[str, Parts] = {}
    for recipe, sharding in (("full weights", "full"), ("adapters", "none")):
        sizing = next(one for one in _sized(size, recipe, "8xH100") if one.sharding == sharding)
        columns |= {f"{recipe}, {moment}": _with_adapters(parts) for moment, parts in sizing.moments.items()}
    assert {role for parts in columns.values() for role in parts} <= set(ROLES), "each role has a row"
    rows = [
        [role, *(f"{parts[role] / GB:,.1f}" if parts.get(role) else "" for parts in columns.values())]
        for role in ROLES
        if any(parts.get(role) for parts in columns.values())
    ]
    rows.append(["**all**", *(f"**{sum(parts.values()) / GB:,.1f}**" for parts in columns.values())])
    return table([PUBLIC_SHAPES[size][0], *columns], rows, right=range(1, 1 + len(columns)))


def _with_adapters(parts: Parts) -> Parts:
    """All adapters as one role."""
    adapters = sum(parts.get(name, 0.0) for name in _ADAPTERS)
    return {role: size for role, size in parts.items() if role not in _ADAPTERS} | {"adapters": adapters}


def assumed() -> str:
    """The efficiencies, best and worst."""
    rows = [
        ["share of the peak operations in passes over rows", f"{BEST.mfu:.0%}", f"{WORST.mfu:.0%}"],
        ["share of the memory's bandwidth", f"{BEST.reading:.0%}", f"{WORST.reading:.0%}"],
        ["share of the link within a node", f"{BEST.link:.0%}", f"{WORST.link:.0%}"],
        ["GB/s between nodes, per GPU", f"{BEST.between_nodes / GB:g}", f"{WORST.between_nodes / GB:g}"],
        [
            "milliseconds of a block at each token, beside what it reads",
            f"{1e3 * BEST.call:g}",
            f"{1e3 * WORST.call:g}",
        ],
        ["weights are gathered while other layers compute", "yes", "no"],
    ]
    return table(["", "best", "worst"], rows, right=(1, 2))


def gpus_table() -> str:
    """The kinds of GPU that are known."""
    rows = []
    for gpu in GPUS.values():
        assert gpu.flops is not None
        assert gpu.bandwidth is not None
        assert gpu.link is not None
        numbers = (gpu.memory / GB, gpu.flops / 1e12, gpu.bandwidth / GB, 2 * gpu.link / GB)
        rows.append([f"`{gpu.name}`", *(f"{number:,.0f}" for number in numbers), gpu.source])
    return table(["kind", "GB", "TFLOPS, bf16", "GB/s of memory", "GB/s of link", "source"], rows, right=range(1, 5))


def _grid() -> Iterator[tuple[list[str], list[Sizing]]]:
    for size in SIZES:
        for recipe in RECIPES:
            yield [PUBLIC_SHAPES[size][0], recipe], [_best(size, recipe, gpus) for gpus in CLUSTERS]


def _columns() -> list[str]:
    counts = [gpus.removesuffix("xH100").replace("x", " x ") for gpus in CLUSTERS]
    return [f"{count} GPU{'' if count == '1' else 's'}" for count in counts]


@cache
def _recipe(recipe: str) -> PipelineConfig:
    return load_config(ROOT / "configs" / "gpu.yaml", RECIPES[recipe])


def _sized(size: str, recipe: str, gpus: str) -> list[Sizing]:
    """With every sharding that there is on these GPUs, the least of it first."""
    cluster = read_cluster(gpus)
    shardings = [s for s in SHARDINGS if s == "none" or (cluster.size > 1 and (s == "full" or cluster.nodes > 1))]
    return [size_recipe(_recipe(recipe), PUBLIC_SHAPES[size][1], cluster, sharding) for sharding in shardings]


def _best(size: str, recipe: str, gpus: str) -> Sizing:
    """With the least sharding that fits, else with the one that takes the least."""
    sizings = _sized(size, recipe, gpus)
    return next(filter(_policy_fits, sizings), min(sizings, key=_policy_bytes))


def _policy_bytes(sizing: Sizing) -> float:
    return sum(sizing.stages["policy"].values())


def _policy_fits(sizing: Sizing) -> bool:
    return _policy_bytes(sizing) <= sizing.room


def _fits(sizing: Sizing) -> str:
    sharding = "" if sizing.cluster.size == 1 else f" `{sizing.sharding}`"
    return _gb(_policy_bytes(sizing), sizing.room) + sharding


def _gb(number: float, room: float) -> str:
    return f"{number / GB:,.0f}" if number <= room else f"no: {number / GB:,.0f}"


def _seconds(sizing: Sizing) -> str:
    if not _policy_fits(sizing) or sizing.update is None:
        return ""
    return f"{sizing.update['all']} `{sizing.sharding}`" if sizing.cluster.size > 1 else str(sizing.update["all"])


def _texts(settings: dict[str, int]) -> dict[str, str]:
    return {name: str(value) for name, value in settings.items()}


if __name__ == "__main__":
    main()
