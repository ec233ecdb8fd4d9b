"""Reward functions written for TRL, judged by TRL's trainer (1.16.0) and by ours: the same numbers."""

import asyncio
import math
import threading
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerState
from trl import GRPOTrainer
from trl.rewards import get_repetition_penalty_reward, get_soft_overlong_punishment, think_format_reward

from torchstone.data.tasks import Task
from torchstone.rewards.calling import Reward, State
from torchstone.rewards.judging import judged
from torchstone.rewards.several import Rewards

TEXTS = ["<think>\na\n</think>\nb", "b", "<think>c</think>", "a a a a a"]
IDS = [[1, 2, 3, 4], [1] * 9, [5, 5, 5, 5, 5], []]


def abstains(completions, solution, log_extra, log_metric, trainer_state, **kwargs):
    log_extra("solution", solution)
    log_metric("step", trainer_state.global_step)
    return [None if s is None else float(len(c[0]["content"]) - s) for c, s in zip(completions, solution, strict=True)]


async def waits(prompts, completions, completion_ids, **kwargs):
    await asyncio.sleep(0)
    return [None if not ids else len(p) + len(ids) / 4 for p, ids in zip(prompts, completion_ids, strict=True)]


FUNCTIONS = {
    "think_format_reward": think_format_reward,
    "soft_overlong_punishment_reward": get_soft_overlong_punishment(8, 4),
    "repetition_penalty_reward": get_repetition_penalty_reward(2),
    "abstains": abstains,
    "waits": waits,
}
ROWS = [
    {"prompt": [{"role": "user", "content": "?"}] * (1 + i % 2), "solution": solution}
    for i, solution in enumerate((3, None, 5, None))
]


@pytest.fixture
def loop():
    """As TRL's trainer has one, in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


def by_trl(functions: dict, loop) -> tuple[torch.Tensor, dict, dict]:
    """rewards_per_func [B K] of TRL's own method, on a trainer with nothing but what the method reads."""
    extra, metrics = {}, {}
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(device="cpu", is_main_process=True), state=TrainerState(global_step=3, max_steps=9),
        reward_funcs=list(functions.values()), reward_processing_classes=[None] * len(functions), environments=None,
        reward_func_names=list(functions), args=SimpleNamespace(report_to=[]), async_loop=loop,
        _log_completion_extra=extra.__setitem__, _log_metric=metrics.__setitem__,
    )  # fmt: skip
    prompts = [row["prompt"] for row in ROWS]
    completions = [[{"role": "assistant", "content": text}] for text in TEXTS]
    return GRPOTrainer._calculate_rewards(trainer, ROWS, prompts, completions, IDS), extra, metrics


def by_us(functions: dict, weights=()):
    rewards = Rewards([Reward(name, function) for name, function in functions.items()], weights)
    rollout = SimpleNamespace(ids=IDS, cut_off=torch.zeros(4, dtype=torch.bool))
    return judged(Task("t", ROWS, [], rewards), ROWS, TEXTS, rollout, State(3, 9))


def test_each_function_gives_the_same(loop):
    theirs, extra, metrics = by_trl(FUNCTIONS, loop)
    ours = by_us(FUNCTIONS)
    for k, name in enumerate(FUNCTIONS):
        want = [None if math.isnan(x) else x for x in theirs[:, k].tolist()]
        assert ours.each[name] == pytest.approx(want), name
        assert ours.metrics[f"rewards/{name}/mean"] == pytest.approx(torch.nanmean(theirs[:, k]).item())
    assert ours.extra["solution"] == extra["solution"] and ours.metrics["step"] == metrics["step"] == 3


def test_sums_are_those_of_trl(loop):
    """As GRPOTrainer adds them: nansum of weight times reward; NaN where all are."""
    for names, weights in ((["think_format_reward", "abstains", "waits"], [1.0, 0.5, -2.0]), (["abstains"], [3.0])):
        functions = {name: FUNCTIONS[name] for name in names}
        theirs, _, _ = by_trl(functions, loop)
        sums = (theirs * torch.tensor(weights)).nansum(1).masked_fill(theirs.isnan().all(1), math.nan)
        torch.testing.assert_close(torch.tensor(by_us(functions, weights).rewards), sums, equal_nan=True)
