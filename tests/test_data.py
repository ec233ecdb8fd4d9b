"""Data of one's own: what a source holds arrives as it was written, or is named by file and line."""

import csv
import dataclasses
import gzip
import json
import random
import re
from pathlib import Path

import datasets
import pytest
import torch

from torchstone import cli
from torchstone.data.chat import control_tokens
from torchstone.data.examples import Examples, Survey, look_over, split
from torchstone.data.files import fingerprint, open_rows
from torchstone.data.find import find_task
from torchstone.data.formats import extract, to_example
from torchstone.data.tasks import take
from torchstone.evaluate.models import load
from torchstone.rewards.reward_model import reward_model_of
from torchstone.store.files import load_config
from torchstone.terminal import UserError
from torchstone.train.checks import check_options, check_task
from torchstone.train.loading import load_policy
from torchstone.train.model import small_policy
from torchstone.train.options import DPOOptions, GRPOOptions, RewardOptions
from torchstone.train.run import Interrupted, train

TEXTS = [
    "2024-01-02T03:04:05",
    "007",
    "NA",
    "null",
    "1e5",
    "true",
    " a ",
    'say "hi", you',
    "two\nlines",
    "a\u2028b",
    "é🌍",
]
ROWS = [{"prompt": text, "answer": text[::-1] or "x", "empty": ""} for text in TEXTS]
REWARD = f"{__file__}:judge_nothing"
USER, ANSWER = {"role": "user", "content": "sky?"}, {"role": "assistant", "content": "blue"}


def judge_nothing(prompts, completions, **columns):
    return [0.0 for _ in completions]


def read(source, method="grpo", judged=True, skip=False) -> list:
    """Every example, in the order of the source."""
    found = Survey(open_rows(str(source)), method, judged, skip)
    return list(Examples(found.rows, found.kind, found.good))


def lines(*rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def write(file, rows):
    """The rows in the format that the name of the file says."""
    name = file.name.removesuffix(".gz")
    plain = file.with_name(name)
    if name.endswith(".jsonl"):
        plain.write_text(lines(*rows))
    elif name.endswith(".json"):
        plain.write_text(json.dumps(rows, indent=1, ensure_ascii=False))
    elif name.endswith((".csv", ".tsv")):
        with plain.open("w", newline="") as out:
            table = csv.DictWriter(out, rows[0], delimiter="," if name.endswith("csv") else "\t")
            table.writeheader()
            table.writerows(rows)
    elif name.endswith(".parquet"):
        datasets.Dataset.from_list(rows).to_parquet(plain)
    else:
        datasets.Dataset.from_list(rows).save_to_disk(plain)
    if file.suffix == ".gz":
        file.write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    return file


# ------------------------------------------------------------------------------------- as it was written

NAMES = ["d.jsonl", "d.json", "d.csv", "d.tsv", "d.parquet"]


@pytest.mark.parametrize("name", [*NAMES, *(f"{name}.gz" for name in NAMES), "saved"])
def test_every_format_gives_the_texts_that_were_written(tmp_path, name):
    rows = open_rows(str(write(tmp_path / name, ROWS)))
    assert list(rows.scan()) == rows.take(range(len(ROWS))) == ROWS
    assert rows.take([3, 1]) == [ROWS[3], ROWS[1]] and len(rows) == len(ROWS)


@pytest.mark.parametrize("name", ["d.jsonl", "d.json"])
def test_json_keeps_numbers_null_and_nested_objects(tmp_path, name):
    rows = [
        {"prompt": "a", "x": {"b": 1, "c": None}, "n": 12345678901234567890},
        {"prompt": "b", "x": {"d": []}, "n": 0.1},
    ]
    assert read(write(tmp_path / name, rows)) == rows


def test_only_the_rows_that_are_asked_for_are_parsed(tmp_path, monkeypatch):
    task = find_task(
        GRPOOptions(data=write(tmp_path / "d.jsonl", [{"prompt": str(i)} for i in range(500)]), reward=REWARD)
    )
    parsed, rows = [], task.examples.rows
    monkeypatch.setattr(rows, "text", lambda i, text=rows.text: parsed.append(i) or text(i))
    assert len(task.examples) == 450 and len({example["prompt"] for example in take(task.examples, 8, 3, 0)}) == 8
    assert len(task.examples[10:13]) == 3
    assert 11 <= len(parsed) < 20  # beartype, in the tests, looks at one more for each call


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_blank_lines_and_a_byte_order_mark(tmp_path, end):
    file = tmp_path / "d.jsonl"
    file.write_bytes(("\ufeff" + end.join(['{"prompt": "a"}', "  ", "", '{"prompt": "b"}', "?"])).encode())
    with pytest.raises(UserError, match="line 5: not JSON"):
        read(file)
    assert [row["prompt"] for row in read(file, skip=True)] == ["a", "b"]
    (tmp_path / "d.csv").write_bytes(("\ufeff" + end.join(["prompt,x", "a,1", "", '"b' + end + 'c",2', ",3"])).encode())
    with pytest.raises(UserError, match="line 6: 'prompt' must be a text, got ''"):
        read(tmp_path / "d.csv")
    assert [row["prompt"] for row in read(tmp_path / "d.csv", skip=True)] == ["a", f"b{end}c"]


def test_a_saved_data_set_with_splits(tmp_path):
    parts = {name: datasets.Dataset.from_list([{"prompt": name}]) for name in ("train", "test")}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "d")
    assert read(tmp_path / "d") == read(f"{tmp_path / 'd'}:train") == [{"prompt": "train"}]
    assert read(f"{tmp_path / 'd'}:test") == [{"prompt": "test"}]
    with pytest.raises(UserError, match="has no split 'dev'; it has train, test"):
        read(f"{tmp_path / 'd'}:dev")
    with pytest.raises(UserError, match="has no splits: leave :train out"):
        read(f"{write(tmp_path / 'one', ROWS)}:train")


