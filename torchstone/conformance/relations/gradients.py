"""Which way the gradient pulls: by advantages, pairs and beta, and through which arguments."""

from __future__ import annotations

from functools import partial

import torch

from torchstone.conformance.relations.subject import Answer, Status, Subject, held, relation

SAME = ("old_log_probs", "ref_log_probs", "sampler_log_probs")  # as the policy, on policy


@relation("scale")
def scale(s: Subject) -> Status:
    """Twice the advantages give twice their part of the loss and of its gradient."""
    name = _credit(s)
    if name is None:
        return "skip", "no advantages"
    none = s.ask({**s.batch, name: torch.zeros_like(s.batch[name])})
    double = s.ask({**s.batch, name: 2 * s.batch[name]})
    wanted = _plus(s.base, _minus(s.base, none))
    if wanted.gradients is not None:
        wanted = wanted._replace(gradients={k: g for k, g in wanted.gradients.items() if k in s.declared})
    told = f"twice the {name} give twice their part of the loss and of its gradient"
    found = s.apart(double, wanted)
    return held(found and found.replace(" became ", " was to be, it is "), told, f"with twice the {name}")


def _credit(s: Subject) -> str | None:
    if "log_probs" not in s.declared:
        return None
    return next(
        (k for k in ("advantages", "returns") if k in s.batch and (k == "advantages" or "values" not in s.batch)), None
    )


def _combined(a: Answer, b: Answer, sign: float) -> Answer:
    slopes = None
    if a.gradients is not None and b.gradients is not None:
        slopes = {k: g + sign * b.gradients[k] for k, g in a.gradients.items() if k in b.gradients}
    return Answer(a.output + sign * b.output, slopes)


_plus, _minus = partial(_combined, sign=1.0), partial(_combined, sign=-1.0)


@relation("sign of the advantage")
def sign(s: Subject) -> Status:
    """On policy, good tokens become more likely; of a pair, the chosen one."""
    if "chosen_log_probs" in s.batch or "chosen_rewards" in s.batch:
        return _sign_of_pairs(s)
    name = _credit(s)
    if name is None:
        return "skip", "no advantages"
    on_policy = {k: s.batch["log_probs"] if k in SAME else x for k, x in s.batch.items()}
    a = s.batch[name]
    alternating = torch.where(torch.arange(len(a)) % 2 == 0, 1.5, -1.0).to(a.dtype)
    a = alternating if a.ndim == 1 else alternating[:, None].expand_as(a).clone()
    pulled = _minus(s.ask({**on_policy, name: a}), s.ask({**on_policy, name: torch.zeros_like(a)}))
    slope = (pulled.gradients or {}).get("log_probs")
    if slope is None:
        return "skip", "it has no gradient"
    wanted = -(a if a.ndim == 2 else a[:, None].expand_as(slope)).sign()
    chosen = s.mask if s.mask is not None else torch.ones_like(slope, dtype=torch.bool)
    bad = chosen & ~(slope.sign() == wanted)
    if bad.any():
        i, j = bad.nonzero()[0].tolist()
        good = wanted[i, j] < 0
        does = "is not moved" if slope[i, j] == 0 else "becomes less likely" if good else "becomes more likely"
        said = "positive" if good else "negative"
        return (
            "fail",
            f"on policy, a token with a {said} advantage {does}: gradient {slope[i, j].item():.4g} at [{i}][{j}]",
        )
    return "pass", "on policy, good tokens become more likely and bad ones less"


def _sign_of_pairs(s: Subject) -> Status:
    kind = "log_probs" if "chosen_log_probs" in s.batch else "rewards"
    one, two = (s.batch[f"{whose}_{kind}"] for whose in ("chosen", "rejected"))
    if one.shape != two.shape or torch.equal(one, two):
        return "skip", "chosen and rejected cannot be exchanged"
    start = dict(s.batch)
    for whose in ("chosen", "rejected"):
        if f"ref_{whose}_{kind}" in start:
            start[f"ref_{whose}_{kind}"] = (one + two) / 2
    high, low = torch.maximum(one, two), torch.minimum(one, two)
    better = s.total(s.ask({**start, f"chosen_{kind}": high, f"rejected_{kind}": low}), start)
    worse = s.total(s.ask({**start, f"chosen_{kind}": low, f"rejected_{kind}": high}), start)
    if better < worse:
        return "pass", "the loss is lower where the chosen one is the more likely one of each pair"
    return (
        "fail",
        f"with the chosen one of each pair above the rejected one the loss is {better:.4g}, below it {worse:.4g}",
    )


@relation("sign of beta")
def beta(s: Subject) -> Status:
    """A larger beta raises the loss away from the reference, and pulls back."""
    if not {"beta", "ref_log_probs", "log_probs"} <= set(s.batch) or _credit(s) is None:
        return "skip", "no KL weight beside a reference"
    away = {**s.batch, "ref_log_probs": s.batch["log_probs"] - 0.3}
    more = _minus(s.ask({**away, "beta": 0.6}), s.ask({**away, "beta": 0.1}))
    risen = s.total(more, s.batch)
    if risen <= 0:
        what = "does nothing" if risen == 0 else f"lowers the loss by {-risen:.4g}"
        return "fail", f"where the policy is 0.3 nats above its reference, a larger beta {what}"
    slope = (more.gradients or {}).get("log_probs")
    if slope is not None and not (slope[s.mask] > 0 if s.mask is not None else slope > 0).all():
        return "fail", "a larger beta does not pull tokens back that are 0.3 nats above the reference"
    return "pass", "a larger beta raises the loss away from the reference, and pulls back"


@relation("gradient where declared")
def gradient(s: Subject) -> Status:
    """A gradient reaches what is optimised, and nothing else."""
    slopes = s.base.gradients
    if slopes is None:
        return ("skip", "none is expected") if not s.declared else ("skip", "it has no gradient")
    missing = [k for k in s.declared[:1] if k in slopes and not slopes[k].any()]
    if missing:
        return "fail", f"no gradient reaches {missing[0]}"
    also = [k for k, g in slopes.items() if k not in s.declared and g.nan_to_num(1.0).any()]
    if also:
        return "warn", f"a gradient reaches {', '.join(also)}: right only if the caller detaches them"
    return "pass", f"only {', '.join(s.declared)} have one" if s.declared else "nothing has one"
