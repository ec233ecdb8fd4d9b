"""Published preference recipes a second time: each equation written out by hand from its paper or its authors' code.

Every test names the paper, the version and the equation, spells the loss out in plain torch on float64, takes the
numbers from the same source, and compares value and gradient of both sides' token log-probs. Where each was read and
what it says: docs/sources.md.
"""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from torchstone.recipes import find

pytestmark = pytest.mark.parametrize("seed", [0, 1, 2])

N, T, U = 5, 8, 6


class Pairs(NamedTuple):
    """Token log-probs of N pairs under policy and reference, masks of different lengths, prompt tokens masked out."""

    chosen: Tensor
    rejected: Tensor
    chosen_mask: Tensor
    rejected_mask: Tensor
    ref_chosen: Tensor
    ref_rejected: Tensor

    @property
    def chosen_length(self) -> Tensor:
        return self.chosen_mask.sum(1).double()

    @property
    def rejected_length(self) -> Tensor:
        return self.rejected_mask.sum(1).double()


def ragged(generator: torch.Generator, length: int) -> Tensor:
    """[N length], True at completion tokens: a prompt of 0 or 1 tokens, then 1 to length - 1 tokens of completion."""
    start = torch.randint(0, 2, (N, 1), generator=generator)
    size = torch.randint(1, length, (N, 1), generator=generator)
    position = torch.arange(length)
    return (position >= start) & (position < start + size)


def pairs(seed: int) -> Pairs:
    g = torch.Generator().manual_seed(seed)

    def log_probs(length: int) -> Tensor:
        return -3 * torch.rand(N, length, generator=g, dtype=torch.float64) - 0.05

    chosen, rejected = log_probs(T), log_probs(U)
    near = [p + 0.4 * torch.randn(p.shape, generator=g, dtype=torch.float64) for p in (chosen, rejected)]
    return Pairs(
        chosen.requires_grad_(),
        rejected.requires_grad_(),
        ragged(g, T),
        ragged(g, U),
        near[0].detach(),
        near[1].detach(),
    )


def total(log_probs: Tensor, mask: Tensor) -> Tensor:
    """log pi(y | x): the sum over the tokens of y, [N]."""
    return torch.where(mask, log_probs, torch.zeros_like(log_probs)).sum(1)


def log_ratios(p: Pairs) -> tuple[Tensor, Tensor]:
    """log pi(y_w | x) / pi_ref(y_w | x) and the same of y_l, [N] each."""
    chosen = total(p.chosen, p.chosen_mask) - total(p.ref_chosen, p.chosen_mask)
    rejected = total(p.rejected, p.rejected_mask) - total(p.ref_rejected, p.rejected_mask)
    return chosen, rejected


def agree(
    name: str, seed: int, equation: Callable[[Pairs], Tensor], *, reference: bool = True, **more: Tensor | float
) -> None:
    """The row's value and gradients are the equation's, to 1e-10 (and 1e-13 of it: SPPO's value is near 5e5)."""
    p = pairs(seed)
    given = dict(more)
    if reference:
        given |= {"ref_chosen_log_probs": p.ref_chosen, "ref_rejected_log_probs": p.ref_rejected}
    value = find(name).loss(p.chosen, p.rejected, p.chosen_mask, p.rejected_mask, **given).value
    expected = equation(p)
    gradients = torch.autograd.grad(value, (p.chosen, p.rejected))
    expected_gradients = torch.autograd.grad(expected, (p.chosen, p.rejected))
    torch.testing.assert_close(value, expected, rtol=1e-13, atol=1e-10)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-13, atol=1e-10)
    assert any(float(g.abs().max()) > 0 for g in expected_gradients)


