#!/usr/bin/env bash
# Runs all tests. Finds or installs what they need (apt, as root on Debian or Ubuntu), starts throw-away servers on free ports of
# 127.0.0.1, and stops them by pid at the end, also after a failure.
#
#   tests/run.sh            everything
#   tests/run.sh ARG ...    passed on to cargo test, such as a test's name
#
# Some tests start servers of their own, by the programs installed here. Two of them fill a small disk (tmpfs), which they mount
# as root or by sudo; where neither may, they fail and say so.
#
# A server of your own is used as it is: POSTGRES_URL=postgres://.. MYSQL_URL=mysql://.. AMQP_URL=amqp://.. (see compose.yaml). So is a Python
# that has pika: PIKA_PYTHON=/path/to/python.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tests/services.sh
. tests/services.sh

command -v cargo >/dev/null || missing cargo "install Rust, see https://rustup.rs"
command -v cc >/dev/null || command -v gcc >/dev/null || command -v clang >/dev/null ||
  missing "a C compiler" "on Debian or Ubuntu: apt-get install gcc"

# Whatever a server or a test leaves in a temporary folder goes with this one.
SERVICES="$(mktemp -d)"
trap 'stop_services; rm -rf "$SERVICES"' EXIT
# The servers run as users of their own.
chmod 755 "$SERVICES"
start_postgres
start_mariadb
start_rabbitmq
make_python
mkdir "$SERVICES/tmp"
export TMPDIR="$SERVICES/tmp"

# tests/shop and tests/examples run the programs that people run; with `--examples` below cargo builds only their tests.
cargo build --workspace --all-features --examples
# The library, its macros, the examples' own tests and every test of tests/; then the documentation's examples.
cargo test --workspace --all-features --lib --bins --examples --tests -- "$@"
cargo test --workspace --all-features --doc -- "$@"