def test_another_fingerprint_if_the_data_is_another(tmp_path):
    for name in ("d.jsonl", "d.csv.gz", "d.parquet", "saved"):
        first = fingerprint(open_rows(str(write(tmp_path / name, ROWS))))
        again = fingerprint(open_rows(str(tmp_path / name)))
        (tmp_path / "b").mkdir(exist_ok=True)
        assert first == again != fingerprint(open_rows(str(write(tmp_path / "b" / name, ROWS[:-1]))))


# ---------------------------------------------------------------------------------------------- TRL's formats


@pytest.mark.parametrize(
    ("method", "judged", "row", "wanted"),
    [
        ("grpo", True, {"prompt": "a", "x": 1}, {"prompt": "a", "x": 1}),
        ("grpo", True, {"prompt": [USER]}, {"prompt": [USER]}),
        ("grpo", True, {"prompt": "a", "chosen": "b", "rejected": "c"},
         {"prompt": "a", "chosen": "b", "rejected": "c"}),
        ("dpo", False, {"prompt": [USER], "chosen": [ANSWER], "rejected": "no"},
         {"prompt": [USER], "chosen": "blue", "rejected": "no"}),
        ("dpo", False, {"chosen": [USER, ANSWER], "rejected": [USER, ANSWER | {"content": "no"}]},
         {"prompt": [USER], "chosen": "blue", "rejected": "no"}),
        ("reward", False, {"prompt": "sky?", "chosen": [USER, ANSWER], "rejected": [USER, ANSWER | {"content": "no"}]},
         {"prompt": [USER], "chosen": "blue", "rejected": "no"}),
        ("dpo", False, {"chosen": "It is blue.", "rejected": "It is green."},
         {"prompt": "It is", "chosen": " blue.", "rejected": " green."}),
        ("sft", False, {"prompt": "a", "completion": ""}, {"prompt": "a", "completion": ""}),
        ("sft", False, {"prompt": [USER], "completion": [ANSWER]}, {"prompt": [USER], "completion": "blue"}),
        ("sft", False, {"messages": [USER, ANSWER, USER, ANSWER]},
         {"messages": [USER, ANSWER, USER, ANSWER], "prompt": [USER, ANSWER, USER], "completion": "blue"}),
        ("sft", False, {"text": "once"}, {"text": "once", "prompt": None, "completion": "once"}),
        ("sft", False, {"prompt": "a", "answer": 3}, {"prompt": "a", "answer": 3}),
    ],
)  # fmt: skip
def test_rows_of_trls_formats_become_examples_of_one_shape(tmp_path, method, judged, row, wanted):
    assert read(write(tmp_path / "d.jsonl", [row]), method, judged) == [wanted]


