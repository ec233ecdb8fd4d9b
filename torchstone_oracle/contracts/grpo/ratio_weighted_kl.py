"""ratio_weighted_kl: k3 times the ratio, for samples of an older policy."""

from __future__ import annotations

from ... import core, ppo
from ...contract import Alternative, Argument, Flag, Group, Objective
from ...numbers import bounded_exp, stop
from ..shared import policy, policy_cases, policy_kl
from ..shared.common import EDGES, OPEN_INSTRUCT_E6C3044
from .kl_k3_with_k2_gradient import KL_RIGHT, PLAIN_K3, kl_per_token
from .sequence_log_ratios import row_cases

OBJECTIVE = Objective(
    name="ratio_weighted_kl",
    about="k3 times the ratio to the policy that sampled, with gradient through both.",
    tags=("GRPO.15",),
    source=("DeepSeek-AI, DeepSeek-V3.2, arXiv:2512.02556v1, eq. 7",),
    arguments={k: policy.ARGUMENTS[k] for k in ("log_probs", "old_log_probs", "ref_log_probs", "mask")},
    returns={"kl": Argument("B T", "nats")},
    settings={},
    compute=kl_per_token,
    steps={"kl": KL_RIGHT["ratio_weighted_kl"], "log_ratio": ppo.log_ratio},
    alternatives={
        "k3": PLAIN_K3,
        "ratio_detached": Alternative(
            Flag(
                "bug",
                "The ratio is a constant weight.",
                "The gradient is that of KL(reference || policy), as for plain k3.",
                ("https://arxiv.org/abs/2512.02556",),
                ("C33",),
            ),
            {"kl": lambda p, q, u: stop(bounded_exp(u)) * core.k3(p, q)},
        ),
        "only_the_ratio_moves": Alternative(
            Flag("bug", "k3 is a constant.", "Half of the gradient is missing.", pitfalls=("C33",)),
            {"kl": lambda p, q, u: bounded_exp(u) * stop(core.k3(p, q))},
        ),
        "inverted_ratio": Alternative(
            Flag("bug", "pi_old / pi in place of pi / pi_old.", "Tokens that have become likelier are held back less."),
            {"log_ratio": lambda p, q: -ppo.log_ratio(p, q)},
        ),
        "k1_weighted": Alternative(
            Flag(
                "variant",
                "The ratio times k1 (estimator 3 of open-instruct e6c3044).",
                "The same expectation and gradient on average, and noisier.",
                (OPEN_INSTRUCT_E6C3044,),
            ),
            {"kl": lambda p, q, u: bounded_exp(u) * core.k1(p, q)},
        ),
        "reversed_kl": Alternative(
            policy_kl.ALTERNATIVES["reversed_kl"].flag,
            {"kl": lambda p, q, u: bounded_exp(u) * policy_kl.reversed_k3(p, q, u)},
        ),
        "detached": policy_kl.ALTERNATIVES["kl_detached"],
    },
    edges=EDGES,
    groups=(Group({}, row_cases(("log_probs", "old_log_probs", "ref_log_probs", "mask"), policy_cases.usual(True))),),
)
