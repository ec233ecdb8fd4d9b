"""The corpus: functions as people write them, right and wrong. How they are read, and the proof of what they are.

Above each function of ``right/`` and ``wrong/`` stands a header:

    # objective: NAME      what it is checked as
    # expect: pass         right; "edges": right but for inputs that plain code forgets; "caught as ...": wrong
    # named: REGEX         what a report must contain for a person to know the cause (of a wrong one)
    # kind: KIND           the kind of mistake (of a wrong one)
    # style: TEXT          what is special about the way it is written (of a right one)
    # at: NAME=VALUE, ...  settings that are written into it
    # arrays: numpy, jax   its arrays, if not torch's
    # stands: for KIND     it is in tests/test_corpus.py, for the others of its kind
    # call: EXPRESSION     how the proof calls it, if its parameters are not one argument each

The proof does not use the checker: it calls each function and torchstone's own on random batches without an edge,
and compares values and gradients. Right ones are equal, wrong ones differ.
"""

import ast
import importlib.util
import inspect
import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from test_vectors import called, read  # noqa: E402  (torchstone's own functions, by the names of the vectors)


@dataclass(frozen=True)
class Entry:
    """One function of the corpus with its header."""

    path: Path
    name: str
    head: tuple

    def __getattr__(self, key):
        if key.startswith("__"):
            raise AttributeError(key)
        return dict(self.head).get(key, "")

    @property
    def wrong(self):
        return (self.expect or "caught").startswith("caught")

    @property
    def label(self):
        return f"{self.path.parent.name}/{self.path.stem}.{self.name}"

    @property
    def function(self):
        return getattr(module(self.path), self.name)

    @property
    def settings(self):
        """What ``at`` says, as Python values."""
        return {k: plain(v) for k, v in (part.split("=") for part in self.at.split(", ") if part)}


def plain(text):
    """A setting as it stands in a header: a number, None, True, False or a name."""
    try:
        return ast.literal_eval(text)
    except ValueError:
        return text


@cache
def module(path):
    spec = importlib.util.spec_from_file_location(f"corpus_{path.parent.name}_{path.stem}", path)
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    spec.loader.exec_module(found)
    return found


HEAD = re.compile(r"((?:^# \w+:.*\n)+)(?:@.*\n)*(?:def (\w+)|(\w+) = )", re.M)


@cache
def entries():
    """All functions of the corpus, in the order of the files."""
    found = []
    for path in sorted(HERE.glob("*/*.py")):
        for head, name, other in HEAD.findall(path.read_text(encoding="utf-8")):
            pairs = tuple((k, v.strip()) for k, v in re.findall(r"^# (\w+):(.*)$", head, re.M))
            found.append(Entry(path, name or other, pairs))
    return found


def read_folder(folder):
    """Functions of another folder: a file each, with its header at the top, named f."""
    found = []
    for path in sorted(p for p in folder.glob("**/*.py") if p.name != "run.py"):
        head = re.match(r"(?:#.*\n)*", path.read_text(encoding="utf-8"))[0]
        pairs = dict(re.findall(r"^#\s*(\w+)\s*:\s*(.*)$", head, re.M))
        found.append(Entry(path, "f", tuple(pairs.items())))
    return found


# ------------------------------------------------------------------------------------------------------------ the proof

