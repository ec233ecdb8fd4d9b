"""What a completion earns: rewards by name, files of one's own, several of them, and what cannot be scored."""

import json
import math
import os
import re
import sys
import time
from pathlib import Path

import pytest
import torch

from torchstone.cli import main
from torchstone.data.tasks import Task
from torchstone.rewards import library
from torchstone.rewards.calling import State
from torchstone.rewards.judging import judge, judged
from torchstone.rewards.loading import absolute_spec, load_reward
from torchstone.rewards.mathematics import math as math_reward
from torchstone.rewards.several import as_rewards, load_rewards
from torchstone.terminal import UserError
from torchstone.train.options import GRPOOptions
from torchstone.train.run import train

ROWS = [{"prompt": "first", "answer": "1"}, {"prompt": "second", "answer": "2"}]
TWO = ["c", "d"]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def own_modules(monkeypatch):
    """What a reward file adds to where Python looks, and to what it has imported, goes with the test."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith("/tmp"):
            del sys.modules[name]


def file(folder: Path, code: str, name: str = "r.py") -> str:
    (folder / name).write_text(code)
    return str(folder / name)


def asked(reward, rows=ROWS, completions=TWO, **more):
    return judge(Task("t", rows, [], reward), rows, completions, **more)


def one(reward, completion, answer):
    (score,) = reward(prompts=["?"], completions=[completion], answer=[answer])
    (chat,) = reward(
        prompts=[[{"role": "user", "content": "?"}]],
        completions=[[{"role": "assistant", "content": completion}]],
        answer=[answer],
    )
    assert score == chat
    return score


# ------------------------------------------------------------------------------------------------- by name


@pytest.mark.parametrize(
    ("completion", "answer", "exact", "lenient"),
    [
        ("12", "12", 1, 1),
        (" 12\n", "12", 1, 1),
        ("The sum is 12.", "12", 0, 1),
        ("12 of 13", "12", 0, 0),
        ("1,000", 1000, 0, 1),
        ("12,000,000.5", "12000000.5", 0, 1),
        ("it is 0.50", "1/2", 0, 1),
        ("= -5", "-5", 0, 1),
        ("8-5", "-5", 0, 0),
        ("x\u22125", "-5", 0, 0),
        ("is \u22125", "-5", 0, 1),
        ("1/0", "1", 0, 1),  # no fraction
        ("", "12", 0, 0),
        ("The answer is: Paris!", "paris", 0, 1),
        ("Paris, not Rome", "Paris", 0, 0),
        ("it is New York.", "new york", 0, 1),
        ("?", "?", 1, 1),
        ("3 apples", "3 apples", 1, 1),
        ("they are 3 Apples.", "3 apples", 0, 1),
        (".5", "0.5", 0, 1),
        ("version 2.", "2", 0, 1),
    ],
)
def test_a_strict_and_a_lenient_reading_of_one_answer(completion, answer, exact, lenient):
    assert one(library.exact, completion, answer) == exact
    assert one(library.lenient, completion, answer) == lenient


def test_an_answer_without_a_number_or_a_word_cannot_be_scored():
    assert one(library.last_number, "5", "five") is None and one(library.last_words, "5", "!") is None
    assert one(library.last_number, "five", "5") == 0 and one(library.last_number, "5 or 6", "6 apples") == 1


@pytest.mark.parametrize(
    ("completion", "answer", "score"),
    [
        ("10", 10, 1),
        ("so 0.5", "1/2", 1),
        (r"it is \boxed{0.5}", r"\frac{1}{2}", 1),
        ("$1+x^2$", "x^2+1", 1),
        (r"\boxed{3} because 4", "3", 1),
        ("10 apples, then 3", "10", 0),
        ("none", "12", 0),
        ("12", "no", None),
        ("12", "", None),
        (r"\boxed{\{2,1\}}", r"$\{1,2\}$", 1),
        ("5", "so the answer is 5", 1),
        (r"\boxed{2x+3}", "2x+3", 1),
        ("3", "2x+3", 0),
    ],
)
def test_mathematics_is_compared_by_value(completion, answer, score):
    assert one(math_reward, completion, answer) == score
    assert math_reward([""], [completion], solution=[answer]) == [score]


def test_rewards_are_named_on_the_command_line():
    assert load_reward("exact") is library.exact and load_reward("math") is math_reward
    assert asked(load_rewards(["exact"]), completions=["1", "1"]) == [1.0, 0.0]
    with pytest.raises(UserError, match=r"no file exat.py \(did you mean 'exact'"):
        load_reward("exat")
    with pytest.raises(UserError, match="wants a column 'answer' or 'solution', and the data has neither"):
        asked(load_rewards(["math"]), [{"prompt": "a"}], ["1"])


# --------------------------------------------------------------------------------------------------- files


def test_reward_functions_are_found_by_name_or_alone(tmp_path):
    path = file(tmp_path, "from math import sqrt\ndef f(**_): return [1]\n")
    assert load_reward(path)() == [1]
    path = file(tmp_path, "def f(**_): return [1]\ndef g(**_): return [2]\ndef reward(**_): return [3]\n", "several.py")
    assert load_reward(f"{path}:g")() == [2] and load_reward(path)() == [3]
    with pytest.raises(UserError, match=r"no function 'h'.*it has f, g, reward"):
        load_reward(f"{path}:h")
    with pytest.raises(UserError, match="no file"):
        load_reward(str(tmp_path / "missing.py"))
    with pytest.raises(UserError, match="ModuleNotFoundError"):
        load_reward(file(tmp_path, "import no_such_module\n", "broken.py"))


FOUND = {
    "a neighbour": "import helper\ndef f(completions, **_): return helper.give(completions)\n",
    "a function of a neighbour": "from helper import give as f\n",
    "a neighbour, when called": "def f(completions, **_):\n    import helper\n    return helper.give(completions)\n",
    "a dataclass": (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass Rule:\n"
        "    x: float = 7.0\ndef f(completions, **_): return [Rule().x] * len(completions)\n"
    ),
    "a partial": (
        "from functools import partial\n"
        "def g(completions, x, **_): return [x] * len(completions)\nf = partial(g, x=7.0)\n"
    ),
    "an object": (
        "class Judge:\n    def __call__(self, prompts, completions): return [7.0] * len(prompts)\nf = Judge()\n"
    ),
    "a lambda": "f = lambda prompts, completions: [7.0] * len(prompts)\n",
    "async": "import asyncio\nasync def f(prompts):\n    await asyncio.sleep(0)\n    return [7.0] * len(prompts)\n",
    "async, one by one": "async def one(text): return 7.0\ndef f(completions): return [one(c) for c in completions]\n",
    "a process pool": (
        "from concurrent.futures import ProcessPoolExecutor\nimport multiprocessing\ndef seven(text): return 7.0\n"
        "def f(completions, **_):\n"
        "    for how in ('fork', 'spawn'):\n"
        "        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(how)) as pool:\n"
        "            found = list(pool.map(seven, completions))\n"
        "    return found\n"
    ),
}


@pytest.mark.parametrize("what", FOUND)
def test_a_reward_file_is_a_module_like_any_other(tmp_path, what):
    file(tmp_path, "def give(completions, **_): return [7.0] * len(completions)\n", "helper.py")
    path = file(tmp_path, FOUND[what], f"{what.replace(' ', '_').replace(',', '')}_7.py")
    assert asked(load_rewards([f"{path}:f"])) == [7.0, 7.0]


def test_files_of_one_name_and_their_neighbours_are_kept_apart(tmp_path):
    for name, x in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        file(tmp_path / name, f"X = {x}\n", "constants.py")
        file(tmp_path / name, "from constants import X\ndef f(completions): return [X] * len(completions)\n", "same.py")
    specs = [f"{tmp_path}/{name}/same.py:f" for name in "ab"]
    found = judged(Task("t", ROWS, [], load_rewards(specs)), ROWS, TWO)
    assert found.rewards == [3.0, 3.0] and found.metrics == {"rewards/f/mean": 1.0, "rewards/f_2/mean": 2.0}
    assert asked(load_rewards([file(tmp_path, "def f(prompts): return [5.0, 5.0]", "json.py")])) == [5.0, 5.0]
    assert json.loads("1") == 1 and "torchstone" not in str(json.__file__)


def test_modules_homes_and_other_folders_are_reached(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "judges").mkdir()
    file(tmp_path / "judges", "def f(prompts): return [4.0] * len(prompts)\n", "four.py")
    assert asked(load_rewards(["~/judges/four.py:f"])) == [4.0, 4.0]
    monkeypatch.chdir(tmp_path)
    assert asked(load_rewards(["judges.four:f"])) == [4.0, 4.0]
    assert absolute_spec("judges/four.py:f") == f"{tmp_path}/judges/four.py:f"
    assert absolute_spec("judges.four:f") == "judges.four:f" and absolute_spec("exact") == "exact"
    with pytest.raises(UserError, match=r"no\.such does not import: ModuleNotFoundError"):
        load_reward("no.such:f")


# ------------------------------------------------------------------------------------------ what is handed


def test_a_reward_function_gets_what_trl_gives_and_only_what_it_takes():
    seen = {}

    def reward(prompts, completions, level, **others):
        seen.update(prompts=prompts, completions=completions, level=level, others=others)
        return [torch.tensor(0.5), 1]

    rows = [{"prompt": "a", "level": 1, "note": "x"}, {"prompt": "b", "level": 2, "note": "y"}]

    class Sampled:
        ids, cut_off = [[5, 1], [6]], torch.tensor([False, True])

    found = judged(Task("t", rows, [], reward), rows, TWO, Sampled(), State(3, 10, 0.5))
    assert found.rewards == [0.5, 1.0]
    others = seen.pop("others")
    assert seen == {"prompts": ["a", "b"], "completions": TWO, "level": [1, 2]}
    assert others.pop("log_metric") and others.pop("log_extra")
    state = others.pop("trainer_state")
    assert others == {"note": ["x", "y"], "completion_ids": [[5, 1], [6]], "cut_off": [False, True]}
    assert (state.global_step, state.max_steps, state.epoch) == (3, 10, 0.5)
    with pytest.raises(AttributeError, match="trainer_state has global_step, max_steps and epoch, not 'log_history'"):
        state.log_history  # noqa: B018
    assert asked(lambda completions: [3.0, 4.0]) == [3.0, 4.0]
    with pytest.raises(UserError, match="wants 'level', and the data has no such column: it has answer"):
        asked(lambda completions, level: [3.0, 4.0])


def test_what_a_function_logs_is_in_the_metrics_and_beside_the_samples():
    def reward(completions, log_metric, log_extra):
        log_metric("length", 2.0)
        log_metric("length", 4.0)
        log_extra("first", [text[0] for text in completions])
        return [0.5, None]

    found = judged(Task("t", ROWS, [], reward), ROWS, TWO)
    assert found.metrics == {"length": 3.0}
    assert found.of_each() == [{"reward": 0.5, "first": "c"}, {"reward": None, "first": "d"}]
    with pytest.raises(UserError, match=r"raised ValueError: log_metric\('x', nan\): not a finite number"):
        asked(lambda completions, log_metric: log_metric("x", math.nan))
    with pytest.raises(UserError, match=r"log_extra\('x'\): 1 values for 2 completions"):
        asked(lambda completions, log_extra: [1.0] * len(completions) if len(completions) == 1 else log_extra("x", [1]))


def test_chat_data_is_handed_on_as_messages():
    """The shape that trl.rewards.accuracy_reward and think_format_reward expect (TRL 1.16.0)."""

    def in_trl(completions, solution, log_extra=None, **kwargs):
        contents = [completion[0]["content"] for completion in completions]
        log_extra("solution", list(solution))
        return [None if s == "" else float(c == s) for c, s in zip(contents, solution, strict=True)]

    chat = [[{"role": "user", "content": "?"}], [{"role": "system", "content": "."}, {"role": "user", "content": "!"}]]
    rows = [{"prompt": prompt, "solution": s} for prompt, s in zip(chat, ("c", ""), strict=True)]
    scores = asked(in_trl, rows)
    assert scores[0] == 1.0 and math.isnan(scores[1])
    assert asked(lambda prompts, completions: [float(p is not chat[0] and p in chat) for p in prompts], rows) == [1, 1]


def test_a_function_that_ruins_what_it_is_handed_hurts_nobody():
    def empties(prompts, completions, notes):
        notes[0]["x"].clear()
        for handed in (prompts, completions, notes):
            handed.clear()
        return [1.0, 2.0]

    rows = [row | {"notes": {"x": [1]}} for row in ROWS]
    rewards = as_rewards(empties)
    assert asked(rewards, rows) == [1.0, 2.0] and rows[0]["notes"] == {"x": [1]} and rows[1]["prompt"] == "second"

    def empties_and_fails(prompts, completions):
        prompts.clear()
        raise ValueError("ruined")

    with pytest.raises(UserError, match=r"ruined.*for prompt 'first' and completion 'c'"):
        asked(empties_and_fails)


def test_a_judge_that_changes_directory_and_switches_gradients_off_changes_nothing_for_the_run(tmp_path, monkeypatch):
    """As judges do that run code in a folder of its own, or that hold a model."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    body = f"import os\nimport torch\nos.chdir({str(tmp_path / 'elsewhere')!r})\ntorch.set_grad_enabled(False)\n"
    body += "def f(completions):\n    os.chdir('/')\n    torch.set_grad_enabled(False)\n"
    (tmp_path / "r.py").write_text(body + "    return [float(len(c)) for c in completions]\n")
    sizes = {"pretrain_steps": 1, "warmup_steps": 1, "steps": 2, "prompts": 2, "group_size": 2, "eval_prompts": 2}
    try:
        folder = train(GRPOOptions(reward="r.py:f", out=Path("run"), device="cpu", max_new_tokens=3, **sizes))
    finally:
        torch.set_grad_enabled(True)
    assert (tmp_path / "run" / "model").is_dir() and Path.cwd() == tmp_path
    assert any(json.loads(line)["grad_norm"] > 0 for line in (folder / "metrics.jsonl").read_text().splitlines()[1:])


