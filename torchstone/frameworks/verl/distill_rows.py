"""verl 0.9.1: the losses of verl/trainer/distillation/losses.py, without the task's own policy loss.

Its registry calls k1, k2 and k3 estimators of reverse KL; what they pull along is said row by row.
"""

from __future__ import annotations

from torchstone.frameworks.verl.rows import VERSION
from torchstone.recipes.choices import Choice, Recipe
from torchstone.recipes.distill import DistillRecipe

LOSSES = "verl/trainer/distillation/losses.py"
CLAMP, TOKEN, CLIP = Choice("clamp", limit=10.0), Choice("token"), Choice("clip", epsilon=0.2, dual_clip=3.0)
LEFT_OUT = (
    "the task's own policy loss, which verl adds by default (use_task_rewards, distillation_loss_coef); log-ratios "
    "are cut at -20 and 20, with gradient 0 beyond"
)


K2 = DistillRecipe(
    name=f"opd-k2@{VERSION}",
    about="k2 back-propagated, the mode of verl whose expected gradient without a policy gradient is reverse KL's.",
    signal=Choice("k2"),
    reduction=Choice("token-mean"),
    left_out=LEFT_OUT,
    source=f"{LOSSES}:229-302, 370-405; core_algos.py:2188-2251 (distillation.yaml, loss_mode=k2)",
)


def row(name: str, lines: str, settings: str, about: str, **choices: Choice) -> DistillRecipe:
    """verl's distillation with these settings."""
    made: DistillRecipe = K2.but(
        name=f"{name}@{VERSION}", about=about, source=f"{LOSSES}:{lines} ({settings})", **choices
    )
    return made


DISTILL = [
    row(
        "opd",
        "229-302, 370-405",
        "distillation.yaml, loss_mode=k1, use_policy_gradient=True",
        "What its documentation recommends (k1 with use_policy_gradient): reverse KL by PPO's clip, a dual clip at 3.",
        signal=Choice("teacher-advantage", gamma=0.0),
        ratio=TOKEN,
        surrogate=CLIP,
    ),
    row(
        "opd-k3",
        "229-302, 370-405; core_algos.py:2188-2251",
        "distillation.yaml",
        "The default of its YAML: k3 back-propagated, whose expected gradient is that of the forward KL.",
        signal=Choice("k3"),
        bound=CLAMP,
    ),
    K2,
    row(
        "opd-k3-advantage",
        "229-302, 370-405; verl/workers/config/distillation.py:65-90",
        "DistillationLossConfig()",
        "DistillationLossConfig() without the YAML: k3 as the reward, which may lead away from the teacher.",
        signal=Choice("k3-advantage"),
        bound=CLAMP,
        ratio=TOKEN,
        surrogate=CLIP,
    ),
    row(
        "opd-topk-drop",
        "305-368; verl/trainer/distillation/fsdp/losses.py:66-149",
        "distillation.yaml, loss_mode=forward_kl_topk",
        "Forward KL on the teacher's 32 likeliest tokens, not rescaled, with 0 in place of a sum below 0.",
        signal=Choice("jsd-top-k", k=32, of="teacher", rest="drop", beta=0.0, temperature=1.0),
        bound=Choice("floor"),
    ),
]

ROWS: list[Recipe] = [*DISTILL]
