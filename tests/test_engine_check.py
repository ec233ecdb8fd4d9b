"""``torchstone check --as FRAMEWORK``: losses in six forms, every fault named and none of the right ones accused."""

import json
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from engine_losses import ALL, LOSSES
from torch.nn.functional import logsigmoid

from torchstone import conformance
from torchstone.cli import main
from torchstone.frameworks.contract.batch import cut, made, splits
from torchstone.frameworks.contract.command import FRAMEWORKS
from torchstone.frameworks.contract.compare import rows_equal, whole_function
from torchstone.frameworks.contract.find import find
from torchstone.frameworks.contract.world import World
from torchstone.frameworks.trl.hand import OF_PAIRS

HERE = str(Path(__file__).parent / "engine_losses.py")


def hand(framework):
    return import_module(f"torchstone.frameworks.{FRAMEWORKS[framework]}.hand").HAND


@pytest.mark.parametrize(("framework", "name"), ALL)
def test_every_fault_is_named_and_nothing_else(framework, name):
    target, expected = LOSSES[framework][name]
    found = find(hand(framework), target, {})
    assert sorted(f.name for f in found.faults) == sorted(expected.split()), [f.said for f in found.faults]
    assert all(f.said[-1] not in ".:" for f in found.findings)


def test_as_many_are_wrong_as_the_table_says():
    wrong = [name for of in LOSSES.values() for name, (_, expected) in of.items() if expected]
    assert len(wrong) >= 20 and len(ALL) - len(wrong) >= 15


def said(framework, name):
    return " ".join(f.said for f in find(hand(framework), LOSSES[framework][name][0], {}).faults)


@pytest.mark.parametrize(
    ("framework", "name", "words"),
    [
        ("verl", "forgets the ranks", "it shrinks 8 times with 8 ranks: in verl the ranks' gradients are averaged"),
        ("verl", "the ranks twice", "it grows 8 times with 8 ranks"),
        ("verl", "averages over ranks", "it shrinks 64 times with 8 ranks"),
        ("verl", "its own rows", "it is a mean of means: it divides by its micro-batch's rows"),
        ("verl", "its own rows", "and it doubles with two micro-batches"),
        ("verl", "rows in another mode", "with loss_agg_mode=seq-mean-token-mean, it is a mean of means"),
        ("verl", "no weights", "it lacks the argument rollout_is_weights, which verl passes"),
        ("trl", "forgets accumulation", "it doubles with two micro-batches: in TRL micro-batches are summed"),
        ("trl", "accumulation twice", "it halves with two micro-batches"),
        ("verl", "the old over the new", "its ratio is upside down: old and new log-probs are exchanged"),
        ("verl", "advantages in place", "it changes advantages in place"),
        ("trl", "a padded mean", "it divides by the length to which its rank's rows are padded"),
        ("trl", "padding only", "it ignores the tool mask"),
    ],
)
def test_it_says_by_what_factor_and_in_which_split(framework, name, words):
    assert words in said(framework, name)


def pairs(compare):
    class Trainer:
        def _compute_loss(self, model, inputs, return_outputs=False):
            ids, mask = inputs["input_ids"], inputs["completion_mask"][:, 1:]

            def rewards(of):
                log_probs = of(input_ids=ids).logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
                return 0.1 * (log_probs * mask).sum(1)

            with torch.no_grad(), self.accelerator.autocast():
                reference = rewards(self.ref_model)
            return compare(*(rewards(model) - reference).chunk(2)).mean()

    return Trainer