# ---------------------------------------------------------------------------------------- what comes back


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ([1.0], "1 rewards for 2 completions"),
        (None, "returned None"),
        ([0.0, float("nan")], "returned nan, not a finite number, for prompt 'second' and completion 'd'; None says"),
        ([float("inf"), 0], "for prompt 'first'"),
        ([0.0, "high"], "'high'"),
        (["1.5", 0], "'1.5', not a finite number"),
        ([1e300, 0], r"returned 1e\+300: above 1e\+18, float32 overflows, for prompt 'first'"),
        ([10**400, 0], "not a finite number"),
        ([1j, 0], "not a finite number"),
        ([torch.zeros(2), 0], "not a finite number"),
        ({0: 1.0, 1: 2.0}, "returned {0: 1.0, 1: 2.0} for 2 completions"),
        ("ab", "returned 'ab' for 2 completions"),
        ((x for x in [1.0, 2.0]), "returned <generator"),
        (0.5, "returned 0.5 for 2 completions"),
    ],
)
def test_a_bad_reward_names_the_prompt(returned, says):
    with pytest.raises(UserError, match=says):
        asked(lambda **_: returned)


@pytest.mark.parametrize("returned", [[True, 0], (1, 0.0), torch.tensor([[1.0], [0.0]]), [torch.ones(1), 0]])
def test_numbers_of_other_kinds_are_numbers(returned):
    assert asked(lambda **_: returned) == [1.0, 0.0]


