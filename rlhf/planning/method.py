"""The method of a recipe in a sentence."""

from rlhf.config.pipeline import METHOD_TITLES, PipelineConfig


def described_method(config: PipelineConfig) -> str:
    """What the policy learns from in each round, and how much of it."""
    return "; then ".join(map(_described, config.per_round))


def _described(config: PipelineConfig) -> str:
    title, longest = METHOD_TITLES[config.method], f"of at most {config.policy.max_response_tokens:,} tokens"
    if config.rl is not None:
        return f"{title}: {config.rl.num_updates:,} updates of {config.rl.rollout_size:,} responses {longest}"
    if config.best_of_n is not None:
        number = config.best_of_n.num_prompts
        prompts = "every training prompt" if number is None else f"{number:,} training prompts"
        return (
            f"{title}: the best of {config.best_of_n.num_samples:,} responses {longest} to {prompts}, "
            f"{config.best_of_n.num_epochs:g} epochs"
        )
    assert config.preference is not None, "every method has its section"
    rows = "labelled responses, or the pairs taken apart" if config.method == "kto" else "pairs"
    own = config.preference
    return f"{title}: {own.num_epochs:g} epochs of the {rows}, {own.batch_size:,} in a batch"
