"""``torchstone cost``: memory and work of one update on paper, with the formula behind every number."""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torchstone.cost import formulas as paper
from torchstone.cost.formulas import METHODS, OPTIMIZERS, PRECISIONS, SYMBOLS, Plan, Quantity, Shape
from torchstone.terminal import Parser, UserError, dim, near, table, wrapped

HELP = """\
What one RL update needs in memory and in work, before anything is run. Without
--method: the four methods side by side. With it: every number and its formula.
Bytes are for each device, tokens and FLOPs for all devices together.
docs/cost.md says what is counted, what is not, and how far measurements are
from it.
"""
EXAMPLES = """\
examples
  torchstone cost --params 7e9                    the four methods side by side
  torchstone cost --params 7e9 --method ppo       every number, with its formula
  torchstone cost --config FOLDER --method grpo   the model of a config.json
  torchstone cost --params 7e9 --method grpo --no-reference --optimizer adam8bit
  torchstone cost --params 70B --method grpo --devices 64 --zero 3
  torchstone cost --layers 16 --hidden 2048 --heads 32 --kv-heads 8 --mlp 8192 \\
                  --vocab 128256 --tied
"""
SUMS = {"sampling": "always + sampling", "updating": "always + updating, with the larger of those in turn"}
SUFFIXES = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}


def cost(arguments: Sequence[str]) -> int:
    """``torchstone cost [--params N | --config FOLDER | --layers ...] [--method METHOD] [options]``."""
    try:
        return _cost(parser().parse_args(arguments))
    except ValueError as e:
        raise UserError(_named(str(e))) from e


def parser() -> Parser:
    """The options of the command."""
    whole, params = _number(True, 1, 1e12), _number(False, 1, 1e15)
    p = Parser("cost", HELP, EXAMPLES)
    p.add_argument("--method", help=f"one of {', '.join(METHODS)}; default: a comparison of the four")

    g = p.add_argument_group("the model, in one of three ways")
    g.add_argument("--params", type=params, metavar="N", help="its parameters, 7e9 or 7B: a likely shape is estimated")
    g.add_argument("--config", type=Path, metavar="FOLDER", help="a Hugging Face model folder, or its config.json")
    g.add_argument("--layers", type=whole, metavar="L", help="its shape: with --hidden and --heads")
    g.add_argument("--hidden", type=whole, metavar="H", help="width of the hidden states")
    g.add_argument("--heads", type=whole, metavar="A", help="attention heads")
    g.add_argument("--kv-heads", type=whole, metavar="N", help="heads of keys and values; default: --heads")
    g.add_argument("--head-size", type=whole, metavar="D", help="width of a head; default: --hidden / --heads")
    g.add_argument("--mlp", type=whole, metavar="F", help="width of the gated MLP; default: 3.5 H")
    g.add_argument("--vocab", type=whole, metavar="V", help="vocabulary; default: 128256 (also with --params)")
    g.add_argument("--tied", action="store_true", help="output head and input embedding are one (also with --params)")

    g = p.add_argument_group("the other models")
    g.add_argument("--reference", action=argparse.BooleanOptionalAction, default=None,
                   help="a frozen copy of the start model; default: yes, but for reinforce")  # fmt: skip
    g.add_argument("--critic-params", type=_number(False, 0, 1e15), metavar="N",
                   help="a critic of this size; 0: a linear layer on the policy; "
                   "default: ppo the policy's body, else none")  # fmt: skip
    g.add_argument("--reward-params", type=_number(False, 0, 1e15), metavar="N",
                   help="a reward model of this size; 0: a program; "
                   "default: ppo the policy's body, else 0")  # fmt: skip

    g = p.add_argument_group("one update")
    d = Plan
    g.add_argument("--prompts", type=whole, metavar="P", help=f"prompts (dpo: pairs); default {d.prompts}")
    g.add_argument("--group-size", type=whole, metavar="G", help=f"completions of each; default {d.group_size} (dpo 2)")
    g.add_argument("--prompt-tokens", type=whole, metavar="X", help=f"default {d.prompt_tokens}")
    g.add_argument("--completion-tokens", type=whole, metavar="T", help=f"of each; default {d.completion_tokens}")
    g.add_argument("--epochs", type=whole, metavar="E", help=f"passes over the completions; default {d.epochs}")
    g.add_argument(
        "--micro-batch", type=whole, metavar="b", help=f"rows of a pass, per device; default {d.micro_batch}"
    )
    g.add_argument("--sample-batch", type=whole, metavar="c",
                   help=f"completions sampled at a time, per device; default {d.sample_batch}")  # fmt: skip

    g = p.add_argument_group("how it is run")
    g.add_argument("--precision", default="mixed", help="; ".join(f"{k}: {v.meaning}" for k, v in PRECISIONS.items()))
    g.add_argument("--optimizer", default="adam", help=f"{' or '.join(OPTIMIZERS)}: one byte for each moment")
    g.add_argument("--checkpointing", action=argparse.BooleanOptionalAction, default=True,
                   help="keep each layer's input only and compute the rest again; default: yes")  # fmt: skip
    g.add_argument(
        "--logits", default="whole", metavar="FORM", help="whole (default), or tiled as in core.linear_log_probs"
    )
    g.add_argument("--devices", type=whole, metavar="Z", help="data-parallel devices; default 1")
    g.add_argument("--zero", type=_number(True, 0, 3), metavar="STAGE",
                   help="shard over the devices 1: optimiser, 2: and gradients, 3: and weights; default 0")  # fmt: skip

    g = p.add_argument_group("what is printed")
    g.add_argument("--units", default="binary", help="binary: GiB of 2^30 bytes (default); si: GB of 10^9 bytes")
    form = g.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="plain numbers: bytes, tokens, FLOPs")
    form.add_argument("--markdown", action="store_true", help="the tables as in docs/cost.md")
    return p