def test_dpo_2305_18290v3_eq_7(seed: int) -> None:
    """-E log sigma(beta log pi/pi_ref(y_w) - beta log pi/pi_ref(y_l)); Appendix B: beta = 0.1."""

    def equation(p: Pairs) -> Tensor:
        w, lo = log_ratios(p)
        return -torch.log(torch.sigmoid(0.1 * w - 0.1 * lo)).mean()

    agree("dpo", seed, equation)


def test_cdpo_mitchell_note_v1_1_eq_3(seed: int) -> None:
    """-(1 - eps) log p - eps log(1 - p), p = sigma(beta (h_w - h_l)); the code's README: 0.1, 0.1."""

    def equation(p: Pairs) -> Tensor:
        w, lo = log_ratios(p)
        probability = torch.sigmoid(0.1 * w - 0.1 * lo)
        return (-(1 - 0.1) * torch.log(probability) - 0.1 * torch.log(1 - probability)).mean()

    agree("cdpo", seed, equation)


def test_robust_dpo_2403_00409_unbiased_loss(seed: int) -> None:
    """((1 - eps) L(y_w, y_l) - eps L(y_l, y_w)) / (1 - 2 eps); beta = 0.1, eps = 0.1."""

    def equation(p: Pairs) -> Tensor:
        w, lo = log_ratios(p)
        forward, flipped = -logsigmoid(0.1 * (w - lo)), -logsigmoid(0.1 * (lo - w))
        return (((1 - 0.1) * forward - 0.1 * flipped) / (1 - 2 * 0.1)).mean()

    agree("robust_dpo", seed, equation)


def test_ipo_2310_12036v2_eq_17(seed: int) -> None:
    """E (h(y_w, y_l) - 1/(2 tau))^2, h of whole completions; tau = 0.1 (no number for language models)."""

    def equation(p: Pairs) -> Tensor:
        w, lo = log_ratios(p)
        return (w - lo - 1 / (2 * 0.1)).square().mean()

    agree("ipo", seed, equation)


def test_ipo_mean_as_halos_has_eq_17(seed: int) -> None:
    """Equation 17 with log-ratios per token: IPOTrainer of HALOs (length_normalized=True), tau = 0.1."""

    def equation(p: Pairs) -> Tensor:
        w, lo = log_ratios(p)
        return (w / p.chosen_length - lo / p.rejected_length - 1 / (2 * 0.1)).square().mean()

    agree("ipo-mean", seed, equation)


def test_slic_2305_10425v1_eq_4(seed: int) -> None:
    """max(0, delta - log P(y+) + log P(y-)) - lambda log P(y_ref); delta = 1; lambda = 0.1, y_ref = y+ by HALOs."""

    def equation(p: Pairs) -> Tensor:
        w, lo = total(p.chosen, p.chosen_mask), total(p.rejected, p.rejected_mask)
        return (torch.clamp(1.0 - w + lo, min=0) - 0.1 * w).mean()

    agree("slic", seed, equation, reference=False)


def test_rso_2309_06657_eq_10_hinge_norm(seed: int) -> None:
    """E max(0, 1 - (gamma log pi/pi_sft(y_w) - gamma log pi/pi_sft(y_l))); section 5: gamma = 0.05."""

    def equation(p: Pairs) -> Tensor:
        w, lo = log_ratios(p)
        return torch.clamp(1 - (0.05 * w - 0.05 * lo), min=0).mean()

    agree("rso", seed, equation)


def test_simpo_2405_14734v3_eq_6(seed: int) -> None:
    """-E log sigma(beta/|y_w| log pi(y_w) - beta/|y_l| log pi(y_l) - gamma); Table 8, Llama-3-Base: 2.0 and 1.0."""

    def equation(p: Pairs) -> Tensor:
        w = 2.0 / p.chosen_length * total(p.chosen, p.chosen_mask)
        lo = 2.0 / p.rejected_length * total(p.rejected, p.rejected_mask)
        return -torch.log(torch.sigmoid(w - lo - 1.0)).mean()

    agree("simpo", seed, equation, reference=False)


