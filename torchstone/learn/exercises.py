"""The table of exercises, in the tour's order. What is to be written is the library's; what is to be mended is here."""

from __future__ import annotations

from dataclasses import dataclass

CORE, REINFORCE, PPO, GRPO, DPO, DISTILL = (
    f"torchstone/{family}/README.md" for family in ("core", "reinforce", "ppo", "grpo", "dpo", "distill")
)


@dataclass(frozen=True)
class Exercise:
    """``functions``: of the library, each with vectors of its name. ``mend``: the file has a wrong one to begin with.

    ``hints``: after the first failing check and after the second; after that ``read``, a section of a page.
    ``practice``: what it is for, and what goes wrong; said when it is right. ``pitfall``: a row of docs/pitfalls.md.
    ``objectives``: the vectors, where they have another name. ``without``: optional arguments that are left out, and
    words: a sentence that has one of them is left out too.
    ``arguments``, ``returns``: in place of the library's own words. ``must``: names of what is let pass elsewhere, and
    counts here. ``settings``: choices that are free elsewhere, and are asked for here.
    """

    name: str
    family: str
    title: str
    functions: tuple[str, ...]
    task: str
    hints: tuple[str, str]
    read: str
    practice: str
    pitfall: str
    mend: bool = False
    objectives: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    arguments: tuple[tuple[str, str], ...] = ()
    returns: str = ""
    must: tuple[str, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Each function with the name of its vectors."""
        return list(zip(self.functions, self.objectives or self.functions, strict=True))


@dataclass(frozen=True)
class Grade:
    """``state``: "right", "wrong" (it runs, and its numbers are others), "unwritten" or "broken" (it does not run).

    ``says``: what is wrong, in sentences. ``effect``: what that does to a run. ``edges``: what plain code forgets.
    """

    state: str
    function: str = ""
    says: tuple[str, ...] = ()
    effect: str = ""
    edges: tuple[str, ...] = ()


EXERCISES = (
    Exercise(
        "log_probs", "core", "log-probabilities, and the shift", ("next_token_log_probs",),
        "A model reads a row of tokens and gives logits at each position. Give the log-probability of every token but "
        "the first. It was sampled at a temperature, and that distribution is the one to score.",
        ("What a model says at a position is about the token after it: which logits have no token, and which token "
         "has no logits?",
         "The temperature changes the distribution, so it comes before the softmax. torch.log_softmax, and gather "
         "along the vocabulary."),
        f"{CORE}#rules",
        "Every ratio, KL and loss is made of these numbers. A missing temperature makes the ratio of the policy to "
        "itself another number than 1.", "c56",
    ),
    Exercise(
        "masks", "core", "masks, and the end token", ("completion_mask", "next_token_mask"),
        "Which tokens did the policy choose? Up to the first end token it did, and to stop was a choice too. Then "
        "bring a mask over all tokens to the places of the log-probs of exercise 1.",
        ("Count the ends that come before each token: what is that number at the first end itself?",
         "torch.isin knows several ids at once, cumsum counts. Column t of the log-probs is about token t + 1."),
        f"{CORE}#rules",
        "A policy whose end token is masked never learns to stop: completions grow until they are cut off.", "c58",
    ),
    Exercise(
        "entropy", "core", "the entropy of the next token", ("token_entropies",),
        "How undecided is the policy at each position? Over the whole vocabulary, not by the sampled token.",
        ("An entropy is a mean of -log pi, and the weights of that mean are the probabilities themselves.",
         "It is a sum over the vocabulary, the last dimension, and it is in nats: it lies between 0 and log V."),
        f"{CORE}#equations",
        "Entropy that falls to 0 early is the first sign that a policy has stopped exploring.", "c56",
    ),
    Exercise(
        "kl", "core", "three estimates of the KL", ("kl_k1", "kl_k2", "kl_k3"),
        "How far is the policy from its reference, told by the tokens that the policy sampled? Three formulas.",
        ("Write down which of the two log-probs is the policy's, and try log pi = -1, log pi_ref = -2: k1 is 1 there, "
         "and k3 is 0.368.",
         "All three are made of one difference. In k3 it is the other way round than in k1."),
        f"{CORE}#equations",
        "Swapped arguments are a mistake that no type catches: the penalty then hardly restores what the reference "
        "prefers.", "c32",
    ),
    Exercise(
        "denominators", "core", "denominators over micro-batches", ("token_mean", "sequence_mean"),
        "One number a token becomes one number a batch. A micro-batch is given the whole batch's count as its "
        "denominator, so that the micro-batches' losses add up to the loss of the batch.",
        ("What is counted: tokens in one of them, completions in the other. The denominator has the same unit.",
         "A denominator that is given takes the place of the count at hand: nothing else is divided by."),
        f"{CORE}#equations",
        "A mean of the micro-batches' means is not the mean of the batch when completions differ in length.", "c02",
    ),
    Exercise(
        "whitening", "core", "whitened advantages", ("masked_whiten",),
        "Symptom: the same completions, padded to a longer width, get other advantages: the wider, the larger.",
        ("Print the mean and the variance for one batch, then for the same batch with ten more columns of padding.",
         "What lies under False is a number too: which of the sums, and which of the counts, take part of it?"),
        f"{CORE}#equations",
        "Advantages that depend on the padding make the step depend on the longest completion of the batch.", "c45",
        mend=True, without=("keep_mean",), returns="unitless, 0 where ``mask`` is False.",
        arguments=(
            ("x", "advantages or rewards per token. No gradient is asked of it."),
            ("correction", "0 for the population variance, 1 for the sample variance (sum / (N - 1)). N is 2 or more."),
        ),
    ),
    Exercise(
        "returns", "reinforce", "returns", ("discounted_returns",),
        "What did each choice bring from here on? Tool output stands between the choices: it is stepped over.",
        ("Go from the right to the left, and carry one number with you.",
         "At a token that the policy did not choose the carried number stays what it is: no reward, no discount."),
        f"{REINFORCE}#equations",
        "Tool output that costs a discount makes an early choice look worse for every line that the tool printed.",
        "c48",
    ),
    Exercise(
        "leave_one_out", "reinforce", "the leave-one-out baseline", ("leave_one_out_advantages",),
        "Several completions of one prompt, two at least: the others tell how hard the prompt is.",
        ("The baseline of a completion must not know that completion's own reward.",
         "The sum of the group less one's own reward, over how many? One row is one prompt."),
        f"{REINFORCE}#equations",
        "With its own reward in the baseline every advantage is too small by the factor (n - 1) / n.", "c41",
        without=("scored",), returns="reward units, detached.",
    ),
    Exercise(
        "entropy_bonus", "reinforce", "a bonus for entropy", ("reinforce_loss",),
        "Symptom: the larger entropy_coef, the sooner the policy says the same thing every time. Mean over all chosen "
        "tokens of the batch.",
        ("A loss is minimised. What happens to a term in it that has a plus before it?",
         "Follow each term alone: what does a step against its gradient do to log pi, and to the entropy?"),
        f"{REINFORCE}#equations",
        "A sign is wrong without an error: the run trains, and only the curve of the entropy tells.", "c30",
        mend=True, without=("reduce",), returns="the loss, one number: the mean over the tokens that count.",
        settings=(("reduce", "token_mean"),),
    ),
    Exercise(
        "shaped_rewards", "ppo", "shaped rewards", ("shaped_rewards",),
        "One score for the whole completion, and a price for each token that leaves the reference.",
        ("Two parts: one at every chosen token, one at a single token of each row. Which one, if a row ends early?",
         "The last True of each row is not the last column. A price lowers the reward where the policy finds a token "
         "likelier than the reference does."),
        f"{PPO}#equations",
        "A score that stands one token too late lies on padding, is masked, and the policy learns from the KL alone.",
        "c49",
    ),
    Exercise(
        "gae", "ppo", "generalised advantages, with gaps", ("gae",),
        "A critic's guesses and the rewards, weighed against each other. The token after t is the next one that the "
        "policy chose.",
        ("Go from the right and carry two numbers: the advantage and the value of the next chosen token.",
         "Nothing follows the last chosen token: its next value is 0, whatever the critic says of padding. In a gap "
         "both carried numbers stay."),
        f"{PPO}#equations",
        "A value that is read at padding enters every advantage before it, and nothing looks wrong.", "c47",
    ),
    Exercise(
        "clip", "ppo", "the clip", ("clipped_surrogate",),
        "PPO's loss of a token: no reward for going further than the clip, and the full price for harm.",
        ("The ratio is new over old. Try all four: above and below the clip, with a good and with a bad advantage.",
         "The minimum is taken of the two products, not of the two ratios; the loss is minus that."),
        f"{PPO}#the-clip-case-by-case",
        "Without the minimum a bad token that became likelier has no gradient, just where it is needed.", "c15",
        without=("dual_clip",),
    ),
    Exercise(
        "value_clip", "ppo", "the clip of the critic", ("clipped_value_error",),
        "The critic's squared error, with a second one for a critic that may not move far from its old guess.",
        ("Two errors of one value: which of the two is taken, the one that looks better or the one that looks worse?",
         "What is clipped is the step from the old value. Both errors are to the same target, and have the same half."),
        f"{PPO}#equations",
        "With the smaller of the two errors the critic is paid for moving too far.", "c50",
    ),
    Exercise(
        "ppo_loss", "ppo", "PPO's sum of three", ("ppo_loss",),
        "Symptom: the reward rises for some steps and then collapses; tokens far outside the clip still have a "
        "gradient, and go further. Mean over all chosen tokens of the batch.",
        ("Three terms: find the one whose gradient the symptom is about before you change anything.",
         "Take one token with A = 1 and ratio 1.5, epsilon 0.2: what should its loss be, and what is it here?"),
        f"{PPO}#the-clip-case-by-case",
        "A minimum and a minus sign do not commute: code that negates first needs the other of the two.", "c15",
        mend=True, without=("reduce", "dual_clip", "NaN"),
        arguments=(
            ("old_values", "V_old, its prediction at sampling time, in reward units; None if ``value_epsilon`` is. A "
             "constant."),
        ),
        returns="the loss, one number: the mean over the tokens that count.",
        settings=(("reduce", "token_mean"),),
    ),
    Exercise(
        "group_advantages", "grpo", "group advantages, and ties", ("group_advantages",),
        "The group is the critic. And a group in which all rewards are equal says nothing: exactly nothing.",
        ("One row is one prompt: mean and deviation are of the row. What is 0 / (0 + eps) when eps is 0?",
         "The deviation divides by n - correction under the root, eps is added after the root. In float32 the mean of "
         "equal numbers is not always that number: compare the rewards themselves."),
        f"{GRPO}#equations",
        "A group of equal rewards whose mean rounds is divided by a tiny deviation: noise trains the policy.", "c42",
        without=("scored",), must=("equal_rewards", "float_ties", "tie_that_rounds", "tie_of_all"),
        returns="unitless with ``divide_by_std``, else reward units; detached. Exactly 0 in a group whose rewards are "
        "all equal, whatever ``eps`` is.",
    ),
    Exercise(
        "grpo_loss", "grpo", "GRPO's loss", ("grpo_loss",),
        "Symptom: the KL that is logged for one token with log pi = -1 and log pi_ref = -2 is 0.718, and another "
        "program says 0.368. Mean of each completion, then over completions.",
        ("Compute k3 by hand for the two numbers of the symptom, first one way, then the other.",
         "Only one line is about the reference. Exercise 4 has the same formula."),
        f"{CORE}#equations",
        "The same mistake was in the code of a book and of a library; both were plausible on every plot.", "r01",
        mend=True, without=("reduce", "NaN"),
        returns="the loss, one number: the mean in each row, then over rows.",
    ),
    Exercise(
        "constant_length", "grpo", "Dr. GRPO's constant length", ("fixed_length_mean",),
        "Symptom: the same completions weigh less in a batch with one very long completion.",
        ("Which number of the function changes when one row of the batch becomes longer?",
         "One argument says what every row is divided by, and it is never used."),
        f"{CORE}#equations",
        "What was to take the length out of the loss brings the longest completion's back in.", "c08",
        mend=True, without=("denominator",), returns="one number.",
    ),
    Exercise(
        "gspo_ratio", "grpo", "GSPO's ratio of a sequence", ("sequence_log_ratios",),
        "One log-ratio for the whole completion in place of one a token, written at each of its tokens.",
        ("A completion of twice as many tokens is to have a ratio of the same size: a sum or a mean?",
         "The mean is over the chosen tokens of the row, and the gradient of each token reaches it."),
        "torchstone/grpo/variants.md#another-ratio",
        "A sum in place of the mean makes the ratio of a long completion leave the clip at once.", "c25",
        without=("token_gradient", "GSPO-token", "The two"),
        returns="nats per token, the same at every token of a row; 0 where ``mask`` is False.",
    ),
    Exercise(
        "cispo_weight", "grpo", "CISPO's weight", ("cispo_surrogate",),
        "The clip bounds how much a token counts, and no token loses its gradient.",
        ("Two factors depend on the policy, and only one of them has a gradient.",
         "sg[.] is detach(): the clipped ratio is a number that weighs the gradient of log pi."),
        "torchstone/grpo/variants.md#another-loss-per-token",
        "Without the detach, or without log pi, the loss has about the same value and another gradient.", "c22",
        objectives=("cispo_loss",), without=("cap",),
        arguments=(("epsilon_high", "the upper bound is 1 + epsilon_high. It is always given."),),
    ),
    Exercise(
        "completions", "dpo", "the log-prob of a completion", ("sequence_log_probs",),
        "Symptom: the implicit reward of an answer changes with the width of the batch that it is in.",
        ("What do you get for one row alone, and for the same row beside a longer one?",
         "Which tokens belong to the completion? The function is told, and asks only half of the time."),
        f"{DPO}#equations",
        "Prompt or padding in this sum is the same for both answers only if both have the same width.", "c59",
        mend=True,
        arguments=(
            ("mask", "True where ``log_probs`` is of a token of the completion, its end token included; False at "
             "prompt and padding."),
        ),
    ),
    Exercise(
        "dpo", "dpo", "DPO", ("dpo_loss",),
        "Two completions of one prompt, one preferred: raise the margin of the implicit rewards, which are r(x, y) = "
        "beta (log pi(y | x) - log pi_ref(y | x)).",
        ("Try a pair on which policy and reference agree: h is 0 there, and the loss is log 2.",
         "With labels that may be flipped, the loss is a mixture of the pair and of the pair turned round."),
        f"{DPO}#equations",
        "A reference that is left out still trains, and nothing then holds the policy near it.", "c73",
        without=("denominator",), returns="the loss, one number: the mean over pairs.",
        arguments=(
            ("chosen_log_probs", "log pi(y_w | x) of the completions that people chose, summed over tokens, in nats. "
             "Gradient flows through it."),
            ("rejected_log_probs", "log pi(y_l | x) of the other completions, likewise. Gradient flows through it."),
            ("ref_chosen_log_probs", "log pi_ref(y_w | x), under the frozen reference. Treated as a constant."),
            ("ref_rejected_log_probs", "log pi_ref(y_l | x), under the frozen reference. Treated as a constant."),
        ),
    ),
    Exercise(
        "reward_model", "dpo", "a reward model with a margin", ("bradley_terry_loss",),
        "Symptom: with a margin the loss is higher, and the trained model is the same to the last bit.",
        ("Take the derivative of the loss by one reward: where is the margin in it?",
         "Which function does the margin have to pass through to change a gradient?"),
        f"{DPO}#equations",
        "A term that is added after the last function moves the value of the loss, and no weight.", "c79",
        mend=True, without=("centre", "denominator"), returns="the loss, one number: the mean over pairs.",
        arguments=(
            ("chosen_rewards", "r(x, y_w), of the completions that people chose, in reward units. Gradient flows "
             "through it."),
            ("rejected_rewards", "r(x, y_l), of the other completions, in reward units. Gradient flows through it."),
        ),
    ),
    Exercise(
        "distillation", "distill", "distillation of the sampled tokens", ("teacher_advantages",),
        "The student writes, and the teacher says how likely it finds each token: that is the reward.",
        ("A token that the teacher finds likelier than the student does: is that an advantage above 0 or below?",
         "It is exercise 7 with a reward that is a difference of two log-probs, and no gradient flows into it."),
        f"{DISTILL}#equations",
        "The sign decides whether the student goes to the teacher or away from it; the loss's value does not tell.",
        "c82", must=("not_detached", "teacher_not_detached"),
    ),
    Exercise(
        "directions", "distill", "forward and reverse", ("jsd_exact",),
        "Symptom: with beta = 1, asked for the reverse KL, the student spreads over everything that the teacher might "
        "say; with beta = 0 it keeps to one answer.",
        ("Write the two KLs of the ends as sums: over which distribution is each a mean?",
         "Between the ends the function is right. torch's kl_div(input, target) is KL(target || input)."),
        "docs/distillation.md#two-directions",
        "Forward and reverse are called by each other's names in code and in guides: go by the formula.", "c82",
        mend=True, without=("inf",), returns="nats per position.",
    ),
)  # fmt: skip
