"""On-policy distillations, as their papers and their authors' code have them."""

from __future__ import annotations

from torchstone.recipes.choices import Choice
from torchstone.recipes.distill import DistillRecipe

SAMPLER, TOKENS = Choice("sampler"), Choice("token-mean")
PER_ROW = Choice("sequence-mean", empty_rows="skipped")
PER_SUM = Choice("sequence-sum", empty_rows="skipped")

COOKBOOK = "authors' code, tinker-cookbook at 9dfcc3a"
SDPO = "authors' code, lasgroup/SDPO at 0e6d510"
INDEX = "framework, TRL's index of papers at f2cd577"
SKIPPED = "not found; a completion without a chosen token has no mean"

DISTILL = [
    DistillRecipe(
        name="opd",
        about="The teacher's log-ratio of each sampled token is its advantage: reverse KL by the policy gradient.",
        anchor=SAMPLER,
        signal=Choice("old-teacher-advantage", gamma=0.0),
        ratio=Choice("token"),
        surrogate=Choice("importance"),
        reduction=PER_SUM,
        left_out="the environment's own advantages, to which the cookbook adds the teacher's (outcome added); one "
        "teacher a data set",
        source='Lu & Thinking Machines Lab, "On-Policy Distillation" (2025), by tinker-cookbook at 9dfcc3a, '
        "tinker_cookbook/distillation/train_on_policy.py:54-125, 146-154",
        stated={
            "signal.gamma": f"{COOKBOOK}: kl_discount_factor 0.0; the post's pseudocode has discount 0",
            "reduction.empty_rows": "not found; the service sums over the tokens that it is sent (metric loss:sum), "
            "without a count of completions",
        },
    ),
    DistillRecipe(
        name="opd-sequence",
        about="Each token also answers for what follows it: the reverse KL between whole completions is lowered.",
        signal=Choice("teacher-advantage", gamma=1.0),
        surrogate=Choice("policy-gradient"),
        reduction=PER_SUM,
        left_out="of MiniLLM, as TRL's documentation has it: the division of the sum by its weights, and an exact KL "
        "of the token itself beside it",
        source="the gradient of KL(policy || teacher) between completions (DISTILL.1); Gu et al. (MiniLLM), "
        "arXiv:2306.08543, starts from it, by TRL's documentation at f2cd577",
        stated={
            "signal.gamma": "account, TRL's documentation of MiniLLM at f2cd577: a sum over what follows, discounted "
            "by gamma",
            "reduction.empty_rows": "not found; a completion without a chosen token has no KL",
        },
    ),
    DistillRecipe(
        name="opd-exact",
        about="Reverse KL over the whole vocabulary at each sampled prefix: no noise of the token, no policy gradient.",
        signal=Choice("jsd", beta=1.0, temperature=1.0),
        reduction=TOKENS,
        left_out="completions of a data set beside the policy's own (lambda below 1)",
        source="Agarwal et al. (GKD), arXiv:2306.13649, section 3: on-policy data and reverse KL; TRL 1.16.0, "
        "DistillationConfig",
        stated={
            "signal.beta": "framework, TRL 1.16.0, trainer/distillation_config.py: the default",
            "signal.temperature": "framework, TRL 1.16.0, trainer/distillation_config.py: the default",
        },
    ),
    DistillRecipe(
        name="opd-forward",
        about="Forward KL over the vocabulary on the policy's own samples: on-policy knowledge distillation.",
        signal=Choice("jsd", beta=0.0, temperature=1.0),
        reduction=PER_ROW,
        left_out="nothing",
        source="Agarwal et al. (GKD), arXiv:2306.13649, eq. 2 and 4, by accounts",
        stated={
            "signal.beta": "account, of eq. 4: KL(teacher || policy)",
            "signal.temperature": f"{INDEX}: 1.0, appendix A",
            "reduction.empty_rows": SKIPPED,
        },
    ),
    DistillRecipe(
        name="opd-topk-tail",
        about="Reverse KL on the policy's likeliest tokens and one more, which holds the rest of the mass.",
        signal=Choice("jsd-top-k", k=100, of="policy", rest="tail", beta=1.0, temperature=1.0),
        reduction=TOKENS,
        left_out="the rest of SDPO: see sdpo",
        source="Hübotter et al. (SDPO), lasgroup/SDPO at 0e6d510, verl/trainer/ppo/core_algos.py:1106-1162 (alpha=1.0)",
        stated={
            "signal.k": f"{SDPO}: distillation_topk 100 (README, actor.yaml)",
            "signal.of": f"{SDPO}: dp_actor.py gathers the teacher at the policy's top k",
            "signal.rest": f"{SDPO}: distillation_add_tail True",
            "signal.beta": f"{SDPO}: alpha 1.0 in experiments/rich_feedback",
            "signal.temperature": f"{SDPO}: that of sampling, 1.0",
        },
    ),
    DistillRecipe(
        name="opd-k3",
        parent="opd-exact",
        about="k3 of the sampled tokens, back-propagated: what two frameworks call reverse KL, with forward KL's "
        "gradient.",
        signal=Choice("k3"),
        reduction=TOKENS,
        left_out="the policy loss of the task's own rewards, which verl adds by default (use_task_rewards)",
        source="no paper: verl 0.9.1 (distillation.yaml) and TorchRL 0.14.1 (DistillationLoss) by default",
    ),
    DistillRecipe(
        name="gkd",
        about="Between the two directions: a Jensen-Shannon divergence over the vocabulary, on the policy's own "
        "samples.",
        signal=Choice("jsd", beta=0.5, temperature=1.0),
        reduction=PER_ROW,
        left_out="the completions that the policy did not sample: by TRL's index half of them are a data set's "
        "(lambda 0.5)",
        source="Agarwal et al. (GKD), arXiv:2306.13649, eq. 1 (JSD), 2 (the mean over a completion), 4 (on-policy), "
        "by accounts",
        stated={
            "signal.beta": f"{INDEX}: 0.5, section 3",
            "signal.temperature": f"{INDEX}: 1.0, appendix A",
            "reduction.empty_rows": SKIPPED,
        },
    ),
    DistillRecipe(
        name="mopd",
        about="opd with the teacher of each prompt's domain; a token far from the engine that sampled it is dropped.",
        signal=Choice("teacher-advantage", gamma=0.0),
        surrogate=Choice("policy-gradient"),
        sampler=Choice("policy-weights", level="token", gate="token", low=0.2, high=5.0),
        reduction=PER_ROW,
        left_out="the outcome's advantage, which is added by default (eq. 9), at a weight that is not stated (outcome "
        "added); which teacher a prompt has is the caller's",
        source="Xiaomi (MiMo-V2-Flash), arXiv:2601.02780v1, eq. 7 and 8",
        stated={
            "signal.gamma": "paper, eq. 8: each token's own log-ratio",
            "sampler.level": "paper, eq. 8",
            "sampler.gate": "paper, eq. 8: 0 outside the bounds, which the paper does not state",
            "sampler.low": "framework, NeMo-RL at 7ea279a, recipes/llm, mopd-qwen3-1.7b-3n8g-megatron-pack.yaml",
            "sampler.high": "framework, NeMo-RL at 7ea279a, recipes/llm, mopd-qwen3-1.7b-3n8g-megatron-pack.yaml",
            "reduction.empty_rows": SKIPPED,
        },
    ),
    DistillRecipe(
        name="sdpo",
        about="The policy itself, told what went wrong, is the teacher: the policy's likeliest tokens, and the rest "
        "as one.",
        signal=Choice("jsd-top-k", k=100, of="policy", rest="tail", beta=0.5, temperature=1.0),
        ratio=Choice("token"),
        surrogate=Choice("truncated-ratio", cap=2.0),
        sampler=Choice("weights", level="token", gate=None, low=None, high=2.0),
        reduction=TOKENS,
        left_out="how the teacher's prompt is made of feedback and good samples, and the mask of samples that have "
        "neither; the teacher is a moving average of the policy, at 0.05 a step",
        source="Hübotter et al. (SDPO), arXiv:2601.20802v1, by lasgroup/SDPO at 0e6d510, "
        "verl/trainer/ppo/core_algos.py:1085-1192, verl/trainer/config/sdpo.yaml",
        stated={
            "signal.k": f"{SDPO}: distillation_topk 100; 20 in experiments/rich_feedback",
            "signal.of": f"{SDPO}: dp_actor.py gathers the teacher at the policy's top k",
            "signal.rest": f"{SDPO}: distillation_add_tail True",
            "signal.beta": f"{SDPO}: alpha 0.5; 1.0 in experiments/rich_feedback",
            "signal.temperature": f"{SDPO}: that of sampling, 1.0",
            "surrogate.cap": f"{SDPO}: is_clip 2.0",
            "sampler.level": f"{SDPO}: rollout_is token",
            "sampler.gate": f"{SDPO}: rollout_is truncates",
            "sampler.low": f"{SDPO}: rollout_is has no lower bound",
            "sampler.high": f"{SDPO}: rollout_is_threshold 2.0",
        },
    ),
    DistillRecipe(
        name="iw-opd",
        about="opd that trusts the teacher less, the further a completion has left it: early tokens weigh more.",
        signal=Choice("teacher-advantage", gamma=0.0),
        weight=Choice("prefix", gamma=0.5, eps=1e-8),
        ratio=Choice("token"),
        surrogate=Choice("clip", epsilon=0.2, dual_clip=3.0),
        reduction=TOKENS,
        left_out="what TRL's index names beside the clip, without numbers: an entropy bonus, a KL in the reward, one "
        "beside it, and a correction for the engine that sampled. The paper could not be had",
        source="Xie et al. (IW-OPD), arXiv:2606.22600, algorithm 1, by TRL's index of papers and TRL 1.16.0",
        stated={
            "signal.gamma": f"{INDEX}: sampled-token distillation, each token's own",
            "weight.gamma": f"{INDEX}: algorithm 1 and appendix C.3",
            "weight.eps": "framework, TRL 1.16.0, experimental/iw_opd/iw_opd_config.py",
            "surrogate.epsilon": f"{INDEX}: clipping range 0.2",
            "surrogate.dual_clip": f"{INDEX}: dual-clip constant 3.0",
        },
    ),
]
