"""f_dpo_loss: DPO under another divergence than the reverse KL."""

from __future__ import annotations

from collections.abc import Callable

from ... import dpo
from ...contract import Setting
from ...numbers import Dual, Number, dual, log_sigmoid
from ..shared.common import bug, variant
from ..shared.pairs import each, judged, objective

Shape = Callable[[Dual, str, Number | None], Dual]
NAMES = ("beta", "divergence", "alpha")


def of(shape: Shape) -> Callable[..., Dual]:
    """DPO's loss of rewards of another shape."""

    def judge(win: Dual, lose: Dual, beta: Number, divergence: str, alpha: Number | None) -> Dual:
        g_w, g_l = (shape(r / beta, divergence, alpha) for r in (win, lose))
        return -log_sigmoid(beta * (g_w - g_l))

    return judge


def coefficient_of_trl(s: Dual, divergence: str, alpha: Number | None) -> Dual:
    return dpo.divergence_reward(s, divergence, None if alpha is None else 1 - dual(alpha))


def forward_is_reverse(s: Dual, divergence: str, alpha: Number | None) -> Dual:
    return dpo.divergence_reward(s, divergence.replace("forward", "reverse"), alpha)


def ratio_inverted(s: Dual, divergence: str, alpha: Number | None) -> Dual:
    return -dpo.divergence_reward(-s, divergence, alpha)


def not_divided_by_alpha(s: Dual, divergence: str, alpha: Number | None) -> Dual:
    return dpo.divergence_reward(s, divergence, alpha) * (1 if alpha is None else alpha)


def half_of_js(s: Dual, divergence: str, alpha: Number | None) -> Dual:
    return dpo.divergence_reward(s, divergence, alpha) / (2 if divergence == "js" else 1)


def beta_inside(win: Dual, lose: Dual, beta: Number, divergence: str, alpha: Number | None) -> Dual:
    return -log_sigmoid(dpo.divergence_reward(win, divergence, alpha) - dpo.divergence_reward(lose, divergence, alpha))


OBJECTIVE = objective(
    "f_dpo_loss", "DPO under another divergence than the reverse KL.", ("DPO.35", "DPO.36"),
    "arXiv:2309.16240, its table of divergences, by an account",
    each(dpo.f_dpo, *NAMES),
    {
        "alpha_from_the_other_end": judged(
            variant, "The coefficient is 1 - alpha.", "alpha 0.3 is 0.7.", of(coefficient_of_trl), *NAMES),
        "forward_kl_is_reverse_kl": judged(
            bug, "The forward KL is not known, and the reverse KL is taken.", "The run has the name of one objective "
            "and the result of another.", of(forward_is_reverse), *NAMES),
        "ratio_inverted": judged(
            bug, "The ratio is upside down.", "Rewards level off below the reference, not above.", of(ratio_inverted),
            *NAMES),
        "not_divided_by_alpha": judged(
            bug, "The power is not divided by alpha.", "beta means something else at each alpha.",
            of(not_divided_by_alpha), *NAMES),
        "js_halved": judged(
            variant, "Jensen-Shannon's divergence with its factor 1/2.", "beta counts for half in this one alone.",
            of(half_of_js), *NAMES),
        "beta_inside_the_shape": judged(
            bug, "beta multiplies the log-ratio, not the reward.", "The shape is nearly straight at a small beta.",
            beta_inside, *NAMES),
    },
    {"divergence": Setting("reverse-kl, forward-kl, alpha or js.", ("js", "forward-kl", "reverse-kl")),
     "alpha": Setting("From the reverse KL (0) to the forward KL (1), with the divergence alpha.", (0.5,))},
    ({"divergence": "js", "alpha": None}, {"divergence": "forward-kl", "alpha": None},
     {"divergence": "alpha", "alpha": 0.3}, {"divergence": "alpha", "alpha": 0.75}),
)  # fmt: skip
