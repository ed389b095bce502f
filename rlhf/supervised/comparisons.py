"""Reward models that learn from prompts with several comparisons each, and from soft labels.

A batch element is a group: a prompt with K responses and all that was said of two of them. Its loss is the mean over
its comparisons, so that a prompt counts the same whatever K is, and each response is read once per step: as pairs that
are shuffled apart, the same response would take up to K - 1 steps per epoch, to which a reward model overfits.

Shapes: G groups of a micro-batch, A responses of them, C comparisons, T tokens of the longest dialogue.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.functional import logsigmoid
from trl import RewardTrainer

from rlhf.supervised.trainer import WatchedTrainer

Group = dict[str, Any]
"""`responses`: dialogues as token ids, K of them. `first`, `second`: which two of them a comparison is of. `margin`,
`probability`, `weight`: by how much the first should win, how probably it does, and how much that counts."""
_COMPARED = ("first", "second", "margin", "probability", "weight")


def preference_losses(first: Tensor, second: Tensor, margin: Tensor, probability: Tensor) -> Tensor:
    """Loss of each comparison, [C]; without a margin it is smallest where first - second is the logit of probability.

    Args:
        first: scores of the first responses, [C].
        second: scores of the second ones, [C].
        margin: by how much the winner should be better, [C].
        probability: that the first one wins, [C].

    Source:
        Bradley and Terry; margin, Llama 2, 2307.09288, equation 2; probability, RLAIF, 2309.00267, section 2.
    """
    difference = first - second
    return -probability * logsigmoid(difference - margin) - (1 - probability) * logsigmoid(-difference - margin)


def group_comparisons(
    chosen: Sequence[Sequence[int]],
    rejected: Sequence[Sequence[int]],
    margins: Sequence[float] | None,
    probabilities: Sequence[float] | None,
    weights: Sequence[float] | None,
    units: Iterable[Hashable],
) -> list[Group]:
    """Comparisons in groups, in the order of their first comparison; equal dialogues of a group are one response.

    Args:
        chosen: dialogues as token ids, prompt included, one per comparison.
        rejected: what each is compared with.
        margins: 0 where None.
        probabilities: that chosen is preferred; 1 where None.
        weights: of each in the loss; 1 where None.
        units: the group of each comparison.
    """
    groups: dict[Hashable, Group] = {}
    numbers: dict[tuple[Hashable, tuple[int, ...]], int] = {}
    for row, unit in enumerate(units):
        group = groups.setdefault(unit, {name: [] for name in ("responses", *_COMPARED)})
        for side, dialogue in (("first", chosen[row]), ("second", rejected[row])):
            number = numbers.setdefault((unit, tuple(dialogue)), len(group["responses"]))
            if number == len(group["responses"]):
                group["responses"].append(dialogue)
            group[side].append(number)
        group["margin"].append(margins[row] if margins else 0.0)
        group["probability"].append(probabilities[row] if probabilities else 1.0)
        group["weight"].append(weights[row] if weights else 1.0)
    return list(groups.values())


def with_batch_sizes(groups: Sequence[Group], batch_size: int) -> list[Group]:
    """Groups in the order of training, each with the number of groups of its whole batch."""
    return [
        {**group, "batch_groups": min(batch_size, len(groups) - row // batch_size * batch_size)}
        for row, group in enumerate(groups)
    ]


@dataclass(frozen=True)
class GroupCollator:
    """Puts the responses of groups into one padded batch.

    The first responses of all groups come first, then the second ones, and so on: groups of one pair make the batch
    that TRL makes of pairs.

    Attributes:
        pad_token_id: stands where nothing is.
    """

    pad_token_id: int

    def __call__(self, groups: Sequence[Group]) -> dict[str, Tensor]:
        """Token ids and mask, [A, T]; of each comparison its places in them, its labels and its group's size, [C]."""
        places: list[dict[int, int]] = [{} for _ in groups]
        dialogues: list[Sequence[int]] = []
        for number, column in enumerate(zip_longest(*(group["responses"] for group in groups))):
            for place, dialogue in zip(places, column, strict=True):
                if dialogue is not None:
                    place[number] = len(dialogues)
                    dialogues.append(dialogue)
        lengths = torch.tensor([len(dialogue) for dialogue in dialogues])
        width = int(lengths.max())
        placed = [
            (place[first], place[second], *labels, float(len(group["first"])))
            for place, group in zip(places, groups, strict=True)
            for first, second, *labels in zip(*(group[name] for name in _COMPARED), strict=True)
        ]
        columns = zip((*_COMPARED, "group_size"), zip(*placed, strict=True), strict=True)
        return {
            "input_ids": torch.tensor([[*ids, *[self.pad_token_id] * (width - len(ids))] for ids in dialogues]),
            "attention_mask": (torch.arange(width) < lengths[:, None]).long(),
            **{name: torch.tensor(values) for name, values in columns},
            "batch_groups": torch.tensor(groups[0]["batch_groups"]),
        }


class ComparisonTrainer(WatchedTrainer, RewardTrainer):  # type: ignore[misc]
    """TRL's trainer, watched, with a loss over groups.

    A comparison of weight 1 counts 1 / (comparisons of its group x groups of the whole batch), so micro-batches change
    nothing.
    """

    loss_is_scaled_for_ga = True

    def __init__(self, *args: Any, processing_class: Any, **kwargs: Any) -> None:
        collator = GroupCollator(processing_class.pad_token_id)
        super().__init__(*args, processing_class=processing_class, data_collator=collator, **kwargs)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The micro-batch's part of the mean loss of the batch's groups.

        Source:
            InstructGPT, 2203.02155, equation 1.
        """
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
        scores = outputs.logits.squeeze(-1)
        first, second = scores[inputs["first"]], scores[inputs["second"]]
        losses = preference_losses(first, second, inputs["margin"], inputs["probability"])
        loss = (inputs["weight"] * losses / inputs["group_size"]).sum() / inputs["batch_groups"]
        with torch.no_grad():
            right = torch.where(inputs["probability"] == 0.5, 0.5, (first > second).float())
            self._metrics["train"]["accuracy"].append(float(right.mean()))
        return (loss, outputs) if return_outputs else loss

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        """As it is: groups are token ids already."""
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        """All columns are read."""
        self._signature_columns = self.train_dataset.column_names
