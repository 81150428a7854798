# `make demo` and `make test` set up all they need, in .venv.

PYTHON ?= python3
BIN := .venv/bin
# Must be of the version of Flink that tests/by_hand/flink/pom.xml names a job server for.
FLINK_VERSION := 1.19.3
JOB_SERVER_JAR ?= .flink/job-server/job-server.jar

.PHONY: help venv demo test test-image test-flink fuzz lint lock template clean

help:
	@echo "make demo        score the example that ships with the package and print its metrics"
	@echo "make test        run the tests"
	@echo "make fuzz        feed 100,000 damaged records and images to the readers, some minutes"
	@echo "make test-flink  score on a Flink cluster of this machine, killing half of it; needs Java 17 and Maven; 5 minutes"
	@echo "make test-image  lint the Dockerfile, build it without a registry, run the demo in it (root, Debian, buildah)"
	@echo "make lint        check style and formatting"
	@echo "make venv        only set up .venv"
	@echo "make lock        re-resolve requirements.lock from setup.py"
	@echo "make template    regenerate flex_template/metadata.json from the flags of its jobs"
	@echo "make clean       remove .venv, .flink and the demo's output"

venv: .venv/installed

.venv/installed: setup.py requirements.lock
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[test]'
	@touch $@

demo: venv
	$(BIN)/odin-beam demo

test: venv
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

fuzz: venv
	ODIN_BEAM_FUZZ=28 $(BIN)/python -m pytest tests/transforms/shards/test_records.py tests/transforms/images -k 'damage or any_bytes or stands' \
		--hypothesis-show-statistics

test-flink: venv .flink/lib/fetched $(JOB_SERVER_JAR)
	$(BIN)/python -m tests.by_hand.flink_cluster $(JOB_SERVER_JAR)

# The package index has Flink's jars as a Python package, without the start scripts.
.flink/lib/fetched:
	$(PYTHON) -m pip download --quiet --disable-pip-version-check --no-deps --dest .flink apache-flink-libraries==$(FLINK_VERSION)
	tar -xzf .flink/apache-flink-libraries-$(FLINK_VERSION).tar.gz -C .flink --strip-components=2 --wildcards '*/deps/lib/*.jar'
	rm .flink/apache-flink-libraries-$(FLINK_VERSION).tar.gz
	@touch $@

.flink/job-server/job-server.jar: tests/by_hand/flink/pom.xml
	mvn --batch-mode --quiet --file $< package dependency:copy-dependencies -DincludeScope=runtime

test-image:
	tests/by_hand/build_image.sh

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check uv
	.venv-lock/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-header --no-annotate \
		--all-extras --output-file requirements.lock setup.py
	rm -rf .venv-lock

template: venv
	$(BIN)/python -m flex_template.make_metadata > flex_template/metadata.json.new
	mv flex_template/metadata.json.new flex_template/metadata.json

clean:
	rm -rf .venv .flink demo-output