BROKEN = {
    "raises": ("def f(prompts):\n    x = 0\n    return [1 / (p != 'second') for p in prompts]\n", "ZeroDivisionError"),
    "in a neighbour": ("import helper\ndef f(prompts):\n    return helper.give(prompts)\n", "KeyError: 'second'"),
    "async": (
        "async def f(prompts):\n    if 'second' in prompts: raise RuntimeError('no judge')\n    return [1.0]\n",
        "",
    ),
    "exits": ("import sys\ndef f(prompts):\n    if 'second' in prompts: sys.exit(3)\n    return [1.0]\n", ""),
}
SAYS = {
    "raises": r"r.py:f raised ZeroDivisionError: division by zero \(r.py, line 3: return \[1 / \(p != 'second'\)",
    "in a neighbour": r"raised KeyError: 'second' \(helper.py, line 2: return \[{'first': 1.0}\[p\] for p in",
    "async": r"raised RuntimeError: no judge \(r.py, line 2: if 'second' in prompts: raise",
    "exits": r"called sys.exit\(3\) \(r.py, line 3: ",
}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("what", BROKEN)
def test_a_function_that_fails_names_line_prompt_and_completion(tmp_path, what, workers):
    file(tmp_path, "def give(prompts):\n    return [{'first': 1.0}[p] for p in prompts]\n", "helper.py")
    rewards = load_rewards([file(tmp_path, BROKEN[what][0]) + ":f"], workers=workers)
    with pytest.raises(UserError, match=SAYS[what] + ".*for prompt 'second' and completion 'd'"):
        asked(rewards)


