# Each target sets up its own environment first: .venv, .venv-frameworks with TRL, verl and others for test-frameworks,
# and for site and test-site .venv-site and what site/package.json names (they need Node 20, and test-site Chromium).
# test-maths, the explorers' mathematics against vectors and recipes, needs Node alone. On Windows: see CONTRIBUTING.md.
PYTHON ?= python3
BIN := .venv/bin
COMPARE ?=# options for torchstone compare, such as --quick
TESTS ?=# options for pytest, such as -k grpo
CORPUS ?=# options for tests/corpus/judge.py, such as --only '*grpo*'

.PHONY: demo test test-frameworks engines bench vectors corpus docs site test-maths test-site mutation clean

demo: .venv/done
	$(BIN)/python examples/demo_reinforce_bandit.py
	$(BIN)/python examples/demo_ppo_bandit.py
	$(BIN)/python examples/demo_grpo_bandit.py
	$(BIN)/python examples/demo_dpo_synthetic.py
	$(BIN)/torchstone compare $(COMPARE)

test: .venv/done
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal $(TESTS)

test-frameworks: .venv-frameworks/done
	OMP_NUM_THREADS=1 .venv-frameworks/bin/pytest -n 2 --dist worksteal tests/frameworks

engines: .venv-frameworks/done
	.venv-frameworks/bin/python tests/frameworks/engine_trl.py
	.venv-frameworks/bin/torchrun --nproc-per-node 2 tests/frameworks/engine_trl.py
	.venv-frameworks/bin/python tests/frameworks/engine_verl.py

bench: .venv-frameworks/done
	for name in recurrence objectives linear startup training; do .venv-frameworks/bin/python benchmarks/$$name.py || exit 1; done

vectors: .venv/done
	$(BIN)/python -m torchstone_oracle torchstone/conformance/vectors
	$(BIN)/python docs/flags.py

corpus: .venv/done
	OMP_NUM_THREADS=1 $(BIN)/python tests/corpus/judge.py --page $(CORPUS)

docs: .venv/done
	$(BIN)/python docs/build.py

site: .venv/done .venv-site/done site/node_modules/done
	rm -rf build/site build/doctrees
	mkdir -p build site/sphinx/static/katex/fonts
	cp site/node_modules/katex/LICENSE site/node_modules/katex/dist/katex.min.css site/sphinx/static/katex/
	cp site/node_modules/katex/dist/fonts/*.woff2 site/sphinx/static/katex/fonts/
	.venv-site/bin/python site/pages.py build/pages build/site
	mkdir -p build/pages/trace
	for name in reinforce ppo grpo dpo distill; do $(BIN)/python -m torchstone trace $$name --markdown > build/pages/trace/$$name.md || exit 1; done
	.venv-site/bin/sphinx-build -q -W --keep-going -b html -c site/sphinx -d build/doctrees build/pages build/site
	$(BIN)/python site/table.py > build/recipes.json
	$(BIN)/python site/table.py --all > build/table.json
	node site/build.mjs build/site

test-maths: .venv/done
	mkdir -p build
	$(BIN)/python site/table.py > build/recipes.json
	$(BIN)/python site/table.py --all > build/table.json
	$(BIN)/python site/table.py --updates > build/updates.json
	$(BIN)/python site/table.py --compared > build/compared.json
	node --test site/maths/

test-site: site
	$(BIN)/python site/table.py --updates > build/updates.json
	$(BIN)/python site/table.py --compared > build/compared.json
	cd site && node_modules/.bin/prettier --check .
	node --test site/

.venv-site/done: site/requirements.txt
	$(PYTHON) -m venv .venv-site
	.venv-site/bin/pip install --quiet --requirement $<
	touch $@

site/node_modules/done: site/package-lock.json
	cd site && npm ci --no-audit --no-fund --ignore-scripts
	touch $@

.venv/done: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --requirement requirements.txt
	touch $@

.venv-frameworks/done: requirements-frameworks.txt pyproject.toml
	$(PYTHON) -m venv .venv-frameworks
	.venv-frameworks/bin/pip install --quiet --no-deps --requirement requirements-frameworks.txt
	.venv-frameworks/bin/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

clean:
	rm -rf .venv .venv-frameworks .venv-site site/node_modules build/site

mutation: .venv/done
	$(BIN)/pip install --quiet mutmut==3.8.1
	$(BIN)/python tests/mutation.py