def test_columns_get_other_names(tmp_path):
    rows = [{"question": str(i), "final": i, "answer": "long", "x": 0} for i in range(3)]
    for name in ("d.jsonl", "d.parquet"):
        config = GRPOOptions(data=write(tmp_path / name, rows), reward=REWARD, columns="prompt=question,answer=final")
        assert sorted(find_task(config).examples, key=lambda example: example["prompt"]) == [
            {"prompt": str(i), "answer": i, "x": 0} for i in range(3)
        ]
        with pytest.raises(UserError, match=r"1: --columns: 'q' is missing .it has question, final, answer, x"):
            find_task(dataclasses.replace(config, columns="prompt=q"))
        for wrong in ("prompt", "prompt=", "a=b=c", ","):
            with pytest.raises(UserError, match="expected NAME=COLUMN,"):
                find_task(dataclasses.replace(config, columns=wrong))


def test_keys_of_messages_that_arrow_fills_with_null_are_left_out():
    row = {"prompt": [USER | {"tool_calls": None}]}
    assert to_example("prompts", row)["prompt"] == [USER]


def test_the_prompt_of_a_pair_is_what_both_begin_with():
    """TRL's documentation of extract_prompt has the first; a space before the difference belongs to the answers."""
    assert extract({"chosen": [USER, ANSWER], "rejected": [USER, ANSWER | {"content": "green"}]}) == (
        [USER],
        "blue",
        "green",
    )
    assert extract({"chosen": "ab c", "rejected": "ab d"}) == ("ab", " c", " d")
    assert extract({"chosen": "abc", "rejected": "abd"}) == ("ab", "c", "d")
    assert extract({"chosen": "ab", "rejected": "abd"}) == ("ab", "", "d")
    with pytest.raises(UserError, match="share no beginning"):
        extract({"chosen": "x", "rejected": "y"})


# ------------------------------------------------------------------------------------ what is held out, and told


def test_a_tenth_is_held_out_and_at_most_a_thousand():
    order = random.Random(0).sample(range(25), 25)
    assert split(25) == (order[:2], order[2:]) and split(9) == (split(9)[0], split(9)[0])
    assert len(split(20_000)[0]) == 1000 and sorted([i for part in split(20_000) for i in part]) == list(range(20_000))


def test_what_a_file_holds_is_told(tmp_path):
    data = write(tmp_path / "d.jsonl", [{"prompt": str(i), "answer": "x"} for i in range(30)])
    assert find_task(GRPOOptions(data=data, reward=REWARD)).told == (
        f"{data}: prompts (prompt, answer), 30 rows, 3 of them held out",
    )
    data = write(tmp_path / "e.jsonl", [{"chosen": "a b", "rejected": "a c"}])
    assert find_task(DPOOptions(data=data)).told == (
        f"{data}: preference pairs (chosen, rejected), whose prompt is what chosen and rejected begin with, 1 rows, "
        "so few that all are held out too",
    )


def test_held_out_prompts_that_are_trained_on_are_named(tmp_path):
    data = write(tmp_path / "d.jsonl", [{"prompt": [USER] if i in (4, 9) else str(i)} for i in range(20)])
    held_out, train = split(20)
    told = Survey(open_rows(str(data)), "grpo", True).split()[2]
    assert len(told) == 1 + ((4 in held_out) != (9 in held_out))
    rows = [{"prompt": str(i)} for i in range(20)]
    rows[held_out[0]] = rows[train[7]]
    told = Survey(open_rows(str(write(data, rows))), "grpo", True).split()[2]
    assert told[1] == (
        f"{data}: 1 of 2 held-out prompts are trained on too (line {held_out[0] + 1} is line {train[7] + 1}): what is "
        "measured on them says nothing of new prompts"
    )


def test_bad_rows_are_left_out_only_if_asked_counted_and_named(tmp_path):
    rows = [{"prompt": str(i)} for i in range(12)] + [{"prompt": ""}, {"prompt": 3}, {"prompt": "a", "x": 1}, {}]
    data = write(tmp_path / "d.jsonl", rows)
    with pytest.raises(UserError, match=r"d.jsonl, line 13: .* got '' \(--skip-bad-rows leaves such rows out\)"):
        find_task(GRPOOptions(data=data, reward=REWARD))
    task = find_task(GRPOOptions(data=data, reward=REWARD, skip_bad_rows=True))
    assert len(task.examples) + len(task.held_out) == 12
    assert task.told[1].startswith(
        f"{data}: 4 of 16 rows are bad and left out (line 13: 'prompt' must be a text, got ''; "
    )
    assert task.told[1].endswith("; ...)") and task.told[1].count("line") == 3
    with pytest.raises(UserError, match="1 of 4 rows can be read: line 2: "):
        find_task(GRPOOptions(data=write(data, [{"prompt": "a"}, {}, {}, {}]), reward=REWARD, skip_bad_rows=True))


