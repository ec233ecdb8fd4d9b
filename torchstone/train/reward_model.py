"""A reward model: a language model's body, and a head that gives one number. From pairs, by the stages of DPO."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from torchstone.core import Loss
from torchstone.core.result import mean_of
from torchstone.data.tasks import Example, take
from torchstone.dpo import bradley_terry_loss
from torchstone.terminal import UserError
from torchstone.train.files import absolute
from torchstone.train.learner import Learner
from torchstone.train.model import Policy
from torchstone.train.offline import encode, side_by_side
from torchstone.train.options import RewardOptions, Run
from torchstone.train.rollout import slices


class RewardModel(Policy):
    """Of transformers' sequence classification, with one label: r(x, y) is read at the last token but padding."""

    def __init__(self, model: Any, tokenizer: Any):
        super().__init__(model, tokenizer)
        self.pad_id = model.config.get_text_config().pad_token_id  # which transformers goes by

    def forward(self, tokens: Int[Tensor, "B S"], attention: Bool[Tensor, "B S"]) -> Float[Tensor, " B"]:  # type: ignore[override]
        """r(x, y) of each row, padded on the left, the right, or both."""
        return self.read(tokens, attention, use_cache=False).logits[:, 0].float()

    def values(self, tokens: Int[Tensor, "B S"], attention: Bool[Tensor, "B S"], T: int) -> Float[Tensor, "B T"]:
        """What the head says before each of the last T tokens: a critic's first guess of the reward."""
        out = self.read(tokens[:, :-1], attention[:, :-1], use_cache=False, output_hidden_states=True)
        with self.computing():
            return self.model.score(out.hidden_states[-1][:, -T:])[..., 0].float()

    def save(self, folder: Path) -> None:
        """Write a folder that ``--reward-model`` and transformers can load, adapters merged into the weights."""
        model = self.model if self.adapters == "none" else copy.deepcopy(self.model).merge_and_unload()
        model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def reward_model_of(config: Run, policy: Policy) -> RewardModel:
    """The policy's body under a head at random. Its padding is a token that no text ends with: transformers needs it.

    Raises UserError: transformers has no sequence classification of this kind of model.
    """
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(config.seed)
    tokenizer, kind = copy.deepcopy(policy.tokenizer), copy.deepcopy(policy.model.config)
    free = [i for i in (policy.pad_id, *tokenizer.all_special_ids) if i not in policy.eos_ids]
    if not free:
        tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.pad_token_id = free[0] if free else tokenizer.pad_token_id
    kind.num_labels, kind.eos_token_id = 1, policy.eos_ids
    kind.get_text_config().pad_token_id = tokenizer.pad_token_id
    try:
        model: Any = AutoModelForSequenceClassification.from_config(kind, dtype=policy.model.dtype)
        model.base_model.load_state_dict(policy.model.base_model.state_dict())
        assert model.score.out_features == 1
    except (ValueError, RuntimeError, AttributeError) as e:
        raise UserError(f"transformers has no reward model of a {kind.model_type}: {str(e).splitlines()[0]}") from e
    if len(tokenizer) > policy.vocabulary:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    made = RewardModel(model.to(policy.device), tokenizer)
    made.compute = policy.compute
    if config.lora:
        made.add_lora(config.lora, absolute("model", config.model or str(config.folder / "start")), "SEQ_CLS")
    return made


def learn_reward(
    config: RewardOptions, pairs: Sequence[Example], learner: Learner, steps: int
) -> Iterator[dict[str, Any]]:
    """Yield the metrics of each step. N pairs a step: each has prompt, chosen, rejected, and perhaps a margin."""
    N, model = min(config.pairs, len(pairs)), learner.policy
    while learner.step < steps:
        learner.begin_round(config.lr, steps)

        # 1 prompts and 2 completions: given
        batch = take(pairs, N, learner.step, config.seed)
        for piece in slices(0, N, max(1, config.micro_batch // 2)):
            # 3 log-probs: none; 4 rewards [N] of both completions
            chosen, rejected = pair_rewards(config, model, batch[piece])
            # 5 advantages: none, the loss itself ranks the pair
            # 6 loss: a scalar
            margin = torch.tensor([margin_of(pair) for pair in batch[piece]]).to(chosen)
            centre = config.center_rewards_coefficient
            loss = bradley_terry_loss(chosen, rejected, margin=margin, centre=centre, denominator=N)
            named = {"accuracy": "accuracy", "reward_gap": "margin", "mean_reward": "mean_reward"}
            metrics = {named[name]: mean for name, mean in loss.metrics.items()}
            metrics |= {"rewards/chosen": mean_of(chosen), "rewards/rejected": mean_of(rejected)}
            learner.backward(Loss(loss.value, metrics))
        # 7 update
        learner.update(config.max_grad_norm)

        yield learner.end_round()


def margin_of(pair: Example) -> float:
    """How much better the chosen one is held to be, in reward units: the column ``margin``, or 0."""
    margin = pair.get("margin", 0.0)
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not math.isfinite(margin):
        raise UserError(f"'margin' must be a number, got {margin!r}, for prompt {pair['prompt'][:60]!r}")
    return margin


def pair_rewards(config: Run, model: Any, pairs: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """r(x, y) of the chosen [N] and of the rejected [N] completions."""
    batch = side_by_side(model, encode(config, model, pairs))
    chosen, rejected = model(batch.tokens, batch.attention).view(-1, 2).unbind(1)
    return chosen, rejected


@torch.no_grad()
def judge_pairs(config: Run, model: Any, pairs: Sequence[Example]) -> list[Example]:
    """The pairs with ``rewards/chosen`` and ``rewards/rejected``."""
    out = []
    for piece in slices(0, len(pairs), max(1, config.micro_batch // 2)):
        rewards = (x.tolist() for x in pair_rewards(config, model, pairs[piece]))
        both = zip(pairs[piece], *rewards, strict=True)
        out += [pair | {"rewards/chosen": chosen, "rewards/rejected": rejected} for pair, chosen, rejected in both]
    return out
