"""The rules of evidence: what makes a name, or an edge, the reason for a failure. Each rule says why it is there."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from torchstone.conformance.ask.call import Trial
from torchstone.conformance.ask.compare import matches
from torchstone.conformance.fit.signature import Signature
from torchstone.conformance.name.changes import times
from torchstone.conformance.name.combined import Evidence, Names
from torchstone.conformance.result import Diagnosis, Outcome
from torchstone.conformance.vectors import Case, Vectors, hazards, leaves
from torchstone.conformance.written_in import computed

TWINNED = {  # edges that can be taken away from a case
    "nan_under_mask", "empty_row", "all_masked", "unscored", "minus_inf_logits", "extreme_ratio",
}  # fmt: skip
SHARE = 0.7  # of what differs, for a name that is more than a perhaps
SEEN = 0.01  # the advantage of equal rewards above which a tie that rounds is wrong; an eps of 1e-4 leaves 0.0024

# What plain, correct code forgets. A function that fails on these alone is right on every ordinary batch, and a report
# that calls it wrong is one that nobody reads.
FORGOTTEN = (
    "nan_under_mask", "empty_row", "all_masked", "one_token", "no_pairs", "group_of_one", "far_log_ratio",
    "extreme_margin", "extreme_ratio", "extreme_logits", "minus_inf_logits", "infinite_divergence", "tiny_log_ratio",
    "equal_rewards", "float_ties", "tie_that_rounds", "tie_of_all", "equal_returns", "empty_lengths", "empty_success",
    "empty_energy", "certain", "length_mismatch", "empty_tail",
)  # fmt: skip

# One convention, one name: an alternative that shows itself only where an edge is goes by the name of the edge, and
# counting rows without a token is `empty_rows_counted` wherever rows are averaged.
ONE_NAME = {
    "mask_multiplied": "nan_under_mask", "multiplied_by_mask": "nan_under_mask", "zero_over_zero": "all_masked",
    "zero_by_zero": "all_masked", "nan_of_empty_row": "empty_row", "nan_of_no_pairs": "no_pairs",
    "empty_groups_counted": "empty_rows_counted", "empty_rows_counted_at_1": "empty_rows_counted",
    "log_of_sigmoid": "extreme_margin", "log_of_one_plus_exp": "extreme_margin", "zero_times_inf": "minus_inf_logits",
}  # fmt: skip

# Alternatives that leave out a setting: of a function that cannot be given it, they say only that it has another value.
LEAVES_OUT = {
    "no_temperature": "temperature", "always_forward_kl": "beta", "always_reverse_kl": "beta", "always_half": "beta",
    "each_token_alone": "gamma", "undiscounted": "gamma", "always_divided": "divide_by_std",
}  # fmt: skip


def candidate(name: str, signature: Signature, vectors: Vectors) -> bool:
    """May this alternative be named at all?

    None on an argument or setting that the function does not take: it cannot ignore what it is never given. A reference
    is the exception, since a loss without its KL is a loss without that argument.
    """
    if name in LEAVES_OUT and not signature.expresses(LEAVES_OUT[name]):
        return False
    if "scored" in name and "scored" in vectors.arguments:
        return signature.expresses("scored")
    ignored = name.removesuffix("_ignored")
    if ignored != name and ignored in vectors.settings:
        return signature.expresses(ignored)
    return True


def tells_an_edge(name: str, vectors: Vectors) -> bool:
    """Does an alternative differ only where an edge is that plain code forgets? Then it is told as that edge."""
    if name not in ONE_NAME and name != "empty_rows_counted":
        return False
    return all(forgotten(c) for c in vectors.cases if name in c.alternatives)


def silent(name: str, failing: Sequence[Case], cases: Iterable[Case], trial: Trial) -> bool:
    """Does it go on at this edge with a wrong number that nobody sees? That is wrong, and no edge to know.

    NaN or an error stops a run; an advantage of 59 for equal rewards trains it. To count rows without a token is what
    plain code does unasked; code that is safe from NaN under the mask has thought of such rows, and chose to.

    Args:
        name: of the edge.
        failing: the cases that fail there.
        cases: all that were asked.
        trial: the function.
    """
    if name == "empty_rows_counted":
        guarded = [trial.run(c) for c in cases if "nan_under_mask" in c.flags]
        return bool(guarded) and all(_finite(o) for o in guarded)
    if name in ("float_ties", "tie_that_rounds"):
        as_set = [(replace(c, settings={**c.settings, **_defaults(trial)}), c.expected) for c in failing]
        pairs = [(dict(trial.run(c, "float32").outputs), dict(right.outputs)) for c, right in as_set if right]
        apart = [abs(dict(leaves(got)).get(k, math.inf) - x) for got, right in pairs for k, x in leaves(right)]
        return any(SEEN < x < math.inf for x in apart)
    return False


def _defaults(trial: Trial) -> dict[str, Any]:
    """The function's own numbers for the settings that it takes: those that people run it with."""
    parameters = inspect.signature(trial.function).parameters
    used = {ours: parameters[k].default for k, ours in trial.signature.settings.items() if k in parameters}
    return {ours: value for ours, value in used.items() if isinstance(value, float)}


