//! Golden output. `GOLDEN=write` writes the files again, from SQLite.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use regex::{Captures, Regex};
use tempfile::TempDir;

use crate::databases::{Database, Place};
use crate::tool::Tool;

/// The commands of each file, in this order.
const CASES: [(&str, &[&str]); 11] = [
    ("status", &["status", "status --max-age 1000000000 --max-lag 3", "status --max-lag 100"]),
    ("why", &["why 2", "why 3 totals", "why 00000000-0000-0000-0000-000000000004 audit", "why 99", "why 2 unknown"]),
    ("event", &["event 1", "event 7", "event 8", "event 9", "event 10", "event 11", "event 99", "event scale"]),
    (
        "show",
        &[
            "show scale/1",
            "show scale/1 --from 2 --limit 2",
            "show scale/1 --from 2 --at 3",
            "show scale/1 --at 2000-01-01T00:00:00Z",
            "show order/2 --at 2999-01-01T00:00:00Z",
            "show scale/1 --diff 1 6",
            "show scale/1 --diff 1 4",
            "show scale/1 --diff 1 9",
            "show scale",
        ],
    ),
    (
        "tail",
        &["tail", "tail -n 2", "tail --type scale.* -n 4", "tail --from 4 -n 2", "tail --from 11", "tail --type none"],
    ),
    (
        "parked",
        &[
            "parked list",
            "parked list totals",
            "parked list audit",
            "parked list unknown",
            "parked show totals order/1",
            "parked show totals order/9",
            "parked show totals order/5",
        ],
    ),
    (
        "retry",
        &[
            "parked retry totals order/1",
            "parked retry totals",
            "parked retry totals --all --dry-run",
            "parked retry totals --all --type order.p?id --dry-run",
            "parked retry totals --all --error *such* --dry-run",
            "parked retry totals --all --error other --dry-run",
            "parked retry totals order/5 --yes",
            "parked retry unknown order/5 --yes",
            "parked retry totals --all --yes",
            "parked list",
        ],
    ),
    (
        "schema",
        &[
            "schema list",
            "schema check",
            "schema check --lock whole.lock",
            "schema check --lock none.lock",
            "schema check --lock broken.lock",
            "schema diff",
            "schema diff --lock whole.lock",
        ],
    ),
    (
        "export",
        &[
            "schema export json-schema",
            "schema export json-schema --written --draft-7 --lock events.lock",
            "schema export asyncapi --title Shop --interface-version 2.0.0",
        ],
    ),
    (
        "change",
        &[
            "pause totals --reason repair --as ada",
            "pause totals --as ada --yes",
            "pause totals --reason repair --as ada --yes",
            "pause unknown --reason repair --as ada --yes",
            "why 6 totals",
            "status --max-age 1000000000",
            "resume totals --reason repaired --as ada --yes",
            "parked skip totals order/1 2 --reason poison --as ada",
            "parked skip totals order/1 1 --reason poison --as ada --yes",
            "parked skip totals order/1 2 --reason poison --as ada --yes",
            "why 2 totals",
            "status --max-age 1000000000",
            "audit",
            "audit -n 1",
        ],
    ),
    (
        "restored",
        &[
            "verify",
            "verify --after 11",
            "doctor --after-restore",
            "doctor --set-back",
            "doctor --after-restore --set-back",
            "doctor --after-restore --set-back --yes",
            "doctor --after-restore",
        ],
    ),
];

const LOCK: &str = "\
[order.paid 1 json]
cents: u64

[order.placed 1 json]
customer: text
cents: u64
";

const WHOLE: &str = "\
[order.placed 1 json]
customer: text
note: text?

[scale.noted 1 json]
note: text
tags: [text]

[scale.weighed 1 compact]
grams: u32
";

pub(crate) async fn each_command_prints_its_golden_output(database: &Database) {
    crate::planted(database).await;
    let folder = TempDir::new().unwrap();
    for (name, text) in [("events.lock", LOCK), ("whole.lock", WHOLE), ("broken.lock", "[order\n")] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let tool = Tool::of(&database.place).in_folder(folder.path());
    let mut different = Vec::new();
    for (name, commands) in CASES {
        let mut text = String::new();
        for command in commands {
            for json in ["", " --json"] {
                // A change is made once: the second run finds it done.
                let ran = tool.run(command.split(' ').chain(json.split(' ')).filter(|word| !word.is_empty()));
                write!(text, "$ retell {command}{json}\n{}", ran.stdout).unwrap();
                if !ran.stderr.is_empty() {
                    write!(text, "-- stderr\n{}", ran.stderr).unwrap();
                }
                write!(text, "-- exit {}\n\n", ran.exit).unwrap();
            }
        }
        let (text, path) = (steady(&text), file(name));
        let golden = fs::read_to_string(&path).unwrap_or_default();
        if text != golden {
            different.push(format!("{}:\n{}", path.display(), first_difference(&golden, &text)));
            if std::env::var("GOLDEN").is_ok_and(|it| it == "write") && matches!(database.place, Place::Sqlite(_)) {
                fs::write(path, text).unwrap();
            }
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

/// The findings depend on the server, so there is no golden output.
pub(crate) async fn doctor_names_a_cure_for_each_finding(database: &Database) {
    crate::planted(database).await;
    let tool = Tool::of(&database.place);
    let ran = tool.run(["doctor", "--json"]);
    let answer: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(answer["command"], "doctor", "{}", ran.stdout);
    let parts = answer["data"]["parts"].as_array().unwrap();
    assert_eq!(parts.len(), 2, "the log and the read models: {}", ran.stdout);
    let is_seen = |severity: &str| ["broken", "risk", "unknown"].contains(&severity);
    let findings: Vec<_> = parts.iter().flat_map(|part| part["findings"].as_array().unwrap()).collect();
    assert!(findings.iter().all(|finding| finding["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty())));
    let needs_attention = findings.iter().any(|finding| is_seen(finding["severity"].as_str().unwrap()));
    assert_eq!(ran.exit, i32::from(needs_attention), "{}", ran.stdout);
    let plain = tool.run(["doctor"]);
    let lines = |begin: &str| plain.stdout.lines().filter(|line| line.starts_with(begin)).count();
    assert_eq!((plain.exit, lines("    do: ")), (ran.exit, findings.len()), "{}", plain.stdout);
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/golden").join(format!("{name}.txt"))
}

fn first_difference(golden: &str, text: &str) -> String {
    let place = golden.lines().zip(text.lines()).take_while(|(one, other)| one == other).count();
    let around = |text: &str| text.lines().skip(place.saturating_sub(3)).take(8).collect::<Vec<_>>().join("\n");
    format!("line {}\nexpected:\n{}\nfound:\n{}", place + 1, around(golden), around(text))
}

/// Replaces what differs between two runs: times of the clock and ages. Columns are as wide as these.
fn steady(text: &str) -> String {
    let replace = |text: &str, pattern: &str, with: &dyn Fn(&Captures<'_>) -> String| {
        Regex::new(pattern).unwrap().replace_all(text, with).into_owned()
    };
    let text = replace(text, r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z", &|found| match &found[0] {
        planted if planted.starts_with("2023-11-14T22:") => planted.to_owned(),
        _ => "<time>".to_owned(),
    });
    let text = replace(&text, r"\b\d+ (?:s|min|h|d)\b", &|_| "<age>".to_owned());
    let text = replace(&text, r#""(seconds|oldest_seconds)": \d+"#, &|found| format!("\"{}\": <seconds>", &found[1]));
    replace(&text, r"(\S) {2,}", &|found| format!("{}  ", &found[1]))
}
