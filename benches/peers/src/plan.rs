//! The list of sides, and the measurements.

use peers::measure::LENGTHS;

/// A side, and the databases it supports.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    pub(crate) program: &'static str,
    pub(crate) sqlite: bool,
    pub(crate) postgres: bool,
    /// The phases in which the side is measured; empty for all.
    pub(crate) phases: &'static [&'static str],
}

const fn entry(name: &'static str, program: &'static str) -> Entry {
    Entry { name, program, sqlite: false, postgres: true, phases: &[] }
}

pub(crate) const ENTRIES: [Entry; 10] = [
    Entry { sqlite: true, ..entry("retell", "peers-sqlx09") },
    Entry { sqlite: true, phases: &["append"], ..entry("retell, no cache", "peers-sqlx09") },
    Entry { sqlite: true, ..entry("sqlx by hand", "peers-sqlx09") },
    Entry { sqlite: true, ..entry("cqrs-es", "peers-sqlx08") },
    entry("esrs", "peers-sqlx08"),
    entry("eventastic", "peers-sqlx08"),
    Entry { sqlite: true, ..entry("evento", "peers-sqlx09") },
    Entry { sqlite: true, ..entry("eventcore", "peers-sqlx08") },
    entry("es-entity", "peers-sqlx08"),
    entry("disintegrate", "peers-sqlx08"),
];

/// The side that the others are compared with.
pub(crate) const OURS: &str = "retell";

/// The measurements on one database of each side, and the command that fills it.
#[derive(Debug, Clone)]
pub(crate) struct Phase {
    pub(crate) name: &'static str,
    pub(crate) seed: Vec<String>,
    pub(crate) rows: Vec<Row>,
}

#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) connections: u64,
    pub(crate) command: Vec<String>,
}

/// Number of events of the log that is read, and of the log that views are built from: some peers take seconds for a thousand rows.
const LOG: u64 = 300_000;
const VIEWED: u64 = 30_000;

/// Number of writers, and the total number of their commands.
const APPENDS: [(u64, u64); 4] = [(1, 1_500), (4, 3_000), (16, 6_000), (64, 12_000)];

pub(crate) fn phases() -> Vec<Phase> {
    let append = |kind: &str, writers: u64, commands: u64| Row {
        name: format!("{kind}, {writers} {}", if writers == 1 { "writer" } else { "writers" }),
        unit: "commands/s",
        connections: writers.max(4),
        command: words(&format!("{kind} {writers} {commands}")),
    };
    let load = |length| row(&format!("{length} events"), "ms", &format!("load {length}"));
    let mut appends: Vec<_> = APPENDS.iter().map(|(writers, commands)| append("fresh", *writers, *commands)).collect();
    appends.push(append("existing", 16, 6_000));
    let mut loads: Vec<_> = LENGTHS.into_iter().map(load).collect();
    loads.push(row("10,050 events, snapshot", "ms", "kept"));
    vec![
        Phase { name: "append", seed: words("seed-append"), rows: appends },
        Phase { name: "load", seed: words("seed-load"), rows: loads },
        Phase {
            name: "log",
            seed: words(&format!("seed-log {LOG}")),
            rows: vec![row("all events into a counter", "events/s", &format!("all {LOG}"))],
        },
        Phase {
            name: "view",
            seed: words(&format!("seed-log {VIEWED}")),
            rows: vec![row("replay into a view", "events/s", &format!("rebuild {VIEWED}"))],
        },
    ]
}

fn row(name: &str, unit: &'static str, command: &str) -> Row {
    Row { name: name.into(), unit, connections: 4, command: words(command) }
}

fn words(command: &str) -> Vec<String> {
    command.split(' ').map(str::to_owned).collect()
}
