"""How long the losses take, forward, backward and metrics as numbers, beside the peers' own code and torch.compile.

    python benchmarks/objectives.py [ppo grpo dpo]        --quick: a smoke run, writes nothing

All take [64, 2048] log-probs in float32. ppo is the clipped policy loss, grpo that with k3 to the reference, both with
a token mean, which all have; dpo sums the tokens and compares the first 32 completions with the others, beside OpenRLHF
(verl and torchrl have none; TRL's trainer computes it together with the log-probs). Every round runs all contenders in
turn; a figure is the median over rounds of their time / ours, eager. With --threads 1 it is processor time, which other
processes disturb less than the time on the clock. Each computes its own metrics, as numbers. verl always clips twice
(PPO.9). TRL, verl and OpenRLHF are loaded by torchstone.frameworks (requirements-frameworks.txt). "apart" is the
largest difference from our gradient over its largest entry: torchrl's KL is a mean over all positions, padding counted.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import torch
from recurrence import alternate, arguments, present

from torchstone.core import token_mean
from torchstone.dpo import dpo_loss, sequence_log_probs
from torchstone.grpo import grpo_loss
from torchstone.ppo import ppo_loss

RESULTS, BETA = Path(__file__).parent / "results" / "objectives.json", 0.04


def batch(case, rows, columns):
    old = -3 * torch.rand(rows, columns)
    x = SimpleNamespace(case=case, old=old, ref=old + 0.1 * torch.randn_like(old), rows=torch.randn(rows))
    x.leaf = (old + 0.2 * torch.randn_like(old)).requires_grad_()
    x.mask = torch.arange(columns) < torch.randint(columns // 2, columns + 1, (rows, 1))
    x.sums = (x.old * x.mask).sum(1)  # dpo: of the reference
    x.advantages, x.ones, x.beta = x.rows[:, None].repeat(1, columns), x.mask.long(), BETA if case == "grpo" else 0.0
    return x


def ours(x):
    if x.case == "dpo":
        log_probs = sequence_log_probs(x.leaf, x.mask, average=False)
        loss = dpo_loss(*log_probs.chunk(2), *x.sums.chunk(2), beta=0.1)
    elif x.case == "ppo":
        loss = ppo_loss(x.leaf, x.old, x.rows, x.mask, reduce=token_mean, epsilon=0.2)
    else:
        how = {"reduce": token_mean, "epsilon": 0.2, "beta": BETA, "ref_log_probs": x.ref}
        loss = grpo_loss(x.leaf, x.old, x.rows, x.mask, **how)
    return loss.value, [m.total / m.count for m in loss.metrics.values()]


def trl(x):
    from torchstone.frameworks.trl.load import Numbers, policy_trainer

    numbers = Numbers(x.leaf, x.mask, reference=x.ref, entropies=x.old)
    knobs = {"loss_type": "bnpo", "use_bias_correction_kl": False, "num_iterations": 2}
    trainer = policy_trainer("GRPO", numbers, beta=x.beta, per_device_train_batch_size=8, num_generations=4, **knobs)
    prompt = torch.ones(len(x.mask), 1).long()
    data = {"prompt_ids": prompt, "prompt_mask": prompt, "completion_ids": x.ones, "completion_mask": x.ones}
    data |= {"advantages": x.rows, "old_per_token_logps": x.old, "ref_per_token_logps": x.ref}
    return lambda x: (trainer._compute_loss(trainer.model, data), [])  # its metrics are numbers already


def verl(x):
    from torchstone.frameworks.verl import functions, load

    core_algos, config = load.core(), functions.config()
    policy, how = core_algos.get_policy_loss_fn("vanilla"), {"loss_agg_mode": "token-mean"}

    def step(x):
        mask = x.ones.bool()
        loss, metrics = policy(x.old, x.leaf, x.advantages, mask, config=config, **how)
        if x.beta == 0:
            return loss, metrics.values()
        kl = core_algos.agg_loss(core_algos.kl_penalty(x.leaf, x.ref, "low_var_kl"), mask, **how)
        return loss + BETA * kl, [*metrics.values(), kl.detach()]

    return step


def openrlhf(x):
    from torchstone.frameworks.openrlhf.load import LOSS, UTILS, load, module

    load()
    losses, utils = module(LOSS), module(UTILS)
    policy, pairs = losses.PolicyLoss(), losses.DPOLoss(0.1)
    trainer = object.__new__(module("openrlhf.trainer.dpo_trainer").DPOTrainer)
    read = torch.cat([x.ones[:, :1], x.ones], 1)

    def step(x):
        if x.case == "dpo":
            sums, _ = trainer._get_batch_logps(x.leaf, read, [1] * len(read))  # a prompt of one token
            loss, chosen, rejected = pairs(*sums.chunk(2), *x.sums.chunk(2))
            return loss, [(chosen > rejected).float().mean(), chosen.mean(), rejected.mean()]
        loss, *metrics = policy(x.leaf, x.old, x.advantages, x.ones)
        if x.beta == 0:
            return loss, metrics[:2]
        kl = losses.aggregate_loss(utils.compute_approx_kl(x.leaf, x.ref, kl_estimator="k3"), x.ones)
        moved = utils.masked_mean(x.leaf.float() - x.ref.float(), x.ones)
        return loss + BETA * kl, [*metrics[:2], kl.detach(), moved.detach()]

    return step


def torchrl(x):
    from tensordict import TensorDict
    from torchrl.objectives.llm.grpo import GRPOLoss

    class Given(GRPOLoss):
        def _get_cur_log_prob(self, _):
            return x.leaf, SimpleNamespace(mask=x.mask), False

    loss = Given(None, clip_epsilon=0.2, entropy_bonus=False, kl_to_ref_coeff=x.beta or None)
    data = {"tokens": {"full": x.ones}, "log_probs": {"full": x.old}, "advantage": x.advantages[..., None]}
    data = TensorDict(data | {"next": {"ref_log_probs": {"full": x.ref}}}, [len(x.old)])

    def step(x):
        out = loss(data)
        total = out.loss_objective + (out.loss_kl_to_ref if x.beta else 0)
        return total, [out.clip_fraction, out.kl_approx, out.ESS] + ([out.kl_to_ref] if x.beta else [])

    return step


def alternating(case, shape, rounds, threads):
    torch.manual_seed(0)
    x = batch(case, *shape)
    steps = {"torchstone": ours} | present((openrlhf,) if case == "dpo" else (trl, verl, openrlhf, torchrl), x)
    steps["torchstone, compiled"] = torch.compile(ours, fullgraph=True)

    def run(step):
        x.leaf.grad = None
        loss, metrics = step(x)
        loss.backward()
        [float(metric) for metric in metrics]

    measured = alternate({n: lambda s=s: run(s) for n, s in steps.items()}, lambda _: "torchstone", rounds, threads)
    run(ours)
    for name, expected in [(name, x.leaf.grad) for name in steps]:
        run(steps[name])
        apart = (x.leaf.grad - expected).abs().max() / expected.abs().max()
        measured["table"][name]["gradient apart"] = float(f"{apart:.1g}")
        print(f"{name:22} gradient apart {apart:.0e}")
    return measured


def main():
    options = arguments(__doc__, default=["ppo", "grpo", "dpo"], metavar="CASE")
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for case in options.which:
        shape, rounds = ((4, 16), 3) if options.quick else ((64, 2048), options.rounds)
        print(f"{case} {list(shape)}, forward, backward and metrics: time / torchstone's (10% to 90% of rounds)")
        results[f"{case}, {options.threads} threads"] = alternating(case, shape, rounds, options.threads)
    if not options.quick:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
