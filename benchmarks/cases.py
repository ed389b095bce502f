"""What is compared, and what the project wants to see."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from benchmarks.arguments import Settings

PEER_MODULES = {"ppo": "benchmarks.peer_ppo", "rloo": "benchmarks.peer_groups", "grpo": "benchmarks.peer_groups"}


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        name: as on the command line.
        what: for the table.
        models: name of a set in `benchmarks.made_models`.
        method: of both sides.
        settings: of both sides; the peer's micro-batch is theirs.
        dtype: ours; of the peers TRL's PPO knows only fp32, the others take the same.
        sharing: ours.
        side_by_side: ours; policy and value model work at the same time.
        micro_batch: ours; small ones cost some time and save memory.
        target: ratio of episodes a second, ours over the peer's, at least; None where it is only reported.
        memory_target: ratio of peak memory, ours over the peer's, at most.
    """

    name: str
    what: str
    models: str
    method: str = "ppo"
    settings: Settings = field(default_factory=Settings)
    dtype: str = "bf16"
    sharing: str = "none"
    side_by_side: bool = False
    micro_batch: int = 8
    target: float | None = None
    memory_target: float | None = None

    def our_flags(self, micro_batch: int | None) -> list[str]:
        """Flags of `our_run` beside the models'. Ours may cut its batches in another way than the peer."""
        settings = replace(self.settings, micro_batch=micro_batch or self.micro_batch)
        flags = [*settings.flags(), "--method", self.method, "--dtype", self.dtype, "--sharing", self.sharing]
        return [*flags, "--side-by-side"] if self.side_by_side else flags

    @property
    def peer_module(self) -> str:
        """What runs the peer. TRL's PPO is of an environment of its own, the others are of the lock's."""
        return PEER_MODULES[self.method]

    def peer_flags(self) -> list[str]:
        """Flags of the peer beside those of models and settings."""
        if self.method == "ppo":
            return []
        adapters = ["--adapters"] if self.sharing == "adapters" else []
        return ["--method", self.method, "--dtype", self.dtype, *adapters]

    @property
    def peer_key(self) -> tuple[object, ...]:
        """Cases of one key have the same peer."""
        return self.models, self.settings, self.peer_module, *self.peer_flags()


_ONE_EPOCH = Settings(ppo_epochs=1)
_ENDS = Settings(ends=True)
_GROUPS = Settings(ppo_epochs=1, num_responses=4)


def _against_groups(method: str, title: str) -> list[Case]:
    """A method that compares responses to a prompt, beside TRL's trainer of that method in the same precision."""
    case = Case(
        f"20M-{method}",
        f"20M, {title}, 4 responses a prompt",
        "20M",
        method,
        _GROUPS,
        micro_batch=32,
        target=1.7,
        memory_target=0.65,
    )
    fp32 = replace(case, name=f"{case.name}-fp32", what=f"{case.what}, fp32", dtype="fp32")
    adapters = replace(
        case,
        name=f"{case.name}-adapters",
        what=f"{case.what}, adapters",
        sharing="adapters",
        micro_batch=8,
        target=None,
        memory_target=0.45,
    )
    return [case, fp32, adapters]


CASES = {
    case.name: case
    for case in (
        Case("20M-epochs4", "20M, 4 epochs, models side by side", "20M", side_by_side=True, micro_batch=16, target=3.0),
        Case("20M-epochs4-turns", "20M, 4 epochs, models in turn", "20M", memory_target=0.5),
        Case("2M-epochs4", "1.84M, 4 epochs", "2M", micro_batch=32, target=2.2),
        Case("20M-epochs4-fp32", "20M, 4 epochs, fp32", "20M", dtype="fp32", target=1.1),
        Case(
            "20M-epochs1",
            "20M, 1 epoch, models side by side",
            "20M",
            settings=_ONE_EPOCH,
            side_by_side=True,
            micro_batch=16,
            target=3.0,
        ),
        Case(
            "ends-epochs4",
            "20M, 4 epochs, responses end, models side by side",
            "ends",
            settings=_ENDS,
            side_by_side=True,
            micro_batch=16,
            target=4.0,
        ),
        Case("20M-trunk", "20M, 4 epochs, value head on the policy's trunk", "20M", sharing="trunk"),
        Case("20M-adapters", "20M, 4 epochs, adapters", "20M", sharing="adapters", micro_batch=4, memory_target=0.28),
        *_against_groups("rloo", "RLOO"),
        *_against_groups("grpo", "GRPO"),
    )
}


def shrunk(case: Case) -> Case:
    """The same case in seconds: a smoke, whose figures mean nothing."""
    settings = replace(case.settings, episodes=16, rollout=8, micro_batch=4, ppo_epochs=1, response_tokens=8)
    return replace(case, models="ends" if case.settings.ends else "tiny", settings=settings, micro_batch=4)


def groups(cases: Iterable[Case]) -> list[list[Case]]:
    """Cases that share their peer's run, in the order given."""
    by_peer: dict[tuple[object, ...], list[Case]] = {}
    for case in cases:
        by_peer.setdefault(case.peer_key, []).append(case)
    return list(by_peer.values())


def running_order(group: list[Case]) -> list[Case | None]:
    """One cycle: the first of ours, the peer (None), the others of ours. Cycles follow one another: A B A B A."""
    return [group[0], None, *group[1:]]
