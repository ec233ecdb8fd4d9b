"""``torchstone trace``: its numbers are the library's, and fit a terminal."""

import json
import re
from pathlib import Path

import pytest
import torch

from torchstone.cli import main
from torchstone.grpo import group_advantages
from torchstone.recipes import RECIPES, PolicyRecipe, find
from torchstone.trace.stages import equations, noting
from torchstone.trace.update import fitted, of_the_table
from torchstone.trace.world import Table, outputs, sample

VECTORS = Path(__file__).parent.parent / "torchstone" / "conformance" / "vectors"


def part(parts, title):
    return next(p for p in parts if p.title.startswith(title))


def column(p, name):
    return [row[p.head.index(name)] for row in p.rows]


@pytest.mark.parametrize("name", RECIPES)
def test_every_row_has_its_update(name):
    """Stages in order; finite numbers; probabilities that are some, changed by the step as its gradient says."""
    parts = of_the_table(RECIPES[name], seed=1, G=3)
    assert [p.title[0] for p in parts] == sorted(p.title[0] for p in parts)
    gradient, moves = part(parts, "7 update: the gradient"), part(parts, "7 update: the probabilities")
    rate = float(re.search(r"takes (\S+) times", gradient.text[0])[1])
    for slopes, pairs in zip(gradient.rows, moves.rows, strict=True):
        before, after = (torch.tensor(x, dtype=torch.float64) for x in zip(*pairs[1:], strict=True))
        expected = (before.log() - rate * torch.tensor(slopes[1:], dtype=torch.float64)).softmax(0)
        assert torch.allclose(after, expected, rtol=5e-3) and abs(sum(slopes[1:])) < 1e-12


@pytest.mark.parametrize("name", ["reinforce", "ppo", "grpo", "gspo", "rloo"])
def test_the_gradient_of_the_table_is_that_of_its_loss_by_differences(name):
    recipe, _ = fitted(find(name))
    assert isinstance(recipe, PolicyRecipe)
    generator = torch.Generator().manual_seed(3)
    model, ref = Table(generator), Table(generator)
    rollout = sample(model, 3, generator)
    old = {k: x.detach() for k, x in outputs(model, rollout).items()}
    known = {"old_log_probs": old["log_probs"], "old_values": old["values"], "values": old["values"],
             "ref_log_probs": outputs(ref, rollout)["log_probs"].detach(), "group_size": 3}  # fmt: skip
    earned = recipe.advantages(rollout.rewards, rollout.mask, **recipe.used("advantages", known))

    def loss():
        now = known | outputs(model, rollout) | {"returns": earned.returns}
        used = recipe.used("loss", now)
        return recipe.loss(now["log_probs"], earned.advantages, rollout.mask, **used).value

    with torch.no_grad():
        model.logits += 0.01 * torch.randn(model.logits.shape, generator=generator)
    loss().backward()
    with torch.no_grad():
        for at in ((0, 1), (3, 0), (3, 3), (7, 1), (4, 2)):
            model.logits[at] += 1e-6
            high = loss()
            model.logits[at] -= 2e-6
            low = loss()
            model.logits[at] += 1e-6
            assert abs((high - low).item() / 2e-6 - model.logits.grad[at].item()) < 1e-7


def test_the_stages_show_what_the_functions_give():
    parts = of_the_table(RECIPES["dr_grpo"], seed=1, G=3)
    rewards = torch.tensor([row[1:] for row in part(parts, "4").rows], dtype=torch.float64)
    advantages = group_advantages(rewards, divide_by_std=False, correction=0, eps=0.0)
    shown = dict.fromkeys(column(part(parts, "5"), "A_t"))
    assert set(shown) == set(advantages.flatten().tolist())
    old, now, ratio = (column(part(parts, n), c) for n, c in (("3", "log pi_old"), ("3", "log pi"), ("6", "ratio")))
    for a, b, r in zip(old, now, ratio, strict=True):
        assert r == pytest.approx(torch.tensor(b - a, dtype=torch.float64).exp().item(), rel=1e-12)


def test_noting_changes_nothing():
    recipe = RECIPES["ppo"]
    noted, steps = noting(recipe)
    mask, old, now = torch.ones(2, 3) > 0, -torch.rand(2, 3), -torch.rand(2, 3)
    batch = {"old_log_probs": old, "values": old, "old_values": old, "returns": now}
    assert noted.loss(now, torch.rand(2), mask, **batch).value.isfinite()
    advantages = torch.rand(2)
    same = [r.loss(now, advantages, mask, **batch).value for r in (recipe, noted)]
    assert same[0] == same[1] and {"ratio", "surrogate", "reduction"} <= {at for at, *_ in steps}


