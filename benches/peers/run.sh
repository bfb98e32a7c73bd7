#!/usr/bin/env bash
# Compares the library with its peers and writes benches/peers/results: a table, the raw figures and two plots for each database. Starts its
# own PostgreSQL on a free port of 127.0.0.1 and stops it at the end, even after a failure. Takes about 20 minutes, and longer to build the
# first time. A full run also updates the tables and plots in src/docs/benchmarks.md.
#
#   benches/peers/run.sh              everything
#   benches/peers/run.sh OPTION ...   passes=5; only=cqrs-es (several: only these sides; name retell, too, for the ratios);
#                                     phase=load (several: only these of append, load, log, view)
#
# DATABASES=postgres or DATABASES=sqlite measures only that database. POSTGRES_URL=postgres://.. uses an existing server; its user must be
# allowed to create databases and call CHECKPOINT.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/services.sh
. tests/services.sh

# es-entity's statements were checked when .sqlx was generated.
export SQLX_OFFLINE=true

command -v pkg-config >/dev/null && pkg-config --exists openssl || missing OpenSSL "esrs needs its headers: apt-get install libssl-dev pkg-config"
command -v cargo >/dev/null || missing cargo "install Rust, see https://rustup.rs"

peers="$PWD/benches/peers"
target="${CARGO_TARGET_DIR:-$peers/target}"
# Build before starting the server, which would be idle meanwhile.
for package in . sqlx09 sqlx08; do
  cargo build --quiet --release --locked --manifest-path "$peers/$package/Cargo.toml" --target-dir "$target"
done

SERVICES="$(mktemp -d)"
# Not in a temporary folder: it is often in memory, where waiting for the disk takes no time.
files="$(mktemp -d "$target/peers.XXXXXX")"
trap 'stop_services; rm -rf "$SERVICES" "$files"' EXIT
chmod 755 "$SERVICES"

places=()
databases="${DATABASES:-postgres sqlite}"
case "$databases" in *postgres*)
  start_postgres
  places+=("postgres=$POSTGRES_URL")
  ;;
esac
case "$databases" in *sqlite*) places+=("sqlite=$files") ;; esac

"$target/release/peers" run "$target/release" "$peers/results" "${places[@]}" "$@"
"$target/release/peers" plot "$peers/results"
# The documentation shows only full runs.
if [ $# = 0 ] && [ "$databases" = "postgres sqlite" ]; then
  "$target/release/peers" doc "$peers/results" src/docs/benchmarks.md
  mkdir -p src/docs/plots
  cp "$peers"/results/*.svg src/docs/plots/
fi
