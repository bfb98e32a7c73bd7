#!/usr/bin/env bash
# Compile-time cost of the derive: 100 events in one enum with `#[derive(Event)]`, and hand-written: a struct with serde's derives for each
# event, and match arms for name, encoding and decoding. Each is a separate crate in a temporary folder. A figure is the median of three
# builds (debug, not incremental) of that crate alone, offline, after its dependencies are built. `empty` has no events.
#
#   benches/macro_cost.sh [events]
set -euo pipefail
cd "$(dirname "$0")/.."
root="$PWD" events="${1:-100}" rounds=3
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
export CARGO_TARGET_DIR="$folder/target" CARGO_INCREMENTAL=0

fields="order_id: String, user_id: u64, items: Vec<String>, cents: u64, note: Option<String>"

# Prints the line once per event, with the event's number in place of @.
each() {
  local number
  for ((number = 1; number <= events; number++)); do echo "${1//@/$number}"; done
}

empty() { :; }

derived() {
  echo "#[derive(retell::Event)] pub enum OrderEvent {"
  each "    #[event(\"order.happened@\")] Happened@ { $fields },"
  echo "}"
}

by_hand() {
  echo "use retell::event::{DecodeError, EventSchema, EventTypes, StoredEvent};"
  echo "use retell::{BoxError, Codec, Event};"
  each "#[derive(serde::Serialize, serde::Deserialize)] pub struct Happened@ { $fields }"
  echo "pub enum OrderEvent {"
  each "    Happened@(Happened@),"
  echo "}"
  each "const HAPPENED@: EventSchema = EventSchema::new(\"order.happened@\", 1, Codec::Json);"
  echo "fn read<T: serde::de::DeserializeOwned>(payload: &[u8]) -> Result<T, DecodeError> {"
  echo "    serde_json::from_slice(payload).map_err(|error| DecodeError::Payload(error.into()))"
  echo "}"
  echo "impl Event for OrderEvent {"
  echo "    const TYPES: EventTypes = EventTypes::Only(&["
  each "        HAPPENED@,"
  echo "    ]);"
  echo "    fn schema(&self) -> EventSchema { match self {"
  each "        Self::Happened@(_) => HAPPENED@,"
  echo "    } }"
  echo "    fn encode(&self, payload: &mut Vec<u8>) -> Result<(), BoxError> { match self {"
  each "        Self::Happened@(event) => Ok(serde_json::to_writer(payload, event)?),"
  echo "    } }"
  echo "    fn decode(stored: StoredEvent<'_>) -> Result<Self, DecodeError> { match (stored.event_type, stored.schema_version) {"
  each "        (\"order.happened@\", 1) => read(stored.payload).map(Self::Happened@),"
  echo "        _ => Err(DecodeError::UnknownType),"
  echo "    } }"
  echo "}"
}

# Argument: crate.
generate() {
  mkdir -p "$folder/$1/src"
  "$1" >"$folder/$1/src/lib.rs"
  cat >"$folder/$1/Cargo.toml" <<TOML
[package]
name = "$1"
edition = "2024"
[dependencies]
retell = { path = "$root", default-features = false, features = ["macros"] }
serde = { version = "1", features = ["derive"] }
serde_json = "1"
TOML
}

# Argument: crate. Prints milliseconds.
build() {
  local began ended
  touch "$folder/$1/src/lib.rs"
  began=$(date +%s%N)
  cargo build --quiet --offline --manifest-path "$folder/Cargo.toml" -p "$1"
  ended=$(date +%s%N)
  echo $(((ended - began) / 1000000))
}

# Argument: crate. Prints milliseconds.
median() {
  for _ in $(seq "$rounds"); do build "$1"; done | sort -n | sed -n "$(((rounds + 1) / 2))p"
}

printf '[workspace]\nresolver = "3"\nmembers = ["empty", "derived", "by_hand"]\n' >"$folder/Cargo.toml"
# Use the versions that are already downloaded.
cp Cargo.lock "$folder/Cargo.lock"
for crate in empty derived by_hand; do generate "$crate"; done
cargo build --quiet --offline --manifest-path "$folder/Cargo.toml"

empty=$(median empty) derived=$(median derived) by_hand=$(median by_hand)
echo "$events events: derived $derived ms, by hand $by_hand ms, empty $empty ms"
awk -v derived="$derived" -v by_hand="$by_hand" -v empty="$empty" 'BEGIN {
  printf "derived / by hand: %.2f, without the time of an empty crate: %.2f\n", derived / by_hand, (derived - empty) / (by_hand - empty)
}'