ALIASES = {
    "log_probs": "logps logprobs logprob logp log_prob log_probs per_token_logps new_logps new_logprobs newlogprob lp "
    "pi_logp logits_logp new_log_probs policy_logps student_logprobs chosen_logps policy_KL_logps old_logps_",
    "old_log_probs": "old_logps old_logprobs old_logp logp_old old_log_prob old_log_probs old_per_token_logps "
    "oldlogprob b_logprobs pi_old_logp behaviour_logp",
    "ref_log_probs": "ref_logps ref_logprobs ref_logp logp_ref ref_log_prob ref_log_probs ref_per_token_logps "
    "pi_ref_logp reference_logps reference_KL_logps",
    "teacher_log_probs": "teacher_logprobs",
    "sampler_log_probs": "rollout_logprobs",
    "advantages": "adv advantages advantage A mb_advantages",
    "scored": "valid_mask",
    "mask": "mask masks completion_mask response_mask action_mask loss_mask",
    "values": "vpred vpreds values newvalue",
    "old_values": "old_values",
    "returns": "returns",
    "entropies": "entropy entropies",
    "rewards": "rewards token_level_rewards token_rewards",
    "scores": "scores reward_scores",
    "chosen_log_probs": "policy_chosen_logps chosen_logps pi_w",
    "rejected_log_probs": "policy_rejected_logps rejected_logps pi_l",
    "ref_chosen_log_probs": "reference_chosen_logps ref_chosen_logps ref_w",
    "ref_rejected_log_probs": "reference_rejected_logps ref_rejected_logps ref_l",
    "chosen_rewards": "chosen_reward chosen_rewards",
    "rejected_rewards": "reject_reward rejected_rewards",
    "desirable": "labels desirable",
    "reference_point": "kl reference_point",
    "desirable_weight": "desirable_weight w_d",
    "undesirable_weight": "undesirable_weight w_u",
    "logits": "logits policy_logits student_logits",
    "targets": "labels targets index",
    "tokens": "input_ids",
    "completions": "completion_ids",
    "eos_id": "eos_token_id eos_token_ids",
    "x": "x loss values",
    "epsilon": "epsilon eps clip clip_eps cliprange clip_range clip_coef clip_low clip_ratio_low epsilon_low eps_low "
    "clip_epsilon cliprange_value",
    "epsilon_high": "epsilon_high eps_high clip_high clip_ratio_high",
    "value_epsilon": "cliprange_value clip_coef_value",
    "value_coef": "vf_coef value_coef",
    "entropy_coef": "ent_coef entropy_coef",
    "beta": "beta kl_coef tau",
    "odds_coef": "lambda_ alpha",
    "flip_rate": "label_smoothing",
    "length": "max_length max_completion_length generation_length",
    "tau_positive": "tau_pos",
    "tau_negative": "tau_neg",
    "k_positive": "k_pos",
    "k_negative": "k_neg",
    "lambda_positive": "lambda_pos",
    "lambda_negative": "lambda_neg",
    "limit": "delta",
    "divide_by_std": "scale scale_rewards",
    "average": "average_log_prob",
    "high": "cap",
    "keep_mean": "",
}
NUMBERS = {
    "beta": 0.3, "epsilon": 0.2, "epsilon_high": None, "dual_clip": None, "value_epsilon": None, "value_coef": 0.0,
    "entropy_coef": 0.0, "label_smoothing": 0.0, "delta": 0.7, "gamma": 0.9, "lam": 0.8, "temperature": 2.0,
    "denominator": None, "correction": 1, "eps": 1e-6, "divide_by_std": True, "keep_mean": False, "cap": None,
    "kept_max": None,
    "reference_point": 0.4, "desirable_weight": 1.25, "undesirable_weight": 0.5, "odds_coef": 0.3, "sft_coef": 1.0,
    "flip_rate": 0.2, "centre": 0.0, "margin": None, "tau_positive": 1.0, "tau_negative": 1.5, "k_positive": 2.0,
    "k_negative": 3.0, "lambda_positive": 1.5, "lambda_negative": 2.0, "length": 9, "limit": 0.1, "level": "token",
    "gate": None, "low": None, "high": 2.0, "average": False, "token_gradient": True, "max_length": 16, "cache": 4,
    "target": 2.0, "gain": 0.1, "max_error": 0.2, "reward_shift": 0.0, "tau": 0.5, "paired": False, "group_size": 3,
    "k": 2, "of": "teacher", "rest": "tail", "divergence": "tv", "eos_id": 0,
}  # fmt: skip
WHERE_TAKEN = {
    "epsilon_high": 0.28, "dual_clip": 1.5, "value_epsilon": 0.3, "value_coef": 0.5, "entropy_coef": 0.1,
    "label_smoothing": 0.15,
}  # fmt: skip
AT = {
    "cispo_loss": {"epsilon_high": 0.28},
    "exo_loss": {"label_smoothing": 0.125},
    "jsd_exact": {"beta": 0.3},
    "jsd_loss": {"beta": 1.0},
    "completion_mask": {"eos_id": [1, 2]},
    "gmpo_loss": {"epsilon": 0.4},
}
LEVELS = {"cispo_loss": "token_mean", "ppo_loss": "token_mean", "reinforce_loss": "sequence_sum"}


