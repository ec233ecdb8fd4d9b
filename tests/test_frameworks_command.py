"""`torchstone frameworks`: what is said of an engine, on stand-ins. tests/frameworks has the real ones."""

import json
from dataclasses import replace

import pytest

from torchstone.cli import main
from torchstone.frameworks import engines
from torchstone.frameworks.verl import registered
from torchstone.recipes import RECIPES

PLACES = [name for name, engine in engines.ENGINES.items() if engine.lines]


@pytest.mark.parametrize("name", PLACES)
def test_an_engine_says_why_it_cannot_run_a_row(name):
    engine = engines.ENGINES[name]
    rows = engine.rows()
    assert rows.keys() == set(RECIPES) and any(rows.values())
    assert name == "prime-rl" or not all(rows.values())  # which runs rows with changes only
    assert engine.unit is not None and engine.unit.version.endswith(engine.tested.split()[0])
    for reason in rows.values():
        assert reason == reason.strip() and not reason.endswith(".") and "\n" not in reason


@pytest.mark.parametrize("name", engines.ENGINES)
def test_the_page_of_an_engine_fits_80_columns(name, monkeypatch, capsys):
    engine = replace(engines.ENGINES[name], distribution="no-such-engine")
    monkeypatch.setattr(engines, "ENGINES", {name: engine})
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["frameworks", name]) == 2
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_every_framework_of_peers_is_among_the_engines():
    from torchstone.frameworks.registry import FRAMEWORKS

    assert set(FRAMEWORKS) <= engines.ENGINES.keys()


@pytest.fixture
def installed(monkeypatch):
    """trl as the version of pytest that is installed, with this plug."""

    def install(*plugs: str, call: bool = False) -> None:
        engine = replace(engines.ENGINES["trl"], distribution="pytest", plugs=plugs, call=call)
        monkeypatch.setattr(engines, "ENGINES", {"trl": engine})
        monkeypatch.setenv("COLUMNS", "80")

    return install


def test_a_plug_that_works(installed, capsys):
    installed("json:dumps")
    assert main(["frameworks", "trl"]) == 0
    out = capsys.readouterr().out
    assert f"trl {pytest.__version__} is installed; tested: 1.16.0, another version" in out and "works" in out
    assert "rows that it cannot run" in out and max(map(len, out.splitlines())) <= 80
    assert main(["frameworks"]) == 0


FAILS = {
    "torchstone.nowhere:Plug": "ModuleNotFoundError: No module named 'torchstone.nowhere'",
    "json:Plug": "AttributeError: module 'json' has no attribute 'Plug'",
    "os:abort": "importing it ended the process with -6",
}


@pytest.mark.parametrize("plug", FAILS)
def test_a_plug_that_fails_is_told_with_its_reason_and_its_status(plug, installed, capsys):
    installed(plug, call=True)
    assert main(["frameworks"]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert " fails " in out and FAILS[plug] in out
    assert main(["frameworks", "trl", "--json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)
    assert found["plug_works"] is False and FAILS[plug] in found["problems"][0]
    assert set(found["runs"]) | found["cannot_run"].keys() == set(RECIPES)


def test_an_engine_that_is_not_installed(installed, capsys, monkeypatch):
    installed("json:dumps")
    missing = replace(engines.ENGINES["trl"], distribution="no-such-engine")
    monkeypatch.setattr(engines, "ENGINES", {"trl": missing})
    assert main(["frameworks"]) == 0
    assert main(["frameworks", "trl"]) == 2
    assert "trl is not installed; tested: 1.16.0" in capsys.readouterr().out


def test_why_verl_has_not_loaded_the_plug(monkeypatch):
    assert registered.why(KeyError("x")) == "the plug failed, which verl logs at DEBUG only: KeyError: 'x'"
    monkeypatch.setenv("VERL_USE_EXTERNAL_PLUGINS", "none")
    assert registered.why(None).startswith("VERL_USE_EXTERNAL_PLUGINS=none keeps verl from loading the plug")
    monkeypatch.setenv("VERL_USE_EXTERNAL_PLUGINS", "other, torchstone")
    monkeypatch.setattr(registered, "entry_points", lambda group: type("E", (), {"names": {"other"}}))
    assert "pip install Torchstone again in this environment" in registered.why(None)