@pytest.mark.parametrize(
    ("compare", "faults", "row"),
    [
        (lambda a, b: -logsigmoid(a - b), "", "dpo"),
        (lambda a, b: torch.relu(1 - a + b), "", "rso@trl-1.16.0"),
        (lambda a, b: -logsigmoid(b - a), "sign", ""),
        (lambda a, b: logsigmoid(a - b), "sign", ""),
        (lambda a, b: -logsigmoid(a + b), "pairs", ""),
        (lambda a, b: -a, "pairs", ""),
        (lambda a, b: -logsigmoid(a - b) * len(a), "ranks", ""),
    ],
)
def test_pairs_are_compared_the_right_way_and_held_against_preference_rows(compare, faults, row):
    target = pairs(compare)
    found = find(OF_PAIRS, target, {})
    assert " ".join(f.name for f in found.faults) == faults
    assert not row or row in rows_equal(OF_PAIRS, found, None)
    assert row or not rows_equal(OF_PAIRS, found, None)


def test_a_pair_trainer_is_asked_an_objective_s_vectors():
    function = whole_function(OF_PAIRS, pairs(lambda a, b: -logsigmoid(a - b)), {})
    assert conformance.check(function, "dpo_loss").passed
    turned = whole_function(OF_PAIRS, pairs(lambda a, b: -logsigmoid(b - a)), {})
    assert not conformance.check(turned, "dpo_loss").passed


def test_a_fixed_length_is_told_from_the_padded_one():
    right = find(hand("trl"), LOSSES["trl"]["a fixed length"][0], {})
    assert "dr_grpo" in rows_equal(hand("trl"), right, None)
    assert not rows_equal(hand("trl"), find(hand("trl"), LOSSES["trl"]["a padded mean"][0], {}), None)


def test_a_row_without_a_token_is_told():
    found = find(hand("verl"), LOSSES["verl"]["rows"][0], {})
    assert "empty" in {f.name for f in found.findings if not f.fault}
    found = find(hand("verl"), LOSSES["verl"]["the clipped surrogate"][0], {})
    assert "empty" not in {f.name for f in found.findings}


@pytest.mark.parametrize(
    ("framework", "name", "note"),
    [
        ("verl", "the mask before", "tokens that the mask leaves out count in its value, not in its gradient"),
        ("verl", "no weights", "it does not read the old log-probs"),
        ("verl", "the clipped surrogate", ""),
        ("prime-rl", "a sum", ""),
    ],
)
def test_what_is_no_fault_is_a_note(framework, name, note):
    notes = " ".join(f.said for f in find(hand(framework), LOSSES[framework][name][0], {}).findings if not f.fault)
    assert note in notes and (note or "old log-probs" not in notes)


@pytest.mark.parametrize(
    ("framework", "name"), [("prime-rl", "a sum"), ("skyrl", "a sum"), ("slime", "its reducer"), ("verl", "rows")]
)
def test_a_clip_alone_is_said_to_be_that_and_no_row_with_more(framework, name):
    """Where the sampler has the only old log-probs its weights are 1: tis, icepop are not what was compared."""
    given = hand(framework)
    rows = rows_equal(given, find(given, LOSSES[framework][name][0], {}), None)
    assert rows[0].startswith("grpo:loss_kl=none") and not {"tis", "icepop"} & set(rows)


def test_a_batch_is_cut_into_every_row_once():
    mask, sizes = made().mask, set()
    for split in splits(ranks=True, even=False):
        rows = [i for rank in split.pieces for part in rank for i in range(part.start, part.stop)]
        assert rows == list(range(len(mask))) and len(split.pieces) == split.ranks
        sizes |= {part.stop - part.start for rank in split.pieces for part in rank}
    assert len(sizes) > 4 and len({int(mask[part].sum()) for part in cut(1, 2).pieces[0]}) == 2
    assert all(p.stop - p.start == 2 for p in cut(2, 4, even=True).pieces[1])


def test_ranks_exchange_what_they_give_to_torch_distributed():
    world, found = World(3), {}

    def work(rank):
        total = torch.tensor([1.0 + rank])
        dist.all_reduce(total)
        parts = [torch.zeros(1) for _ in range(3)]
        dist.all_gather(parts, torch.tensor([float(dist.get_rank())]))
        found[rank] = (dist.get_world_size(), total.item(), torch.cat(parts).tolist())

    world.run(work)
    assert found == {rank: (3, 6.0, [0.0, 1.0, 2.0]) for rank in range(3)}
    assert not dist.is_initialized()