ODD = "class Odd({}):\n    def {}(self): return 1 / 0\ndef f(prompts): "
COMMAND = {
    "raise Odd": (ODD.format("Exception", "__str__"), (), r"raised Odd: <Odd> \(r.py, line 3: "),
    "return [Odd()] * len(prompts)": (ODD.format("object", "__repr__"), (), "returned <Odd>, not a finite number"),
    "raise Odd('x')": (ODD.format("BaseException", "other"), (), "raised Odd: x "),
    "return f(prompts)": ("def f(prompts): ", (), "raised RecursionError"),
    "return [trainer_state.log_history]": (
        "def f(trainer_state): ", (), "raised AttributeError: trainer_state has global_step, max_steps and epoch"
    ),
    "log_extra('completion', [1] * len(prompts)); return [0.5] * len(prompts)": (
        "def f(prompts, log_extra): ", (), r"completions.jsonl has a completion already; choose another name"
    ),
    "return [0.5] * len(prompt)": ("def f(prompt): ", (), r"wants 'prompt' \(did you mean 'prompts'"),
    "log_metric('reward', 1); return [0.5] * len(prompts)": (
        "def f(prompts, log_metric): ", (), r"log_metric\('reward'\): the run has a metric of that name; choose another"
    ),
    "return [0.5] * len(prompts)": ("def f(prompts): ", ("--reward-weights=nan",), "--reward-weights must be finite"),
    "return [0.0] * len(prompts)": ("def f(prompts): ", ("--reward-weights", "1", "2"), "has 2 numbers for 1 rewards"),
    "return [f] * len(prompts)": ("def f(prompts): ", (), "returned <function f"),
    "return [1.0]": ("def f(): ", (), "returned 1 rewards for 2 completions"),
    "prompts.clear(); return [1.0] * 9": ("def f(prompts): ", (), "returned 9 rewards for 2 completions"),
    "return [float(x) for x in gold]": ("def f(gold): ", (), "wants 'gold', and the data has no such column"),
    "import no_such_module": ("def f(prompts): ", (), r"No module named 'no_such_module' \(r.py, line 1: "),
    "exit()": ("def f(prompts): ", (), r"called sys.exit\(None\)"),
}  # fmt: skip