def _cost(options: argparse.Namespace) -> int:
    for name, choices in (
        ("method", METHODS), ("precision", tuple(PRECISIONS)), ("optimizer", OPTIMIZERS),
        ("logits", ("whole", "tiled")), ("units", ("binary", "si")),
    ):  # fmt: skip
        got = getattr(options, name)
        if got is not None and got not in choices:
            raise ValueError(f"unknown {name} {got!r}{near(got, choices)}; choose {', '.join(choices)}")
    policy, source = read_shape(options)
    plans = [read_plan(options, method, policy) for method in ([options.method] if options.method else METHODS)]
    if options.json:
        data = [paper.as_data(plan) for plan in plans]
        print(json.dumps(data[0] if options.method else data, indent=1))
        return 0
    tables = detail(plans[0], options.units) if options.method else comparison(plans, options.units)
    if options.markdown:
        print("\n\n".join(markdown(*table) for table in tables))
    else:
        _print(heading(plans[0], source, options.units), tables, compared=not options.method)
    return 0


def read_shape(options: argparse.Namespace) -> tuple[Shape, str]:
    """The policy's shape, and how it is known."""
    own = {name: getattr(options, name) for name in ("layers", "hidden", "heads", "kv_heads", "head_size", "mlp")}
    given = [name for name, value in own.items() if value is not None]
    ways = [bool(options.params), bool(options.config), bool(given)]
    if sum(ways) != 1:
        raise ValueError(
            "give the model in one way: --params N, or --config FOLDER, or --layers, --hidden and --heads"
            + (f"; got {sum(ways)} ways" if sum(ways) else "")
        )
    if options.config:
        if options.vocab or options.tied:
            raise ValueError("--config has the vocabulary and the tie; give neither --vocab nor --tied")
        return paper.read_config(options.config), f"{options.config}"
    vocab = options.vocab or 128_256
    if options.params:
        return paper.estimate(options.params, vocab, options.tied), "shape estimated from --params"
    missing = [name for name in ("layers", "hidden", "heads") if own[name] is None]
    if missing:
        raise ValueError(f"--{given[0].replace('_', '-')} needs --{' and --'.join(missing)} too")
    if own["head_size"] is None and own["hidden"] % own["heads"]:
        raise ValueError(f"--heads: expected a divisor of --hidden {own['hidden']}, or --head-size; got {own['heads']}")
    size, mlp = own["head_size"] or own["hidden"] // own["heads"], own["mlp"] or round(3.5 * own["hidden"])
    kv_heads = own["kv_heads"] or own["heads"]
    return Shape(own["layers"], own["hidden"], own["heads"], kv_heads, size, mlp, vocab, options.tied), "shape given"