WEIGHED = {"beta": "ref_log_probs", "value_coef": "values", "entropy_coef": "entropies"}
OPTIONAL = {
    "grpo_loss": ("ref_log_probs",),
    "ppo_loss": ("values", "old_values", "returns", "entropies"),
    "reinforce_loss": ("baseline", "entropies"),
    "bradley_terry_loss": ("margin",),
    "distill_loss": ("old_log_probs",),
    "wpo_weights": ("log_normalisers",),
}
OPTIONAL |= {
    k: ("scored",) for k in ("group_advantages", "leave_one_out_advantages", "gpg_advantages", "greedy_advantages")
}
OPTIONAL |= {k: ("scored",) for k in ("length_weighted_advantages", "max_likelihood_advantages", "mixed_groups")}


def tensor(name, shape, kind, seed, rows=6):
    """A random argument; masks are ragged with gaps, and every row has a token."""
    sizes = {"B": rows, "T": 5, "S": 6, "S-1": 5, "V": 7, "N": 6, "P": 2, "G": 3}
    size = [sizes[part] for part in shape.split()]
    g = torch.Generator().manual_seed(seed * 1000 + sum(map(ord, name)))
    if kind == "bool":
        out = torch.rand(size, generator=g) > 0.4
        if name in ("mask", "desirable"):
            out[..., 1] = True
        return torch.tensor([[False, True, True], [True, True, True]]) if name == "scored" else out
    if kind == "int":
        return torch.randint(0, 7, size, generator=g)
    x = torch.randn(size, generator=g, dtype=torch.float64)
    if name in ("lengths", "energies", "weights", "entropies", "max_lengths") or (name == "rewards" and shape == "P G"):
        return x.abs() * 7 if name == "lengths" else x.abs()
    return -x.abs() if name.endswith("log_probs") else x


def batch(entry, seed):
    """The arguments and settings of the entry's objective."""
    data = read(entry.objective)
    arguments = {k: tensor(k, v["shape"], v["kind"], seed) for k, v in data["arguments"].items()}
    if entry.objective == "overlong_penalties":
        arguments["lengths"] = arguments["lengths"] + 9
    if entry.objective == "gpg_advantages":
        arguments["rewards"][0] = 0.5
    if entry.objective == "adaptive_kl":
        arguments["kl"] = float(arguments["kl"].abs() * 3)
    settings = {k: NUMBERS[k] for k in data["settings"] if k != "reduce"} | AT.get(entry.objective, {})
    if "reduce" in data["settings"]:
        spec = {g["settings"].get("reduce") for g in data["groups"]}
        settings["reduce"] = LEVELS.get(entry.objective, "token_mean") if len(spec) > 1 else spec.pop()
    return arguments, settings


def matched(entry, arguments, settings):
    """The function's parameters by their names, and the settings that are left for torchstone's."""
    passed, settings = {}, dict(settings)
    parameters = inspect.signature(getattr(entry.function, "forward", entry.function)).parameters
    ours = [*arguments, *settings]
    for name, parameter in parameters.items():
        found = [a for a in ours if name == a] or [a for a in ours if name in ALIASES.get(a, "").split()]
        if not found and parameter.default is parameter.empty:
            raise LookupError(f"{entry.label}: no argument for {name}")
        if found:
            passed[name] = found[0]
    return passed


def returned(entry):
    """The objective's results without its metrics."""
    return [k for k, v in read(entry.objective)["returns"].items() if not v.get("metric")]


def truth(entry, arguments, settings):
    """The outputs and gradients of torchstone's own function."""
    data, leaves = read(entry.objective), {}
    for k, v in data["arguments"].items():
        if k in arguments:
            leaves[k] = arguments[k].clone().requires_grad_() if v["gradient"] else arguments[k]
    found = called(entry.objective, dict(settings), leaves)
    found = [found[k] for k in returned(entry)]
    return found, gradients(found[0], [x for k, x in leaves.items() if data["arguments"][k]["gradient"]])