@pytest.mark.parametrize("body", COMMAND)
def test_what_a_bad_reward_does_is_one_line(tmp_path, capsys, body):
    code, options, says = COMMAND[body]
    path = file(tmp_path, code + body + "\n")
    sizes = ["--pretrain-steps=0", "--warmup-steps=0", "--steps=1", "--prompts=2", "--group-size=2", "--eval-prompts=2"]
    run = ["train", "grpo", "--task=add", f"--out={tmp_path / 'run'}", "--max-new-tokens=3", "--device=cpu", *sizes]
    assert main([*run, f"--reward={path}:f", *options]) == 1
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and told[0].startswith("torchstone train: ") and re.search(says, told[0]), told


def test_a_function_that_fails_on_a_batch_alone(tmp_path):
    rewards = load_rewards([file(tmp_path, "def f(prompts):\n    a, = prompts\n    return [1.0]\n")])
    with pytest.raises(UserError, match=r"too many values to unpack .* on a batch, on none of it alone"):
        asked(rewards)


# ------------------------------------------------------------------------------------------------ several


def none_on(text, x):
    return lambda completions: [None if c == text else x for c in completions]


def test_several_rewards_are_added_with_their_weights(tmp_path):
    path = file(
        tmp_path,
        "def length(completions): return [float(len(c)) for c in completions]\n"
        "def picky(completions): return [None if c == 'd' else 3.0 for c in completions]\n"
        "def none(completions): return [None] * len(completions)\n",
    )
    rewards = load_rewards([f"{path}:length", f"{path}:picky"], [1.0, 0.5])
    found = judged(Task("t", ROWS, [], rewards), ROWS, ["cc", "d"])
    assert found.rewards == [2.0 + 1.5, 1.0]  # as TRL: who gives None takes no part in the sum
    assert found.metrics == {"rewards/length/mean": 1.5, "rewards/picky/mean": 3.0}
    assert found.of_each()[1] == {"reward": 1.0, "rewards": {"length": 1.0, "picky": None}}
    both = judge(Task("t", ROWS, [], load_rewards([f"{path}:picky", f"{path}:none"])), ROWS, ["c", "d"])
    assert both[0] == 3.0 and math.isnan(both[1])
    assert rewards(prompts=["a"], completions=["bb"]) == [3.5]
    with pytest.raises(UserError, match=r"--reward-weights has 1 numbers for 2 rewards"):
        load_rewards([f"{path}:length", f"{path}:picky"], [1.0])
    with pytest.raises(UserError, match=r"the weighted sum of the rewards is 3e\+18: float32 overflows"):
        asked(load_rewards([f"{path}:length", f"{path}:picky"], [1.0, 1e18]), completions=["c", "c"])