# ------------------------------------------------------------------------------------------- the hub


def test_a_name_of_the_hub_without_a_network_is_said_at_once(monkeypatch):
    asked = []

    def unreachable(self, name, timeout):
        asked.append(name)
        raise OSError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", unreachable)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    with pytest.raises(UserError, match=r"--data some/set: no such file here, the hub cannot be reached \(Name or"):
        open_rows("some/set")
    assert asked == ["some/set"]


def test_a_name_of_the_hub_with_its_configuration_and_split(monkeypatch):
    asked = []
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda self, name, timeout: None)
    monkeypatch.setattr(datasets, "load_dataset", lambda *names, split: (
        asked.append((*names, split)), datasets.Dataset.from_list(ROWS))[1])  # fmt: skip
    for name in ("some/set", "some/set:dev", "set,main:dev", "set,main"):
        rows = open_rows(name)
        assert len(rows) == len(ROWS) and fingerprint(rows) == rows.data._fingerprint
    assert asked == [
        ("some/set", None, "train"),
        ("some/set", None, "dev"),
        ("set", "main", "dev"),
        ("set", "main", "train"),
    ]


def test_without_the_package_it_is_said_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(UserError, match=r'd.parquet needs the package datasets: pip install ".\[data\]" in a checkout'):
        open_rows(str(write_bytes(tmp_path / "d.parquet")))
    assert read(write(tmp_path / "d.jsonl", ROWS)) == ROWS


def write_bytes(file):
    file.write_bytes(b"PAR1")
    return file


# ------------------------------------------------------------------------------------------- bad input

