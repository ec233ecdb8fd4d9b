"""`torchstone frameworks` with TRL and verl as they are installed, each imported in a fresh process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib

from torchstone.frameworks.engines import ENGINES
from torchstone.recipes import RECIPES, PolicyRecipe
from torchstone.recipes.columns import ADVANTAGES

ROOT = Path(__file__).parents[2]
ENTRY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["verl.plugins"]["torchstone"]


def ask(folder: Path, *arguments: str, entry: str = ENTRY, **env: str) -> subprocess.Popen:
    """The command where Torchstone is installed with this entry point for verl."""
    (info := folder / "torchstone-0.dist-info").mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torchstone\nVersion: 0\n")
    (info / "entry_points.txt").write_text(f"[verl.plugins]\ntorchstone = {entry}\n")
    env |= {"PYTHONPATH": f"{folder}:{ROOT}", "COLUMNS": "80"}
    command = [sys.executable, "-m", "torchstone", "frameworks", *arguments]
    where = {"env": os.environ | env, "cwd": folder}  # not the checkout, which may have an egg-info of its own
    return subprocess.Popen(command, **where, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """All cases at once, since each imports an engine: their exit statuses and what they printed."""
    started = {
        "all": ask(tmp_path_factory.mktemp("all"), "--json", TORCHSTONE_RECIPES="mine=gspo bad=gsop"),
        "trl": ask(tmp_path_factory.mktemp("trl"), "trl"),
        "fails": ask(tmp_path_factory.mktemp("fails"), "verl", entry="torchstone.frameworks.verl.nowhere"),
    }
    return {name: (*process.communicate(), process.returncode) for name, process in started.items()}


def test_the_plugs_are_tried_and_a_wrong_name_of_torchstone_recipes_is_told(answers):
    out, err, status = answers["all"]
    assert status == 1 and not err, out + err
    found = {one["name"]: one for one in json.loads(out)}
    assert found.keys() == ENGINES.keys()
    assert found["trl"]["plug_works"] and found["trl"]["installed"] == found["trl"]["tested"]
    assert found["skyrl"]["problems"] == ["ModuleNotFoundError: No module named 'pydantic'"]  # not all of it is here
    assert found["slime"]["plug_works"] is None and found["openrlhf"]["plug_works"] is None
    verl = found["verl"]
    losses = sum(isinstance(row, PolicyRecipe) for row in RECIPES.values()) + 1  # and "mine"
    estimators = losses + len(ADVANTAGES.keys() - RECIPES.keys())
    assert verl["installed"] == verl["tested"]
    assert verl["registered"] == {
        "registered": f"{losses} losses, {estimators} estimators",
        "TORCHSTONE_RECIPES": "mine; not bad",
    }
    (fault,) = verl["faults"]
    assert verl["plug_works"] and "did you mean 'gspo'" in fault
    assert fault.startswith("TORCHSTONE_RECIPES: bad cannot be used: recipe: expected")
    assert "gspo" in verl["runs"] and "reduction=token-mean" in verl["cannot_run"]["dapo"]


def test_trl_has_a_unit_of_policies_and_one_of_pairs(answers):
    out, _, status = answers["trl"]
    words = " ".join(out.split())
    assert status == 0
    assert "unit micro-batches are summed, ranks averaged; a loss returns the sum over the micro-batch" in words
    assert "unit of pairs micro-batches are averaged, ranks averaged; a loss returns the mean over the pairs" in words


def test_a_plug_that_verl_could_not_load_and_does_not_tell_of(answers):
    out, _, status = answers["fails"]
    words = " ".join(out.split())
    assert status == 1 and "plug fails" in words and "registered 0 losses, 0 estimators" in words
    assert "which verl logs at DEBUG only: ModuleNotFoundError: No module named" in words
    assert max(map(len, out.splitlines())) <= 80