def test_async_functions_of_a_batch_run_together_in_the_loop_of_the_last_batch(tmp_path):
    code = (
        "import asyncio\nmet = asyncio.Event()\nloops = set()\n"
        "async def waits(completions):\n    loops.add(asyncio.get_running_loop())\n"
        "    await met.wait()\n    met.clear()\n    return [1.0] * len(completions)\n"
        "async def frees(completions):\n    met.set()\n    return [float(len(loops))] * len(completions)\n"
    )
    path = file(tmp_path, code, "meeting.py")
    rewards = load_rewards([f"{path}:waits", f"{path}:frees"])
    assert asked(rewards) == asked(rewards) == [2.0, 2.0]


# ---------------------------------------------------------------------------------------------- processes


def test_processes_judge_the_same_in_the_same_order(tmp_path):
    code = (
        "import os\nseen = set()\n"
        "def f(prompts, completions, trainer_state, log_metric, log_extra):\n"
        "    log_metric('n', len(prompts))\n    log_extra('pid', [os.getpid()] * len(prompts))\n"
        "    return [None if p == '3' else int(p) * trainer_state.global_step for p in prompts]\n"
        "async def g(completions): return [0.125] * len(completions)\n"
    )
    path = file(tmp_path, code, "numbers_of_rows.py")
    rows = [{"prompt": str(i)} for i in range(7)]
    found = {}
    for workers in (0, 3, 10):
        rewards = load_rewards([f"{path}:f", f"{path}:g"], workers=workers)
        found[workers] = judged(Task("t", rows, [], rewards), rows, ["x"] * 7, state=State(2, 5))
        again = judged(Task("t", rows, [], rewards), rows, ["x"] * 7, state=State(2, 5))
        assert again.extra == found[workers].extra  # the same processes
        pids = found[workers].extra["pid"]
        assert len(set(pids)) == (1, 3, 7)[(0, 3, 10).index(workers)] and (pids[0] == os.getpid()) == (workers == 0)
    sums = [2.0 * i + 0.125 for i in range(7)]
    sums[3] = 0.125
    assert found[0].rewards == found[3].rewards == found[10].rewards == sums
    assert found[3].metrics["n"] == pytest.approx(7 / 3) and found[3].metrics["rewards/f/mean"] == 6.0


def test_a_reward_that_hangs_ends_the_run_and_is_named(tmp_path):
    code = "import time\ndef quick(prompts): return [1.0] * len(prompts)\ndef slow(prompts): time.sleep(1000)\n"
    path = file(tmp_path, code, "hanging.py")
    rewards = load_rewards([f"{path}:quick", f"{path}:slow"], timeout=0.5)
    started = time.monotonic()
    with pytest.raises(UserError, match=r"--reward \S+hanging.py:slow: no answer within --reward-timeout 0.5 seconds"):
        asked(rewards)
    assert time.monotonic() - started < 30 and not rewards.workers.running
    assert asked(load_rewards([f"{path}:quick"], timeout=30.0)) == [1.0, 1.0]


@pytest.mark.parametrize(("ends", "says"), [("os._exit(7)", "died with status 7"), ("os.kill(os.getpid(), 9)", "-9")])
def test_a_process_that_dies_is_said(tmp_path, ends, says):
    path = file(tmp_path, f"import os\ndef f(prompts): {ends}\n", "dying.py")
    with pytest.raises(UserError, match=rf"a process that judges \(\S+dying.py:f\).*{says}"):
        asked(load_rewards([f"{path}:f"], workers=2))


def test_processes_that_were_told_to_end_are_replaced(tmp_path):
    """As Slurm does to all processes of a job, of which the run itself finishes its round."""
    path = file(tmp_path, "def f(prompts): return [1.0] * len(prompts)\n", "told.py")
    rewards = load_rewards([f"{path}:f"], workers=2)
    assert asked(rewards) == [1.0, 1.0]
    for process, _ in rewards.workers.running:
        process.terminate()
        process.join()
    assert asked(rewards) == [1.0, 1.0]


def test_a_reward_that_takes_long_is_said(tmp_path, capsys):
    path = file(tmp_path, "import time\ndef f(prompts):\n    time.sleep(0.5)\n    return [1.0] * 2\n", "long.py")
    rewards = load_rewards([f"{path}:f"])
    rewards.patience = 0.1
    assert asked(rewards) == [1.0, 1.0] and rewards.patience >= 0.4
    assert "judging completions has taken 0 s so far (the reward function long.py:f)" in capsys.readouterr().err
    rewards.patience = 60.0
    asked(rewards)
    assert not capsys.readouterr().err
