# The two commands to know are `make demo` and `make test`; `make help` lists the rest. Each does
# its own set-up and is quick when there is nothing left to do.
.DEFAULT_GOAL := help
.PHONY: help demo build test test-all docs format clean

help:       ## this list
	@awk -F ': *## ' '/: *## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo:       ## a language model with each recipe: what does low precision cost? (TEXT= MODES= WINDOWS= CONTEXT= MODEL=)
	@scripts/demo.sh

build:      ## the library and the program build/release/bin/sotto
	@scripts/build.sh

test:       ## C++ and Python tests, a sanitizer build, a CUDA build where nvcc is
	@scripts/test.sh

test-all:   ## the same and what is too long for every day
	@scripts/test.sh all

docs:       ## the API reference build/release/docs/html/index.html
	@scripts/docs.sh

format:     ## clang-format on every C++ and CUDA file, ruff on the package
	@scripts/format.sh

clean:      ## remove build/ and .venv/
	rm -rf build .venv
