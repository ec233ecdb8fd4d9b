"""What ``torchstone sanity`` prints, and how it ends."""

from __future__ import annotations

import json
import time
from dataclasses import fields, replace
from typing import Any

from torchstone.terminal import UserError, bold, read_options, styled, table, wrapped


def sanity(arguments: list[str]) -> int:
    """``torchstone sanity [options]``."""
    from torchstone.evaluate.options import Sanity

    options = read_options("sanity", Sanity, Sanity(), arguments)
    if min(options.prompts, options.rounds, options.search) < 1 or options.samples < 2:
        raise UserError("--prompts, --rounds and --search must be at least 1, and --samples 2")
    if options.model and not (options.task or options.data):
        raise UserError("with --model, what is to be solved is --task NAME, or --data FILE and --reward")
    return _sanity(options)


def config_of(options: Any) -> Any:
    """GRPO with settings that learn within 20 rounds: of the small model, or of --model."""
    from torchstone.train.options import defaults

    config = defaults("grpo", large=bool(options.model))
    sizes: dict[str, Any] = {"group_size": 64, "lr": 5e-4, "epochs": 2, "minibatches": 4, "task": "sort"}
    if options.model:
        sizes = {"group_size": 8, "lr": 2e-5, "epochs": 1, "minibatches": 1, "max_new_tokens": 16}
    given = {field.name: getattr(options, field.name) for field in fields(options)}
    known = {field.name for field in fields(config)}
    given = {name: value for name, value in given.items() if name in known and value not in (None, ())}
    return replace(config, **sizes | given | {"steps": options.rounds})


def _sanity(options: Any) -> int:
    from torchstone.data.find import find_task
    from torchstone.evaluate.sanity import LOOPS, binary, find_prompts, rates_of, verdict
    from torchstone.progress import Bar
    from torchstone.store.files import check_writable, write_text
    from torchstone.train import start
    from torchstone.train.checks import check_options
    from torchstone.train.loading import load_policy
    from torchstone.train.run import usable_device

    started, config = time.perf_counter(), config_of(options)
    check_options(config)
    check_writable(options.json)
    task = find_task(config)
    if task.reward is None:
        raise UserError(f"{task.name} has preference pairs: sanity wants prompts and a --reward")
    device = usable_device(config.device)
    if not config.model:
        print("first the small start model: pre-training and warm-up, up to a minute", flush=True)
    with Bar("the start model", "prompt") as bar:
        given = config.model and load_policy(config.model, device, config.dtype)
        policy = given or start.make_start(config, task, device)
        one = binary(task, options.threshold)
        found = find_prompts(config, one, policy, options.samples, options.search, bar.update)
    told = f"{len(found.examples)} prompts that it solves in 20% to 80% of {options.samples} samples, of {found.seen}"
    print(f"{told} (less often: {found.never}, more often: {found.always})", flush=True)
    if len(found.examples) < options.prompts:
        raise UserError(f"too few: {what_to_change(found)}", 2)

    one, results, rounds = replace(one, examples=found.examples), {}, options.rounds
    try:
        for name, broken in LOOPS.items():
            with Bar(name, f"{name}: round") as bar, broken():
                results[name] = rates_of(config, one, policy, rounds, bar.update)
            if name == "sound":
                if not verdict(name, results[name]):
                    break
                rounds = len(results[name])
    except KeyboardInterrupt:
        print("stopped: what was found until then")
    verdicts = {name: verdict(name, rates) for name, rates in results.items()}
    sane = len(verdicts) == len(LOOPS) and all(verdicts.values())
    if options.json:
        passes = {name: {"rates": rates, "as_expected": verdicts[name]} for name, rates in results.items()}
        prompts = [example["prompt"] for example in found.examples]
        numbers = {"sane": sane, "loops": passes, "prompts": prompts, "seconds": time.perf_counter() - started}
        write_text(options.json, json.dumps(numbers, indent=1) + "\n")
    print(sanity_table(results, verdicts, options.rounds))
    if len(verdicts) == len(LOOPS) or not all(verdicts.values()):
        print(wrapped(meaning(verdicts, options.rounds)))
    return 0 if sane else 1 if not all(verdicts.values()) else 130


def what_to_change(found: Any) -> str:
    """Why too few prompts were found, and what may help."""
    if found.never < found.always:
        return "the model nearly always solves this. Try a harder --task, or a higher --temperature"
    easier = "an easier --task, --reward lenient, a --system prompt that says what an answer looks like"
    return f"the model hardly ever solves this. Try {easier}, more --max-new-tokens, more --search"


def sanity_table(results: dict[str, list[float]], verdicts: dict[str, bool], most: int) -> str:
    """A row for each loop."""
    expected = {True: f"95% in {most} rounds", False: "below 80%"}
    rows = []
    for name, rates in results.items():
        numbers = [str(len(rates)), *(f"{100 * x:.0f}%" for x in (rates[0], rates[-1], max(rates)))]
        right = styled("yes", "green") if verdicts[name] else styled("no", "bold red")
        rows.append([name, *numbers, expected[name == "sound"], right])
    head = ["loop", "rounds", "at first", "at last", "highest", "expected", "so?"]
    return table(head, rows, right=head[1:5])


def meaning(verdicts: dict[str, bool], most: int) -> str:
    """What the verdicts say, and what to do."""
    if not verdicts["sound"]:
        first = bold("The sound loop did not learn: ") + "do not trust what is trained with these settings here."
        advice = f"Try a higher --lr, a larger --group-size, more --rounds than {most}."
        here = "If the small model (no --model) fails too, it is the machine or its torch: compare with --device cpu."
        return f"{first} {advice} {here}"
    if learned := [name for name, right in verdicts.items() if not right]:
        first = bold(f"A broken loop learned too ({', '.join(learned)}): ") + "these prompts cannot tell them apart."
        return f"{first} Often only the form of the answer was to be learned: try --reward lenient, or another --seed."
    first = bold("Training works here: ") + "the sound loop learned, and no broken one did."
    return f"{first} A loop of your own can be held to the same."