def tells(outcome: Outcome, case: Case) -> bool:
    """Can these numbers speak for a name? At an edge NaN equals NaN whatever the formula is: it speaks for none.

    Which of several numbers are NaN does say something, such as the groups with a completion that was not scored; and
    NaN on an ordinary batch is what the formula gives, though it is the same in every case: see ``thin``.
    """
    if outcome.kind != "numbers":
        return False
    if not hazards(case):
        return True
    trees = [outcome.outputs, *([outcome.gradients] if outcome.gradients else [])]
    return all(any(math.isfinite(x) for _, x in leaves(dict(tree))) for tree in trees)


def thin(evidence: Evidence, explained: Iterable[int], differ: Iterable[int]) -> str:
    """Why a name is no more than a perhaps; "" where it is more.

    One case, or several with the same numbers, may be equal by chance; and a cause explains most of what differs. Cases
    that pass are no evidence: there the right formula and the named one are the same.

    Args:
        evidence: what came back.
        explained: failing cases in which the named alternative gives the function's numbers.
        differ: all failing cases on ordinary batches that no other name explains.
    """
    asked = {c.id: c for c in evidence.scored}
    hit = {i for i in explained if i in asked}
    core = {i for i in differ if i in asked and tells(evidence.outcomes[i], asked[i])} | hit
    numbers = {
        repr(sorted(evidence.outcomes[i].outputs.items())[:1]) for i in hit if tells(evidence.outcomes[i], asked[i])
    }
    if len(numbers) < 2:
        return "in one case only" if len(hit) < 2 else "in cases with the same numbers only"
    if len(hit) < SHARE * len(core):
        return f"in {len(hit)} of the {len(core)} cases that differ"
    return ""


# --------------------------------------------------------------------------------------------------------------- edges


def forgotten(case: Case) -> list[str]:
    """The flags of a case that plain, correct code forgets."""
    return [f for f in case.flags if f in FORGOTTEN]


def is_edge(evidence: Evidence, case: Case, names: Names = ()) -> bool:
    """Is the edge of this failing case the reason why it fails?

    Only if the result shows it (it raised, or a number is not finite) or the same case without the edge passes: a mask
    that is one place off fails on a row with NaN in its padding too, and the NaN is not why.

    Args:
        evidence: the function.
        case: one that fails.
        names: alternatives that the function is known to have: then its twin passes if it has those numbers.
    """
    if not forgotten(case):
        return False
    twin = plain_twin(case, evidence.trial.vectors)
    outcome = evidence.outcomes.get(case.id)
    if twin is None or outcome is None or outcome.kind != "numbers":
        return True
    again = evidence.trial.run(twin)
    if again.gradients is not None:  # what is known to be lost is not compared here either
        again = replace(again, gradients={k: g for k, g in again.gradients.items() if k in (outcome.gradients or {})})
    if matches(again, twin.expected):
        return True
    if names and replace(evidence, outcomes={twin.id: again}).equal(names, [twin]):
        return True
    return bool(names) and not _finite(outcome)


def _finite(outcome: Outcome) -> bool:
    trees = (outcome.outputs, outcome.gradients or {})
    return all(math.isfinite(x) for tree in trees for _, x in leaves(dict(tree)))


def with_twins(evidence: Evidence, wrong: Iterable[int], lost: Sequence[str]) -> tuple[Evidence, set[int]]:
    """The evidence with the plain twins that fail too, and their ids: they show the formula where the edge hides it."""
    scored, outcomes, failing = list(evidence.scored), dict(evidence.outcomes), set()
    for case in evidence.scored:
        twin = plain_twin(case, evidence.trial.vectors) if case.id in set(wrong) else None
        again = None if twin is None else evidence.trial.run(twin)
        if twin is None or again is None or again.kind != "numbers":
            continue
        if again.gradients is not None:
            again = replace(again, gradients={k: g for k, g in again.gradients.items() if k not in lost})
        if not matches(again, twin.expected):
            scored.append(twin)
            outcomes[twin.id] = again
            failing.add(twin.id)
    return replace(evidence, scored=scored, outcomes=outcomes), failing


def as_its_twin(evidence: Evidence, explained: Iterable[int]) -> set[int]:
    """The cases whose twin a name explains, and whose own edge is not why they fail: their numbers are finite."""
    ids, cases = set(explained), [c for c in evidence.scored if c.id > 0]
    return {c.id for c in cases if -c.id in ids and (_finite(evidence.outcomes[c.id]) or not forgotten(c))}


