"""The published rows from GSPO to IcePop, read a second time: each equation by hand from its source, in plain loops.

Nothing here knows how a row is built. A test takes the rewards to advantages, a loss and its gradient as the equation
in its name says, in float64, and compares all three with the row. The numbers are the source's; where the source states
none, the test says so and whose number stands in. E over questions is the mean over the groups of the batch.
"""

import math

import pytest
import torch

from torchstone.recipes import RECIPES
from torchstone.reinforce.variants import soft_values

SEEDS = (0, 1, 2)


class Batch:
    """Six groups of four completions of 2 to 8 tokens, and four policies.

    A third of the rows moves by about 1e-4 from the old policy, a third by 0.3, a third by 3 (in logits). One row in
    four was sampled by nearly the old policy, two by surer ones and one by a less sure one.
    """

    def __init__(self, seed, prompts=6, group=4, longest=8):
        g = torch.Generator().manual_seed(seed)
        self.prompts, self.group, rows = prompts, group, prompts * group
        self.lengths = torch.randint(2, longest + 1, (rows,), generator=g).tolist()
        self.mask = torch.arange(longest) < torch.tensor(self.lengths)[:, None]
        self.rewards = torch.randint(0, 2, (prompts, group), generator=g).double()
        self.rewards += torch.rand(prompts, group, generator=g, dtype=torch.float64)
        logits = 2 * torch.randn(rows, longest, generator=g, dtype=torch.float64)

        def beside(scales, shifts=(0.0,)):
            every = torch.arange(rows)
            noise = torch.randn(logits.shape, generator=g, dtype=torch.float64)
            scale, shift = (torch.tensor(x, dtype=torch.float64)[every % len(x), None] for x in (scales, shifts))
            return torch.nn.functional.logsigmoid(logits + shift + scale * noise)

        self.old, self.ref = beside([0.0]), beside([0.7])
        self.sampler = beside([0.05, 1.0, 0.5, 1.0], [0.0, 2.0, 1.0, -2.0])
        self.new = beside([1e-4, 0.3, 3.0]).requires_grad_()

    def rows(self):
        """(row, its group's rewards, its own reward, its tokens' positions)."""
        for i in range(self.prompts * self.group):
            p, k = divmod(i, self.group)
            yield i, self.rewards[p], self.rewards[p, k], range(self.lengths[i])


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def over_a_millionth_more(own, group):
    """(r - mean) / (std + 1e-6), as prime-rl and verl have it."""
    m = mean(group)
    return (own - m) / (math.sqrt(sum((r - m) ** 2 for r in group) / (len(group) - 1)) + 1e-6)


def standardised(own, group):
    """(r - mean) / std: no paper here says which deviation; every code read divides by n - 1."""
    m = mean(group)
    return (own - m) / math.sqrt(sum((r - m) ** 2 for r in group) / (len(group) - 1))


def centred(own, group):
    return own - mean(group)


def advantages_of(batch, how):
    return [how(own.item(), group.tolist()) for _, group, own, _ in batch.rows()]


def of_the_row(name, batch, mine, *, advantages=None, max_length=None, **tensors):
    """The row's loss after the row's own advantages, which must be `mine`."""
    row = RECIPES[name]
    found = row.advantages(batch.rewards, batch.mask, max_length=max_length).advantages
    wanted = torch.tensor(mine, dtype=torch.float64)[:, None] * batch.mask
    torch.testing.assert_close(found * batch.mask, wanted, rtol=0, atol=1e-10)
    if advantages is not None:
        found = advantages
    return row.loss(batch.new, found, batch.mask, **tensors).value


def gradient(loss, batch):
    return torch.autograd.grad(loss, batch.new)[0] * batch.mask


def same(row, mine, batch, *, values=True):
    if values:
        torch.testing.assert_close(row, mine, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradient(row, batch), gradient(mine, batch), rtol=1e-10, atol=1e-10)


def clip(x, low, high):
    return x.clamp(low, high)


# --------------------------------------------------------------------------------------------- one ratio per completion


def length_normalised_ratio(batch, i, tokens):
    return torch.exp(sum(batch.new[i, t] - batch.old[i, t] for t in tokens) / len(tokens))