def read_plan(options: argparse.Namespace, method: str, policy: Shape) -> Plan:
    """The plan of a method with what the options change."""
    names = (*paper.COUNTS, "zero")
    changed = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if method == "dpo" and not options.method:
        changed.pop("group_size", None)  # the comparison: dpo has its pairs, whatever the others' groups are
    if options.reference is not None:
        changed["reference"] = options.reference
    for name, size, needed in (("critic", options.critic_params, "ppo"), ("reward", options.reward_params, "")):
        if (
            size is None
            or (not options.method and needed not in ("", method))
            or (method == "dpo" and not options.method)
        ):
            continue
        if size and (method == "dpo" or (needed and method != needed)):
            raise ValueError(f"--{name}-params: {method} has no {name}{' model' * (name == 'reward')}; got {size:.3g}")
        changed[name] = paper.estimate(size, policy.vocab, scalar=True) if size else None
    changed |= {
        "precision": options.precision, "optimizer": options.optimizer,
        "checkpointing": options.checkpointing, "tiled": options.logits == "tiled",
    }  # fmt: skip
    return paper.plan(method, policy, **changed)


# --------------------------------------------------------------------------------------------------- tables

Table = tuple[str, list[str], list[list[str]], set[int]]  # title, headings, rows, rows that are sums


def size_of(value: int, units: str) -> str:
    if value < 0.0005 * 2**30:
        unit = 2**20 if units == "binary" else 1e6
        return f"{value / unit:.3f} {'MiB' if units == 'binary' else 'MB'}"
    unit = 2**30 if units == "binary" else 1e9
    return f"{value / unit:,.2f}"


def count_of(value: int) -> str:
    """1,234; from a million on 1.23e6."""
    return f"{value:,}" if value < 1e6 else _power(f"{value:.3e}")


def _power(text: str) -> str:
    return re.sub(r"e\+?0*(\d+)$", r"e\1", text)


