#!/usr/bin/env bash
# Regenerates .sqlx, the descriptions of es-entity's statements, from a PostgreSQL with the tables of prepare.sql. Needed after a change of
# es-entity or entity.rs.
set -euo pipefail
cd "$(dirname "$0")/../../.."
# shellcheck source=tests/services.sh
. tests/services.sh
package="$PWD/benches/peers/sqlx08"

SERVICES="$(mktemp -d)"
trap 'stop_services; rm -rf "$SERVICES"' EXIT
chmod 755 "$SERVICES"
start_postgres
"$(postgres_programs)/psql" --quiet --no-psqlrc "$POSTGRES_URL" --file "$package/prepare.sql"
rm -rf "$package/.sqlx"
mkdir "$package/.sqlx"
# cargo expands the macros again only if a source is newer.
touch "$package/src/entity.rs"
DATABASE_URL="$POSTGRES_URL" SQLX_OFFLINE_DIR="$package/.sqlx" \
  cargo build --release --manifest-path "$package/Cargo.toml" --target-dir "${CARGO_TARGET_DIR:-$PWD/benches/peers/target}"