def test_cpo_2401_08417v4_eq_3_and_5(seed: int) -> None:
    """-E log sigma(beta log pi(y_w) - beta log pi(y_l)) - E log pi(y_w); section 4.2: beta = 0.1."""

    def equation(p: Pairs) -> Tensor:
        w, lo = total(p.chosen, p.chosen_mask), total(p.rejected, p.rejected_mask)
        prefer = -torch.log(torch.sigmoid(0.1 * w - 0.1 * lo)).mean()
        return prefer - w.mean()

    agree("cpo", seed, equation, reference=False)


def test_orpo_2403_07691v2_eq_6_and_7(seed: int) -> None:
    """E [L_SFT + lambda L_OR], P(y | x) the tokens' geometric mean (eq. 3); section 6.1, Mistral: lambda = 0.1."""

    def equation(p: Pairs) -> Tensor:
        w = total(p.chosen, p.chosen_mask) / p.chosen_length
        lo = total(p.rejected, p.rejected_mask) / p.rejected_length
        odds_w, odds_l = w.exp() / (1 - w.exp()), lo.exp() / (1 - lo.exp())
        odds_ratio = -torch.log(torch.sigmoid(torch.log(odds_w / odds_l)))
        return (-w + 0.1 * odds_ratio).mean()

    agree("orpo", seed, equation, reference=False)


def test_triple_po_by_the_authors_code(seed: int) -> None:
    """-log sigma(beta (log pi(y_w) - log pi(y_l))) + alpha NLL(y_gold), a mean over tokens; beta = 0.01, alpha = 1."""
    gold, mask = (x[:, :3] for x in (pairs(seed + 9).chosen.detach(), pairs(seed + 9).chosen_mask))

    def equation(p: Pairs) -> Tensor:
        w, lo = total(p.chosen, p.chosen_mask), total(p.rejected, p.rejected_mask)
        return -torch.log(torch.sigmoid(0.01 * w - 0.01 * lo)).mean() - 1.0 * gold[mask].mean()

    agree("triple-po", seed, equation, reference=False, gold_log_probs=gold, gold_mask=mask)


def test_kto_2402_01306v5_eq_8(seed: int) -> None:
    """E [lambda_y - v(x, y)], v of r - z_0 or z_0 - r, z_0 without gradient; beta = 0.1, lambda_D = lambda_U = 1."""
    z0 = 0.7

    def equation(p: Pairs) -> Tensor:
        w, lo = log_ratios(p)
        desirable = 1.0 - 1.0 * torch.sigmoid(0.1 * (w - z0))
        undesirable = 1.0 - 1.0 * torch.sigmoid(0.1 * (z0 - lo))
        return torch.cat((desirable, undesirable)).mean()

    agree("kto", seed, equation, reference_point=torch.tensor(z0, dtype=torch.float64))


@pytest.mark.parametrize(
    ("changes", "prime"),
    [
        ("", lambda u: torch.log(2 * u / (1 + u))),
        (":objective.divergence=forward-kl", lambda u: -1 / u),
        (":objective.divergence=alpha+objective.alpha=0.3", lambda u: (1 - u**-0.3) / 0.3),
    ],
)
def test_f_dpo_2309_16240_f_prime_of_the_ratio(seed: int, changes: str, prime: Callable[[Tensor], Tensor]) -> None:
    """-E log sigma(beta f'(u_w) - beta f'(u_l)), u = pi / pi_ref, f' of the table that an account has; beta 0.1."""

    def equation(p: Pairs) -> Tensor:
        w, lo = log_ratios(p)
        return -torch.log(torch.sigmoid(0.1 * prime(w.exp()) - 0.1 * prime(lo.exp()))).mean()

    agree(f"f-dpo{changes}", seed, equation)