@pytest.mark.parametrize("seed", SEEDS)
def test_gspo_2507_18071v2_eq_5_with_eq_6_and_7(seed):
    """Paper, eqs. 5-7 and section 5.1: the ranges are 3e-4 and 4e-4; no KL term."""
    b = Batch(seed)
    a = advantages_of(b, standardised)
    objective = 0
    for i, _, _, tokens in b.rows():
        s = length_normalised_ratio(b, i, tokens)
        objective += torch.min(s * a[i], clip(s, 1 - 3e-4, 1 + 4e-4) * a[i]) / b.group
    same(of_the_row("gspo", b, a, old_log_probs=b.old), -objective / b.prompts, b)


@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
def test_gspo_token_2507_18071v2_eq_13_with_eq_14(seed, alike):
    """Paper, eqs. 13 and 14: s_i,t has the value of s_i and the gradient of its own token; A may differ by token. The
    paper states no range for this form: GSPO's of section 5.1."""
    b = Batch(seed)
    a = advantages_of(b, standardised)
    token = torch.tensor(a, dtype=torch.float64)[:, None].expand(b.old.shape)
    if not alike:
        token = token + torch.randn(token.shape, generator=torch.Generator().manual_seed(seed)).double()
    objective = 0
    for i, _, _, tokens in b.rows():
        s = length_normalised_ratio(b, i, tokens).detach()
        for t in tokens:
            s_t = s * torch.exp(b.new[i, t]) / torch.exp(b.new[i, t]).detach()
            term = torch.min(s_t * token[i, t], clip(s_t, 1 - 3e-4, 1 + 4e-4) * token[i, t])
            objective += term / len(tokens) / b.group
    row = of_the_row("gspo-token", b, a, advantages=None if alike else token, old_log_probs=b.old)
    same(row, -objective / b.prompts, b)


@pytest.mark.parametrize("seed", SEEDS)
def test_luspo_2602_05261v1_eq_7_with_eq_5_and_6(seed):
    """Paper, eq. 7 (times |y_i|) and section 5.1: 2e-3 and 2.5e-3; no KL term."""
    b = Batch(seed)
    a = advantages_of(b, standardised)
    objective = 0
    for i, _, _, tokens in b.rows():
        s = length_normalised_ratio(b, i, tokens)
        objective += torch.min(s * a[i], clip(s, 1 - 2e-3, 1 + 2.5e-3) * a[i]) * len(tokens) / b.group
    same(of_the_row("luspo", b, a, old_log_probs=b.old), -objective / b.prompts, b)


@pytest.mark.parametrize("seed", SEEDS)
def test_gmpo_2507_20673v3_eq_4(seed):
    """Paper, eq. 4: the product of |min(rho A, clip(rho) A)| over the tokens, its |o_i|-th root, with the sign of A;
    the range is (e^-0.4, e^0.4); the paper drops the KL term ("for simplicity and memory saving")."""
    b = Batch(seed)
    a = advantages_of(b, standardised)
    objective = 0
    for i, _, _, tokens in b.rows():
        product = 1
        for t in tokens:
            rho = torch.exp(b.new[i, t] - b.old[i, t])
            product = product * torch.min(rho * a[i], clip(rho, math.exp(-0.4), math.exp(0.4)) * a[i]).abs()
        objective += product ** (1 / len(tokens)) * (1 if a[i] > 0 else -1) / b.group
    same(of_the_row("gmpo", b, a, old_log_probs=b.old), -objective / b.prompts, b)


VESPO = {1: (2.0, 3.0), -1: (3.0, 2.0)}


@pytest.mark.parametrize("seed", SEEDS)
def test_vespo_2602_10693v3_eq_20(seed):
    """Paper, eq. 20, section 4.1, appendix I: W is the whole product against the behaviour policy mu, which is the
    engine that sampled; phi(W) = W^c1 exp(c2 (1 - W)), without gradient, (c1, c2) = (2, 3) for A >= 0 and (3, 2)
    below; A = R - the group's mean. The mean is eq. 20's, over completions, of the whole log pi(tau)."""
    b = Batch(seed)
    a = advantages_of(b, centred)
    objective = 0
    for i, _, _, tokens in b.rows():
        w = math.exp(sum((b.new[i, t] - b.sampler[i, t]).item() for t in tokens))
        c1, c2 = VESPO[1 if a[i] >= 0 else -1]
        phi = w**c1 * math.exp(c2 * (1 - w))
        objective += phi * a[i] * sum(b.new[i, t] for t in tokens)
    same(of_the_row("vespo", b, a, sampler_log_probs=b.sampler), -objective / len(a), b)


