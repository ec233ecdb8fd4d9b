"""Algorithms that learn from samples and their rewards, as their papers have them.

Where a number was seen stands in ``stated``; what the paper has and the row has not, in ``left_out``. The two together
say what of a row is the paper's (docs/sources.md: which papers were read).
"""

from __future__ import annotations

from torchstone.recipes.choices import NONE, Choice
from torchstone.recipes.online import PolicyRecipe

GROUP_STD = Choice("group-std", correction=1, eps=0.0)
POLICY_GRADIENT = Choice("policy-gradient")
CLIP = Choice("clip", epsilon=0.2)
SAMPLER, REFERENCE = Choice("sampler"), Choice("reference")
PER_ROW = Choice("sequence-mean", empty_rows="skipped")
PER_SUM = Choice("sequence-sum", empty_rows="skipped")

# What several rows say of the same number. A paper's completions have tokens: what one without any is worth is ours.
ROWS = {"reduction.empty_rows": "not stated; a completion without a token says nothing, so it does not count"}
ROWS_NOT_FOUND = {"reduction.empty_rows": "not found; a completion without a token says nothing, so it does not count"}
SAMPLE_STD = "n - 1, as in torch.std, TRL 1.16.0 and verl 0.9.1"
INDEX = "framework, TRL f2cd577, paper index"

LM_PREFERENCES = "authors' code, openai/lm-human-preferences cbfd210"
OPENRLHF = "authors' code, OpenRLHF 1bfcc33 (November 2025)"
HOK = "account, appendix G of Honor of Kings Arena, the same game"
HOK_CODE = "account, tencent-ailab/hok_env c6e0029, aiarena/1v1/common/algorithm_torch.py"
SAPO_TAU = f"{INDEX}; VESPO (arXiv:2602.10693v3), appendix D, calls it official"
EIGHTY_TWENTY = "authors' code, Shenzhi-Wang/Beyond-the-80-20-Rule-RLVR 6f5dda6f"
TOP20 = f"{EIGHTY_TWENTY}, recipe/rlvr_with_high_entropy_tokens_only, the script for 14B"
COV = "authors' code, PRIME-RL/Entropy-Mechanism-of-RL 8850579"
COV_ACCOUNT = "account, of section 4.3"
DPPO_CAP = "paper, appendix E (C of eq. 23, 5 by default); in appendix C.1 it is infinite"
TIS = "authors' code, yaof20/verl 1e41334"
AREAL = "authors' code, inclusionAI/AReaL 4aef98d8d"
ROLLOUTS = "authors' code, verl 1dda039b9, docs/algo/rollout_corr_math.md"
VERL_STD = {
    "advantage.correction": "not found; verl 0.9.1's, core_algos.py: torch.std",
    "advantage.eps": "not found; verl 0.9.1's, core_algos.py",
}
VC_PPO = 'M. Song, "Notes on VC-PPO" (maosong.website, 14 April 2025)'
WHITEN_PLUS = {
    "normalise.correction": f"{OPENRLHF}, experience_maker.py: n; the paper does not say",
    "normalise.eps": f"{OPENRLHF}, experience_maker.py, as the least variance; the paper does not say",
}
DPPO_LEFT_OUT = "the distance over the top k tokens (eq. 15, 16); the runs of appendix C.1, which have no cap"


def std_without_eps(place: str) -> dict[str, str]:
    """Of a group's deviation, where the paper adds nothing to it at this place."""
    return {"advantage.correction": f"not stated; {SAMPLE_STD}", "advantage.eps": f"paper, {place}: nothing is added"}