def test_xpo_2405_21046_eq_5(seed: int) -> None:
    """alpha log pi(y~) - log sigma(beta log pi/pi_ref(y+) - beta log pi/pi_ref(y-)), y~ by pi_ref; 1e-5 and 0.1."""
    from_reference = [True, False, False, True, False]

    def equation(p: Pairs) -> Tensor:
        w, lo = log_ratios(p)
        explored = [total(p.chosen, p.chosen_mask)[i] if chosen else total(p.rejected, p.rejected_mask)[i]
                    for i, chosen in enumerate(from_reference)]  # fmt: skip
        return (1e-5 * torch.stack(explored) - torch.log(torch.sigmoid(0.1 * w - 0.1 * lo))).mean()

    agree("xpo", seed, equation, chosen_is_from_reference=torch.tensor(from_reference))


def test_dpop_2402_13228v2_eq_3_as_notagen_prints_it(seed: int) -> None:
    """-E log sigma(beta log-ratio_w - beta log-ratio_l - beta lambda max(0, -log-ratio_w)); 0.3 and 50."""

    def equation(p: Pairs) -> Tensor:
        w, lo = log_ratios(p)
        charge = torch.where(w < 0, -w, torch.zeros_like(w))
        return -logsigmoid(0.3 * w - 0.3 * lo - 0.3 * 50 * charge).mean()

    agree("dpop", seed, equation)


def test_alphapo_2501_03884_by_an_account(seed: int) -> None:
    """-E log sigma(r_w - r_l - gamma), r = beta (1 - pi(y)^(-alpha/|y|)) / alpha; 0.25, 2.5 and gamma / beta = 0.1."""

    def reward(log_probs: Tensor, mask: Tensor, length: Tensor) -> Tensor:
        return 2.5 * (1 - total(log_probs, mask).exp() ** (-0.25 / length)) / 0.25

    def equation(p: Pairs) -> Tensor:
        w = reward(p.chosen, p.chosen_mask, p.chosen_length)
        lo = reward(p.rejected, p.rejected_mask, p.rejected_length)
        return -torch.log(torch.sigmoid(w - lo - 0.1 * 2.5)).mean()

    agree("alphapo", seed, equation, reference=False)


def test_bco_2404_04656_eq_7_and_8(seed: int) -> None:
    """-E log sigma(r_w - delta) - E log sigma(-(r_l - delta)), delta the mean of both; appendix C: beta = 0.1."""
    with torch.no_grad():
        w, lo = log_ratios(pairs(seed))
        delta = ((0.1 * w).mean() + (0.1 * lo).mean()) / 2

    def equation(p: Pairs) -> Tensor:
        w, lo = log_ratios(p)
        good = -torch.log(torch.sigmoid(0.1 * w - delta)).mean()
        return good - torch.log(torch.sigmoid(-(0.1 * lo - delta))).mean()

    agree("bco", seed, equation, reward_shift=delta)


def test_apo_zero_2408_06266_eq_7(seed: int) -> None:
    """-sigma(r_w) + sigma(r_l), r = beta log pi/pi_ref, and 1, which TRL adds; section 5.2: beta = 0.1."""

    def equation(p: Pairs) -> Tensor:
        w, lo = log_ratios(p)
        return (-torch.sigmoid(0.1 * w) + torch.sigmoid(0.1 * lo)).mean() + 1

    agree("apo_zero", seed, equation)


def test_apo_down_2408_06266_eq_8(seed: int) -> None:
    """sigma(r_w) - sigma(r_w - r_l), r = beta log pi/pi_ref, and 1, which TRL adds; section 5.2: beta = 0.1."""

    def equation(p: Pairs) -> Tensor:
        w, lo = log_ratios(p)
        return (torch.sigmoid(0.1 * w) - torch.sigmoid(0.1 * w - 0.1 * lo)).mean() + 1

    agree("apo_down", seed, equation)