def test_an_error_of_one_rank_ends_the_others():
    def work(rank):
        if rank == 1:
            raise KeyError("tool_mask")
        dist.all_reduce(torch.ones(1))

    with pytest.raises(KeyError, match="tool_mask"):
        World(2).run(work)


# ---------------------------------------------------------------------------------------------------------- the command

MINE = """
import torch
{header}

def right(old_log_prob, log_prob, advantages, response_mask, loss_agg_mode, config, rollout_is_weights=None):
    ratio, info = (log_prob - old_log_prob).exp(), config.global_batch_info
    low, high = 1 - config.clip_ratio_low, 1 + config.clip_ratio_high
    x = -torch.minimum(ratio * advantages, ratio.clamp(low, high) * advantages)
    return torch.where(response_mask, x, 0).sum() / info["batch_num_tokens"] * info["dp_size"], {{}}

def doubled(old_log_prob, log_prob, advantages, response_mask, loss_agg_mode, config, rollout_is_weights=None):
    loss, metrics = right(old_log_prob, log_prob, advantages * 2, response_mask, loss_agg_mode, config)
    return loss, metrics

def wrong(old_log_prob, log_prob, advantages, response_mask, loss_agg_mode, config, rollout_is_weights=None):
    return -(log_prob * advantages * response_mask).sum() / config.global_batch_info["batch_num_tokens"], {{}}

def other(logprobs, old_logprobs, advantages, mask):
    return -(logprobs * advantages * mask).mean(), {{}}

def asks(old_log_prob, log_prob, advantages, response_mask, loss_agg_mode, config, temperature, **_):
    return log_prob.sum(), {{}}

def rows(old_log_prob, log_prob, advantages, response_mask, loss_agg_mode, config, rollout_is_weights=None):
    return log_prob.sum(1), {{}}

class NoTrainer:
    pass
"""