PROMPT, PAIR = '{"prompt": "a"}', '{"prompt": "a", "chosen": "b", "rejected": "c"}'
GRPO, DPO, SFT, MODEL = ["grpo", "--reward", REWARD], ["dpo"], ["sft"], ["reward"]
BAD = [
    # not what the name of the file says
    (GRPO, "d.jsonl", b"", "d.jsonl is empty"),
    (GRPO, "d.jsonl", b" \n\r\n\t", "d.jsonl is empty"),
    (GRPO, "d.jsonl", b'{"prompt": "a"}\n{"prompt": ', "line 2: not JSON"),
    (GRPO, "d.jsonl", b'{"prompt": "a"},\n{"prompt": "b"}', "line 1: not JSON .Extra data"),
    (GRPO, "d.jsonl", b'{"prompt": "a"}\n\n[1]', "line 3: expected an object, got list"),
    (GRPO, "d.jsonl", b'{"prompt": "a"}\n"b"', "line 2: expected an object, got str"),
    (GRPO, "d.jsonl", b'{"prompt": "a"}\nnull', "line 2: expected an object, got NoneType"),
    (GRPO, "d.jsonl", b"{'prompt': 'a'}", "line 1: not JSON"),
    (GRPO, "d.jsonl", b'{"prompt": "a\x00b"}', "line 1: not JSON .Invalid control character"),
    (GRPO, "d.jsonl", b'{"prompt": "a"}\n{"prompt": "b\xff"}', "line 2: not text in UTF-8"),
    (GRPO, "d.jsonl", "{}".encode("utf-16"), "d.jsonl is text in UTF-16: save it in UTF-8"),
    (GRPO, "d.csv", "prompt,x\na,1\n".encode("utf-16"), "d.csv is text in UTF-16: save it in UTF-8"),
    (GRPO, "d.jsonl", b'{"prompt": "a", "x": 1}\n{"prompt": "b", "x": NaN}', "line 2: .*NaN is no value of JSON: null"),
    (GRPO, "d.jsonl", b"PK\x03\x04\x80\x00", "line 1: not text in UTF-8 .*expected one JSON object a line"),
    (GRPO, "d.jsonl", b"{" * 100_000, "line 1: not JSON"),
    (GRPO, "d.jsonl", b'{"prompt": "a"}\n{"prompt": "a", "n": ' + b"9" * 5000 + b"}", "line 2: .*digits"),
    (GRPO, "d.jsonl", b'{"prompt": "a", "prompt": "b"}', "line 1: not JSON .'prompt' stands there twice"),
    (GRPO, "d.jsonl", b'{"prompt": "a"}\n{"prompt": "\\ud800"}', "line 2: 'prompt' is no text: surrogates not allowed"),
    (GRPO, "d.json", b"[" * 100_000, "line 1: not JSON .*recursion"),
    (GRPO, "d.json", b"[]", "d.json is empty"),
    (GRPO, "d.json", b'[{"prompt": "a"},\n{"prompt": "b"}', "line 2: not JSON .expected one array"),
    (GRPO, "d.json", b'[{"prompt": "a"}\n{"prompt": "b"}]', "line 1: not JSON .expected one array"),
    (GRPO, "d.json", b'[{"prompt": "a"},\n]', "line 2: not JSON"),
    (GRPO, "d.json", b'[{"prompt": "a"}]\n[]', "line 2: not JSON .expected one array"),
    (GRPO, "d.json", b'[\n{"prompt": "a"},\n3]', "line 3: expected an object, got int"),
    (GRPO, "d.json", b'{\n "data": [{"prompt": "a"}]\n}', "line 1: not JSON"),
    (GRPO, "d.csv", b"prompt,x\na,1\nb,2,3\n", "line 3: not CSV .3 fields, and the first line names 2"),
    (GRPO, "d.csv", b"prompt,x\na,1\nb\n", "line 3: not CSV .1 fields, and the first line names 2"),
    (GRPO, "d.csv", b'prompt,x\na,1\n"b,2\n', "line 3: not CSV .*unexpected end of data"),
    (GRPO, "d.csv", b"prompt;x\na;1\n", "d.csv: ';' is between the names of its first line: expected commas"),
    (GRPO, "d.tsv", b"prompt,x\na,1\n", "d.tsv: ',' is between the names of its first line: expected commas .*tabs"),
    (GRPO, "d.csv", b"prompt\n", "d.csv is empty: expected a line of names"),
    (GRPO, "d.csv", b"prompt,x\n\xff,1\n", "line 2: not CSV in UTF-8"),
    (GRPO, "d.csv", b"prompt,prompt\na,b\n", "the first line names 'prompt' twice"),
    (GRPO, "d.parquet", b"PAR1\x80\x00", "cannot read .*d.parquet as Parquet"),
    (GRPO, "d.jsonl.gz", gzip.compress(b'{"prompt": "a"}')[:-9], "cannot read .*d.jsonl.gz: .*end"),
    (GRPO, "d.jsonl.gz", gzip.compress(b'{"prompt": "a"}\n?'), "d.jsonl.gz, line 2: not JSON"),
    # rows that are not what the others are, or no example
    (GRPO, "d.jsonl", b'{"question": "a"}',
     "line 1: 'prompt' is missing .it has question.: --columns prompt=question, or one of:"),
    (GRPO, "d.jsonl", b'{"promt": "a"}', "line 1: 'prompt' is missing .it has promt. .did you mean 'prompt'"),
    (GRPO, "d.jsonl", b"{}", "line 1: 'prompt' is missing .it has nothing"),
    (GRPO, "d.jsonl", b'{"prompt": "a", "answer": 1}\n{"prompt": "b"}', "line 2: 'answer' is missing"),
    (GRPO, "d.jsonl", b'{"prompt": "a"}\n{"prompt": "b", "y": 2}',
     "line 2: 'y' is not in the first row .it has prompt"),
    (GRPO, "d.jsonl", b'{"prompt": ""}', "line 1: 'prompt' must be a text, got ''"),
    (GRPO, "d.jsonl", b'{"prompt": null}', "line 1: 'prompt' must be a text, got None"),
    (GRPO, "d.jsonl", b'{"prompt": 3}', "line 1: 'prompt' must be a text, got 3"),
    (GRPO, "d.jsonl", b'{"prompt": {"role": "user"}}', "line 1: 'prompt' must be a text, got {'role'"),
    (GRPO, "d.jsonl", b'{"prompt": []}', "line 1: 'prompt' must be a list of messages, got "),
    (GRPO, "d.jsonl", b'{"prompt": ["a"]}', "line 1: 'prompt' must hold messages with role and content, got 'a'"),
    (GRPO, "d.jsonl", b'{"prompt": [{"from": "human", "value": "a"}]}',
     "'prompt' must hold messages with role and content"),
    (GRPO, "d.jsonl", b'{"prompt": [{"role": "user"}]}', "line 1: 'content' is missing"),
    (GRPO, "d.jsonl", b'{"prompt": [{"role": "user", "content": [{"type": "image"}]}]}', "'content' must be a text"),
    (GRPO, "d.jsonl", b'{"prompt": [{"role": "system", "content": "a"}]}', "must have a message of the user's"),
    (DPO, "d.jsonl", b'{"prompt": "a", "chosen": "b"}', "line 1: 'rejected' is missing"),
    (DPO, "d.jsonl", b'{"prompt": "a", "rejected": "b"}', "line 1: 'chosen' is missing"),
    (DPO, "d.jsonl", b'{"prompt": "a", "chosen": 3, "rejected": "b"}', "line 1: 'chosen' must be a text, got 3"),
    (DPO, "d.jsonl", b'{"prompt": "a", "chosen": "b", "rejected": null}',
     "line 1: 'rejected' must be a text, got None"),
    (DPO, "d.jsonl", b'{"chosen": "b", "rejected": "c"}', "line 1: 'chosen' and 'rejected' share no beginning"),
    (DPO, "d.jsonl", b'{"chosen": [{"role": "user", "content": "a"}], "rejected": [{"role": "user", "content": "a"}]}',
     "line 1: 'chosen' must end with one text of the assistant's"),
    (DPO, "d.jsonl", (PAIR + "\n" + PROMPT).encode(), "line 2: 'chosen' is missing .it has prompt"),
    (SFT, "d.jsonl", b'{"messages": "hello"}', "line 1: 'messages' must be a list of messages, got 'hello'"),
    (SFT, "d.jsonl", b'{"messages": [{"role": "user", "content": "a"}]}', "line 1: 'messages' must have a message"),
    (SFT, "d.jsonl", b'{"messages": [{"role": "assistant", "content": "a"}]}',
     "'messages' must have a message of the user's"),
    (SFT, "d.jsonl", b'{"prompt": "a", "completion": null}', "line 1: 'completion' must be a text, got None"),
    (SFT, "d.jsonl", b'{"text": ""}', "line 1: 'text' must be a text, got ''"),
    # what the method does not learn from
    (["grpo"], "d.jsonl", PROMPT.encode(), "d.jsonl: it holds prompts .prompt.: judge what grpo samples with --reward"),
    (["grpo"], "d.jsonl", PAIR.encode(), "holds preference pairs .*, and grpo learns from prompts: use dpo or reward"),
    (DPO, "d.jsonl", PROMPT.encode(), "holds prompts .prompt.: judge what dpo samples with --reward"),
    (MODEL, "d.jsonl", b'{"prompt": "a", "completion": "b"}',
     "and reward learns from preference pairs, or .*: use sft"),
    (SFT, "d.jsonl", PROMPT.encode(),
     "holds prompts .*, and sft learns from .*: use grpo, ppo or reinforce, with --reward"),
    (SFT, "d.jsonl", b'{"prompt": "a", "completion": "b", "label": true}',
     "holds unpaired preferences .*: pair a good"),
    (GRPO, "d.jsonl", b'{"text": "a"}', "holds texts .text., and grpo learns from prompts: use sft"),
    (GRPO, "d.jsonl", b'{"prompt": "a", "completions": "b"}', "no column may be called 'completions'"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "name", "content", "says"), BAD, ids=[str(n) for n in range(len(BAD))])