def test_dpo_norm_2411_15124_eq_6(seed: int) -> None:
    """-log sigma(beta/|y_c| log pi/pi_ref(y_c) - beta/|y_r| log pi/pi_ref(y_r)); Table 20: beta = 5."""

    def equation(p: Pairs) -> Tensor:
        w, lo = log_ratios(p)
        return -torch.log(torch.sigmoid(5 / p.chosen_length * w - 5 / p.rejected_length * lo)).mean()

    agree("dpo-norm", seed, equation)


def test_wpo_2406_11827v2_eq_1(seed: int) -> None:
    """-E w(x, y_w) w(x, y_l) log p(y_w > y_l), the product of the weights detached; section 4.1: beta = 0.01."""
    weights = torch.rand(N, generator=torch.Generator().manual_seed(100 + seed), dtype=torch.float64)

    def equation(p: Pairs) -> Tensor:
        w, lo = log_ratios(p)
        return -(weights * torch.log(torch.sigmoid(0.01 * w - 0.01 * lo))).mean()

    agree("wpo", seed, equation, weights=weights)


def test_iterative_rpo_2404_19733v3_eq_1(seed: int) -> None:
    """DPO - alpha log M(c_w, y_w | x) / (|c_w| + |y_w|); section 3.1: alpha = 1, beta = 0.1."""

    def equation(p: Pairs) -> Tensor:
        w, lo = log_ratios(p)
        dpo = -torch.log(torch.sigmoid(0.1 * w - 0.1 * lo))
        nll = -total(p.chosen, p.chosen_mask) / p.chosen_length
        return (dpo + 1.0 * nll).mean()

    agree("iterative-rpo", seed, equation)


def test_rpo_2405_16436_eq_4_8(seed: int) -> None:
    """eta beta E[-log pi(y_w)] + DPO, log pi of the whole answer; appendix D.1: eta = 0.005, beta = 0.01."""

    def equation(p: Pairs) -> Tensor:
        w, lo = log_ratios(p)
        eta, beta = 0.005, 0.01
        return (eta * beta * -total(p.chosen, p.chosen_mask) - torch.log(torch.sigmoid(beta * w - beta * lo))).mean()

    agree("rpo", seed, equation)


def test_tr_dpo_2404_09656(seed: int) -> None:
    """DPO's loss with the reference of the moment, beta = 0.05; the move itself is tested as DPO.32."""

    def equation(p: Pairs) -> Tensor:
        w, lo = log_ratios(p)
        return -torch.log(torch.sigmoid(0.05 * w - 0.05 * lo)).mean()

    agree("tr-dpo", seed, equation)


def test_ld_dpo_2409_06411_eq_11(seed: int) -> None:
    """DPO of log pi^(y) = sum_{t <= l} log p_t + alpha sum_{t > l} log p_t, l = min(|y_w|, |y_l|); 0.5, beta = 0.1."""

    def equation(p: Pairs) -> Tensor:
        losses = []
        for n in range(N):
            l_p, score = int(min(p.chosen_length[n], p.rejected_length[n])), {}
            for name, mask in (("chosen", p.chosen_mask), ("rejected", p.rejected_mask)):
                for model in ("", "ref_"):
                    tokens = getattr(p, model + name)[n][mask[n]]
                    score[model + name] = tokens[:l_p].sum() + 0.5 * tokens[l_p:].sum()
            h = 0.1 * (score["chosen"] - score["ref_chosen"]) - 0.1 * (score["rejected"] - score["ref_rejected"])
            losses.append(-torch.log(torch.sigmoid(h)))
        return torch.stack(losses).mean()

    agree("ld-dpo", seed, equation)