def detail(plan: Plan, units: str) -> list[Table]:
    """Every number of one method."""
    unit = "GiB" if units == "binary" else "GB"
    rows, peaks = paper.memory(plan), paper.peaks(plan)
    held = {"turns": "updating, in turn", "instead": "(instead)"}
    table = [[r.name, held.get(r.when, r.when), r.formula, size_of(r.value, units)] for r in rows]
    sums = [[f"peak while {when}", when, SUMS[when], size_of(value, units)] for when, value in peaks.items()]
    device = "memory of each device" if plan.devices > 1 else "memory"
    memory: Table = (device, ["what", "held", "formula", unit], table + sums, set(range(len(rows), len(rows) + 2)))
    token: Table = ("tokens of one update", ["what", "formula", "tokens"], _lines(paper.tokens(plan)), set())
    done = paper.work(plan)
    total = sum(row.value for row in done)
    lines = [*_lines(done), ["in all", "the sum", count_of(total)]]
    lines.append(["for each row (prompt and completion)", "the sum / B", count_of(total // plan.rows)])
    ends = {len(lines) - 2, len(lines) - 1}
    tables: list[Table] = [memory, token, ("work of one update", ["what", "formula", "FLOPs"], lines, ends)]
    return [*tables, legend(plan, tables)]


def _lines(rows: list[Quantity]) -> list[list[str]]:
    return [[row.name, row.formula, count_of(row.value)] for row in rows]


def comparison(plans: list[Plan], units: str) -> list[Table]:
    """The methods side by side: what each holds, and what an update takes."""
    unit = "GiB" if units == "binary" else "GB"
    held = [{row.name: row.value for row in paper.memory(p) if row.when != "instead"} for p in plans]
    names = list(dict.fromkeys(name for rows in held[1:2] + held for name in rows))
    rows = [["models in memory", *(f"{len(p.models)}" for p in plans)]]
    rows += [[name, *(size_of(h[name], units) if name in h else "" for h in held)] for name in names]
    for when in ("sampling", "updating"):
        rows.append(
            [f"peak while {when}", *(size_of(v[when], units) if when in v else "" for v in map(paper.peaks, plans))]
        )
    memory = (f"{unit}{' on each device' if plans[0].devices > 1 else ''}", ["", *METHODS], rows,
              {len(rows) - 2, len(rows) - 1})  # fmt: skip
    token = [{row.name: row.value for row in paper.tokens(p)} for p in plans]
    lines = [["rows", *(f"{p.rows}" for p in plans)]]
    lines += [[f"tokens {name}", *(count_of(t[name]) if name in t else "" for t in token)] for name in token[0]]
    done = [{row.name: row.value for row in paper.work(p)} for p in plans]
    for name in dict.fromkeys(name for rows in done[1:2] + done for name in rows):
        lines.append([f"FLOPs {name}", *(count_of(d[name]) if name in d else "" for d in done)])
    totals = [sum(d.values()) for d in done]
    lines.append(["FLOPs in all", *map(count_of, totals)])
    lines.append(["FLOPs a row", *(count_of(t // p.rows) for t, p in zip(totals, plans, strict=True))])
    return [memory, ("one update", ["", *METHODS], lines, {len(lines) - 2, len(lines) - 1})]


def heading(plan: Plan, source: str, units: str) -> list[str]:
    """What was assumed, in a few lines."""
    s, precision = plan.policy, PRECISIONS[plan.precision]
    model = (
        f"{count_of(s.parameters)} parameters ({source}): {s.layers} layers of width {s.hidden}, {s.heads} heads of "
        f"{s.head_size}, {s.kv_heads} key-value heads, MLP {s.mlp}, "
        f"vocabulary {s.vocab}, {'tied' if s.tied else 'untied'}"
    )
    unit = "GiB = 2^30 bytes" if units == "binary" else "GB = 10^9 bytes"
    run = f"precision {plan.precision} ({precision.meaning}); {plan.optimizer}"
    devices = f"{plan.devices} devices, ZeRO stage {plan.zero}" if plan.devices > 1 else "one device"
    return [model, run, f"{devices}; rows of {plan.prompt_tokens} + {plan.completion_tokens} tokens; {unit}; "
            "one FLOP = one addition or multiplication"]  # fmt: skip


def legend(plan: Plan, tables: list[Table]) -> Table:
    """The symbols of the formulas that are shown, with their values."""
    formulas = " ".join(row[head.index("formula")] for _, head, rows, _ in tables for row in rows)
    used = set(re.findall(r"(?<![A-Za-z_])[A-Za-z](?:_[cr])?(?![A-Za-z_])", formulas))
    used |= {"H", "Q", "K", "F", "A", "w"} if "a" in used else set()
    known = [(symbol, of(plan), meaning) for symbol, (meaning, of) in SYMBOLS.items() if symbol in used]
    rows = [[symbol, count_of(value), meaning] for symbol, value, meaning in known if value is not None]
    if ")'" in formulas:
        rows.append(["(L Q)', (L m)'", "", "L Q and L m of that model"])
    return "symbols", ["symbol", "value", "what"], rows, set()


def markdown(title: str, headings: list[str], rows: list[list[str]], sums: set[int]) -> str:
    """One table of a page."""
    headings = [headings[0] or title, *headings[1:]]
    align = ["---" if heading in ("what", "held", "formula", "symbol", headings[0]) else "--:" for heading in headings]
    bold = [[f"**{cell}**" if i in sums and cell else cell for cell in row] for i, row in enumerate(rows)]
    lines = [headings, align, *bold]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _print(head: list[str], tables: list[Table], compared: bool) -> None:
    print("\n".join(dim(wrapped(line)) for line in head))
    for title, headings, rows, sums in tables:
        right = set(headings) - {"", "what", "held", "formula", "symbol"}
        faint = {i for i, row in enumerate(rows) if "(instead)" in row}
        print("\n" + table(headings, rows, title=title, right=right, sums=sums, faint=faint))
    if compared:
        print("\n" + dim(wrapped("torchstone cost ... --method NAME shows the formula behind every number.")))


# --------------------------------------------------------------------------------------------------- numbers


def _number(whole: bool, low: float, high: float) -> Callable[[str], Any]:
    """A reader of 7e9, 7B, 350M, 64; its errors name what was expected."""
    kind = "whole number" if whole else "number"

    def read(text: str) -> int | float:
        match = re.fullmatch(r"(.+?)([kKmMbBtT]?)", text.strip())
        try:
            value = (
                float(match[1].replace(",", "").replace("_", "")) * SUFFIXES.get(match[2].lower(), 1)
                if match
                else math.nan
            )
        except ValueError:
            value = math.nan
        if not low <= value <= high or (whole and value != int(value)):
            example = " such as 7e9, 7B or 350M" if high > 1e12 else ""
            raise argparse.ArgumentTypeError(f"expected a {kind} from {low:g} to {high:g}{example}, got {text!r}")
        return int(value) if whole else value

    return read


def _named(message: str) -> str:
    """``group_size: expected ...`` names a field; a person typed ``--group-size``."""
    name, colon, rest = message.partition(":")
    fields = {"params", "config", "layers", "hidden", "heads", "vocab", "mlp", *Plan.__dataclass_fields__}
    fields |= set(Shape.__dataclass_fields__)
    return f"--{name.replace('_', '-')}{colon}{rest}" if name in fields else message