# ------------------------------------------------------------------------------------------------- one ratio per token


@pytest.mark.parametrize("seed", SEEDS)
def test_cispo_2506_13585_eq_4_with_eq_2_and_5(seed):
    """Paper, eqs. 2, 4, 5: the sum over a group's tokens divided by that group's number of tokens, no lower bound
    ("we did not impose a lower bound on the IS weight"), no KL term. The paper states no upper bound: it is read off
    the row, at a token whose ratio is e^9, and everything else is the paper's."""
    cap = cap_of_the_row("cispo")
    b = Batch(seed)
    a = advantages_of(b, standardised)
    objective = 0
    for p in range(b.prompts):
        own = [(i, tokens) for i, _, _, tokens in b.rows() if i // b.group == p]
        total = sum(len(tokens) for _, tokens in own)
        for i, tokens in own:
            for t in tokens:
                weight = min(math.exp((b.new[i, t] - b.old[i, t]).item()), cap)
                objective += weight * a[i] * b.new[i, t] / total
    # So short that DAPO's penalty on long answers, which the paper takes too, takes nothing off.
    row = of_the_row("cispo", b, a, max_length=20_480, old_log_probs=b.old, group_size=b.group)
    same(row, -objective / b.prompts, b)


def cap_of_the_row(name):
    new = torch.tensor([[-1.0], [-1.0]], dtype=torch.float64, requires_grad=True)
    ones = torch.ones(2, 1, dtype=torch.float64)
    loss = RECIPES[name].loss(new, ones, ones.bool(), old_log_probs=new.detach() - 9, group_size=2).value
    return -2 * torch.autograd.grad(loss, new)[0][0, 0].item()


def test_cispo_2506_13585_keeps_no_group_of_equal_rewards():
    """Paper, below eq. 5: "we utilize the dynamic sampling [...] techniques from Yu et al. (2025)"."""
    rewards = torch.tensor([[1.0, 1, 1], [0, 0, 0], [0, 1, 0]], dtype=torch.float64)
    assert RECIPES["cispo"].keep(rewards).tolist() == [False, False, True]


@pytest.mark.parametrize("seed", SEEDS)
def test_sapo_2511_20347v2_eq_5_with_eq_6(seed):
    """Eqs. 5 and 6 and section 5 as three accounts of v2 give them (the paper itself was not had): the gate is
    sigmoid(tau (r - 1)) 4 / tau, tau 1.0 for A > 0 and 1.05 otherwise; no KL term."""
    b = Batch(seed)
    a = advantages_of(b, standardised)
    objective = 0
    for i, _, _, tokens in b.rows():
        tau = 1.0 if a[i] > 0 else 1.05
        for t in tokens:
            r = torch.exp(b.new[i, t] - b.old[i, t])
            objective += torch.sigmoid(tau * (r - 1)) * 4 / tau * a[i] / len(tokens) / b.group
    same(of_the_row("sapo", b, a, old_log_probs=b.old), -objective / b.prompts, b)


def binary_tv(mu, pi):
    return abs(mu - pi)


def binary_kl(mu, pi):
    return mu * math.log(mu / pi) + (1 - mu) * math.log((1 - mu) / (1 - pi))


DPPO = [("dppo", binary_tv, 0.2), ("dppo-kl", binary_kl, 0.05)]


@pytest.mark.parametrize(("name", "divergence", "delta"), DPPO)
@pytest.mark.parametrize("seed", SEEDS)
def test_dppo_2602_04879v3_eq_23_with_eq_12_13_and_14(seed, name, divergence, delta):
    """Paper, eqs. 12-14 and 23, appendix E (the scaling experiments): the anchor is the rollout policy mu (section
    5.2), C is 5, delta 0.2 for TV and 0.05 for KL; A = R - mean without the deviation; the sum over a completion's
    tokens, the mean over completions. The value is that of the authors' code (sail-sg/Stable-RL at c6af1d1): the
    weight has no gradient."""
    b = Batch(seed)
    a = advantages_of(b, centred)
    objective = 0
    for i, _, _, tokens in b.rows():
        for t in tokens:
            mu, pi = math.exp(b.sampler[i, t].item()), math.exp(b.new[i, t].item())
            away = (a[i] > 0 and pi > mu) or (a[i] < 0 and pi < mu)
            kept = 0 if away and divergence(mu, pi) > delta else 1
            objective += kept * min(pi / mu, 5.0) * a[i] * b.new[i, t]
    same(of_the_row(name, b, a, sampler_log_probs=b.sampler), -objective / len(a), b)


def k3(new, ref):
    return torch.exp(ref - new) - (ref - new) - 1


@pytest.mark.parametrize("seed", SEEDS)
def test_intellect_2_2505_07291_as_its_code_has_it(seed):
    """The paper's text was not had. Authors' code: prime-rl at dbab7f2 (13 May 2025), src/zeroband/training/loss.py
    and train.py: the ratio clamped to [0, 4], then min with its clip to [0.8, 1.2]; every token weighs the same; the
    old log-probs are the trainer's, recomputed at the start of the step. 0.001 of the k3 to the reference: TRL's
    index of papers ("section 4.1"). That code's KL is of the recomputed log-probs, so it has a value and no gradient;
    here it is GRPO's."""
    b = Batch(seed)
    a = advantages_of(b, over_a_millionth_more)
    loss = 0
    for i, _, _, tokens in b.rows():
        for t in tokens:
            r = torch.exp(b.new[i, t] - b.old[i, t]).clamp(0, 4)
            loss += torch.max(-r * a[i], -clip(r, 0.8, 1.2) * a[i]) + 0.001 * k3(b.new[i, t], b.ref[i, t])
    same(of_the_row("intellect-2", b, a, old_log_probs=b.old, ref_log_probs=b.ref), loss / sum(b.lengths), b)


def test_intellect_2_2505_07291_keeps_no_group_of_equal_rewards():
    """Authors' code: `ignore_zero_advantages = true` in configs/training/intellect2_qwq.toml (prime-rl at dbab7f2)."""
    rewards = torch.tensor([[1.0, 1, 1], [0, 0, 0], [0, 1, 0]], dtype=torch.float64)
    assert RECIPES["intellect-2"].keep(rewards).tolist() == [False, False, True]


@pytest.mark.parametrize("seed", SEEDS)
def test_deepseek_v3_2_2512_02556v1_eq_8_with_eq_6_7_and_9(seed):
    """Paper, eqs. 6-9: A = R - mean; r and the KL's weight against the old policy; the mask of eq. 9 against "the
    sampling probability directly returned by the inference framework". No number is stated: epsilon 0.2 is TRL's
    default, beta 0.001 and delta 0.5 are those of TRL's index of papers."""
    b = Batch(seed)
    a = advantages_of(b, centred)
    objective, of_old, of_sampler = 0, [], []
    for i, _, _, tokens in b.rows():
        drift = mean((b.sampler[i, t] - b.new[i, t]).item() for t in tokens)
        kept = 0 if a[i] < 0 and drift > 0.5 else 1
        of_sampler.append(kept)
        of_old.append(0 if a[i] < 0 and mean((b.old[i, t] - b.new[i, t]).item() for t in tokens) > 0.5 else 1)
        for t in tokens:
            r = torch.exp(b.new[i, t] - b.old[i, t])
            term = torch.min(r * a[i], clip(r, 0.8, 1.2) * a[i]) * kept - 0.001 * r * k3(b.new[i, t], b.ref[i, t])
            objective += term / len(tokens) / b.group
    assert of_old != of_sampler  # else this batch could not tell which policy the mask is anchored at
    tensors = {"old_log_probs": b.old, "ref_log_probs": b.ref, "sampler_log_probs": b.sampler}
    same(of_the_row("deepseek-v3.2", b, a, **tensors), -objective / b.prompts, b)


@pytest.mark.parametrize("seed", SEEDS)
def test_tis_as_the_index_of_trl_quotes_the_post(seed):
    """The post (fengyao.notion.site/off-policy-rl) was not had; TRL's index of papers writes it out: the gradient of
    min(r A, clip(r, 1 - eps, 1 + eps) A) times min(pi_train(old) / pi_infer(old), C). The authors' fork of verl
    (yaof20/verl at 1e41334) has the same product, C = 2 and the mean over tokens; eps 0.2 is verl's and TRL's
    default."""
    b = Batch(seed)
    a = advantages_of(b, over_a_millionth_more)
    loss = 0
    for i, _, _, tokens in b.rows():
        for t in tokens:
            r = torch.exp(b.new[i, t] - b.old[i, t])
            term = torch.max(-r * a[i], -clip(r, 1 - 0.2, 1 + 0.2) * a[i])
            loss += term * min(math.exp((b.old[i, t] - b.sampler[i, t]).item()), 2.0)
    same(of_the_row("tis", b, a, old_log_probs=b.old, sampler_log_probs=b.sampler), loss / sum(b.lengths), b)


@pytest.mark.parametrize("seed", SEEDS)
def test_icepop_2510_18855v2_eq_1_with_eq_2(seed):
    """Paper, eqs. 1 and 2, section 2.3.4: [alpha, beta] = [0.5, 5] of pi_train(old) / pi_infer(old), outside of it 0;
    the KL's coefficient is 0.0. The paper states no epsilon: 0.2 is verl's and TRL's default."""
    b = Batch(seed)
    a = advantages_of(b, standardised)
    objective = 0
    for i, _, _, tokens in b.rows():
        for t in tokens:
            k = math.exp((b.old[i, t] - b.sampler[i, t]).item())
            m = k if 0.5 <= k <= 5 else 0
            r = torch.exp(b.new[i, t] - b.old[i, t])
            objective += m * torch.min(r * a[i], clip(r, 0.8, 1.2) * a[i]) / len(tokens) / b.group
    same(of_the_row("icepop", b, a, old_log_probs=b.old, sampler_log_probs=b.sampler), -objective / b.prompts, b)


@pytest.mark.parametrize("seed", SEEDS)
def test_decoupled_ppo_2505_24298_eq_5(seed):
    """An account of AReaL's v5: (pi_prox / pi_behav) min(u A, clip(u, 1 - 0.2, 1 + 0.2) A), u = pi / pi_prox. Hilton's
    form, min(pi / pi_behav A, pi_prox / pi_behav clip(u) A), is the same. AReaL's code: mean 0 and variance 1 (n - 1)
    over the batch's tokens, eps 1e-5 (here in the root), a mean over tokens."""
    b = Batch(seed)
    every = [own.item() for i, _, own, tokens in b.rows() for _ in tokens]
    m = mean(every)
    variance = sum((x - m) ** 2 for x in every) / (len(every) - 1)
    a = [(own.item() - m) / math.sqrt(variance + 1e-5) for _, _, own, _ in b.rows()]
    loss = 0
    for i, _, _, tokens in b.rows():
        for t in tokens:
            behaviour, near = torch.exp(b.sampler[i, t]), torch.exp(b.old[i, t])
            u = torch.exp(b.new[i, t]) / near
            loss -= torch.min(u * near / behaviour * a[i], near / behaviour * clip(u, 0.8, 1.2) * a[i])
    same(of_the_row("decoupled-ppo", b, a, old_log_probs=b.old, sampler_log_probs=b.sampler), loss / sum(b.lengths), b)


def whole_log_ratio(batch, other, i, tokens):
    return sum(batch.new[i, t] - other[i, t] for t in tokens)


@pytest.mark.parametrize("seed", SEEDS)
def test_dro_2405_19107_its_policy_part_with_the_gradient_divided_by_tau(seed):
    """An account of v1: 1/2 E (r - V - tau log pi / pi_ref)^2 by the policy, divided by tau; V is given here."""
    b, tau = Batch(seed), 1.0
    worth = torch.linspace(-1, 1, b.prompts, dtype=torch.float64)
    mine = 0
    for i, _, own, tokens in b.rows():
        error = own - worth[i // b.group] - tau * whole_log_ratio(b, b.ref, i, tokens)
        mine += error**2 / 2 / tau / len(b.lengths)
    earned = RECIPES["dro"].advantages(b.rewards, b.mask, prompt_values=worth).advantages
    same(RECIPES["dro"].loss(b.new, earned, b.mask, ref_log_probs=b.ref).value, mine, b, values=False)


@pytest.mark.parametrize("seed", SEEDS)
def test_kimi_k1_5_2501_12599_eq_3_and_kimi_k2_2507_20534v2_section_3_2_3(seed):
    """k1.5, eq. 3, as an ascent: grad log pi (r - mean) - tau / 2 grad (log pi / pi_i)^2, a mean over k. K2:
    the squared error (r - mean - tau log pi / pi_old)^2, 2 tau times that. Neither states tau; 0.1 is ROLL's."""
    b, tau = Batch(seed), 0.1
    k15 = k2 = 0
    for i, group, own, tokens in b.rows():
        s, a = whole_log_ratio(b, b.old, i, tokens), own - mean(group)
        k15 -= (s * a - tau / 2 * s**2) / len(b.lengths)
        k2 += (a - tau * s) ** 2 / len(b.lengths)
    for mine, values in ((k15, True), (k2 / (2 * tau), False)):
        row = of_the_row("kimi-k1.5", b, advantages_of(b, centred), old_log_probs=b.old)
        same(row, mine, b, values=values)


@pytest.mark.parametrize("seed", SEEDS)
def test_rebel_4ad7c11_the_squared_error_of_a_difference(seed):
    """The authors' code: ((s_1 - s_2) - eta (r_1 - r_2))^2, a mean over pairs, eta 1."""
    b, eta = Batch(seed, prompts=12, group=2), 1.0
    mine = 0
    for i in range(0, 24, 2):
        s = [whole_log_ratio(b, b.old, j, range(b.lengths[j])) for j in (i, i + 1)]
        r = b.rewards[i // 2]
        mine += (s[0] - s[1] - eta * (r[0] - r[1])) ** 2 / 12
    row = of_the_row("rebel", b, advantages_of(b, centred), old_log_probs=b.old, group_size=2)
    same(8 * eta * row, mine, b, values=False)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_star_po_c8823a3_with_the_values_of_its_first_stage(seed):
    """The authors' code: V = beta_1 log mean exp(r / beta_1), beta_1 0.5, over samples of the reference; then
    (beta_2 s - (r - V))^2 with beta_2 1e-3, a mean over completions."""
    b = Batch(seed)
    drawn = torch.rand(b.prompts, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    worth = [0.5 * math.log(mean(math.exp(r / 0.5) for r in row)) for row in drawn.tolist()]
    mine = 0
    for i, _, own, tokens in b.rows():
        mine += (1e-3 * whole_log_ratio(b, b.ref, i, tokens) - (own - worth[i // b.group])) ** 2 / len(b.lengths)
    row = RECIPES["a*-po"]
    earned = row.advantages(b.rewards, b.mask, prompt_values=soft_values(drawn, beta=0.5)).advantages
    same(2 * 1e-3 * row.loss(b.new, earned, b.mask, ref_log_probs=b.ref).value, mine, b, values=False)


@pytest.mark.parametrize("seed", SEEDS)
def test_topr_2503_14286v2_eq_8(seed):
    """Accounts of eq. 8: sum over R >= 0 of R grad log pi(y), and over R < 0 of clip(pi(y) / mu(y), 0, 1) R grad log
    pi(y); mu drew the samples. Rewards of 1 and -1, as in the paper."""
    b = Batch(seed)
    b.rewards = torch.where(b.rewards > 1, 1.0, -1.0).double()
    mine, weights = 0, []
    for i, _, own, tokens in b.rows():
        new, drawn = (sum(x[i, t] for t in tokens) for x in (b.new, b.sampler))
        alpha = min(max(math.exp((new - drawn).item()), 0.0), 1.0) if own < 0 else 1.0
        weights += [alpha] if own < 0 else []
        mine -= alpha * own * new / len(b.lengths)
    assert min(weights) < 0.5 and max(weights) == 1
    same(of_the_row("topr", b, [r.item() for r in b.rewards.flatten()], sampler_log_probs=b.sampler), mine, b)


@pytest.mark.parametrize("seed", SEEDS)
def test_real_1c30726_compute_policy_loss_real(seed):
    """The authors' code: scores are means of log-ratios over tau = 0.5; log(1 + sum of e^-s over rewards of 1) +
    log(1 + sum of e^s over rewards of 0); groups without both are 0, and count."""
    b = Batch(seed)
    b.rewards = (b.rewards > 1).double()
    b.rewards[0] = 1.0
    mine = 0
    for p in range(b.prompts):
        rows = range(p * b.group, (p + 1) * b.group)
        scores = [whole_log_ratio(b, b.old, i, range(b.lengths[i])) / b.lengths[i] / 0.5 for i in rows]
        right = [b.rewards[p, k] == 1 for k in range(b.group)]
        if any(right) and not all(right):
            mine += torch.log(1 + sum(torch.exp(-s) for s, r in zip(scores, right, strict=True) if r)) / b.prompts
            mine += torch.log(1 + sum(torch.exp(s) for s, r in zip(scores, right, strict=True) if not r)) / b.prompts
    a = [r.item() for r in b.rewards.flatten()]
    same(of_the_row("real", b, a, old_log_probs=b.old, group_size=b.group), mine, b)


@pytest.mark.parametrize("seed", SEEDS)
def test_chord_2508_11408_as_ms_swift_3602360_computes_it(seed):
    """(1 - mu) L_GRPO + mu L_SFT with mu 0.1; an expert's token weighs p (1 - p), held constant; a mean over its
    tokens. GRPO without a KL, by an account; epsilon is not found: PPO's 0.2."""
    b, mu = Batch(seed), 0.1
    a = advantages_of(b, standardised)
    g = torch.Generator().manual_seed(seed)
    expert = (-2 * torch.rand(5, 7, generator=g, dtype=torch.float64)).requires_grad_()
    lengths = [7, 3, 1, 5, 6]
    grpo = sft = 0
    for i, _, _, tokens in b.rows():
        for t in tokens:
            r = torch.exp(b.new[i, t] - b.old[i, t])
            grpo -= torch.min(r * a[i], clip(r, 0.8, 1.2) * a[i]) / len(tokens) / len(b.lengths)
    for j, length in enumerate(lengths):
        for t in range(length):
            p = math.exp(expert[j, t].item())
            sft -= p * (1 - p) * expert[j, t] / sum(lengths)
    mask = torch.arange(7) < torch.tensor(lengths)[:, None]
    given = {"old_log_probs": b.old, "expert_log_probs": expert, "expert_mask": mask}
    row, mine = (1 - mu) * of_the_row("chord", b, a, **given), (1 - mu) * grpo + mu * sft
    torch.testing.assert_close(torch.autograd.grad(row, expert, retain_graph=True), torch.autograd.grad(mine, expert,
                               retain_graph=True), rtol=1e-10, atol=1e-10)  # fmt: skip
    same(row, mine, b)


def engine_near_by(b):
    """Of the completions, every third is as near as 1e-4 a token in the mean, every third 0.01; one in three far off.

    Tokens differ by about 1 in all of them, so that weights of tokens are not 1.
    """
    g = torch.Generator().manual_seed(7)
    for i, _, _, tokens in b.rows():
        noise = torch.randn(len(tokens), generator=g, dtype=torch.float64)
        centre = (1e-4, -0.01, 1.0)[i % 3]
        for t, x in zip(tokens, noise - noise.mean() + centre, strict=True):
            b.sampler[i, t] = b.old[i, t] - x


@pytest.mark.parametrize("name", ["seq-mis", "geo-rs", "geo-rs-token-tis"])
@pytest.mark.parametrize("seed", SEEDS)
def test_filters_of_completions_by_the_page_in_verl_1dda039b9_sections_3_3_2_and_3_3_3(name, seed):
    """Seq-MIS: the product rho of pi_old / pi_rollout is the weight, and completions above 2 are dropped. Geo-RS: those
    with 0.999 <= rho^(1/T) <= 1.001 stay, unweighed, or with min(rho_t, 2) a token. GRPO's advantages, PPO's clip."""
    b = Batch(seed)
    engine_near_by(b)
    a = advantages_of(b, over_a_millionth_more)
    loss, dropped = 0, 0
    for i, _, _, tokens in b.rows():
        ratios = [math.exp((b.old[i, t] - b.sampler[i, t]).item()) for t in tokens]
        rho = math.prod(ratios)
        keep = rho <= 2 if name == "seq-mis" else 0.999 <= rho ** (1 / len(tokens)) <= 1.001
        dropped += not keep
        for t, own in zip(tokens, ratios, strict=True):
            r = torch.exp(b.new[i, t] - b.old[i, t])
            weight = {"seq-mis": rho, "geo-rs": 1.0, "geo-rs-token-tis": min(own, 2.0)}[name]
            loss += keep * weight * torch.max(-r * a[i], -clip(r, 0.8, 1.2) * a[i])
    assert 0 < dropped < len(b.lengths)
    same(of_the_row(name, b, a, old_log_probs=b.old, sampler_log_probs=b.sampler), loss / sum(b.lengths), b)
