# make demo        trains and compares the three methods of Bi-flow in out/demo: about 8 minutes on a laptop
# make test        installs the test dependencies and runs the tests; the aim is 12 minutes on two idle cores
# make check-all   runs all slower checks, and records their results in benchmarks/results/checks.json
#                  (make check-wheel, for example, runs one of them)

PYTHON ?= python3
VENV ?= .venv
RECORD = $(VENV)/bin/python tests/slow/record.py
# where this is set, each start of Python compiles thousands of files again: half of a start's time
unexport PYTHONDONTWRITEBYTECODE

demo: $(VENV)/installed
	$(VENV)/bin/jvflow demo --out=out/demo

test: $(VENV)/installed-test
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	MALLOC_ARENA_MAX=2 $(VENV)/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# the tests that `make test` leaves out: whole commands, and large backbones
test-integration: $(VENV)/installed-test
	MALLOC_ARENA_MAX=2 $(VENV)/bin/python -m pytest -m integration -n auto --maxprocesses 4 --dist loadfile

CHECKS = check-kills check-meshes check-attention check-papers check-wheel check-types check-checksums check-ffmpeg
CHECKS += check-fuzz check-demo check-public check-python check-scores check-readme check-terminal check-report
CHECKS += check-programs

check-all: $(CHECKS)

check-kills: $(VENV)/installed-test
	$(RECORD) kill_and_resume $(VENV)/bin/python tests/slow/kill_and_resume.py --kills 10
	$(RECORD) kill_processes $(VENV)/bin/python tests/slow/kill_processes.py --kills 10
	for what in clips inversions latents; do \
		$(RECORD) kill_build_$$what $(VENV)/bin/python tests/slow/kill_build.py --kills 10 --of $$what || exit 1; \
	done
	for what in workdir cache; do \
		$(RECORD) two_writers_$$what $(VENV)/bin/python tests/slow/two_writers.py --starts 20 --of $$what || exit 1; \
	done

check-meshes: $(VENV)/installed-test
	for paper in biflow vlfm flowframes conventional ltx wan; do \
		$(RECORD) equal_meshes_$$paper $(VENV)/bin/python tests/slow/equal_meshes.py $$paper || exit 1; \
	done
	for paper in biflow vlfm flowframes ltx wan; do \
		$(RECORD) equal_meshes_splash_$$paper $(VENV)/bin/python tests/slow/equal_meshes.py $$paper \
			--attention=splash --steps=5 || exit 1; \
	done
	$(RECORD) equal_processes $(VENV)/bin/python tests/slow/equal_processes.py

# the tests of networks with the attention of GPU and TPU, as a CPU runs it
check-attention: $(VENV)/installed-test
	for kernel in splash cudnn; do \
		$(RECORD) attention_$$kernel $(VENV)/bin/python -m pytest -m "" -n 2 --dist loadfile --attention=$$kernel \
			tests/networks tests/text tests/pretrained tests/codecs || exit 1; \
	done

check-scores: $(VENV)/installed-test
	$(RECORD) equal_scores $(VENV)/bin/python tests/slow/equal_scores.py
	$(RECORD) published_metrics $(VENV)/bin/python tests/slow/published_metrics.py

check-readme: $(VENV)/installed-test
	$(RECORD) readme $(VENV)/bin/python tests/slow/readme.py

# compiles for a processor, a GPU and a TPU that need not be there; for the GPU in an environment of its own (5 GB)
check-programs: $(VENV)/installed-test
	for device in cpu h200 tpu; do \
		$(RECORD) programs_$$device $(VENV)/bin/python tests/slow/programs.py $$device || exit 1; \
	done

check-terminal: $(VENV)/installed-test
	$(RECORD) terminal $(VENV)/bin/python tests/slow/terminal.py out/terminal

check-report: $(VENV)/installed-test
	$(VENV)/bin/python -m pip install --quiet playwright
	$(VENV)/bin/jvflow demo --quick --noopen --out=out/first_act
	$(RECORD) report $(VENV)/bin/python tests/slow/screenshots.py out/first_act/report.html out/screenshots

# Bi-flow's effect at the size of the demo
check-demo: demo
	$(RECORD) demo $(VENV)/bin/python tests/slow/check_demo.py out/demo

check-papers: $(VENV)/installed-test
	$(RECORD) remove_papers $(VENV)/bin/python tests/slow/remove_papers.py --whole

check-wheel: $(VENV)/installed-test
	$(RECORD) wheel $(VENV)/bin/python tests/slow/check_wheel.py

check-types: $(VENV)/installed-test
	$(VENV)/bin/python -m pip install --quiet pyright
	$(RECORD) pyright $(VENV)/bin/pyright --pythonpath $(VENV)/bin/python

check-checksums: $(VENV)/installed-test
	rm -f out/checksums.json && mkdir -p out
	$(RECORD) checksums $(VENV)/bin/python -m benchmarks.checksums --out=out/checksums.json \
		--against=benchmarks/results/checksums.json

check-ffmpeg: $(VENV)/installed-test
	$(RECORD) compare_ffmpeg $(VENV)/bin/python tests/slow/compare_ffmpeg.py

check-fuzz: $(VENV)/installed-test
	$(RECORD) fuzz_files $(VENV)/bin/python tests/slow/fuzz_files.py --files 2100

# short forms of the checks above, for .ci/run

short-papers: $(VENV)/installed-test
	$(VENV)/bin/python tests/slow/remove_papers.py

short-processes: $(VENV)/installed-test
	$(VENV)/bin/python tests/slow/equal_processes.py --counts=2

short-meshes: $(VENV)/installed-test
	for paper in biflow vlfm flowframes; do \
		$(VENV)/bin/python tests/slow/equal_meshes.py $$paper --meshes=all,microbatches || exit 1; \
	done
	$(VENV)/bin/python tests/slow/equal_meshes.py wan --meshes=all --attention=cudnn --steps=3

short-programs: $(VENV)/installed-test
	$(VENV)/bin/python tests/slow/programs.py cpu

short-notebooks: $(VENV)/installed-test
	for notebook in notebooks/*.py; do MPLBACKEND=Agg $(VENV)/bin/python $$notebook || exit 1; done

# compares public models with the packages that published them, which the extra dev installs
check-public: $(VENV)/installed-test
	$(VENV)/bin/python -m pip install --quiet --editable '.[dev]'
	$(RECORD) public_configs $(VENV)/bin/python tests/slow/public_configs.py
	$(RECORD) public_names $(VENV)/bin/python tests/slow/public_names.py

# runs the tests and the demo's first act with each release of Python and of JAX; JAX 0.11 needs Python 3.12
VERSIONS ?= 3.11-0.10 3.12-0.10 3.12-0.11 3.12-0.12 3.13-0.10 3.13-0.11 3.13-0.12
check-python: $(VENV)/installed-test
	for pair in $(VERSIONS); do \
		$(RECORD) python_$${pair%-*}_jax_$${pair#*-} $(VENV)/bin/python tests/slow/versions.py \
			--python=python$${pair%-*} --jax=$${pair#*-} || exit 1; \
	done

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --editable .
	touch $@

$(VENV)/installed-test: pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --no-compile --editable '.[test]'
	touch $@

.PHONY: demo test test-integration check-all $(CHECKS) short-papers short-processes short-meshes short-notebooks \
	short-programs