@pytest.mark.parametrize("case", range(1, 7))
def test_numbers_of_ones_own_end_where_the_oracle_does(case, capsys):
    """GRPO's vectors of the settings that its row has: loss and gradient, by the independent oracle."""
    file = VECTORS / "grpo_loss.json"
    group = json.loads(file.read_text())["groups"][0]
    assert group["settings"] == {"reduce": "sequence_mean", "epsilon": "0.2", "epsilon_high": None, "beta": "0.04"}
    wanted = next(c for c in group["cases"] if c["id"] == case)
    assert main(["trace", "grpo", "--batch", str(file), "--case", str(case), "--json"]) == 0
    loss = part_of(json.loads(capsys.readouterr().out), "6")
    said = next(line for line in loss["text"] if line.startswith("The loss"))
    assert said == f"The loss of the batch is {float(wanted['expected']['outputs']['loss']):.4f}."
    gradient = [row[loss["head"].index("dL/dlog pi")] for row in loss["rows"]]
    mask, expected = wanted["inputs"]["mask"], wanted["expected"]["gradients"]["log_probs"]
    flat = [float(x) if m else None for xs, ms in zip(expected, mask, strict=True) for x, m in zip(xs, ms, strict=True)]
    assert gradient == [None if x is None else pytest.approx(x, abs=1e-7) for x in flat]


def part_of(data, title):
    return next(p for p in data["parts"] if p["title"].startswith(title))


@pytest.mark.parametrize("method", ["reinforce", "ppo", "grpo", "dpo", "distill", "dapo", "simpo", "gkd"])
def test_it_fits_eighty_columns(method, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["trace", method]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80 and "7 update" in out
    assert main(["trace", method, "--markdown"]) == 0
    assert capsys.readouterr().out.startswith("# One update by hand: ")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("triple-po", "There is no third completion"),
        ("xpo", "the rejected ones are taken for the reference's"),
        ("kto", "The reference point is taken to be 0"),
        ("mpo", "The reward shift is taken to be 0"),
    ],
)
def test_what_stands_in_for_a_missing_tensor_is_said_where_it_is_taken(name, sentence):
    said = {row: " ".join(part(of_the_table(RECIPES[row], 1, 3), "1").text) for row in (name, "dpo")}
    assert sentence in said[name] and sentence not in said["dpo"]


def test_equations_stand_with_their_tags():
    assert any(line.endswith("(GRPO.2)") for line in equations(group_advantages))
    assert "(GRPO.6)" in " ".join(line for p in of_the_table(RECIPES["dapo"], 1, 3) for line in p.text)


@pytest.mark.parametrize(
    "words, said",
    [
        ([], "which method?"),
        (["grop"], "did you mean"),
        (["grpo", "--recipe", "dapo"], "give one of the two"),
        (["grpo", "--group-size", "1"], "from 2 to 8, got 1"),
        (["dpo", "--seed", "3"], "no pair: try another"),
        (["grpo", "--batch", "nowhere.json"], "cannot read nowhere.json"),
        (["grpo", "--batch", "list.json"], "expected an object"),
        (["grpo", "--batch", "text.json"], "Expecting value"),
        (["grpo", "--batch", "ragged.json"], "'log_probs' is no table"),
        (["grpo", "--batch", "unmasked.json"], "'mask' must be a table of true and false"),
        (["grpo", "--batch", "lacking.json"], "'advantages' is missing: one advantage a sequence"),
        (["ppo", "--batch", "mine.json"], "old_log_probs: the recipe ppo needs"),
        (["grpo", "--batch", str(VECTORS / "grpo_loss.json"), "--case", "9999"], "no case 9999"),
    ],
)
def test_mistakes_are_one_line(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    mask, log_probs = [[True, True], [True, False]], [[-1.0, -2.0], [-0.5, -1.0]]
    files = {
        "list": [1], "ragged": {"mask": mask, "log_probs": [[1.0], [1.0, 2.0]]}, "unmasked": {"log_probs": log_probs},
        "lacking": {"mask": mask, "log_probs": log_probs},
        "mine": {"mask": mask, "log_probs": log_probs, "rewards": [[1, 0]]},
    }  # fmt: skip
    for name, data in files.items():
        Path(f"{name}.json").write_text(json.dumps(data))
    Path("text.json").write_text("grpo")
    assert main(["trace", *words]) != 0
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1
