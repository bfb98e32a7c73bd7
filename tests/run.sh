#!/usr/bin/env bash
# Runs all tests. Installs missing programs (by apt, as root on Debian or Ubuntu), starts temporary servers on free ports of 127.0.0.1,
# and stops them at the end, even after a failure.
#
#   tests/run.sh            everything
#   tests/run.sh ARG ...    passed on to cargo test, such as a test's name
#
# Some tests start servers of their own with the installed programs. Two of them fill a small disk (tmpfs), which they mount as root or
# with sudo. If neither is allowed, they fail and say so.
#
# tests/matrix.sh runs the suites that need servers on newer versions of them.
#
# To use your own servers, set POSTGRES_URL=postgres://.. MYSQL_URL=mysql://.. AMQP_URL=amqp://.. (see compose.yaml). To use your own Python
# with pika, set PIKA_PYTHON=/path/to/python; to use your own PgBouncer (1.21 or later), set PGBOUNCER=/path/to/pgbouncer.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tests/services.sh
. tests/services.sh

command -v cargo >/dev/null || missing cargo "install Rust, see https://rustup.rs"
command -v cc >/dev/null || command -v gcc >/dev/null || command -v clang >/dev/null ||
  missing "a C compiler" "on Debian or Ubuntu: apt-get install gcc"

# Temporary files of servers and tests are below this folder and are deleted with it.
SERVICES="$(mktemp -d)"
trap 'stop_services; rm -rf "$SERVICES"' EXIT
# The servers run as other users, who must be able to enter the folder.
chmod 755 "$SERVICES"
start_postgres
start_mariadb
start_rabbitmq
find_faketime
make_python
make_pgbouncer
mkdir "$SERVICES/tmp"
export TMPDIR="$SERVICES/tmp"

# Most tests wait for servers most of the time, so more of them run at once than there are processors.
export RUST_TEST_THREADS="${RUST_TEST_THREADS:-4}"

# tests/shop and tests/examples run the example programs. The `--examples` below builds only the examples' own tests.
cargo build --workspace --all-features --examples
# The library, its macros, the examples' own tests and the package in tests/, then the doctests.
cargo test --workspace --all-features --lib --bins --examples --tests -- "$@"
cargo test --workspace --all-features --doc -- "$@"
# Features of serde_json that any crate of a program can switch on.
for feature in arbitrary_precision preserve_order; do
  cargo test --manifest-path tests/features/Cargo.toml --target-dir target/features --features "$feature" -- "$@"
done
