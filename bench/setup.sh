#!/bin/sh
# Installs the peers that the benchmarks measure beside queuecast: servers from Debian's packages,
# Python libraries from the `bench` dependency group, into a virtual environment of their own.
#
#   bench/setup.sh [VENV]        (default: bench/.venv)
#
# The scripts start the servers they need themselves, on private ports and in temporary folders, so
# the services that these packages bring may stay stopped.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
venv=${1:-$root/bench/.venv}
packages="nginx libnginx-mod-nchan redis-server rabbitmq-server"

if command -v apt-get >/dev/null; then
    as_root=
    [ "$(id -u)" -eq 0 ] || as_root=sudo
    # shellcheck disable=SC2086  # a list of words
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $packages
else
    echo "no apt-get here: install by hand what is missing of: $packages" >&2
fi

python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --upgrade 'pip>=25.1' # the first that knows --group
"$venv/bin/pip" install --quiet "$root[rabbitmq,kafka]"
"$venv/bin/pip" install --quiet --group "$root/pyproject.toml:bench"
echo "ready: $venv/bin/python $root/bench/fanout.py" >&2
