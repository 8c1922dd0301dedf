# One virtual environment serves every target; it is made at the first use and kept.
PYTHON ?= python3
BIN := .venv/bin
CPP_FILES = $(shell find cpp cuda -name '*.h' -o -name '*.cpp' -o -name '*.cu')
# One architecture is compiled in a fifth of the time; a wheel has them all (cmake/cuda.cmake).
CUDA_ARCHITECTURES ?= 90-real
CHECKED = python tests benchmarks examples tools
FORMATTED = $(CPP_FILES) $(wildcard benchmarks/*.cpp)

.PHONY: help demo test test-torch-versions test-v4 bench bench-all bench-kernels cuda-report gpu-check lint format clean
help:                     ## this list
	@grep -E '^[a-z0-9-]+:.*##' Makefile | sed 's/:.*##/\t/'

demo: .venv/installed     ## EM and a VAE on handwritten digits; pictures and a table in out/digits
	$(BIN)/python examples/digits.py

test: .venv/installed     ## the tests
	$(BIN)/python -m pytest

test-torch-versions:      ## one wheel under several versions of torch: TORCH="2.6.0 2.13.0"
	tools/test_torch_versions.sh $(TORCH)

test-v4: .venv/installed  ## the tests with v4's code, also where there is no AVX-512
	tools/test_v4.sh

bench: .venv/installed    ## the comparisons with other libraries, into benchmarks/results
	$(BIN)/python benchmarks/run.py

bench-all: .venv/installed ## the long form: more shapes, tied and spherical covariance
	$(BIN)/python benchmarks/run.py --all

bench-kernels: .venv/installed  ## each kernel alone, at each CPU level
	$(BIN)/python -m pytest benchmarks/test_kernels.py --benchmark-enable --benchmark-only --benchmark-sort=name --benchmark-columns=median,iqr,rounds

cuda-report: .venv/installed build/disassembler  ## registers, spills and SASS of the CUDA kernels
	$(BIN)/python tools/cuda_report.py --nvdisasm build/disassembler/nvidia/cu13/bin/nvdisasm

gpu-check:                ## on a machine with a GPU, offline: build, tests, times, sanitizers
	$(PYTHON) tools/gpu_check.py

build/disassembler: constraints.txt
	$(BIN)/pip install --quiet -c constraints.txt --upgrade --target $@ nvidia-cuda-nvdisasm
	chmod +x $@/nvidia/cu13/bin/nvdisasm
	touch $@

lint: .venv/installed     ## style and types
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/ruff format --check $(CHECKED)
	$(BIN)/clang-format --dry-run --Werror $(FORMATTED)
	$(BIN)/mypy

format: .venv/installed   ## put the code into the style that lint checks
	$(BIN)/ruff check --fix $(CHECKED)
	$(BIN)/ruff format $(CHECKED)
	$(BIN)/clang-format -i $(FORMATTED)

clean:                    ## everything that the other targets made
	rm -rf .venv build out

.venv/tools: constraints.txt
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt scikit-build-core pybind11 cmake ninja torch
	touch $@

# Python sources are used in place; only the compiled core has to be built anew.
.venv/installed: .venv/tools pyproject.toml CMakeLists.txt cmake/isa.cmake cmake/cuda.cmake \
    cmake/find_nvcc.cmake cmake/torch_extension.cmake \
    python/elbokit/torch/_extension_build.py cuda/emulation/CMakeLists.txt $(CPP_FILES)
	$(BIN)/pip install --quiet -c constraints.txt --no-build-isolation \
	  -Cbuild-dir=build/editable -Ccmake.define.ELBOKIT_WERROR=ON \
	  -Ccmake.define.ELBOKIT_EMULATION=ON \
	  -Ccmake.define.CMAKE_CUDA_ARCHITECTURES=$(CUDA_ARCHITECTURES) -e '.[test,lint]'
	touch $@
