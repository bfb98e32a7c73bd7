#!/usr/bin/env bash
# Plants the fault behind each alert, and waits until Prometheus fires the alert, and until it is resolved after the repair. Prints a table.
# Durations in the rules are shortened for that: each becomes a few seconds. Before, promtool checks the rules and runs their unit tests.
#
#   POSTGRES_URL=postgres://.. prometheus/fire.sh
#
# Needs prometheus and promtool (on Debian: apt-get install prometheus), jq and curl. Starts a Prometheus on a free port of 127.0.0.1 and
# stops it at the end.
set -euo pipefail
cd "$(dirname "$0")/.."
for program in prometheus promtool jq curl cargo; do
  command -v "$program" >/dev/null || { echo "$program is missing: install it" >&2; exit 1; }
done
: "${POSTGRES_URL:?set it to the URL of a PostgreSQL server}"

# The alerts, and the faults that examples/monitoring/src/bin/faults.rs plants for them.
faults=(
  "RetellNotObserved:no process runs"
  "RetellObservationFails:the read models are closed"
  "RetellUnsequencedCommits:a session holds the sequencer's lock"
  "RetellParked:a handler fails"
  "RetellParkedOldest:a handler fails for long"
  "RetellDead:a handler fails at every retry"
  "RetellLagGrows:no process runs a worker"
  "RetellProcessorPaused:an operator has paused it"
  "RetellHistoryChanged:a checkpoint of another log"
  "RetellBehindDeploy:an event of a newer release"
  "RetellDeadlinesDue:no process runs a process manager"
  "RetellRelayWithoutLeader:the relay is stopped"
  "RetellRelayLags:the relay is stopped for long"
  "RetellBrokerReconnects:no broker listens"
  "RetellTaskFails:a projection cannot start"
)

promtool check rules prometheus/alerts.yaml
promtool check config prometheus/prometheus.yaml
promtool test rules prometheus/alerts_test.yaml

cargo build --quiet --workspace --all-features --bin faults
built="$(cargo metadata --no-deps --format-version 1 | jq -r .target_directory)/debug"

folder="$(mktemp -d)"
jobs=()
end() {
  local pid
  for pid in "${jobs[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$folder"
}
trap end EXIT

free_port() {
  local port
  while port=$((20000 + RANDOM % 30000)) && (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
  echo "$port"
}
port="$(free_port)" target="127.0.0.1:$(free_port)"

# Shortens every duration: waits become 2 seconds, windows 20 seconds, and limits in seconds 4 seconds.
sed -E 's/for: [0-9]+[smh]/for: 2s/; s/\[[0-9]+m\]/[20s]/; s/> (30|60|120|300|3600)$/> 4/' prometheus/alerts.yaml >"$folder/alerts.yaml"
cat >"$folder/prometheus.yaml" <<CONFIG
global: { scrape_interval: 1s, evaluation_interval: 1s }
rule_files: [alerts.yaml]
scrape_configs: [{ job_name: retell, static_configs: [{ targets: ["$target"] }] }]
CONFIG
promtool check config "$folder/prometheus.yaml"
prometheus --config.file="$folder/prometheus.yaml" --storage.tsdb.path="$folder/data" --web.listen-address="127.0.0.1:$port" \
  >"$folder/prometheus.log" 2>&1 &
jobs+=($!)

declare -A fired resolved
began=$SECONDS

firing() {
  curl -fsS "http://127.0.0.1:$port/api/v1/alerts" 2>/dev/null |
    jq -r '.data.alerts[] | select(.state == "firing") | .labels.alertname' | sort -u || true
}

# Looks which alerts fire now.
look() {
  local now fault alert
  now="$(firing)"
  for fault in "${faults[@]}"; do
    alert="${fault%%:*}"
    if grep -qx "$alert" <<<"$now"; then
      fired[$alert]="${fired[$alert]:-$((SECONDS - began))}"
      resolved[$alert]=""
    elif [ -n "${fired[$alert]:-}" ] && [ -z "${resolved[$alert]:-}" ]; then
      resolved[$alert]=$((SECONDS - began))
    fi
  done
}

# Waits until the condition holds. Arguments: a function, and the limit in seconds.
wait_until() {
  local limit=$((SECONDS + $2))
  until look && "$1"; do
    if [ "$SECONDS" -ge "$limit" ]; then return 1; fi
    sleep 1
  done
}
first_fired() { [ -n "${fired[RetellNotObserved]:-}" ]; }
all_fired() { [ "${#fired[@]}" = "${#faults[@]}" ]; }
all_resolved() {
  local fault
  for fault in "${faults[@]}"; do
    if [ -z "${resolved[${fault%%:*}]:-}" ]; then return 1; fi
  done
}

failed=0
wait_until first_fired 120 || failed=1
mkdir "$folder/files"
mkfifo "$folder/commands"
"$built/faults" "$target" "$folder/files" <"$folder/commands" >"$folder/faults.log" 2>&1 &
jobs+=($!)
exec 4>"$folder/commands"
wait_until all_fired 300 || failed=1
repaired=$((SECONDS - began))
echo repair >&4
wait_until all_resolved 300 || failed=1
echo end >&4

printf '\n%-26s %-38s %-9s %s\n' alert fault "fires (s)" "resolved (s)"
for fault in "${faults[@]}"; do
  alert="${fault%%:*}"
  printf '%-26s %-38s %-9s %s\n' "$alert" "${fault#*:}" "${fired[$alert]:-never}" "${resolved[$alert]:-never}"
  if [ -z "${fired[$alert]:-}" ] || [ -z "${resolved[$alert]:-}" ]; then failed=1; fi
done
echo "repaired after $repaired s"
if [ "$failed" != 0 ]; then
  tail -n 20 "$folder/faults.log" "$folder/prometheus.log" >&2
fi
sleep 1
exit "$failed"
