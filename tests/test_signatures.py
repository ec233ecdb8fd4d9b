"""Right functions with the parameters that frameworks and people give them: each is fitted, and found right.

The bodies are our own; each function is checked as the objective that stands beside it in ``SIGNATURES``.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from torchstone import conformance
from torchstone.conformance.ask.compare import matches
from torchstone.conformance.checker import _cases as cases_of
from torchstone.conformance.fit.aliases import is_padding, role, setting
from torchstone.conformance.fit.signature import read_signature
from torchstone.conformance.fit.target import TargetError
from torchstone.conformance.trial import best_trial, hypotheses, likely_arrays
from torchstone.conformance.vectors import hazards, load
from torchstone.conformance.written_in import computed


def mean(x, mask):
    return torch.where(mask.bool(), x, 0.0).sum() / mask.sum().clamp(min=1)


def rows(x, mask):
    n = mask.sum(1)
    return (torch.where(mask.bool(), x, 0.0).sum(1) / n.clamp(min=1)).sum() / (n > 0).sum().clamp(min=1)


def surrogate(new, old, a, low, high):
    ratio = (new - old).exp()
    return torch.max(-a * ratio, -a * ratio.clamp(1 - low, 1 + high))


def k3(new, ref):
    return (ref - new).exp() - (ref - new) - 1


def value_error(v, old, r, eps):
    return 0.5 * torch.max((v - r) ** 2, (old + (v - old).clamp(-eps, eps) - r) ** 2)


def normed(r, std=True):
    a = r - r.mean(1, keepdim=True)
    return a / (r.std(1, keepdim=True) + 1e-4) if std else a


# ------------------------------------------------------------------------------------------------------------- policies


def cleanrl(
    newlogprob,
    b_logprobs,
    mb_advantages,
    newvalue,
    b_values,
    b_returns,
    entropy,
    mask,
    clip_coef=0.2,
    ent_coef=0.01,
    vf_coef=0.5,
):
    pg = surrogate(newlogprob, b_logprobs, mb_advantages, clip_coef, clip_coef)
    return mean(pg + vf_coef * value_error(newvalue, b_values, b_returns, 0.2) - ent_coef * entropy, mask)


def trl_ppo(
    logprobs,
    mb_logprobs,
    mb_advantage,
    vpred,
    mb_values,
    mb_return,
    padding_mask,
    cliprange=0.2,
    cliprange_value=0.2,
    vf_coef=0.1,
):
    keep = ~padding_mask
    loss = surrogate(logprobs, mb_logprobs, mb_advantage, cliprange, cliprange)
    return mean(loss + vf_coef * value_error(vpred, mb_values, mb_return, cliprange_value), keep)


def openrlhf(log_probs, old_log_probs, advantages, action_mask, clip_eps_low=0.2, clip_eps_high=0.28):
    return mean(surrogate(log_probs, old_log_probs, advantages, clip_eps_low, clip_eps_high), action_mask)


def verl(old_log_prob, log_prob, advantages, response_mask, cliprange=0.2, loss_agg_mode="token-mean"):
    if loss_agg_mode != "token-mean":
        raise ValueError(loss_agg_mode)
    return mean(surrogate(log_prob, old_log_prob, advantages, cliprange, cliprange), response_mask), {"kl": 0.0}


def torchrl(tensordict, clip_epsilon=0.2):
    new, old = tensordict["log_prob"], tensordict["sample_log_prob_old"]
    return {
        "loss_objective": mean(
            surrogate(new, old, tensordict["advantage"], clip_epsilon, clip_epsilon), tensordict["mask"]
        )
    }


def by_attribute(batch, config):
    low = high = getattr(config, "clip_ratio", 0.2)
    loss = surrogate(batch.log_probs, batch.old_log_probs, batch.advantages, low, high)
    return mean(loss, batch.response_mask)


def nested(data, cfg):
    eps = cfg["actor"]["clip_ratio"]
    return mean(
        surrogate(data.batch["log_probs"], data.batch["old_log_probs"], data.batch["advantages"], eps, eps),
        data.batch["response_mask"],
    )


def unpacked(batch, clip=0.2):
    logps, old_logps, advantages, mask = batch
    return mean(surrogate(logps, old_logps, advantages, clip, clip), mask)


def by_keywords(**kwargs):
    eps = kwargs.get("clip_eps", 0.2)
    return mean(surrogate(kwargs["logprobs"], kwargs["old_logprobs"], kwargs["advantages"], eps, eps), kwargs["mask"])


def in_order(*args):
    logprobs, old_logprobs, advantages, mask = args
    return mean(surrogate(logprobs, old_logprobs, advantages, 0.2, 0.2), mask)


def only_by_place(logprobs, old_logprobs, advantages, mask, /, clip=0.2):
    return mean(surrogate(logprobs, old_logprobs, advantages, clip, clip), mask)


def with_cu_seqlens(logprobs, old_logprobs, advantages, cu_seqlens, clip=0.2):
    assert cu_seqlens[-1] == len(logprobs)
    return surrogate(logprobs, old_logprobs, advantages, clip, clip).sum() / max(len(logprobs), 1)


def with_lengths(logprobs, old_logprobs, advantages, response_lengths, clip=0.2):
    mask = torch.arange(logprobs.shape[1])[None] < response_lengths[:, None]
    return mean(surrogate(logprobs, old_logprobs, advantages, clip, clip), mask)


def with_pad_mask(logprobs, old_logprobs, advantages, pad_mask, clip=0.2):
    return mean(surrogate(logprobs, old_logprobs, advantages, clip, clip), ~pad_mask)


def pad_mask_of_tokens(logprobs, old_logprobs, advantages, pad_mask, clip=0.2):
    return mean(surrogate(logprobs, old_logprobs, advantages, clip, clip), pad_mask)


def policy_and_entropy(logprobs, old_logprobs, advantages, entropy, mask, clip=0.2, ent_coef=0.01):
    return mean(surrogate(logprobs, old_logprobs, advantages, clip, clip) - ent_coef * entropy, mask)


def policy_and_value(logprobs, old_logprobs, advantages, values, returns, mask, clip=0.2, vf_coef=0.5):
    return mean(
        surrogate(logprobs, old_logprobs, advantages, clip, clip) + vf_coef * 0.5 * (values - returns) ** 2, mask
    )


@dataclass
class GRPOArgs:
    epsilon: float = 0.2
    beta: float = 0.04


class Trainer:
    def __init__(self, epsilon=0.2, beta=0.04):
        self.epsilon, self.beta = epsilon, beta
        self._metrics = {}

    def kl(self, new, ref):
        return self.beta * k3(new, ref)

    def compute_loss(self, inputs):
        new, old = inputs["per_token_logps"], inputs["old_per_token_logps"]
        loss = surrogate(new, old, inputs["advantages"][:, None], self.epsilon, self.epsilon)
        loss = loss + self.kl(new, inputs["ref_per_token_logps"])
        self._metrics["train"]["loss"].append(loss.detach().mean())
        return rows(loss, inputs["completion_mask"])


class Loss(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.low, self.beta = config.clip_eps, config.kl_beta

    def forward(self, logps, old_logps, ref_logps, advantages, mask):
        return rows(
            surrogate(logps, old_logps, advantages[:, None], self.low, self.low) + self.beta * k3(logps, ref_logps),
            mask,
        )


def with_args(logps, old_logps, ref_logps, advantages, mask, args: GRPOArgs):
    loss = surrogate(logps, old_logps, advantages[:, None], args.epsilon, args.epsilon)
    return rows(loss + args.beta * k3(logps, ref_logps), mask)


def passes_on(batch, cfg):
    return with_args(batch["logps"], batch["old_logps"], batch["ref_logps"], batch["advantages"], batch["mask"], cfg)


def tiny_grpo(log_probs, experience, clip_eps=0.2, kl_weight=0.04):
    loss = surrogate(log_probs, experience.action_log_probs_old, experience.advantages[:, None], clip_eps, clip_eps)
    return rows(loss + kl_weight * k3(log_probs, experience.log_probs_ref), experience.action_mask)


def on_logits(logits, labels, old_logps, advantages, clip=0.2):
    mask = labels[:, 1:] != -100
    new = logits[:, :-1].log_softmax(-1).gather(-1, labels[:, 1:].clamp(min=0)[..., None])[..., 0]
    return mean(surrogate(torch.where(mask, new, 0.0), torch.where(mask, old_logps, 0.0), advantages, clip, clip), mask)


# --------------------------------------------------------------------------------------------------------------- groups


def verl_index(token_level_rewards, response_mask, index, epsilon=1e-6, norm_adv_by_std_in_grpo=True):
    scores, by = token_level_rewards.sum(-1), {}
    for i, s in zip(index, scores, strict=True):
        by.setdefault(i, []).append(s)
    of = [torch.stack(by[i]) for i in index]
    a = torch.stack([s - g.mean() for s, g in zip(scores, of, strict=True)])
    if norm_adv_by_std_in_grpo:
        a = a / torch.stack([g.std() + epsilon for g in of])
    return a[:, None] * response_mask, a[:, None] * response_mask


def with_uids(rewards, uid):
    found = np.unique(uid)
    out = torch.zeros_like(rewards)
    for u in found:
        at = torch.as_tensor(np.asarray(uid) == u)
        out[at] = (rewards[at] - rewards[at].mean()) / (rewards[at].std() + 1e-4)
    return out


def grouped(rewards, num_generations):
    return normed(rewards.view(-1, num_generations)).reshape(-1)


def rloo(rlhf_reward, rloo_k):
    r = rlhf_reward.reshape(-1, rloo_k)
    return (r - (r.sum(1, keepdim=True) - r) / (rloo_k - 1)).flatten()


def valid(rewards, valid_mask, normalise=True, epsilon=1e-4):
    n = valid_mask.sum(1, keepdim=True)
    r = torch.where(valid_mask, rewards, 0.0)
    d = torch.where(valid_mask, r - r.sum(1, keepdim=True) / n.clamp(min=1), 0.0)
    tied = torch.where(valid_mask, rewards, -9e9).amax(1) == torch.where(valid_mask, rewards, 9e9).amin(1)
    std = (d.square().sum(1, keepdim=True) / (n - 1).clamp(min=1)).sqrt() + epsilon
    return torch.where(tied[:, None] | (n < 2), 0.0, d / std if normalise else d)


def trl_whiten(values, mask, shift_mean=True):
    m = mean(values, mask)
    var = (torch.where(mask, values - m, 0.0) ** 2).sum() / (mask.sum() - 1).clamp(min=1)
    x = (values - m) * torch.rsqrt(var + 1e-8)
    return torch.where(mask, x if shift_mean else x + m, 0.0)


# ---------------------------------------------------------------------------------------------------- pairs and thumbs


def dpo_authors(
    policy_chosen_logps,
    policy_rejected_logps,
    reference_chosen_logps,
    reference_rejected_logps,
    beta=0.1,
    reference_free=False,
):
    d = policy_chosen_logps - policy_rejected_logps
    d = d if reference_free else d - (reference_chosen_logps - reference_rejected_logps)
    losses = -F.logsigmoid(beta * d)
    return losses, (beta * (policy_chosen_logps - reference_chosen_logps)).detach(), None


def dpo_halves(all_logps, ref_all_logps, beta=0.1):
    w, v = (all_logps - ref_all_logps).chunk(2)
    return -F.logsigmoid(beta * (w - v)).mean()


def dpo_in_turn(logps, reference_logps, beta=0.1):
    d = logps - reference_logps
    return -F.logsigmoid(beta * (d[0::2] - d[1::2])).mean()


def dpo_dicts(policy, reference, beta=0.1):
    d = policy["chosen_logps"] - policy["rejected_logps"] - reference["chosen_logps"] + reference["rejected_logps"]
    return -F.logsigmoid(beta * d).mean()


def dpo_keys(policy_logps, reference_logps, beta=0.1):
    gain = {k: beta * (policy_logps[k] - reference_logps[k]) for k in ("chosen", "rejected")}
    return F.softplus(gain["rejected"] - gain["chosen"]).mean()


def dpo_spelled(batch, beta):
    margin = 0
    for side, sign in (("chosen", 1), ("rejected", -1)):
        margin = margin + sign * (batch[f"policy_{side}_logps"] - batch["reference_" + side + "_logps"])
    return -F.logsigmoid(beta * margin).mean()


def dpo_inner(policy, reference, beta):
    def gain(k):
        return policy[k] - reference[k]

    return -F.logsigmoid(beta * (gain("chosen") - gain("rejected"))).mean()


SIDES = {"chosen": 1, "rejected": -1}


def entry(x, key):
    return x[key]


def dpo_constant(policy, reference, beta):
    parts = [sign * (entry(policy, k) - entry(reference, k)) for k, sign in SIDES.items()]
    return -F.logsigmoid(beta * sum(parts)).mean()


def dpo_mapped(policy, reference, beta):
    chosen, rejected = map(lambda k: policy[k] - reference[k], SIDES)
    return -F.logsigmoid(beta * (chosen - rejected)).mean()


def dpo_letters(pi_yw, pi_yl, ref_yw, ref_yl, beta=0.1):
    return F.softplus(-beta * (pi_yw - pi_yl - ref_yw + ref_yl)).mean()


def ipo(logp_w, logp_l, ref_logp_w, ref_logp_l, tau=0.1):
    return ((logp_w - logp_l - ref_logp_w + ref_logp_l - 1 / (2 * tau)) ** 2).mean()


def simpo(policy_chosen_logps, policy_rejected_logps, beta=2.0, gamma_beta_ratio=0.5):
    return -F.logsigmoid(beta * (policy_chosen_logps - policy_rejected_logps - gamma_beta_ratio)).mean()


def orpo(policy_chosen_logps, policy_rejected_logps, lambda_=0.1):
    odds = lambda p: p - torch.log1p(-p.exp())  # noqa: E731
    return (
        -policy_chosen_logps - lambda_ * F.logsigmoid(odds(policy_chosen_logps) - odds(policy_rejected_logps))
    ).mean()


def reward_model(rewards):
    return -F.logsigmoid(rewards[0::2] - rewards[1::2]).mean()


def trl_kto(
    policy_chosen_logps,
    policy_rejected_logps,
    policy_KL_logps,
    reference_chosen_logps,
    reference_rejected_logps,
    reference_KL_logps,
    beta=0.1,
    desirable_weight=1.0,
    undesirable_weight=1.0,
):
    z = (policy_KL_logps - reference_KL_logps).mean().detach().clamp(min=0)
    up = 1 - torch.sigmoid(beta * (policy_chosen_logps - reference_chosen_logps - z))
    down = 1 - torch.sigmoid(beta * (z - (policy_rejected_logps - reference_rejected_logps)))
    return torch.cat([desirable_weight * up, undesirable_weight * down]), up.detach(), down.detach(), z


def halo_kto(policy_logps, ref_logps, is_desirable, kl, beta=0.1, w_d=1.0, w_u=1.0):
    sign = torch.where(is_desirable, 1.0, -1.0)
    return (
        torch.where(is_desirable, w_d, w_u) * torch.sigmoid(-sign * beta * (policy_logps - ref_logps - kl.detach()))
    ).mean()


def get_batch_logps(logits, labels, average_log_prob=False, label_pad_token_id=-100):
    labels, logits = labels[:, 1:].clone(), logits[:, :-1]
    mask = labels != label_pad_token_id
    labels[~mask] = 0
    found = torch.where(mask, logits.log_softmax(-1).gather(2, labels[..., None]).squeeze(2), 0.0)
    return found.sum(-1) / mask.sum(-1).clamp(min=1) if average_log_prob else found.sum(-1)


def stop_ids(completion_ids, stop_token_ids):
    ids = torch.tensor([stop_token_ids]) if isinstance(stop_token_ids, int) else torch.tensor(list(stop_token_ids))
    end = torch.isin(completion_ids, ids).long()
    return end.cumsum(1) - end == 0


def gae_of(rewards, values, response_mask, discount=0.99, gae_lambda=0.95):
    out, run, after = torch.zeros_like(values), torch.zeros_like(values[:, 0]), torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        new = rewards[:, t] + discount * after - values[:, t] + discount * gae_lambda * run
        run, after = torch.where(response_mask[:, t], new, run), torch.where(response_mask[:, t], values[:, t], after)
        out[:, t] = torch.where(response_mask[:, t], run, 0.0)
    return out, torch.where(response_mask, out + values, 0.0)


SIGNATURES = {
    "ppo_loss": [cleanrl, trl_ppo, openrlhf, verl, torchrl, by_attribute, nested, unpacked, by_keywords, in_order,
                 only_by_place, with_cu_seqlens, with_lengths, with_pad_mask, pad_mask_of_tokens, policy_and_entropy,
                 policy_and_value, on_logits],
    "grpo_loss": [Trainer.compute_loss, Loss, with_args, passes_on, tiny_grpo],
    "group_advantages": [verl_index, with_uids, grouped, valid],
    "leave_one_out_advantages": [rloo],
    "masked_whiten": [trl_whiten],
    "dpo_loss": [dpo_authors, dpo_halves, dpo_in_turn, dpo_dicts, dpo_letters, dpo_keys, dpo_spelled, dpo_inner,
                 dpo_constant, dpo_mapped],
    "ipo_loss": [ipo], "simpo_loss": [simpo], "orpo_loss": [orpo], "bradley_terry_loss": [reward_model],
    "kto_loss": [trl_kto, halo_kto], "sequence_log_probs": [get_batch_logps],
    "completion_mask": [stop_ids], "gae": [gae_of],
}  # fmt: skip


def outcomes_of(objective, function):
    """What the function gives in each ordinary case, and the case; the groups differ in what it has built in."""
    vectors = load(objective)
    signature = read_signature(function, vectors, {}, {})
    ordinary = [c for c in cases_of(signature, vectors) if c.expected is not None and not hazards(c)]
    trial = best_trial(function, signature, vectors, ordinary, likely_arrays(function), None, None, 10.0)
    whole = {c.id: c for c in vectors.cases}
    at_its_inputs = (computed(whole[c.id], vectors, c.settings, c.inputs) for c in ordinary)
    ordinary = [c for c in at_its_inputs if c is not None]
    groups = hypotheses(ordinary, [k for k in vectors.settings if not signature.expresses(k)])
    ran = [[(c, o) for c in group if (o := trial.run(c)).kind == "numbers"] for group in groups]
    return [pairs for pairs in ran if len(pairs) > 1]


@pytest.mark.parametrize(("objective", "function"), [(k, f) for k, fs in SIGNATURES.items() for f in fs])
def test_it_is_fitted_and_right_on_ordinary_batches(objective, function):
    assert any(all(matches(o, c.expected) for c, o in pairs) for pairs in outcomes_of(objective, function))


def cu_seqlens_in_a_loss_of_rows(log_probs, old_log_probs, advantages, mask, cu_seqlens_of_images):
    return 0


def test_a_refusal_writes_the_adapter_with_their_names():
    with pytest.raises(TargetError) as e:
        read_signature(cu_seqlens_in_a_loss_of_rows, load("grpo_loss"), {}, {})
    assert "cannot tell what cu_seqlens_of_images should be" in str(e.value)
    assert "from test_signatures import cu_seqlens_in_a_loss_of_rows" in str(e.value)
    assert "log_probs=log_probs, old_log_probs=old_log_probs, advantages=advantages, mask=mask" in str(e.value)


def of_a_star(*args):
    a, b, c, d = args
    return a - b - c + d


def test_an_adapter_passes_a_star_as_a_star():
    with pytest.raises(TargetError) as e:
        read_signature(of_a_star, load("dpo_loss"), {}, {})
    assert "return of_a_star(*(chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rej" in str(e.value)


def of_nested(batch, config, what_is_it):
    gain = [batch[side]["logps"] - batch[side]["ref_logps"] for side in ("chosen", "rejected")]
    return -F.logsigmoid(config.beta * (gain[0] - gain[1])).mean() * what_is_it


def test_an_adapter_makes_the_dicts_that_are_read():
    with pytest.raises(TargetError) as e:
        read_signature(of_nested, load("dpo_loss"), {}, {})
    assert "import Bag" in str(e.value) and 'config=Bag({"beta": beta})' in str(e.value)
    assert 'batch=Bag({"chosen": Bag({"logps": chosen_log_probs, "ref_logps": ref_chosen_log_probs}), "' in str(e.value)


def of_all_keys(policy_logps, reference_logps, beta):
    gain = {k: x - reference_logps[k] for k, x in policy_logps.items()}
    return -F.logsigmoid(beta * (gain["chosen"] - gain["rejected"])).mean()


def test_a_dict_whose_keys_are_not_in_the_code_is_not_called_wrong():
    """The check says that it was not fitted, with the lines that call it, and not that it is wrong."""
    report = conformance.check(of_all_keys, "dpo_loss")
    assert (report.verdict, report.exit_status) == ("not fitted", 2)
    assert "def dpo_loss(chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rej" in report.adapter
    assert "return of_all_keys(beta=beta, policy_logps=..., reference_logps=...)" in report.adapter


def test_what_is_left_at_its_default_is_kept_with_its_value():
    assert read_signature(dpo_authors, load("dpo_loss"), {}, {}).defaults == {"reference_free": False}


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("newlogprob", "log_probs"),
        ("oldLogProbs", "old_log_probs"),
        ("ref_logprobs", "ref_log_probs"),
        ("pi_yw", "chosen_log_probs"),
    ],
)
def test_the_fields_names(name, ours):
    assert role(name) == ours


def test_settings_and_masks_by_their_names():
    assert setting("rloo_k") == ["group_size"] and "divide_by_std" in setting("normalise_advantages")
    assert is_padding("padding_masks") and is_padding("pad_mask") and not is_padding("attention_mask")


# -------------------------------------------------------------------------------------------------------------- hostile


def hostile(log_probs, ref_log_probs, mask):
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(False)
    torch.set_grad_enabled(True)
    Path("left_behind.txt").write_text("here")
    print("I am called")
    return torch.where(mask, k3(log_probs, ref_log_probs), 0.0)


def test_what_a_function_sets_and_writes_is_not_left_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pairs = outcomes_of("kl_k3", hostile)
    assert all(matches(o, c.expected) for c, o in pairs[0]) and not list(tmp_path.iterdir())
    assert Path.cwd() == tmp_path and torch.get_default_dtype() == torch.float32 and torch.is_grad_enabled()


def test_what_it_writes_is_said():
    report = conformance.check(hostile, "kl_k3", search=False)
    assert [n for n in report.notes if "it writes files where it is run (left_behind.txt)" in n]
    assert not [n for n in conformance.check(dpo_authors, "dpo_loss", search=False).notes if "writes files" in n]


async def awaited(log_probs, ref_log_probs, mask):
    return k3(log_probs, ref_log_probs)


def returns_a_coroutine(log_probs, ref_log_probs, mask):
    return awaited(log_probs, ref_log_probs, mask)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("function", [awaited, returns_a_coroutine])
def test_an_async_function_is_refused_in_one_sentence(function):
    with pytest.raises(TargetError, match="it is async, and has numbers only when it is awaited"):
        conformance.check(function, "kl_k3")


def asks(log_probs, ref_log_probs, mask):
    return k3(log_probs, ref_log_probs) * float(input("how much? "))


def on_a_gpu(log_probs, ref_log_probs, mask):
    raise AssertionError("Torch not compiled with CUDA enabled")  # as .cuda() says where there is none


def needs_a_package(log_probs, ref_log_probs, mask):
    import no_such_package  # noqa: F401


@pytest.mark.parametrize(("function", "says"), [(on_a_gpu, "it needs a GPU"), (needs_a_package, "no_such_package")])
def test_what_this_machine_lacks_is_said_and_nothing_is_judged(function, says):
    with pytest.raises(TargetError, match=says):
        conformance.check(function, "kl_k3")


def test_a_question_has_no_answer():
    report = conformance.check(asks, "kl_k3", search=False)
    assert not report.passed and any("EOFError" in r.detail for r in report.results)


def test_the_report_lists_what_was_left_at_its_default():
    report = conformance.check(dpo_authors, "dpo_loss", search=False)
    assert report.left_default == {"reference_free": "False"} == report.as_dict()["left_default"]


def overlong(lengths, max_len, cache_len):
    return torch.clamp((max_len - cache_len - lengths) / cache_len, -1.0, 0.0)


def no_word_for_it(rewards, num_generations, what_is_it):
    return rewards


def test_a_cache_and_what_is_required_in_an_adapter():
    assert conformance.check(overlong, "overlong_penalties").passed
    with pytest.raises(TargetError) as e:
        read_signature(no_word_for_it, load("overlong_penalties"), {}, {})
    assert "num_generations=" in str(e.value)
