"""Objectives that learn from preference pairs, as their papers have them."""

from __future__ import annotations

from torchstone.recipes.choices import Choice
from torchstone.recipes.pairs import PreferenceRecipe

TRL = "framework, TRL 1.10.0.dev0 (f2cd577), paper index"  # docs/source/paper_index.md
AOT_BETA = 'paper, figure 2: "all using beta = 0.01"'  # both of these by an author's slides, which show the images
SUM, MEAN = Choice("sum"), Choice("mean")

PAIRS = [
    PreferenceRecipe(
        name="dpo",
        about="Logistic regression on the difference of implicit rewards.",
        log_prob=SUM,
        objective=Choice("logistic", beta=0.1),
        source="Rafailov et al. (DPO), arXiv:2305.18290v3, eq. 7",
        left_out="nothing",
        stated={"objective.beta": 'paper, appendix B: "we use a beta = 0.1"; 0.5 for summaries'},
    ),
    PreferenceRecipe(
        name="cdpo",
        about="DPO under labels of which a share is wrong.",
        log_prob=SUM,
        objective=Choice("logistic", beta=0.1, label_smoothing=0.1),
        source='Mitchell (cDPO), "A note on DPO with noisy preferences & relationship to IPO" (2023), eq. 3',
        left_out="nothing",
        stated={
            "objective.beta": 'authors\' code, README.md at f8b8c0f: "0.1-0.5 is a good starting point"',
            "objective.label_smoothing": 'authors\' code, README.md at f8b8c0f: "Starting with something like 0.1"',
        },
    ),
    PreferenceRecipe(
        name="robust_dpo",
        about="DPO's loss under clean labels, estimated without bias from flipped ones.",
        log_prob=SUM,
        objective=Choice("robust", beta=0.1, flip_rate=0.1),
        source="Ray Chowdhury et al. (robust DPO), arXiv:2403.00409",
        left_out="not known: the paper was not to be had",
        stated={"objective.beta": f"{TRL}: section B", "objective.flip_rate": f"{TRL}: section 6"},
    ),
    PreferenceRecipe(
        name="ipo",
        about="The margin is pulled to a finite value. By the paper's letter on summed log-probs.",
        log_prob=SUM,
        objective=Choice("squared", beta=0.1),
        source="Azar et al. (IPO), arXiv:2310.12036v2, eq. 17",
        left_out="nothing",
        stated={
            "objective.beta": "not stated; the paper has no language model, and several tau; HALOs 4831988 has 0.1",
        },
    ),
    PreferenceRecipe(
        name="ipo-mean",
        parent="ipo",
        about="IPO on log-probs per token, as its authors used it by TRL's account.",
        log_prob=MEAN,
        objective=Choice("squared", beta=0.1),
        source="Azar et al. (IPO), arXiv:2310.12036v2, eq. 17; the mean: a comment in TRL 1.16.0, dpo_trainer.py:1393",
        left_out="nothing",
        stated={"objective.beta": "framework, HALOs 4831988, config/loss/ipo.yaml, whose IPO is this one"},
    ),
    PreferenceRecipe(
        name="slic",
        about="A hinge on the log-probs themselves, and supervised learning on the chosen completion.",
        log_prob=SUM,
        objective=Choice("hinge-free", beta=1.0, delta=1.0),
        sft=Choice("chosen", coef=0.1, mean="sum"),
        source="Zhao et al. (SLiC-HF), arXiv:2305.10425v1, eq. 4 by accounts of it",
        left_out="y_ref, which the second term trains on: the SFT target or the best-ranked decode; here the chosen "
        "completion, as in HALOs",
        stated={
            "objective.beta": "account, RSO (arXiv:2309.06657), after eq. 9: the margin is on the log-probs themselves",
            "objective.delta": 'account, two public sets of notes that quote section 3.2: "ranking margin beta of 1.0"',
            "sft.coef": "framework, HALOs 4831988, config/loss/slic.yaml; RSO's table 5: 0 to 500 make no difference",
            "sft.mean": "account, two public sets of notes that quote eq. 4: log P of the whole sequence",
        },
    ),
    PreferenceRecipe(
        name="rso",
        about="A hinge on the difference of implicit rewards (hinge-norm).",
        log_prob=SUM,
        objective=Choice("hinge", beta=0.05, delta=1.0),
        source="Liu et al. (RSO), arXiv:2309.06657, eq. 10",
        left_out="how the pairs are made: rejection sampling from the SFT policy at its own beta of 0.5, ranked by a "
        "reward model",
        stated={"objective.beta": 'paper, section 5: "gamma=0.05"', "objective.delta": "paper, eq. 10"},
    ),
    PreferenceRecipe(
        name="simpo",
        about="The mean log-prob is the reward; a margin; no reference.",
        log_prob=MEAN,
        objective=Choice("logistic-free", beta=2.0, gamma=1.0),
        source="Meng et al. (SimPO), arXiv:2405.14734v3, eq. 6",
        left_out="nothing",
        stated={
            "objective.beta": "authors' code, training_configs/llama-3-8b-base-simpo.yaml at 1b3e8f3",
            "objective.gamma": "authors' code, the same file: gamma_beta_ratio 0.5 of beta 2.0",
        },
    ),
    PreferenceRecipe(
        name="alphapo",
        parent="simpo",
        about="SimPO with a power of the mean probability as the reward.",
        log_prob=MEAN,
        objective=Choice("logistic-free-power", beta=2.5, gamma=0.25, alpha=0.25),
        source="Gupta et al. (AlphaPO), arXiv:2501.03884v4, by an account of it and TRL 1.16.0, cpo_trainer.py:696-717",
        left_out="not known: the paper was not to be had",
        stated={
            "objective.beta": "account, of table 3, Mistral-7B-Instruct; 10 for Gemma-2 and for Llama-3 with ArmoRM",
            "objective.gamma": "account, of table 3, Mistral-7B-Instruct: gamma / beta 0.1; TRL's paper index has 0.1 "
            "as gamma itself",
            "objective.alpha": "account, of table 3: 0.25 for Mistral and Llama-3, 0.1 for Gemma-2",
        },
    ),
    PreferenceRecipe(
        name="cpo",
        about="DPO with a uniform reference, and supervised learning on the chosen completion.",
        log_prob=SUM,
        objective=Choice("logistic-free", beta=0.1, gamma=0.0),
        sft=Choice("chosen", coef=1.0, mean="sum"),
        source="Xu et al. (CPO), arXiv:2401.08417v4, eq. 3 and 5",
        left_out="how the pairs are made: three translations of a sentence, ranked by two reward models",
        stated={
            "objective.beta": 'paper, section 4.2: "the default beta value of 0.1"',
            "objective.gamma": "paper, eq. 3: no margin",
            "sft.coef": "paper, eq. 5: no weight",
            "sft.mean": "paper, eq. 5: no length; the authors' code takes the mean over the batch's tokens",
        },
    ),
    PreferenceRecipe(
        name="triple-po",
        parent="cpo",
        about="CPO whose supervised term is on a third, better completion (TPO).",
        log_prob=SUM,
        objective=Choice("logistic-free", beta=0.01, gamma=0.0),
        sft=Choice("gold", coef=1.0, mean="token"),
        source="Saeidi et al. (TPO), arXiv:2405.16681v2, by the authors' code at 71a4425",
        left_out="where the gold completion comes from; TPO-L, which compares log-probs per token, with a margin "
        "(log_prob=mean, objective.gamma=0.5)",
        stated={
            "objective.beta": "authors' code, README.md at 71a4425: of TPO for every model; of TPO-L for Llama-3-Base "
            "too, but 10 for Llama-3-Instruct, 2 for Mistral-Base, 2.5 for Mistral-Instruct",
            "objective.gamma": "authors' code, utils/tpo_trainer.py at 71a4425: TPO has no margin",
            "sft.coef": "authors' code, README.md at 71a4425: of TPO 1 for base models, 0.05 for instruct models, "
            "which is the code's default; of TPO-L for Mistral-Base 0.05, and 1 at 20K",
            "sft.mean": "authors' code, utils/tpo_trainer.py at 71a4425: over the batch's tokens, beside sums",
        },
    ),
    PreferenceRecipe(
        name="orpo",
        about="Supervised learning that also raises the odds of the chosen over those of the rejected; no reference.",
        log_prob=MEAN,
        objective=Choice("odds-ratio", odds_coef=0.1, sft_coef=1.0),
        source="Hong et al. (ORPO), arXiv:2403.07691v2, eq. 2-7",
        left_out="nothing",
        stated={
            "objective.odds_coef": "paper, section 6.1: 0.1 for Mistral; 0.2 for Llama-2, 0.25 for Phi-2",
            "objective.sft_coef": "paper, eq. 6",
        },
    ),
    PreferenceRecipe(
        name="kto",
        about="Each completion alone is a gain or a loss against a common reference point.",
        log_prob=SUM,
        objective=Choice("kto", beta=0.1, desirable_weight=1.0, undesirable_weight=1.0),
        source="Ethayarajh et al. (KTO), arXiv:2402.01306v5, eq. 8 by accounts of it",
        left_out="data without pairs, and the estimate of z from mismatched pairs, which the caller passes "
        "(kto_reference_point)",
        stated=dict.fromkeys(
            ["objective.beta", "objective.desirable_weight", "objective.undesirable_weight"],
            "authors' code, config/loss/kto.yaml at 4831988",
        ),
    ),
    PreferenceRecipe(
        name="apo_zero",
        about="For chosen completions better than the policy's own.",
        log_prob=SUM,
        objective=Choice("apo-zero", beta=0.1),
        source="D'Oosterlinck et al. (APO), arXiv:2408.06266, eq. 7 by TRL's account",
        left_out="CLAIR, which makes the pairs; the loss is 1 more than an account of the paper prints it",
        stated={"objective.beta": f"{TRL}: section 5.2"},
    ),
    PreferenceRecipe(
        name="apo_down",
        about="For chosen completions worse than the policy's own.",
        log_prob=SUM,
        objective=Choice("apo-down", beta=0.1),
        source="D'Oosterlinck et al. (APO), arXiv:2408.06266, eq. 8 by TRL's account",
        left_out="the loss is 1 more than an account of the paper prints it",
        stated={"objective.beta": f"{TRL}: section 5.2"},
    ),
    PreferenceRecipe(
        name="dpo-norm",
        about="DPO on log-probs per token.",
        log_prob=MEAN,
        objective=Choice("logistic", beta=5.0),
        source="Lambert et al. (Tulu 3), arXiv:2411.15124v5, eq. 6 by accounts of it",
        left_out="nothing",
        stated={"objective.beta": "authors' code, scripts/train/tulu3/dpo_8b.sh at e6c3044"},
    ),
    PreferenceRecipe(
        name="wpo",
        about="DPO in which pairs that the policy would not have written count less.",
        log_prob=SUM,
        objective=Choice("weighted-logistic", beta=0.01),
        source="Zhou et al. (WPO), arXiv:2406.11827v2, eq. 1 and 2",
        left_out="the weights of eq. 2, which the caller passes (wpo_weights)",
        stated={"objective.beta": 'paper, section 4.1: "We set beta to 0.01"'},
    ),
    PreferenceRecipe(
        name="iterative-rpo",
        about="DPO, and the chosen completion's own likelihood per token.",
        log_prob=SUM,
        objective=Choice("logistic", beta=0.1),
        sft=Choice("chosen", coef=1.0, mean="sequence"),
        source="Pang et al. (iterative RPO), arXiv:2404.19733v3, eq. 1",
        left_out="the rounds: pairs drawn anew from the last round's policy, which is the reference of the next",
        stated={
            "objective.beta": 'paper, section 3.1: "we end up using 0.1 in this experiment"',
            "sft.coef": 'paper, section 3.1: "we end up using 1 for all experiments"',
            "sft.mean": 'paper, after eq. 1: "the NLL term is normalized by the total response length"',
        },
    ),
    PreferenceRecipe(
        name="rpo",
        about="DPO, and eta beta times the chosen completion's whole negative log-likelihood.",
        log_prob=SUM,
        objective=Choice("logistic", beta=0.01),
        sft=Choice("chosen", coef=5e-5, mean="sum"),
        source="Liu et al. (RPO), arXiv:2405.16436, eq. 4.8",
        left_out="a baseline policy whose answers the second term trains on: by section 6 the chosen completions",
        stated={
            "objective.beta": "paper, appendix D.1: 0.01 for Zephyr; 0.05 for Gemma",
            "sft.coef": "paper, eq. 4.8: eta beta, with eta 0.005 of appendix D.1; 2.5e-4 for Gemma",
            "sft.mean": "paper, eq. 4.8: log pi of the whole answer; the authors' README (d0389c4) prefers the mean",
        },
    ),
    PreferenceRecipe(
        name="tr-dpo",
        about="DPO whose reference follows the policy: softly after each step, or wholly after many.",
        log_prob=SUM,
        objective=Choice("logistic", beta=0.05),
        source="Gorbatovski et al. (TR-DPO), arXiv:2404.09656, by TRL's account",
        left_out="what makes it TR-DPO, the move of the reference, which the caller makes (update_reference): by "
        "reviews of the paper 0.5 or 0.6 of the way after every step, or all of it after 512; so the reference's "
        "log-probs cannot be computed beforehand",
        stated={"objective.beta": f"{TRL}: table 1"},
    ),
    PreferenceRecipe(
        name="ld-dpo",
        about="DPO in which a completion's tokens beyond the other one's length count half.",
        log_prob=Choice("shared-length", alpha=0.5, policy_only=False),
        objective=Choice("logistic", beta=0.1),
        source="Liu et al. (LD-DPO), arXiv:2409.06411, eq. 11 of the ICLR 2025 submission",
        left_out="nothing",
        stated={
            "log_prob.alpha": "paper, section 5.2: 0.5 for Llama3-8B-Instruct; 0.3 and 0.6 for other instruct models; "
            "for base models 0.1 to 0.2 lower than these",
            "log_prob.policy_only": "not stated; by the letter of eq. 11, which is of the policy, true; false, so that "
            "the reward is 0 where policy and reference agree: TRL 1.16.0 weighs both models, ms-swift 3602360 and "
            "LLaMA-Factory ff6d4d1 the policy alone",
            "objective.beta": 'paper, section 4: "we set beta = 0.1"',
        },
    ),
    PreferenceRecipe(
        name="exo",
        about="The KL of DPO the other way round.",
        log_prob=SUM,
        objective=Choice("exo", beta=0.1, label_smoothing=4.54e-5),
        source="Ji et al. (EXO), arXiv:2402.00856, eq. 16 by TRL's account",
        left_out="more than two completions of a prompt, and the form that takes a reward model's scores",
        stated={
            "objective.beta": "authors' code, exp/imdb_exp/train_exo.sh at a8ab360; 0.5 in tldr_exp and hh_exp",
            "objective.label_smoothing": "authors' code, src/align_stage/loss.py at a8ab360: log eps = -10, beside 0 "
            "for log(1 - eps); TRL 1.16.0 says that the paper recommends 1e-3",
        },
    ),
    PreferenceRecipe(
        name="nca",
        about="Each reward's own value is fitted by noise-contrastive estimation.",
        log_prob=SUM,
        objective=Choice("nca", beta=0.01),
        source="Chen et al. (pairwise NCA), arXiv:2402.05369v3, by the authors' code",
        left_out="more than two completions of a prompt, with explicit rewards",
        stated={"objective.beta": "authors' code, yamls/preference_qlora.yaml at cbb9248"},
    ),
    PreferenceRecipe(
        name="bco",
        about="A classifier tells good completions from bad ones by the implicit reward.",
        log_prob=SUM,
        objective=Choice("bco", beta=0.1),
        source="Jung et al. (BCO), arXiv:2404.04656, eq. 7 and 8",
        left_out="data without pairs (bco_unpaired_loss); the moving average of the reward shift (bco_reward_shift), "
        "which the caller keeps",
        stated={"objective.beta": "paper, appendix C of the ACL text; TRL's paper index at f2cd577 has 0.01"},
    ),
    PreferenceRecipe(
        name="f-dpo",
        about="DPO with another divergence from the reference: Jensen-Shannon's; or forward-kl, or alpha.",
        log_prob=SUM,
        objective=Choice("logistic-divergence", beta=0.1, divergence="js"),
        source="Wang et al. (f-DPO), arXiv:2309.16240, by an account of its table and the authors' code at 07d9369",
        left_out="not known: the paper was not to be had; by that account total variation and chi-squared, which it "
        "names and does not analyse",
        stated={
            "objective.beta": "authors' code, scripts/imdb/run_jsd.sh at 07d9369; scripts/hh has 0.3 for js, 0.03 for "
            "the forward KL, 0.3 and 0.9 for alpha",
            "objective.divergence": "authors' code, the same file; alpha is 0.1 to 0.9 in scripts/imdb/run_alpha.sh",
        },
    ),
    PreferenceRecipe(
        name="mpo",
        about="DPO, BCO and supervised learning on the chosen completion at once.",
        log_prob=SUM,
        objective=Choice("logistic-and-bco", beta=0.1, preference_coef=0.8, quality_coef=0.2),
        sft=Choice("chosen", coef=1.0, mean="sequence"),
        source="Wang et al. (MPO), arXiv:2411.10442, section 4.1, in a translation",
        left_out="the moving average of the reward shift, which the caller keeps; how the pairs of MMPR are made",
        stated={
            "objective.beta": "account, a translation's summary of section 7: 0.1",
            "objective.preference_coef": "account, the same; TRL's paper index at f2cd577 names section 7 too",
            "objective.quality_coef": "account, the same; TRL's paper index too",
            "sft.coef": "account, the same; TRL's paper index too",
            "sft.mean": "paper, section 4.1: -log pi / |y_w|; the authors' code (InternVL 2410d1d) takes the mean over "
            "the batch's tokens",
        },
    ),
    PreferenceRecipe(
        name="dpop",
        about="DPO in which the comparison is charged for a chosen completion that falls below the reference.",
        log_prob=SUM,
        objective=Choice("logistic-positive", beta=0.3, penalty_coef=50.0),
        source="Pal et al. (Smaug, DPO-Positive), arXiv:2402.13228v2, eq. 3, by NotaGen's eq. 3 (arXiv:2502.18008), "
        "which cites it, and oat's code; other accounts have lambda outside of beta",
        left_out="not known: the paper was not to be had",
        stated={
            "objective.beta": "account, of v2, section 5",
            "objective.penalty_coef": "account, of v2, section 5: 5, 50 and 500 differ little",
        },
    ),
    PreferenceRecipe(
        name="xpo",
        about="DPO that explores: of each pair, the completion that the reference wrote is made less likely.",
        log_prob=SUM,
        objective=Choice("logistic", beta=0.1),
        sft=Choice("optimism", coef=1e-5),
        source="Xie et al. (XPO), arXiv:2405.21046, eq. 5 and algorithm 1 of the ICLR 2025 submission",
        left_out="how pairs are made, one completion by the policy and one by the reference; the rounds, each on "
        "the pairs of all before it too",
        stated={
            "objective.beta": "not stated; TRL's default at f2cd577 (experimental/xpo), whose index says so too",
            "sft.coef": "not stated; TRL's default at f2cd577 (experimental/xpo); oat c1a074c has 5e-6",
        },
    ),
    PreferenceRecipe(
        name="sppo",
        about="Each log-ratio is pulled to how often the completion wins (the hard form: 1 and 0).",
        log_prob=SUM,
        objective=Choice("sppo", beta=0.001),
        source="Wu et al. (SPPO), arXiv:2405.00675, eq. 4.12",
        left_out="win rates between 0 and 1, which a preference model estimates from 5 completions of a prompt; the "
        "rounds of self-play",
        stated={"objective.beta": 'paper, section 5.1: "eta is set to 1e3"; beta is 1 / eta'},
    ),
    PreferenceRecipe(
        name="discopop",
        about="The loss that a search by a language model found.",
        log_prob=SUM,
        objective=Choice("discopop", beta=0.05, tau=0.05),
        source="Lu et al. (DiscoPOP), arXiv:2406.08414v3, eq. 5",
        left_out="nothing",
        stated={
            "objective.beta": "paper, section 6.2: the only beta of the search",
            "objective.tau": 'paper, section 6.1: "a temperature parameter tau = 0.05"',
        },
    ),
    PreferenceRecipe(
        name="aot",
        about="The distribution of margins is to beat the reference's, not each pair its own.",
        log_prob=SUM,
        objective=Choice("sorted-logistic", beta=0.01, paired=True),
        source="Melnyk et al. (AOT), arXiv:2406.05882, figure 2; the paired form by TRL 1.16.0",
        left_out="soft sorting, and the squared hinge and least squares as penalties",
        stated={"objective.beta": AOT_BETA, "objective.paired": "paper, figure 2"},
    ),
    PreferenceRecipe(
        name="aot_unpaired",
        parent="aot",
        about="The distribution of good completions' rewards is to beat that of bad ones; they need not be pairs.",
        log_prob=SUM,
        objective=Choice("sorted-logistic", beta=0.01, paired=False),
        source="Melnyk et al. (AOT), arXiv:2406.05882, algorithm 1",
        left_out="soft sorting, and the squared hinge and least squares as penalties",
        stated={"objective.beta": AOT_BETA, "objective.paired": "paper, algorithm 1"},
    ),
]