def test_mpo_2411_10442_section_4_1(seed: int) -> None:
    """w_p L_p + w_q (L_q+ + L_q-) + w_g L_g, L_g = -log pi(y_w) / |y_w|; section 7: 0.8, 0.2, 1.0, beta = 0.1."""
    delta = 0.05

    def equation(p: Pairs) -> Tensor:
        w, lo = log_ratios(p)
        preference = -torch.log(torch.sigmoid(0.1 * w - 0.1 * lo))
        quality = -torch.log(torch.sigmoid(0.1 * w - delta)) - torch.log(torch.sigmoid(-(0.1 * lo - delta)))
        generation = -total(p.chosen, p.chosen_mask) / p.chosen_length
        return (0.8 * preference + 0.2 * quality + 1.0 * generation).mean()

    agree("mpo", seed, equation, reward_shift=delta)


def test_exo_2402_00856_eq_16(seed: int) -> None:
    """KL(p_f || p_r) of a pair: p_f = softmax(beta log pi/pi_ref), p_r = (1 - eps, eps); by code: 0.1, exp(-10)."""

    def equation(p: Pairs) -> Tensor:
        f = torch.stack(log_ratios(p), 1).mul(0.1).softmax(1)
        r = torch.tensor([1 - 4.54e-5, 4.54e-5], dtype=torch.float64)
        return (f * (f / r).log()).sum(1).mean()

    agree("exo", seed, equation)


def test_nca_2402_05369v3_pairwise(seed: int) -> None:
    """-log sigma(r_w) - 1/2 log sigma(-r_w) - 1/2 log sigma(-r_l), r = beta log pi/pi_ref; beta = 0.01."""

    def equation(p: Pairs) -> Tensor:
        w, lo = (0.01 * r for r in log_ratios(p))
        return -(
            torch.log(torch.sigmoid(w)) + torch.log(torch.sigmoid(-w)) / 2 + torch.log(torch.sigmoid(-lo)) / 2
        ).mean()

    agree("nca", seed, equation)


def test_sppo_2405_00675_eq_4_12(seed: int) -> None:
    """(log pi/pi_ref(y_w) - eta/2)^2 + (log pi/pi_ref(y_l) + eta/2)^2 at P(y_w > y_l) = 1; section 5.1: eta = 1e3."""

    def equation(p: Pairs) -> Tensor:
        w, lo = log_ratios(p)
        return ((w - 1e3 * (1 - 1 / 2)).square() + (lo - 1e3 * (0 - 1 / 2)).square()).mean()

    agree("sppo", seed, equation)


def test_discopop_2406_08414v3_eq_5(seed: int) -> None:
    """(1 - sigma(beta rho/tau)) log(1 + exp(-beta rho)) + sigma(beta rho/tau) exp(-beta rho); beta = tau = 0.05."""

    def equation(p: Pairs) -> Tensor:
        w, lo = log_ratios(p)
        x = 0.05 * (w - lo)
        gate = torch.sigmoid(x / 0.05)
        return ((1 - gate) * torch.log(1 + torch.exp(-x)) + gate * torch.exp(-x)).mean()

    agree("discopop", seed, equation)


def test_aot_2406_05882_paired(seed: int) -> None:
    """-1/b sum log sigma(beta (u_(i) - v_(i))): u sorted log pi(y+)/pi(y-), v the same of pi_ref; beta = 0.01."""

    def equation(p: Pairs) -> Tensor:
        u = (total(p.chosen, p.chosen_mask) - total(p.rejected, p.rejected_mask)).sort().values
        v = (total(p.ref_chosen, p.chosen_mask) - total(p.ref_rejected, p.rejected_mask)).sort().values
        return -torch.log(torch.sigmoid(0.01 * (u - v))).mean()

    agree("aot", seed, equation)


def test_aot_unpaired_2406_05882_algorithm_1(seed: int) -> None:
    """-1/b sum log sigma(beta (u_(i) - v_(i))): u sorted log pi/pi_ref(y+), v sorted of y-; Figure 2: beta = 0.01."""

    def equation(p: Pairs) -> Tensor:
        u, v = (r.sort().values for r in log_ratios(p))
        return -torch.log(torch.sigmoid(0.01 * (u - v))).mean()

    agree("aot_unpaired", seed, equation)