def test_bad_input_is_one_line_that_names_it(tmp_path, monkeypatch, capsys, words, name, content, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(content)
    assert cli.main(["train", *words, "--data", str(tmp_path / name)]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(tmp_path / name) in said and len(said) < 1000, said
    assert re.search(says, said), said
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("no.jsonl", r"cannot read no.jsonl: no such file"),
        ("d.jsnl", r"--data d.jsnl: no such file here, the hub cannot be reached"),
        ("~/no.csv", r"cannot read ~/no.csv: no such file"),
        ("/dev/null", r"cannot read /dev/null: it is no regular file"),
        ("a/b/c", r"cannot read a/b/c: no such file"),
        ("empty", r"cannot read the folder empty: .*expected .jsonl, .json"),
        ("no name", r"--data no name: no such file, and no name of the hub"),
        ("d.jsonl:train", r"d.jsonl is a file, without splits: leave :train out"),
    ],
)
def test_a_source_that_is_not_there(tmp_path, monkeypatch, capsys, data, says):
    def unreachable(self, name, timeout):
        from huggingface_hub.utils import validate_repo_id

        validate_repo_id(name)
        raise OSError("unreachable")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", unreachable)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.jsonl").write_text(PROMPT)
    (tmp_path / "empty").mkdir()
    assert cli.main(["train", *GRPO, "--data", data]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and re.search(says, said), said


# ------------------------------------------------------------------------------------------- the page


def test_the_page_prints_what_the_commands_print(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parent.parent / "docs" / "data.md").read_text(encoding="utf-8")
    exec(re.search(r"```python\n# make_data.py\n(.*?)```", page, re.S)[1], {})
    shown = re.findall(r"^\$ torchstone (train [a-z]+ --data \w+\.jsonl)\n(torchstone train: .*\n)", page, re.M)
    assert len(shown) == 3
    for words, printed in shown:
        assert cli.main(words.split()) == 1
        assert capsys.readouterr().err == printed


# ------------------------------------------------------------------------------------------- chat templates

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}<end>{% endfor %}{% if add_generation_prompt %}[a]"
    "{% if thinking is defined %}{{ thinking }}{% endif %}{% endif %}"
)


