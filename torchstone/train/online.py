"""REINFORCE, PPO, GRPO, every recipe, distillation: one loop of seven stages. What differs is in ``methods.py``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from torchstone.data.tasks import Task, take
from torchstone.rewards.calling import State
from torchstone.rewards.judging import judged, with_logged
from torchstone.train.learner import Learner
from torchstone.train.methods import Batch, method_of
from torchstone.train.metrics import of_round
from torchstone.train.model import Policy
from torchstone.train.options import Online
from torchstone.train.rollout import Reader, cut, outputs_of, sample, uniforms
from torchstone.train.tokens import weigh


def learn_online(config: Online, task: Task, learner: Learner, reference: Policy | None) -> Iterator[dict[str, Any]]:
    """Yield the metrics of each round. ``reference`` is frozen: the start model, or the teacher.

    P prompts with G completions each are B = P*G rows, row p*G+g, of S tokens; the last T are the completion's.
    """
    P, G, policy, method = config.prompts, config.group_size, learner.policy, method_of(config)
    policy.entropy_bonus, policy.keep_logits = "entropies" in method.needs, "logits" in method.needs
    while learner.step < config.steps:
        learner.begin_round(config.lr, config.steps)
        torch.manual_seed(config.seed * 1_000_003 + learner.step)  # a reward may draw: a resumed run draws the same

        # 1 prompts: P of them, each repeated G times
        examples = take(task.examples, P, learner.step, config.seed)
        prompts = policy.encode_prompts([example["prompt"] for example in examples], config.system)
        examples = [example for example in examples for _ in range(G)]
        prompts = [ids for ids in prompts for _ in range(G)]

        # 2 rollout: tokens [B S], mask [B T]
        noise = uniforms(config.seed, learner.step, P * G, config.max_new_tokens)
        rollout = sample(policy, prompts, config.max_new_tokens, config.temperature, noise, config.rollout_tokens)
        minibatches = cut(config, rollout.tokens.shape[1], G if "group_size" in method.needs else 1)  # whole groups
        micro_batches = [rows for _, parts in minibatches for rows in parts]  # slices of rows
        on_policy = config.epochs == len(micro_batches) == 1  # then stage 3's log-probs are those of the update too

        # 3 log-probs [B T] before any update: of the policy that sampled, and of the reference
        new = outputs_of(policy, rollout, config.temperature, micro_batches, gradient=on_policy)
        old = new.detach()
        ref = outputs_of(reference, rollout, config.temperature, micro_batches) if reference else old
        teacher = Reader(reference, rollout) if reference else None

        # 4 rewards [P G], NaN where one cannot be scored; all 0 without a reward function, as distillation can do
        state = State(learner.step, config.steps, learner.step * P / len(task.examples))
        earned = judged(task, examples, rollout.completions, rollout, state)
        rewards = torch.tensor(earned.rewards, device=policy.device).view(P, G)

        # 5 advantages [B] or [B T], of the completions that the method keeps
        mask = rollout.mask & method.keep(rewards).flatten()[:, None]
        greedy = None  # [P], for a method whose baseline is the reward of each prompt's most likely tokens
        if "greedy_rewards" in method.needs:
            likely = sample(policy, prompts[::G], config.max_new_tokens, temperature=0.0)
            greedy = rewards.new_tensor(judged(task, examples[::G], likely.completions, likely, state).rewards)
            mask = mask & greedy.isfinite().repeat_interleave(G)[:, None]  # no baseline, no lesson
        batch = method.advantages(rewards, Batch(mask, old, ref.log_probs, teacher=teacher, each=earned.table), greedy)

        for step, (minibatch, parts) in enumerate(minibatches * config.epochs):
            count = method.denominator(batch.mask[minibatch])
            if "token_weights" in method.needs:  # judged on the whole minibatch, by the policy as it now is
                now = outputs_of(policy, rollout, config.temperature, parts) if step else old[minibatch]
                batch = weigh(method, batch, minibatch, now, 1009 * (config.seed + learner.step) + step)
            for rows in learner.share(parts):
                # 6 loss: a scalar, of which the micro-batches are summands
                if not on_policy:
                    new = policy(*rollout[rows].inputs, config.temperature)
                learner.backward(method.loss(new, batch[rows], count))
            # 7 update
            learner.update(config.max_grad_norm)

        told = of_round(method, rewards if task.reward else None, rollout, batch)
        yield with_logged(learner.end_round() | told, earned.metrics) | {"samples": learner.step * P * G}
