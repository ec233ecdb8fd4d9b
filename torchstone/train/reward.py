"""A reward model from pairs of a better and a worse completion, by the stages of DPO."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from torchstone.core import Loss
from torchstone.core.result import mean_of
from torchstone.data.tasks import Example
from torchstone.dpo import bradley_terry_loss
from torchstone.rewards.reward_model import pair_rewards
from torchstone.train.learner import Learner
from torchstone.train.offline import cut_pairs, encoder
from torchstone.train.options import RewardOptions


def learn_reward(
    config: RewardOptions, pairs: Sequence[Example], learner: Learner, steps: int
) -> Iterator[dict[str, Any]]:
    """Yield the metrics of each step. N pairs a step: each has prompt, chosen, rejected, and perhaps a margin."""
    N, model = min(config.pairs, len(pairs)), learner.policy
    encoded = encoder(config, model, pairs, N)
    while learner.step < steps:
        learner.begin_round(config.lr, steps)

        # 1 prompts and 2 completions: given
        batch = encoded(learner.step)
        for piece in learner.share(cut_pairs(config, batch)):
            # 3 log-probs: none; 4 rewards [N] of both completions
            chosen, rejected = pair_rewards(model, batch[piece])
            # 5 advantages: none, the loss itself ranks the pair
            # 6 loss: a scalar
            margin = torch.tensor([float(pair.get("margin", 0.0)) for pair in batch[piece]]).to(chosen)
            centre = config.center_rewards_coefficient
            loss = bradley_terry_loss(chosen, rejected, margin=margin, centre=centre, denominator=N)
            named = {"accuracy": "accuracy", "reward_gap": "margin", "mean_reward": "mean_reward"}
            metrics = {named[name]: mean for name, mean in loss.metrics.items()}
            metrics |= {"rewards/chosen": mean_of(chosen), "rewards/rejected": mean_of(rejected)}
            learner.backward(Loss(loss.value, metrics))
        # 7 update
        learner.update(config.max_grad_norm)

        yield learner.end_round()