@pytest.fixture
def policy():
    torch.manual_seed(0)
    policy = small_policy("".join(map(chr, range(32, 127))) + "\n", 200, "cpu")
    policy.tokenizer.add_special_tokens({"additional_special_tokens": ["<end>"]})
    policy.model.resize_token_embeddings(len(policy.tokenizer), mean_resizing=False)
    return policy


def prompts_of(policy, *prompts, system=None):
    return [policy.tokenizer.decode(ids) for ids in policy.encode_prompts(prompts, system)]


def test_a_template_of_ones_own_none_and_its_arguments(policy, tmp_path):
    (tmp_path / "t.jinja").write_text(TEMPLATE)
    policy.set_template(str(tmp_path / "t.jinja"), "")
    assert prompts_of(policy, "hi", [USER], system="be") == [
        "[system]be<end>[user]hi<end>[a]",
        "[system]be<end>[user]sky?<end>[a]",
    ]
    assert prompts_of(policy, [{"role": "system", "content": "own"}, USER], system="be") == [
        "[system]own<end>[user]sky?<end>[a]"
    ]
    assert prompts_of(policy, [USER, ANSWER]) == ["[user]sky?<end>[assistant]blue"]
    policy.set_template("default", '{"thinking": "no"}')
    assert prompts_of(policy, "hi") == ["[user]hi<end>[a]no"]
    assert prompts_of(reward_model_of(RewardOptions(), policy), "hi") == ["[user]hi<end>[a]no"]
    policy.set_template("none", "")
    assert prompts_of(policy, "hi", [USER], system="be") == ["be\nhi", "be\nsky?"]
    with pytest.raises(UserError, match="messages of several turns need a chat template"):
        policy.encode_prompts([[USER, ANSWER, USER]])


@pytest.mark.parametrize(
    ("template", "arguments", "says"),
    [
        ("{% if %}", "", r"t.jinja, line 1: Expected an expression"),
        ("always", "", "t.jinja: it leaves out what the user says"),
        (TEMPLATE, "{thinking}", r"--template-args {thinking}: not JSON"),
        (TEMPLATE, "[1]", r"--template-args \[1\]: expected an object"),
        (TEMPLATE, '{"thinkin": 1}', r"the chat template has no 'thinkin' in it .did you mean 'thinking'"),
    ],
)
def test_a_template_that_cannot_work(policy, tmp_path, template, arguments, says):
    (tmp_path / "t.jinja").write_text(template)
    with pytest.raises(UserError, match=says):
        policy.set_template(str(tmp_path / "t.jinja"), arguments)


def test_a_template_that_is_not_there_or_refuses_a_prompt(policy, tmp_path):
    with pytest.raises(UserError, match="expected default, none or a file of Jinja"):
        policy.set_template(str(tmp_path / "no.jinja"), "")
    with pytest.raises(UserError, match="the chat template has no 'x' in it"):
        policy.set_template("default", '{"x": 1}')
    (tmp_path / "t.jinja").write_text(
        "{{ raise_exception('no system messages') if messages[0].role == 'system' }}" + TEMPLATE
    )
    policy.set_template(str(tmp_path / "t.jinja"), "")
    with pytest.raises(UserError, match=r"the chat template refuses .*'be'.*: no system messages"):
        policy.encode_prompts(["hi"], "be")