def gradients(output, wanted):
    if not isinstance(output, torch.Tensor) or not output.requires_grad:
        return [torch.zeros_like(x) for x in wanted]
    got = torch.autograd.grad(output.sum(), wanted, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(got, wanted, strict=True)]


def answer(entry, arguments, settings):
    """The outputs and gradients of the entry's function on the same batch."""
    data = read(entry.objective)
    wants = [k for k in arguments if data["arguments"][k]["gradient"]]
    leaves = {k: arguments[k].clone().requires_grad_() if k in wants else arguments[k] for k in arguments}
    everything = {**settings, **leaves}
    if entry.arrays == "jax":
        return jax_answer(entry, leaves, settings, wants)
    if entry.arrays == "numpy":
        everything = {k: v.detach().numpy() if isinstance(v, torch.Tensor) else v for k, v in everything.items()}
    if entry.call:
        out = eval(entry.call, {"f": entry.function, "torch": torch, "SimpleNamespace": SimpleNamespace}, everything)
    else:
        out = entry.function(**{k: everything[a] for k, a in matched(entry, arguments, settings).items()})
    outputs = chosen(out, len(returned(entry)))
    if entry.arrays == "numpy":
        return [torch.as_tensor(x) for x in outputs], None
    return outputs, gradients(outputs[0], [leaves[k] for k in wants])


def jax_answer(entry, leaves, settings, wants):
    import jax

    jax.config.update("jax_enable_x64", True)
    arrays = {k: jax.numpy.asarray(v.detach().numpy()) for k, v in leaves.items()} | settings
    passed = matched(entry, leaves, settings)

    def call(*by):
        given = arrays | dict(zip(wants, by, strict=True))
        return entry.function(**{k: given[a] for k, a in passed.items()})

    value, got = jax.value_and_grad(call, argnums=tuple(range(len(wants))))(*[arrays[k] for k in wants])
    as_torch = lambda x: torch.tensor(x.tolist(), dtype=torch.float64)  # noqa: E731
    return [as_torch(value)], [as_torch(g) for g in got]


def chosen(out, count):
    """Of several results the first ones."""
    if isinstance(out, dict):
        out = out["loss"]
    return list(out)[:count] if isinstance(out, tuple) else [out]


def distance(entry, seed):
    """How far the function is from torchstone's own on a random batch: value and gradient, relative."""
    arguments, settings = batch(entry, seed)
    keep = set(matched(entry, arguments, settings).values()) if not entry.call else None
    taken = keep or set(re.findall(r"\w+", entry.call))
    settings |= {k: v for k, v in WHERE_TAKEN.items() if k in taken and k in settings} | entry.settings
    optional = OPTIONAL.get(entry.objective, ())
    weighed = {v for k, v in WEIGHED.items() if k in taken}
    arguments = {k: v for k, v in arguments.items() if k in taken | weighed or k not in optional}
    if keep is not None:
        if "mask" not in keep and "mask" in arguments:
            arguments["mask"] = torch.ones_like(arguments["mask"])
        settings |= {k: 0.0 for k, v in WEIGHED.items() if k in settings and v in optional and v not in arguments}
    right, slopes = truth(entry, arguments, settings)
    torch.manual_seed(seed)
    got, ours = answer(entry, arguments, settings)
    far = 0.0
    for a, b in zip([*right, *slopes], [*got, *(slopes if ours is None else ours)], strict=True):
        a, b = (torch.as_tensor(x).detach().double() for x in (a, b))
        if a.shape != b.shape or not b.isfinite().all():
            return float("inf")
        mask = arguments.get("mask")
        spot = mask if mask is not None and a.shape == mask.shape else torch.ones_like(a)
        far = max(far, float(((a - b) * spot).abs().max()) / max(1.0, float(a.abs().max())))
    return far


def errors():
    """What is not as it says: right but other than torchstone, or wrong but equal to it, on three random batches."""
    for entry in entries():
        far = max(distance(entry, seed) for seed in range(3))
        if (far < 1e-6) == entry.wrong:
            yield f"{entry.label}: {entry.objective}, {far}"


if __name__ == "__main__":
    print(*errors(), f"{len(entries())} functions, {sum(e.wrong for e in entries())} of them wrong", sep="\n")
