#!/usr/bin/env bash
# ./run.sh        make the environment, get the demo models, serve them with two workers, ask a question
# ./run.sh test   run the checks and the whole test suite
set -euo pipefail
cd "$(dirname "$0")"

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { echo "Shoal needs Python 3.11 or newer; set PYTHON to one (found $("$python" -V))." >&2; exit 1; }

# Locked versions, checked by hash; done again only when the lock has changed.
install() {
    local lock="requirements/$1.lock" stamp=".venv/.installed-$1"
    if ! cmp -s "$lock" "$stamp" || [ pyproject.toml -nt "$stamp" ]; then
        echo "Installing Shoal into .venv …"
        [ -x .venv/bin/python ] || "$python" -m venv .venv
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r "$lock"
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
        cp "$lock" "$stamp"
    fi
}

if [ "${1:-}" = test ]; then
    install dev
    exec scripts/check
fi

[ -e .venv/.installed-demo ] ||
    echo "The first time takes about two minutes: 0.6 GB into .venv, 0.4 GB of models into the user's cache folder."
install demo
.venv/bin/shoal pull smollm2 minilm
# The server takes this process over. The question waits until its models are ready and ends when it does; Ctrl-C
# reaches the server, which drains and takes all else with it.
.venv/bin/python examples/example_client.py --wait --tour --server $$ &
exec .venv/bin/shoal serve smollm2 minilm --workers 2 "$@"