def test_an_end_token_that_the_tokenizer_appends_is_taken_off_prompts(policy):
    from tokenizers.processors import TemplateProcessing

    plain = policy.encode_prompts(["ab", "c"])
    policy.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    assert policy.tokenizer("ab")["input_ids"][-1] == 1 and policy.encode_prompts(["ab", "c"]) == plain


def test_control_tokens_in_prompts_are_counted_and_the_first_named(tmp_path, policy):
    data = write(tmp_path / "d.jsonl", [{"prompt": f"{i}" + "<end>" * (i in (3, 8))} for i in range(9)])
    task = find_task(GRPOOptions(data=data, reward=REWARD))
    _, told = look_over(task, [], control_tokens(policy.tokenizer))
    first = min(3, 8, key=task.examples.order.index) + 1
    assert told == (
        f"2 of 9 examples hold text that the tokenizer reads as a control token ({data}, line {first}: '<end>')"
    )
    assert look_over(task, [], re.compile("never")) == (look_over(task, [], None)[0], "")


def test_conversations_are_trained_on_and_resumed_to_the_bit(tmp_path, policy):
    """DPO on pairs with an implicit prompt; messages go through the model's template, and are kept in pairs.jsonl."""
    (tmp_path / "t.jinja").write_text(TEMPLATE)
    policy.save(tmp_path / "model")
    rows = [
        {"chosen": [USER, ANSWER | {"content": f"yes {i}"}], "rejected": [USER, ANSWER | {"content": "no"}]}
        for i in range(12)
    ]
    options = {
        "data": write(tmp_path / "d.parquet", rows),
        "model": str(tmp_path / "model"),
        "pairs": 4,
        "device": "cpu",
    }
    options |= {
        "template_args": '{"thinking": "no"}',
        "chat_template": str(tmp_path / "t.jinja"),
        "eval_every": 1,
        "max_new_tokens": 4,
        "epochs": 2,
    }
    whole = train(DPOOptions(out=tmp_path / "a", **options))
    assert json.loads((whole / "pairs.jsonl").read_text().splitlines()[0])["prompt"] == [USER]
    with pytest.raises(Interrupted):
        train(DPOOptions(out=tmp_path / "b", **options), lambda record: record["step"] == 2)
    (tmp_path / "b" / "pairs.jsonl").unlink()
    train(load_config(tmp_path / "b"), resume=True)
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1] != (tmp_path / "model" / "model.safetensors").read_bytes()
    assert load_policy(str(tmp_path / "b" / "model"), "cpu", "float32").tokenizer.chat_template == TEMPLATE
    assert prompts_of(load(str(whole), load_config(whole)), "hi") == ["[user]hi<end>[a]no"]
    assert prompts_of(load(str(tmp_path / "model"), load_config(whole)), "hi") == ["[user]hi<end>[a]no"]
    write(tmp_path / "d.parquet", rows[:11])
    with pytest.raises(UserError, match="is not the file of before"):
        train(load_config(tmp_path / "b"), resume=True)


def test_options_that_change_nothing_and_a_system_prompt_beside_another(tmp_path, policy):
    for option in ({"columns": "a=b"}, {"chat_template": "none"}, {"template_args": "{}"}, {"skip_bad_rows": True}):
        with pytest.raises(UserError, match="would change nothing"):
            check_options(GRPOOptions(**option))
    data = write(tmp_path / "d.jsonl", [{"prompt": [{"role": "system", "content": "own"}, USER]}])
    task = find_task(GRPOOptions(data=data, reward=REWARD))
    with pytest.raises(UserError, match="--system would change nothing: the prompts have system messages of their own"):
        check_task(GRPOOptions(system="be"), task, policy)


def test_a_prompt_that_does_not_fit_is_named_by_its_line(tmp_path, policy):
    data = write(tmp_path / "d.jsonl", [{"prompt": "a" * (250 if i == 6 else 3)} for i in range(30)])
    task = find_task(GRPOOptions(data=data, reward=REWARD))
    with pytest.raises(UserError, match=r"d.jsonl, line 7: a prompt does not fit .250 tokens"):
        check_task(GRPOOptions(), task, policy)