def of_cases(d: Diagnosis, twins: set[int]) -> Diagnosis:
    """The diagnosis with cases of the vectors alone: a twin is evidence, and no case of its own."""
    hit = [i for i in d.cases if i not in twins]
    more = len(d.cases) - len(hit)
    return replace(d, cases=tuple(sorted(hit)), matched=d.matched - more, of=max(d.of - more, d.matched - more))


def plain_twin(case: Case, vectors: Vectors) -> Case | None:
    """The same case without its edge: finite numbers, ratios near 1, a token in every row. None where there is none.

    Nor is there one where all the right numbers are 0 without the edge too.
    """
    if case.expected is None or not TWINNED & set(case.flags):
        return None
    inputs = {k: _made_finite(x) if vectors.arguments[k].kind == "float" else x for k, x in case.inputs.items()}
    if "extreme_ratio" in case.flags:
        inputs = {k: times(x, 0.25, 1) if vectors.arguments[k].kind == "float" else x for k, x in inputs.items()}
    for k, x in case.inputs.items():
        if k.endswith("mask") and {"empty_row", "all_masked"} & set(case.flags):
            inputs[k] = [row if any(row) else [True, *row[1:]] for row in x]
    twin = computed(case, vectors, {}, inputs)
    if twin is None or not _says_something(twin):
        return None
    return replace(twin, id=-case.id, flags=tuple(f for f in case.flags if f not in FORGOTTEN and f not in TWINNED))


def _says_something(twin: Case) -> bool:
    """Is any of its right numbers not 0? All are where a count that is a setting of 0 is divided by."""
    numbers = twin.expected
    return numbers is not None and any(
        x != 0 for tree in (numbers.outputs, numbers.gradients) for _, x in leaves(dict(tree))
    )


def _made_finite(x: Any, at: int = 1) -> Any:
    if isinstance(x, list):
        return [_made_finite(part, 3 * at + i) for i, part in enumerate(x)]
    return x if x is None or math.isfinite(x) else -0.5 - 0.25 * (at % 3)


def one_name(case: Case, outcome: Outcome | None, flag: str) -> str:
    """The name under which an edge is told: rows without a token are counted, if the numbers say so."""
    if flag != "empty_row" or outcome is None or not _finite(outcome):
        return flag
    same = {ONE_NAME.get(n, n) for n, numbers in case.alternatives.items() if matches(outcome, numbers)}
    return "empty_rows_counted" if "empty_rows_counted" in same else flag


# --------------------------------------------------------------------------------------------------------------- kinks


def at_a_kink(trial: Trial, case: Case, outcome: Outcome, precision: str) -> bool:
    """Is a gradient that differs one of the slopes on the two sides of a kink? Then it is as right as ours.

    At max(a, b) with a = b every slope between the two is one. Told by moving all inputs a little to either side: there
    the function has the right gradients, and its own at the kink lies between them.
    """
    if case.expected is None or outcome.kind != "numbers" or not outcome.gradients or hazards(case):
        return False
    single = replace(outcome, gradients=None, single=outcome.single or precision == "float32")
    if not matches(single, case.expected):
        return False
    vectors, sides = trial.vectors, []
    for seed in (1, 2, 3, 4):
        inputs = {k: _moved(x, seed) if vectors.arguments[k].kind == "float" else x for k, x in case.inputs.items()}
        moved = computed(case, vectors, {}, inputs)
        if moved is None or moved.expected is None or not matches(trial.run(moved), moved.expected):
            return False
        sides.append(moved.expected.gradients)
    margin = 1e-3 * case.expected.magnitude
    for name, slopes in outcome.gradients.items():
        if name not in sides[0]:
            continue
        around = [[x for _, x in leaves(side[name])] for side in [*sides, case.expected.gradients]]
        for i, (_, x) in enumerate(leaves(slopes)):
            column = [values[i] for values in around]
            if not min(column) - margin <= x <= max(column) + margin:
                return False
    return True


def _moved(x: Any, seed: int, at: int = 1) -> Any:
    if isinstance(x, list):
        return [_moved(part, seed, 5 * at + i) for i, part in enumerate(x)]
    side = 1 if math.sin(12.9898 * at * seed) > 0 else -1
    return None if x is None else x + side * 1e-5 * (1 + (at * seed) % 3)


def right_but_for_edges(cases: Sequence[Case], wrong: set[int]) -> bool:
    """Is every ordinary batch right, of which there is at least one?"""
    ordinary = [c for c in cases if not hazards(c)]
    return bool(ordinary) and not any(c.id in wrong for c in ordinary)
