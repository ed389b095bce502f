"""Settings that the methods share which train the policy on rows that are fixed before training starts."""

from rlhf.config.base import Count, Positive
from rlhf.config.policy import PolicyConfig
from rlhf.config.supervised import TrainingSection


class OfflineConfig(PolicyConfig, TrainingSection):
    """Training of the policy on fixed rows, with held-out evaluations as every method has them."""

    micro_batch_size: Count | None = None
    """Rows per forward pass; changes memory, not the loss. Empty: batch_size."""
    learning_rate: Positive = 1e-4
    """Peak learning rate of AdamW; linear decay to zero."""
    evaluate_every: Count = 25
    """Optimizer steps between held-out evaluations. Each is a checkpoint that may be chosen."""

    @property
    def rows_per_pass(self) -> int:
        """Rows of a forward pass."""
        return self.micro_batch_size or self.batch_size