ONLINE = [
    PolicyRecipe(
        name="reinforce",
        about="Raise the log-probability of a completion by its reward.",
        advantage=Choice("reward"),
        ratio=NONE,
        surrogate=POLICY_GRADIENT,
        reduction=PER_SUM,
        source="Williams (1992), doi:10.1007/BF00992696, eq. 11",
        left_out="the baseline b of eq. 11, which is 0 here, and a learning rate for each weight",
        stated={**ROWS_NOT_FOUND},
    ),
    PolicyRecipe(
        name="remax",
        about="REINFORCE with the reward of the greedy completion as the baseline.",
        advantage=Choice("greedy"),
        ratio=NONE,
        surrogate=POLICY_GRADIENT,
        reduction=PER_SUM,
        source="Li et al. (ReMax), arXiv:2310.10505, by its authors' code (liziniu/ReMax 536ba49)",
        left_out="what the authors' trainer adds: a KL that each token pays for itself alone (0.1 by default, 0.05 in "
        "its scripts), a discount (0.99 in its scripts), the difference of the two rewards cut at 5; it also takes the "
        "mean over tokens, not the sum",
        stated={**ROWS_NOT_FOUND},
    ),
    PolicyRecipe(
        name="rloo",
        about="REINFORCE on whole completions, each against the mean of its siblings; the KL is in the reward.",
        reward_kl=Choice("per-sequence", estimator="k1", beta=0.03),
        advantage=Choice("leave-one-out"),
        ratio=NONE,
        surrogate=POLICY_GRADIENT,
        reduction=PER_SUM,
        source="Ahmadian et al. (RLOO), arXiv:2402.14740v2, eq. 3 and section 2.3 (unnumbered)",
        left_out="the second gradient step on each batch, which is taken without a ratio (appendix C, by an account)",
        stated={
            "reward_kl.estimator": "account, notes on v2 (lonj7798/mylearning_2026 c15d020, rloo.md): eq. 3",
            "reward_kl.beta": f"{INDEX}: appendix C; by the account above for TL;DR, with 0.10 for Anthropic-HH",
            **ROWS_NOT_FOUND,
        },
    ),
    PolicyRecipe(
        name="opo",
        about="REINFORCE, strictly on policy, with a group baseline that weighs samples by their length.",
        advantage=Choice("length-weighted"),
        ratio=NONE,
        surrogate=POLICY_GRADIENT,
        reduction=PER_SUM,
        source="Hao et al. (OPO), arXiv:2505.23585, by its authors' code (microsoft/LMOps 4f2a9de)",
        left_out="the same baseline over the whole batch, which the authors' code has beside this one; that code is "
        "for verl 0.2, which takes the mean over tokens, not the sum",
        stated={**ROWS_NOT_FOUND},
    ),
    PolicyRecipe(
        name="otb",
        about="REINFORCE with a baseline for each step of a group, for long completions.",
        advantage=Choice("optimal-token"),
        ratio=NONE,
        surrogate=POLICY_GRADIENT,
        reduction=PER_SUM,
        source="Li et al. (optimal token baseline), arXiv:2602.07078v2, by its authors' documentation in verl b178a3c",
        left_out="the eps in the baseline's denominator; the square of the engine's ratio as a factor of the energies, "
        "where another program samples; verl's mean over tokens and its clip, which the example script leaves on; the "
        "rule of verl 0.9.1 for the end of a group's longest completion, whose advantage is the whole return there, "
        "and 0 by the equation",
        stated={**ROWS_NOT_FOUND},
    ),
    PolicyRecipe(
        name="maxrl",
        about="Pass@k for every k below the group's size at once, each over k: hard prompts weigh more.",
        advantage=Choice("max-likelihood"),
        ratio=NONE,
        surrogate=POLICY_GRADIENT,
        reduction=PER_SUM,
        source="Tajwar et al. (MaxRL), arXiv:2602.02710, algorithm 1",
        left_out="nothing of algorithm 1; the authors' code (tajwarfahim/maxrl c0698eb) adds 1e-6 to the mean reward "
        "that it divides by, and takes verl's mean over tokens, not the sum",
        stated={**ROWS},
    ),
    PolicyRecipe(
        name="gpg",
        about="The plain policy gradient with a group mean, rescaled for the groups that teach nothing.",
        advantage=Choice("gpg"),
        ratio=NONE,
        surrogate=POLICY_GRADIENT,
        reduction=Choice("group-token-mean"),
        source="Chu et al. (GPG), arXiv:2504.02546v4, eq. 5-8, with F_norm = 1",
        left_out="the least share of samples in groups with a signal, below which more is sampled (0.6 in the best run "
        "of the authors' README)",
    ),
    PolicyRecipe(
        name="ppo",
        about="A critic, a KL per token in the reward, several clipped steps: RLHF as first published.",
        reward_kl=Choice("per-token", estimator="k1", beta=0.02),
        advantage=Choice("critic", gamma=1.0, lam=0.95),
        normalise=Choice("whiten", correction=0, eps=1e-8),
        ratio=Choice("token"),
        surrogate=CLIP,
        value=Choice("squared-error", coef=0.1, epsilon=0.2),
        reduction=Choice("token-mean"),
        source="Schulman et al., arXiv:1707.06347v2, eq. 7, 9; Ouyang et al. (InstructGPT), arXiv:2203.02155v1, eq. 2",
        left_out="PPO's entropy bonus (eq. 9); InstructGPT's pretraining gradients (PPO-ptx). lm-human-preferences, "
        "which five of these numbers are from, also divides the token rewards by their deviation over the batch before "
        "GAE (mean kept), which no paper says: its value clip of 0.2 is in such deviations, this one in reward units",
        stated={
            "reward_kl.estimator": "paper, InstructGPT, eq. 2",
            "reward_kl.beta": "paper, InstructGPT, appendix C.4",
            "advantage.gamma": "paper, InstructGPT, appendix C.4: "
            '"No discount is applied when estimating the generalized advantage"',
            "advantage.lam": f"{LM_PREFERENCES}, train_policy.py; the paper does not say",
            "normalise.correction": f"{LM_PREFERENCES}, utils/core.py: tf.nn.moments; the paper does not say",
            "normalise.eps": f"{LM_PREFERENCES}, utils/core.py; the paper does not say",
            "surrogate.epsilon": 'paper, InstructGPT, appendix C.4: "The PPO clip ratio is set to 0.2"',
            "value.coef": f"{LM_PREFERENCES}, train_policy.py; the paper does not say",
            "value.epsilon": f"{LM_PREFERENCES}, train_policy.py; the paper does not say",
        },
    ),
    PolicyRecipe(
        name="ppo-dual-clip",
        parent="ppo",
        about="PPO whose loss is bounded for bad tokens with a huge ratio.",
        advantage=Choice("critic", gamma=0.997, lam=0.95),
        ratio=Choice("token"),
        surrogate=Choice("clip", epsilon=0.2, dual_clip=3.0),
        value=Choice("squared-error", coef=1.0, epsilon=None),
        reduction=Choice("token-mean"),
        source="Ye et al., arXiv:1912.09729v3, eq. 5",
        left_out="what belongs to the game: several action heads, and an entropy bonus in the group's later code",
        stated={
            "advantage.gamma": f"{HOK}: a half-life of 46 seconds there; 0.995 in its code (tencent-ailab/hok_env "
            "c6e0029); for language models verl 0.9.1 and OpenRLHF 0.11.2 have 1",
            "advantage.lam": HOK,
            "surrogate.epsilon": HOK,
            "surrogate.dual_clip": HOK,
            "value.coef": f"{HOK_CODE}: half the squared error, without a factor",
            "value.epsilon": f"{HOK_CODE}: no clip",
        },
    ),
    PolicyRecipe(
        name="reinforce++",
        parent="ppo",
        about="No critic and no group: one sample a prompt, a KL per token in the reward, whitened over the batch.",
        reward_kl=Choice("per-token", estimator="k1", beta=0.01),
        advantage=Choice("reward"),
        normalise=Choice("whiten", correction=0, eps=1e-8),
        ratio=Choice("token"),
        surrogate=CLIP,
        reduction=PER_ROW,
        source="Hu et al. (REINFORCE++), arXiv:2501.03262v9, eq. 1, 4 and 5",
        left_out="rewards clipped and scaled (appendix B.2, without numbers); an advantage for the last token alone, "
        "which appendix B.2 has against eq. 4; eps stands in the root here, beside the deviation in eq. 5. The "
        "authors' code takes the mean over tokens, where eq. 1 has that of each completion",
        stated={
            "reward_kl.estimator": "paper, eq. 4",
            "reward_kl.beta": "authors' code, OpenRLHF 4e85648 (at v1), train_reinforce_llama_ray.sh; 1e-4 at v9",
            **WHITEN_PLUS,
            "surrogate.epsilon": f"{OPENRLHF}, the default of train_ppo_ray; the paper does not say",
            **ROWS,
        },
    ),
    PolicyRecipe(
        name="reinforce++-baseline",
        parent="reinforce++",
        about="The group's mean as the baseline, then whitened over the batch; the KL (k2) in the loss.",
        advantage=Choice("group-mean"),
        normalise=Choice("whiten", correction=0, eps=1e-8),
        ratio=Choice("token"),
        surrogate=CLIP,
        loss_kl=Choice("k2", beta=0.001),
        reduction=PER_ROW,
        source="Hu et al. (REINFORCE++ w/ Baseline), arXiv:2501.03262v9, eq. 6-8",
        left_out="rewards clipped and scaled (appendix B.2, without numbers); eps stands in the root here, beside the "
        "deviation in eq. 7. The authors' code takes the mean over tokens, where eq. 1 has that of each completion",
        stated={
            **WHITEN_PLUS,
            "surrogate.epsilon": f"{OPENRLHF}, the default of train_ppo_ray; the paper does not say",
            "loss_kl.beta": f"{OPENRLHF}, train_reinforce_baseline_llama_ray_hybrid_engine.sh; 0.01 in _async.sh",
            **ROWS,
        },
    ),
    PolicyRecipe(
        name="vc-ppo",
        parent="ppo",
        about="PPO whose critic learns the whole return, for long completions; the policy keeps its lambda.",
        advantage=Choice("critic", gamma=1.0, lam=0.95, value_lam=1.0),
        ratio=Choice("token"),
        surrogate=CLIP,
        value=Choice("squared-error", coef=1.0, epsilon=None),
        reduction=Choice("token-mean"),
        source="Yuan et al. (VC-PPO), arXiv:2503.01491, by accounts",
        left_out="the critic's training on samples of the start policy before the first update. By the accounts all "
        "else is PPO's; whether that has a KL or whitens was not found, and here it does neither",
        stated={
            "advantage.gamma": f"account, {VC_PPO}: no discount in its equations",
            "advantage.lam": f"account, {VC_PPO}: setup",
            "advantage.value_lam": f"account, {VC_PPO}: setup",
            "surrogate.epsilon": "not found; 0.2 is PPO's",
            "value.coef": "not found; 1, as where the critic has an optimiser of its own",
            "value.epsilon": "not found; none lets the critic go",
        },
    ),
    PolicyRecipe(
        name="vapo",
        parent="vc-ppo",
        about="VC-PPO with lambda by the completion's length, a higher upper clip, and right answers learned as such.",
        advantage=Choice("critic", gamma=1.0, lam=None, value_lam=1.0, alpha=0.05),
        ratio=Choice("token"),
        surrogate=Choice("clip", epsilon=0.2, epsilon_high=0.28),
        value=Choice("squared-error", coef=1.0, epsilon=None),
        reduction=Choice("token-mean"),
        likelihood=Choice("right-answers", coef=0.1),
        source="Yue et al. (VAPO), arXiv:2504.05118v3, eq. 4-10, by accounts",
        left_out="the critic's training before the first update (50 steps); more samples of fewer prompts; what counts "
        "as a right answer is the caller's to say, and lambda is 0 where the formula is below (both not found)",
        stated={
            "advantage.gamma": "not found; the accounts' equations have no discount",
            "advantage.lam": "account, as alpha: it is made from the length",
            "advantage.value_lam": "account, section 4.1",
            "advantage.alpha": "account, section 5.1: 0.05",
            "surrogate.epsilon": "account, section 5.1",
            "surrogate.epsilon_high": "account, section 5.1",
            "value.coef": "not found; 1, as where the critic has an optimiser of its own",
            "value.epsilon": "not found; none lets the critic go",
            "likelihood.coef": "account, section 5.1: mu",
        },
    ),
    PolicyRecipe(
        name="grpo",
        about="Each completion against the others of its prompt, on one scale; PPO's clip; the KL (k3) in the loss.",
        advantage=GROUP_STD,
        ratio=Choice("token"),
        surrogate=CLIP,
        loss_kl=Choice("k3", beta=0.04),
        reduction=PER_ROW,
        source="Shao et al. (DeepSeekMath), arXiv:2402.03300v3, eq. 3 and 4, section 4.1.2",
        left_out="a reward for each step of an answer (process supervision, section 4.1.3); the reference that follows "
        "the policy from one iteration to the next (algorithm 1)",
        stated={
            **std_without_eps("section 4.1.2"),
            "surrogate.epsilon": "not stated; 0.2 is PPO's. With one update a batch, as in section 4.2, it never acts",
            "loss_kl.beta": 'paper, section 4.2: "The KL coefficient is 0.04"',
            **ROWS,
        },
    ),
    PolicyRecipe(
        name="dr_grpo",
        about="GRPO without its two divisors: neither the group's deviation nor the completion's length.",
        advantage=Choice("group-mean"),
        ratio=Choice("token"),
        surrogate=CLIP,
        reduction=Choice("fixed-length", empty_rows="skipped"),
        source="Liu et al. (Dr. GRPO), arXiv:2503.20783v2, section 3.2 and listing 1",
        left_out="nothing",
        stated={
            "surrogate.epsilon": "authors' code, sail-sg/oat c1a074c, ppo.py; by an account of v2, table 6",
            **ROWS,
        },
    ),
    PolicyRecipe(
        name="dapo",
        about="GRPO with a higher upper clip, a mean over tokens, only groups with a signal, a price on long answers.",
        penalty=Choice("overlong", cache=4096),
        groups=Choice("mixed"),
        advantage=GROUP_STD,
        ratio=Choice("token"),
        surrogate=Choice("clip", epsilon=0.2, epsilon_high=0.28),
        reduction=Choice("group-token-mean"),
        source="Yu et al. (DAPO), arXiv:2503.14476v2, eq. 8-13",
        left_out="overlong filtering (section 3.4), without which, by the authors' page in verl (docs/algo/dapo.md at "
        "b178a3c), the paper's best run was done",
        stated={
            "penalty.cache": 'paper, section 4.1: "additional 4,096 tokens as the soft punish cache"',
            **std_without_eps("eq. 9"),
            "surrogate.epsilon": "paper, section 4.1",
            "surrogate.epsilon_high": "paper, section 4.1",
        },
    ),
    PolicyRecipe(
        name="lite-ppo",
        about="PPO without a critic: the group's mean, the batch's deviation, and every token weighs the same.",
        advantage=Choice("batch-std", correction=1, eps=0.0),
        ratio=Choice("token"),
        surrogate=CLIP,
        reduction=Choice("group-token-mean"),
        source="Liu et al. (Lite PPO), arXiv:2508.08221, sections 4.1.2 and 5, eq. 5-7",
        left_out="nothing of the loss",
        stated={
            "advantage.correction": f"not stated; {SAMPLE_STD}",
            "advantage.eps": "not stated; nothing is added, as in GRPO's equation",
            "surrogate.epsilon": "not stated; 0.2 is PPO's",
        },
    ),
    PolicyRecipe(
        name="pass-at-k",
        about="GRPO for sets of k samples, of which one right answer is enough: it keeps several ways to answer alive.",
        advantage=Choice("pass-at-k", k=4, eps=1e-6),
        ratio=Choice("token"),
        surrogate=CLIP,
        reduction=Choice("token-mean"),
        source="Chen et al. (Pass@k training), arXiv:2508.10751, by its code (RUCAIBox/Passk_Training c3ba575)",
        left_out="the two ways that sample the sets in place of counting them (full sampling, bootstrap); the loss "
        "around the advantage was not found, and here is PPO's clip and a mean over tokens, as in verl",
        stated={
            "advantage.k": "not found; 4, a quarter of 16 samples. The abstract of the README calls it robust to k",
            "advantage.eps": "authors' code, RUCAIBox/Passk_Training c3ba575, code/passk_adv.py",
            "surrogate.epsilon": "not found; 0.2 is PPO's",
        },
    ),
    PolicyRecipe(
        name="grpo-passk",
        parent="rloo",
        about="Leave-one-out for the best of a group: only that completion is raised, by its margin over the second.",
        advantage=Choice("best-margin"),
        ratio=NONE,
        surrogate=POLICY_GRADIENT,
        reduction=PER_SUM,
        source="Tang et al., arXiv:2503.19595, by accounts; the name is verl's",
        left_out="other functions of the set, such as a majority vote; the biased variant that takes the mean off the "
        "advantages; a KL, if its runs have one (not found)",
        stated={**ROWS_NOT_FOUND},
    ),
    PolicyRecipe(
        name="gdpo",
        about="GRPO of several rewards: each on its own scale within the group, then their sum on one in the batch.",
        advantage=Choice("each-by-std", correction=1, eps=0.0),
        normalise=Choice("whiten-completions", correction=1, eps=1e-8),
        ratio=Choice("token"),
        surrogate=CLIP,
        reduction=PER_ROW,
        source="Liu et al. (GDPO), arXiv:2601.05242v1, eq. 4-7",
        left_out="eq. 8, by which a reward counts only where another is high enough: that is a reward",
        stated={
            "advantage.correction": "paper, its example: (0, 1) becomes (-0.7071, 0.7071)",
            "advantage.eps": "paper, eq. 4: nothing is added",
            "normalise.correction": f"not stated; {SAMPLE_STD}, as in the groups",
            "normalise.eps": "not stated; eq. 6 has an epsilon without a value",
            "surrogate.epsilon": "authors' code, NVlabs/GDPO b080e63, verl-GDPO/train_gdpo.sh: verl's default",
            **ROWS,
        },
    ),
    PolicyRecipe(
        name="gspo",
        about="One ratio a completion, the geometric mean of its tokens', clipped in a very narrow band.",
        advantage=GROUP_STD,
        ratio=Choice("sequence"),
        surrogate=Choice("clip", epsilon=3e-4, epsilon_high=4e-4),
        reduction=PER_ROW,
        source="Zheng et al. (GSPO), arXiv:2507.18071v2, eq. 5-7",
        left_out='a KL term, which the paper omits from its equations "for brevity", without a coefficient',
        stated={
            **std_without_eps("eq. 6"),
            "surrogate.epsilon": "paper, section 5.1: "
            '"the left and right clipping ranges in Equation (5) to 3e-4 and 4e-4"',
            "surrogate.epsilon_high": "paper, section 5.1, as above",
            **ROWS,
        },
    ),
    PolicyRecipe(
        name="gspo-token",
        parent="gspo",
        about="GSPO's ratio and clip, with room for an advantage of each token's own.",
        advantage=GROUP_STD,
        ratio=Choice("sequence-token"),
        surrogate=Choice("clip", epsilon=3e-4, epsilon_high=4e-4),
        reduction=PER_ROW,
        source="Zheng et al. (GSPO), arXiv:2507.18071v2, eq. 13 and 14",
        left_out='a KL term, which the paper omits from its equations "for brevity", without a coefficient',
        stated={
            **std_without_eps("eq. 6"),
            "surrogate.epsilon": "paper, section 5.1, of GSPO",
            "surrogate.epsilon_high": "paper, section 5.1, of GSPO",
            **ROWS,
        },
    ),
    PolicyRecipe(
        name="luspo",
        parent="gspo",
        about="GSPO with each completion weighted by its length: no bias against long ones.",
        advantage=GROUP_STD,
        ratio=Choice("sequence"),
        surrogate=Choice("clip", epsilon=2e-3, epsilon_high=2.5e-3),
        reduction=PER_SUM,
        source="Liu et al. (LUSPO), arXiv:2602.05261v1, eq. 7",
        left_out="two parts of the reward (eq. 10): one for the format, and a price on long answers of DAPO's "
        "form, times 0.3 (eq. 11)",
        stated={
            **std_without_eps("eq. 5 and 6"),
            "surrogate.epsilon": 'paper, section 5.1: "eps_low to 2 x 10^-3 and eps_high to 2.5 x 10^-3"',
            "surrogate.epsilon_high": "paper, section 5.1, as above",
            **ROWS,
        },
    ),
    PolicyRecipe(
        name="gmpo",
        about="The geometric mean of a completion's clipped ratios: outliers hardly count.",
        advantage=GROUP_STD,
        ratio=Choice("own"),
        surrogate=Choice("gmpo", epsilon=0.4),
        reduction=PER_ROW,
        source="Zhao et al. (GMPO), arXiv:2507.20673v3, eq. 4 and algorithm 1",
        left_out="nothing",
        stated={
            **std_without_eps("below eq. 1"),
            "surrogate.epsilon": "paper, algorithm 1 and section 3; so the authors' code, callsys/GMPO 205b2bf",
            **ROWS,
        },
    ),
    PolicyRecipe(
        name="cispo",
        parent="dapo",
        about="The ratio, bounded from above, is a weight; every token keeps its gradient. The rest is DAPO's.",
        penalty=Choice("overlong", cache=4096),
        groups=Choice("mixed"),
        advantage=GROUP_STD,
        ratio=Choice("token"),
        surrogate=Choice("cispo", epsilon=None, cap=5.0),
        reduction=Choice("group-token-mean"),
        source="MiniMax (MiniMax-M1), arXiv:2506.13585, eq. 4 and 5, section 3.1",
        left_out="nothing",
        stated={
            "penalty.cache": "not stated; DAPO's: section 3.1 takes "
            '"the dynamic sampling and length penalty techniques from Yu et al. (2025)"',
            **std_without_eps("eq. 2"),
            "surrogate.epsilon": 'paper, section 3.1: "we did not impose a lower bound on the IS weight"',
            "surrogate.cap": f"not stated; 5 as TRL's index of papers has it for ScaleRL ({INDEX[11:]})",
        },
    ),
    PolicyRecipe(
        name="scalerl",
        parent="cispo",
        about="CISPO with the ratio to the sampler, and one deviation for the batch: of what each group's mean leaves.",
        groups=Choice("mixed"),
        advantage=Choice("batch-std-centred", correction=1, eps=0.0),
        anchor=SAMPLER,
        ratio=Choice("token"),
        surrogate=Choice("cispo", epsilon=None, cap=5.0),
        reduction=Choice("group-token-mean"),
        source="Khatri et al. (ScaleRL), arXiv:2510.13786, section 4 (unnumbered), eq. 4",
        left_out="what lies outside the loss: prompts solved more often than 9 times in 10 leave later epochs, long "
        "thoughts are ended by a sentence, the head of both programs computes in float32. Rewards are 1 and -1 there "
        '(appendix A.3), while the condition "0 < mean < 1" on groups supposes 0 and 1: here a group whose rewards '
        "differ is kept. Whether groups that are left out count in the batch's deviation is not stated: here they do",
        stated={
            "advantage.correction": f"not stated; {SAMPLE_STD}",
            "advantage.eps": "not stated; nothing is added, as in GRPO's equation",
            "surrogate.epsilon": "paper, section 4: min(rho, eps), without a lower bound",
            "surrogate.cap": f"not stated; 4, 5 and 8 make no difference (A.17.2), 5 as in TRL's index ({INDEX[11:]})",
        },
    ),
    PolicyRecipe(
        name="sapo",
        about="A soft gate around ratio 1 in place of the clip, a little tighter for bad tokens.",
        advantage=GROUP_STD,
        ratio=Choice("token"),
        surrogate=Choice("sapo", tau_positive=1.0, tau_negative=1.05),
        reduction=PER_ROW,
        source="Gao et al. (SAPO), arXiv:2511.20347v2, eq. 5 and 6, by TRL 1.16.0",
        left_out="nothing that an account of it has",
        stated={
            "advantage.correction": f"not found; {SAMPLE_STD}",
            "advantage.eps": "not found; GRPO's equation has none",
            "surrogate.tau_positive": SAPO_TAU,
            "surrogate.tau_negative": SAPO_TAU,
            **ROWS_NOT_FOUND,
        },
    ),
    PolicyRecipe(
        name="vespo",
        parent="dr_grpo",
        about="A smooth weight of the whole completion's ratio, for samples that are several updates old.",
        advantage=Choice("group-mean"),
        anchor=SAMPLER,
        ratio=Choice("own"),
        surrogate=Choice("vespo", k_positive=2.0, lambda_positive=3.0, k_negative=3.0, lambda_negative=2.0),
        reduction=PER_SUM,
        source="Shen et al. (VESPO), arXiv:2602.10693v3, eq. 20",
        left_out="nothing of eq. 20, whose baseline is the group's mean and whose gradient is that of the whole "
        "completion; the authors' scripts (FloyedShen/VESPO aa1f304) divide by the group's deviation and take the mean "
        "over tokens",
        stated={
            **{
                f"surrogate.{k}": 'paper, section 4.1: "(c1,c2) = (2.0,3.0) for A>0 and (3.0,2.0) for A<0"'
                for k in ("k_positive", "lambda_positive", "k_negative", "lambda_negative")
            },
            **ROWS,
        },
    ),
    PolicyRecipe(
        name="dppo",
        parent="vespo",
        about="A trust region around each token's probability, in place of one around its ratio.",
        advantage=Choice("group-mean"),
        anchor=SAMPLER,
        ratio=Choice("token"),
        surrogate=Choice("dppo", divergence="tv", epsilon=0.2, cap=5.0),
        reduction=PER_SUM,
        source="Qi et al. (DPPO, binary total variation), arXiv:2602.04879v3, eq. 12, 13 and 23",
        left_out=f"{DPPO_LEFT_OUT} and a threshold of 0.15",
        stated={
            "surrogate.divergence": "paper, eq. 13 of two",
            "surrogate.epsilon": "paper, appendix E (delta; 0.15 with LoRA, and in the runs of appendix C.1)",
            "surrogate.cap": DPPO_CAP,
            **ROWS,
        },
    ),
    PolicyRecipe(
        name="dppo-kl",
        parent="dppo",
        about="DPPO with the KL between this token and all others as the distance.",
        advantage=Choice("group-mean"),
        anchor=SAMPLER,
        ratio=Choice("token"),
        surrogate=Choice("dppo", divergence="kl", epsilon=0.05, cap=5.0),
        reduction=PER_SUM,
        source="Qi et al. (DPPO, binary KL), arXiv:2602.04879v3, eq. 12, 14 and 23",
        left_out=DPPO_LEFT_OUT,
        stated={
            "surrogate.divergence": "paper, eq. 14 of two",
            "surrogate.epsilon": "paper, appendices C.1 and E (delta)",
            "surrogate.cap": DPPO_CAP,
            **ROWS,
        },
    ),
    PolicyRecipe(
        name="dro",
        parent="reinforce",
        about="A completion's log-ratio to the reference is fitted to its advantage over tau; a learned value is the "
        "baseline.",
        advantage=Choice("prompt-value"),
        anchor=REFERENCE,
        ratio=Choice("product"),
        surrogate=Choice("quadratic", tau=1.0),
        reduction=PER_ROW,
        source="Richemond et al. (DRO-V), arXiv:2405.19107v1",
        left_out="how V is learned: a second network with half the squared error of r - tau log(pi / pi_ref) - V, in "
        "the same loss; the data are given, one completion a prompt",
        stated={"surrogate.tau": "account, of v1: the best of 0.1, 1 and 5", **ROWS_NOT_FOUND},
    ),
    PolicyRecipe(
        name="kimi-k1.5",
        parent="dro",
        about="The log-ratio of a completion to the policy that sampled is fitted to its advantage over tau.",
        advantage=Choice("group-mean"),
        ratio=Choice("product"),
        surrogate=Choice("quadratic", tau=0.1),
        reduction=PER_ROW,
        source="Kimi k1.5, arXiv:2501.12599, section 2.3.2, eq. 3; Kimi K2, arXiv:2507.20534v2, section 3.2.3, has its "
        "squared error: 2 tau times the gradient",
        left_out="the other baseline of k1.5, tau log Z (soft_values of the group); its price on length (section "
        "2.3.3), which is a reward; an optimiser that starts anew with each iteration. Of K2: a budget of tokens, a "
        "likelihood term on chosen data (PTX), a temperature that falls",
        stated={
            "surrogate.tau": "not stated; neither by K2; ROLL 8eb27cc2's for kimi15, of a token's log-ratio",
            **ROWS,
        },
    ),
    PolicyRecipe(
        name="rebel",
        parent="kimi-k1.5",
        about="Differences of log-ratios within a group are fitted to those of rewards; a group of two is a pair.",
        advantage=Choice("group-mean"),
        ratio=Choice("product-centred"),
        surrogate=Choice("quadratic", tau=1.0),
        reduction=PER_ROW,
        source="Gao et al. (REBEL), arXiv:2404.16767, by its authors' code (ZhaolinGao/REBEL 4ad7c11, rebel.py)",
        left_out="a factor: with groups of two the authors' squared error is 8 eta of this loss and a constant, eta = "
        "1 / tau; a price of 0.05 a nat to the start model, which their TL;DR script has in the reward; four passes "
        "over each batch",
        stated={"surrogate.tau": "authors' code, src/tldr/rebel.py: eta 1.0, and tau is 1 / eta", **ROWS_NOT_FOUND},
    ),
    PolicyRecipe(
        name="a*-po",
        parent="dro",
        about="As dro, with the prompt's soft value from samples of the reference, once, in place of a learned one.",
        advantage=Choice("prompt-value"),
        anchor=REFERENCE,
        ratio=Choice("product"),
        surrogate=Choice("quadratic", tau=1e-3),
        reduction=PER_ROW,
        source="Brantley et al. (A*-PO), arXiv:2505.20686, by its authors' code (ZhaolinGao/A-PO c8823a3)",
        left_out="a factor: the authors' squared error is 2 tau of this loss and a constant; prompts whose samples are "
        "all wrong are dropped beforehand. The values are soft_values(rewards, beta=0.5) of 8 samples of the reference",
        stated={"surrogate.tau": "authors' code, README: beta_2; so TRL 1.16.0, a2po_config.py", **ROWS_NOT_FOUND},
    ),
    PolicyRecipe(
        name="topr",
        parent="reinforce",
        about="Good completions are learned whoever drew them, bad ones as far as the policy would still draw them.",
        advantage=Choice("reward"),
        anchor=SAMPLER,
        ratio=Choice("own"),
        surrogate=Choice("topr", low_positive=1.0, high_positive=1.0, low_negative=0.0, high_negative=1.0),
        reduction=PER_SUM,
        source="Le Roux et al. (TOPR), arXiv:2503.14286v2, eq. 7 and 8, by two accounts",
        left_out="the balance of good and bad samples in the data, which a baseline moves, and its use offline; its "
        "rewards are 1 and -1",
        stated={
            **dict.fromkeys(
                (
                    "surrogate.low_positive",
                    "surrogate.high_positive",
                    "surrogate.low_negative",
                    "surrogate.high_negative",
                ),
                "account, eq. 8, the canonical form",
            ),
            **ROWS_NOT_FOUND,
        },
    ),
    PolicyRecipe(
        name="real",
        about="A group's completions are classified: rewards of 1 and 0 are labels, mean log-ratios the scores.",
        advantage=Choice("reward"),
        ratio=Choice("own"),
        surrogate=Choice("real", tau=0.5),
        reduction=Choice("group-token-mean"),
        source="Zhai et al. (REAL), arXiv:2602.05630v1, by its authors' code (Red-RL/REAL 1c30726, core_algos.py)",
        left_out="completions whose reward is neither 1 nor 0, which the authors leave out and which count here as "
        "right above 0, and else as wrong; ms-swift 3602360 labels by the sign of the advantage",
        stated={"surrogate.tau": "authors' code, scripts/train/1.5b_real.sh; 1 by default"},
    ),
    PolicyRecipe(
        name="chord",
        about="GRPO, and beside it an expert's answers, each token weighed by how undecided the policy is about it.",
        advantage=GROUP_STD,
        ratio=Choice("token"),
        surrogate=CLIP,
        reduction=PER_ROW,
        likelihood=Choice("expert", coef=1 / 9, phi=True),
        source="Zhang et al. (CHORD-phi), arXiv:2508.11408v2, by accounts and ms-swift 3602360 (utils.py)",
        left_out="a factor: (1 - mu) times this loss, with coef = mu / (1 - mu), is the paper's; CHORD-mu, which has "
        "phi false and a mu that falls from 0.9 to 0.05, the caller's to set step by step",
        stated={
            "advantage.correction": f"not found; {SAMPLE_STD}",
            "advantage.eps": "not found; GRPO's equation has none",
            "surrogate.epsilon": "not found; 0.2 is PPO's",
            "likelihood.coef": "account, mu is 0.1, and coef is mu / (1 - mu)",
            "likelihood.phi": "account, p (1 - p); ms-swift 3602360 holds it constant",
            **ROWS_NOT_FOUND,
        },
    ),
    PolicyRecipe(
        name="intellect-2",
        about="GRPO with the ratio bounded for bad tokens too (two-sided clip), for samples of an older policy.",
        groups=Choice("mixed"),
        advantage=Choice("group-std", correction=1, eps=1e-6),
        ratio=Choice("token"),
        surrogate=Choice("clip", epsilon=0.2, dual_clip=4.0),
        loss_kl=Choice("k3", beta=0.001),
        reduction=Choice("token-mean"),
        source="Prime Intellect (INTELLECT-2), arXiv:2505.07291, by its authors' code (prime-rl f906d22, May 2025)",
        left_out="a price on missing the length that was asked for; an entropy bonus (0.001 by default in the authors' "
        "code). That code divides by the tokens that a packed batch has room for, and not by those that it has",
        stated={
            "advantage.correction": "authors' code, prime-rl f906d22, src/zeroband/inference/rewards.py: std(ddof=1)",
            "advantage.eps": "authors' code, prime-rl f906d22, src/zeroband/inference/rewards.py",
            "surrogate.epsilon": f"{INDEX}: section 4.1; so the authors' code",
            "surrogate.dual_clip": f"{INDEX}: section 4.1 (delta); so the authors' code",
            "loss_kl.beta": f"{INDEX}: section 4.1; in the authors' code none by default, and else without a gradient",
        },
    ),
    PolicyRecipe(
        name="deepseek-v3.2",
        about="GRPO without the deviation; the KL weighted by the ratio; bad completions left far behind are dropped.",
        advantage=Choice("group-mean"),
        ratio=Choice("token"),
        surrogate=CLIP,
        sampler=Choice("off-policy-mask", limit=0.5),
        loss_kl=Choice("k3-by-ratio", beta=0.001),
        reduction=PER_ROW,
        source="DeepSeek-AI (DeepSeek-V3.2), arXiv:2512.02556v1, eq. 5-9",
        left_out="a strength of the KL for each domain; what lies outside the loss (section 3.1): the experts' routing "
        "and the sampling mask (top-p, top-k) are kept from sampling to training",
        stated={
            "surrogate.epsilon": "not stated; 0.2 is PPO's",
            "sampler.limit": f"not stated; the starting point of TRL's index of papers ({INDEX[11:]})",
            "loss_kl.beta": f"not stated; TRL's index of papers ({INDEX[11:]}) takes DeepSeek-R1's",
            **ROWS,
        },
    ),
    PolicyRecipe(
        name="tis",
        about="GRPO on samples of an inference engine: each token's weight truncated at 2.",
        advantage=Choice("group-std", correction=1, eps=1e-6),
        ratio=Choice("token"),
        surrogate=CLIP,
        sampler=Choice("weights", level="token", gate=None, low=None, high=2.0),
        reduction=Choice("token-mean"),
        source='Yao et al. (TIS), "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training" (2025), by '
        "its authors' code (yaof20/verl 1e41334)",
        left_out="the rest of the script's recipe, which is DAPO's: upper clip 0.28, mixed groups, a price on long "
        "answers; and verl's dual clip, at 10",
        stated={
            "advantage.correction": f"{TIS}, verl/trainer/ppo/core_algos.py: torch.std",
            "advantage.eps": f"{TIS}, verl/trainer/ppo/core_algos.py",
            "surrogate.epsilon": f"{TIS}, recipe/dapo/run_dapo_qwen2.5_32b_tis.sh, the lower one",
            "sampler.level": f"{TIS}, verl/trainer/ppo/core_algos.py",
            "sampler.gate": f"{TIS}, verl/trainer/ppo/core_algos.py: clamped, nothing is dropped",
            "sampler.low": f"{TIS}, verl/trainer/ppo/core_algos.py: no lower bound",
            "sampler.high": f"{TIS}, recipe/dapo/run_dapo_qwen2.5_32b_tis.sh",
        },
    ),
    PolicyRecipe(
        name="icepop",
        about="GRPO on samples of an inference engine: tokens far from the trainer's probability are dropped.",
        advantage=GROUP_STD,
        ratio=Choice("token"),
        surrogate=CLIP,
        sampler=Choice("weights", level="token", gate="token", low=0.5, high=5.0),
        reduction=PER_ROW,
        source="Ring-1T (IcePop), arXiv:2510.18855, eq. 1 and 2",
        left_out="the KL of eq. 1, whose coefficient was 0.0 in the runs (section 2.3.4); the token budget of C3PO++ "
        "(section 2.3.3)",
        stated={
            "advantage.correction": f"not stated; {SAMPLE_STD}",
            "advantage.eps": "not stated; GRPO's equation has none",
            "surrogate.epsilon": "not stated; 0.2 is PPO's",
            "sampler.level": "paper, eq. 1: a factor of each token",
            "sampler.gate": "paper, eq. 2: 0 outside the bounds, of each token",
            "sampler.low": 'paper, section 2.3.4: "alpha = 0.5, beta = 5"',
            "sampler.high": "paper, section 2.3.4, as above",
            **ROWS,
        },
    ),
    PolicyRecipe(
        name="decoupled-ppo",
        parent="tis",
        about="PPO's clip around the policy that the update began with, on samples of an older one: weighed in full.",
        advantage=Choice("reward"),
        normalise=Choice("whiten", correction=1, eps=1e-5),
        ratio=Choice("token"),
        surrogate=CLIP,
        sampler=Choice("weights", level="token", gate=None, low=None, high=None),
        reduction=Choice("token-mean"),
        source="Hilton et al., arXiv:2110.00641, the decoupled objective; as Fu et al. (AReaL), arXiv:2505.24298v5, "
        "eq. 5, have it for language models",
        left_out="Hilton's clip around a running mean of the weights, critic and entropy bonus (openai/ppo-ewma "
        "625dac7, which also bounds the present policy's ratio to the sampler at 100); AReaL's bound on the samples' "
        "age, and rewards cut at 5. AReaL at 4aef98d8d has eps beside the deviation, takes this loss only if asked "
        "(use_decoupled_loss), and then weighs nothing unless rejection_sampling is set: in its examples, tokens above "
        "5 are dropped",
        stated={
            "normalise.correction": f"{AREAL}, api/cli_args.py: std_unbiased; of the paper not found",
            "normalise.eps": f"{AREAL}, api/cli_args.py; of the paper not found",
            "surrogate.epsilon": "account, AReaL v5, table 3; so openai/ppo-ewma 625dac7, ppo.py (clip_param)",
            "sampler.level": "account, AReaL v5, eq. 5: a factor of each token",
            "sampler.gate": "account, AReaL v5, eq. 5: nothing is dropped",
            "sampler.low": "account, AReaL v5, eq. 5: no bound",
            "sampler.high": "account, AReaL v5, eq. 5: no bound",
        },
    ),
    PolicyRecipe(
        name="seq-mis",
        parent="tis",
        about="GRPO on samples of an inference engine: completions that weigh more than 2 are dropped whole (Seq-MIS).",
        advantage=Choice("group-std", correction=1, eps=1e-6),
        ratio=Choice("token"),
        surrogate=CLIP,
        sampler=Choice("weights", level="sequence", gate="sequence", low=None, high=2.0),
        reduction=Choice("token-mean"),
        source='Li et al., "When Speed Kills Stability" (2025), by its author\'s page in verl 1dda039b9 '
        "(docs/algo/rollout_corr_math.md, section 3.3.2)",
        left_out="weights divided by their batch mean (section 3.4 of the page), and its form without a clip. In verl "
        "0.9.1 what is dropped leaves the mask, so the count of tokens too; here it stays in the count",
        stated={
            **VERL_STD,
            "surrogate.epsilon": f'{ROLLOUTS}, section 3.2.1: "typically 0.2"',
            "sampler.level": f"{ROLLOUTS}, section 3.3.2: the product, at every token",
            "sampler.gate": f'{ROLLOUTS}, section 3.3.2: "Rejects (masks) sequences"',
            "sampler.low": f"{ROLLOUTS}, section 3.3.2: no lower bound; 0.5 in verl's settings for it",
            "sampler.high": f"{ROLLOUTS}, section 3.3.2: least of the typical 2.0 to 10.0; so verl's settings for it",
        },
    ),
    PolicyRecipe(
        name="geo-rs",
        parent="seq-mis",
        about="A filter alone: completions whose mean token ratio to the engine is 0.1 % off 1 are dropped (Geo-RS).",
        advantage=Choice("group-std", correction=1, eps=1e-6),
        ratio=Choice("token"),
        surrogate=CLIP,
        sampler=Choice("weights", level="one", gate="sequence-mean", low=0.999, high=1.001),
        reduction=Choice("token-mean"),
        source='Li et al., "When Speed Kills Stability" (2025), by its author\'s page in verl 1dda039b9 '
        "(docs/algo/rollout_corr_math.md, section 3.3.3)",
        left_out="verl 0.9.1 takes what is dropped out of the count of tokens; here it stays",
        stated={
            **VERL_STD,
            "surrogate.epsilon": f'{ROLLOUTS}, section 3.2.1: "typically 0.2"',
            "sampler.level": f'{ROLLOUTS}, section 3.3.3: "Used for rejection sampling only, not IS weighting"',
            "sampler.gate": f"{ROLLOUTS}, section 3.3.3: the geometric mean",
            "sampler.low": f'{ROLLOUTS}, section 3.3.3: "Typical bounds: 0.999_1.001"',
            "sampler.high": f"{ROLLOUTS}, section 3.3.3, as above",
        },
    ),
    PolicyRecipe(
        name="geo-rs-token-tis",
        parent="geo-rs",
        about="Geo-RS, and each token of what is kept has its weight, truncated at 2.",
        advantage=Choice("group-std", correction=1, eps=1e-6),
        ratio=Choice("token"),
        surrogate=CLIP,
        sampler=Choice("weights", level="token", gate="sequence-mean", low=0.999, high=1.001, kept_max=2.0),
        reduction=Choice("token-mean"),
        source='Li et al., "When Speed Kills Stability" (2025), by its author\'s page in verl 1dda039b9 '
        "(docs/algo/rollout_corr_math.md, section 3.3.3), and by verl's code",
        left_out="verl 0.9.1 takes what is dropped out of the count of tokens; here it stays",
        stated={
            **VERL_STD,
            "surrogate.epsilon": f'{ROLLOUTS}, section 3.2.1: "typically 0.2"',
            "sampler.level": "authors' code, verl 0.9.1, rollout_corr_helper.py: each token its own; the page prints a "
            "product",
            "sampler.gate": f"{ROLLOUTS}, section 3.3.3: the geometric mean",
            "sampler.low": f'{ROLLOUTS}, section 3.3.3: "Typical bounds: 0.999_1.001"',
            "sampler.high": f"{ROLLOUTS}, section 3.3.3, as above",
            "sampler.kept_max": "authors' code, verl 0.9.1, config/algorithm.py: decoupled_geo_rs_token_tis",
        },
    ),
    PolicyRecipe(
        name="high-entropy",
        parent="dapo",
        about="DAPO on the fifth of the tokens at which the policy is least sure (80/20).",
        penalty=Choice("overlong", cache=4096),
        groups=Choice("mixed"),
        advantage=GROUP_STD,
        ratio=Choice("token"),
        surrogate=Choice("clip", epsilon=0.2, epsilon_high=0.28),
        tokens=Choice("high-entropy", share=0.2, counted="chosen"),
        reduction=Choice("token-mean"),
        source="Wang et al. (80/20), arXiv:2506.01939, by two accounts and its authors' code "
        "(Shenzhi-Wang/Beyond-the-80-20-Rule-RLVR 6f5dda6f)",
        left_out="the mean over each prompt's own chosen tokens, as the accounts print the objective: the authors' "
        "code takes it over all that are chosen, as here. That code judges one micro-batch at a time, and keeps as "
        "many as the ceiling of share times its tokens; its script has a dual clip at 10",
        stated={
            "penalty.cache": TOP20,
            "advantage.correction": f"{EIGHTY_TWENTY}, verl/trainer/ppo/core_algos.py: torch.std",
            "advantage.eps": "not found; DAPO's equation has none, the authors' code verl's 1e-6",
            "surrogate.epsilon": "account, of the experiments' settings, which are DAPO's; so the authors' script",
            "surrogate.epsilon_high": "account, of the experiments' settings, which are DAPO's; so the authors' script",
            "tokens.share": f"{TOP20}: entropy_top_ratio; so the accounts",
            "tokens.counted": f"{EIGHTY_TWENTY}, verl/trainer/ppo/core_algos.py: the mask of the loss; so the "
            "accounts, of each prompt's group",
        },
    ),
    PolicyRecipe(
        name="clip-cov",
        parent="tis",
        about="The plain ratio, without a clip; a few of the tokens that make the policy surer get no gradient.",
        advantage=Choice("group-std", correction=1, eps=1e-6),
        ratio=Choice("token"),
        surrogate=Choice("importance"),
        tokens=Choice("clip-cov", share=2e-4, low=1.0, high=5.0),
        reduction=Choice("token-mean"),
        source="Cui et al. (the entropy mechanism), arXiv:2505.22617v1, eq. 10-12, by an account and its authors' code "
        "(PRIME-RL/Entropy-Mechanism-of-RL 8850579)",
        left_out="what the authors' code has: covariances of one micro-batch; one token dropped at least, and none "
        "that the clip has stopped; a good token's ratio bounded at 2 (clip 1 and 1; the script's clip_ratio_c of 10 "
        "is not read); groups without a signal are sampled anew",
        stated={
            "advantage.correction": f"{COV}, verl/trainer/ppo/core_algos.py: torch.std",
            "advantage.eps": f"{COV}, verl/trainer/ppo/core_algos.py",
            "tokens.share": f"{COV_ACCOUNT}; so the authors' code, recipe/dapo/32b_clip_cov.sh",
            "tokens.low": f"{COV_ACCOUNT}; so the authors' code, recipe/dapo/32b_clip_cov.sh",
            "tokens.high": f"{COV_ACCOUNT}; so the authors' code, recipe/dapo/32b_clip_cov.sh",
        },
    ),
    PolicyRecipe(
        name="kl-cov",
        parent="clip-cov",
        about="The plain ratio, without a clip; the tokens that make the policy surer the most pay for moving.",
        advantage=Choice("group-std", correction=1, eps=1e-6),
        ratio=Choice("token"),
        surrogate=Choice("importance"),
        tokens=Choice("kl-cov", share=2e-3, coef=1.0),
        reduction=Choice("token-mean"),
        source="Cui et al. (the entropy mechanism), arXiv:2505.22617v1, eq. 10, 13 and 14, by an account and its "
        "authors' code (PRIME-RL/Entropy-Mechanism-of-RL 8850579)",
        left_out="the KL(old || new) that eq. 14 prints as the penalty: all code takes the absolute log-ratio, as "
        "here; what the authors' code has: covariances of one micro-batch; one token that pays at least; groups "
        "without a signal are sampled anew",
        stated={
            "advantage.correction": f"{COV}, verl/trainer/ppo/core_algos.py: torch.std",
            "advantage.eps": f"{COV}, verl/trainer/ppo/core_algos.py",
            "tokens.share": f"{COV_ACCOUNT}, for 7B (2e-4 for 32B); so the authors' scripts, in per cent: 0.2 and 0.02",
            "tokens.coef": f"{COV_ACCOUNT}; so the authors' scripts (ppo_kl_coef)",
        },
    ),
    PolicyRecipe(
        name="m2po",
        about="No clip: the tokens that have moved furthest from the sampler are dropped until the rest is near.",
        advantage=GROUP_STD,
        anchor=SAMPLER,
        ratio=Choice("token"),
        surrogate=Choice("importance"),
        tokens=Choice("m2po", limit=0.04),
        reduction=PER_ROW,
        source="Zheng et al. (M2PO), arXiv:2510.01161, eq. 4 and 5, algorithm 1",
        left_out="nothing of algorithm 1. The authors' code (Infini-AI-Lab/M2PO af54a3e) finds a clip of the ratio "
        "that meets the same limit, over one micro-batch, and takes the mean over tokens, as AReaL's page on M2PO "
        "prints the loss; AReaL 4aef98d drops other tokens, by the trainer's ratio to the sampler, whatever their sign",
        stated={
            "advantage.correction": f"not found; {SAMPLE_STD}",
            "advantage.eps": "account, AReaL's page on M2PO (4aef98d): nothing is added to the deviation",
            "tokens.limit": "paper, the threshold of its experiments; so the authors' train-scripts (M2_budget)",
            **ROWS,
        },
    ),
    PolicyRecipe(
        name="fipo",
        parent="dapo",
        about="DAPO whose tokens weigh more if the policy has since moved towards what came after them.",
        penalty=Choice("overlong", cache=4096),
        groups=Choice("mixed"),
        advantage=GROUP_STD,
        ratio=Choice("token"),
        surrogate=Choice("clip", epsilon=0.2, epsilon_high=0.28),
        tokens=Choice("fipo", half_life=32.0, epsilon=0.0, epsilon_high=0.2, limit=10.0, reset=4.0),
        reduction=Choice("group-token-mean"),
        source="Ma et al. (FIPO), arXiv:2603.19835, eq. 3-8",
        left_out="nothing of eq. 3-8; appendix A was not read. ms-swift 3602360 holds the weight of a bad token beyond "
        "the bound in [0.8, 1], not at 1, counts tool output in the distance, and clips twice: the surrogate's ratio "
        "is held at the same c as well",
        stated={
            "penalty.cache": "not found; DAPO's",
            "advantage.correction": f"not found; {SAMPLE_STD}",
            "advantage.eps": "not found; DAPO's equation has none",
            "surrogate.epsilon": "paper, DAPO's 0.2 and 0.28",
            "surrogate.epsilon_high": "paper, DAPO's 0.2 and 0.28",
            "tokens.half_life": "paper, tau = 32",
            "tokens.epsilon": "paper, the weight lies in [1, 1.2] for 32B",
            "tokens.epsilon_high": "paper, the weight lies in [1, 1.2] for 32B",
            "tokens.limit": "paper, c of eq. 5 is at least 10",
            "tokens.reset": "not found; 4 is the default of ms-swift 3602360, grpo_trainer.py; its fipo.sh has 3",
        },
    ),
]
