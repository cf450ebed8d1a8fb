# Short names for the commands of CONTRIBUTING.md. `just` alone lists them.

_default:
    @just --list

# Lint, formatting and types
check:
    ruff check .
    ruff format --check .
    mypy

# Mend what the linter and the formatter can mend
fix:
    ruff check --fix .
    ruff format .

# All tests, or those named
test *args:
    pytest {{ args }}

# Build the documentation into docs/_build/html
docs:
    sphinx-build -W --keep-going -b html docs docs/_build/html

# Run the benchmark
bench *args:
    python -m benchmarks {{ args }}

# Everything that a change has to pass, in a fresh environment
ci:
    bash .ci/run