SLIME = """
import torch
from slime.backends.megatron_utils.loss import get_log_probs_and_entropy

def loss(args, batch, logits, sum_of_sample_mean):
    names = ("unconcat_tokens", "total_lengths", "response_lengths")
    _, found = get_log_probs_and_entropy(logits, args=args, **{name: batch[name] for name in names})
    x = -torch.cat(found["log_probs"]) * torch.cat(batch["advantages"])
    return sum_of_sample_mean(x) / args.global_batch_size, {}
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def write(header=""):
        Path("mine.py").write_text(MINE.format(header=header))

    write()
    return write


def run(capsys, *arguments):
    status = main(["check", *arguments])
    out, err = capsys.readouterr()
    assert all(len(line) <= 80 for line in out.splitlines()), out
    return status, " ".join(out.split()), err


def test_a_loss_that_is_right_is_told_so_and_which_row_it_is(mine, capsys):
    status, out, _ = run(capsys, "mine.py:right", "--as", "verl")
    assert status == 0 and "mine.py:right, in verl 0.9.1: right, however the batch is cut" in out
    assert "Uncut, it equals the loss of" in out


def test_a_loss_that_equals_no_row_is_told_that_its_formula_was_not_asked(mine, capsys):
    status, out, _ = run(capsys, "mine.py:doubled", "--as", "verl")
    assert status == 0 and "mine.py:doubled, in verl 0.9.1: cut rightly" in out and "right, however" not in out
    assert "Uncut, it equals no row of the table: whether the formula is right was not asked" in out


def test_a_loss_that_is_wrong_is_told_the_factor_and_the_line(mine, capsys):
    status, out, _ = run(capsys, "mine.py:wrong", "--as", "verl")
    assert status == 1 and "mine.py:wrong, in verl 0.9.1: wrong" in out
    assert "It shrinks 8 times with 8 ranks" in out and "config.global_batch_info['dp_size']" in out
    assert "ranks micro-batches gradient" in out and "8 1 0.125" in out
    assert run(capsys, "mine.py:wrong", "--as", "verl", "--accept", "ranks")[0] == 0


def test_a_setting_of_the_framework_reaches_the_loss_and_a_row_is_held_against_it(mine, capsys):
    name = "dapo@trl-1.16.0"
    assert run(capsys, "mine.py:right", "--as", "verl", "--recipe", name)[0] == 0
    status, out, _ = run(capsys, "mine.py:right", "--as", "verl", "--recipe", name, "--set", "clip_ratio_high=0.01")
    assert status == 1 and f"Uncut, it does not equal the loss of {name}" in out


def test_an_objective_s_vectors_are_asked_of_the_batch_uncut(mine, capsys):
    _, out, _ = run(capsys, "mine.py:right", "--as", "verl", "--objective", "dapo_loss")
    assert "by the test vectors of dapo_loss" in out and "compared at reduce token_mean, epsilon 0.2" in out


def test_a_loss_that_divides_by_the_completions_as_slime_does_is_told(mine, capsys):
    Path("mine.py").write_text(SLIME)
    status, out, _ = run(capsys, "mine.py:loss", "--as", "slime")
    assert status == 1 and "it divides by completions, and slime divides too" in out
    Path("mine.py").write_text(SLIME.replace(" / args.global_batch_size", ""))
    assert run(capsys, "mine.py:loss", "--as", "slime")[0] == 0


def test_json_has_every_finding_and_every_split(mine, capsys):
    assert main(["check", "mine.py:wrong", "--as=verl", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["right"] and found["findings"][0]["name"] == "ranks" and found["findings"][0]["fault"]
    assert [(s["ranks"], s["micro_batches"]) for s in found["splits"]][-1] == (8, 1)


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["check", "--as", "verl", "--help"])
    out = capsys.readouterr().out
    assert stop.value.code == 0 and "torchstone check my_trainer.py:MyTrainer --as trl" in out
    assert all(len(line) <= 80 for line in out.splitlines())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mine.py:right", "--as", "vrel"], ["unknown framework 'vrel'", "did you mean 'verl'"]),
        (["--as", "verl"], ["which loss? TARGET is"]),
        (["mine.py:gone", "--as", "verl"], ["mine.py has no 'gone'"]),
        (["mine.py:other", "--as", "verl"], ["has not verl's form", "hands it no logprobs", "def loss(old_log_prob,"]),
        (["mine.py:asks", "--as", "verl"], ["verl hands it no temperature", "def loss(old_log_prob,"]),
        (["mine.py:rows", "--as", "verl"], ["its loss has the shape (16,)"]),
        (["mine.py:right", "--as", "trl"], ["it is no class", "class MyTrainer(GRPOTrainer)"]),
        (["mine.py:NoTrainer", "--as", "trl"], ["neither _compute_loss nor compute_loss"]),
        (["mine.py:right", "--as", "verl", "--set", "clip ratio"], ["--set: expected NAME=VALUE"]),
        (["mine.py:right", "--as", "verl", "--recipe", "gsop"], ["gsop", "gspo"]),
    ],
)
def test_what_cannot_be_checked_says_what_the_framework_calls(mine, capsys, arguments, words):
    status, _, err = run(capsys, *arguments)
    assert status == 2 and all(word in err for word in words), err


def test_a_framework_that_is_not_installed_has_stand_ins_until_the_loss_calculates_with_it(mine, capsys):
    """Under names that nobody has installed, so that the test does not depend on the environment."""
    from torchstone.frameworks.contract.stand_in import packages

    source = "from no_such_engine.losses import Base, register, agg_loss\n@register('mine')\ndef loss(x): return x\n"
    with packages({"no_such_engine": {}}) as used:
        space = {}
        exec(source + "class Own(Base): pass\n", space)
        assert space["loss"](3) == 3 and space["Own"]() is not None and used == {"no_such_engine"}
        with pytest.raises(ModuleNotFoundError, match=r"agg_loss is called, and no_such_engine is not installed"):
            space["agg_loss"](torch.ones(2))
    assert "no_such_engine" not in sys.modules
