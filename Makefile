# Each target brings .venv up to date by itself, and only when setup.cfg or constraints.txt changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: run test test-all lint format bench results clean

run: $(READY)  ## train LeNet-5 on real digits and leave a SavedModel in saved_models/
	$(BIN)/python -m recipes.lenet --export saved_models

# Several runs, as a process that has run all tests would hold too much memory; the
# convnets' own tests build networks of ImageNet's size.
CONVNETS := tests/recipes/convnets
RECIPES := tests/recipes --ignore $(CONVNETS)
KITCHEN := tests/deep_learning_recipes
CONVERT := $(KITCHEN)/compression $(KITCHEN)/data
TRAIN := $(KITCHEN)/training $(KITCHEN)/distribute $(KITCHEN)/classifiers
REST := $(KITCHEN) tests/deploy $(addprefix --ignore ,$(CONVERT) $(TRAIN))

test: $(READY)  ## every recipe's quick run and all that is fast
	$(BIN)/python -m pytest $(RECIPES)
	$(BIN)/python -m pytest $(CONVNETS)
	$(BIN)/python -m pytest $(CONVERT)
	$(BIN)/python -m pytest $(TRAIN)
	$(BIN)/python -m pytest $(REST)

test-all: $(READY)  ## also what is long: clusters, kills, every recipe twice with the same seed
	$(BIN)/python -m pytest -m '' $(RECIPES)
	$(BIN)/python -m pytest -m '' $(CONVNETS)
	$(BIN)/python -m pytest -m '' $(CONVERT)
	$(BIN)/python -m pytest -m '' $(TRAIN)
	$(BIN)/python -m pytest -m '' $(REST)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python benchmarks/fit.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/convnets.py
	$(BIN)/python benchmarks/generative.py
	$(BIN)/python benchmarks/sequences.py
	$(BIN)/python benchmarks/serving.py
	$(BIN)/python benchmarks/compression.py
	$(BIN)/python benchmarks/reinforcement.py
	$(BIN)/python benchmarks/interpretability.py

results: $(READY)  ## measure every recipe again (resumes), then write README's table
	$(BIN)/python -m recipes results all
	$(BIN)/python -m recipes table

clean:
	rm -rf $(VENV) runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache

$(READY): setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	touch $@
