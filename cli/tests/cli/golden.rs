//! Golden output. `GOLDEN=write` writes the files again, from SQLite.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::databases::{Database, Place};
use crate::steady::steady;
use crate::tool::Tool;

/// The commands of each file, in this order.
const CASES: [(&str, &[&str]); 13] = [
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
            "parked retry totals --all --type order.* --error *such* --yes",
            "parked list",
            "audit",
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
        "withdraw",
        &[
            "parked withdraw-skip totals order/1 2 --reason fixed --as ada",
            "parked withdraw-skip totals order/1 2 --reason fixed --as ada --yes",
            "parked withdraw-skip unknown order/1 2 --reason fixed --as ada --yes",
            "why 2 totals",
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
            "doctor --after-restore --set-back --reason restored --as ada",
            "doctor --after-restore --set-back --reason restored --as ada --yes",
            "doctor --after-restore",
            "audit",
        ],
    ),
    (
        "retire",
        &[
            "retire totals --reason replaced --as ada",
            "retire totals --reason replaced --as ada --yes",
            "pause totals --reason repair --as ada --yes",
            "why 6 totals",
            "parked list",
            "parked list totals",
            "retire orders@2 --reason replaced --as ada --yes",
            "status --max-age 1000000000",
            "resume orders@2 --reason kept --as ada --yes",
            "resume totals --reason kept --as ada --yes",
            "audit -n 2",
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
    assert_golden(&tool, &database.place, &CASES);
}

/// Compares the output of commands with their files.
pub(crate) fn assert_golden(tool: &Tool, place: &Place, cases: &[(&str, &[&str])]) {
    let mut different = Vec::new();
    for (name, commands) in cases {
        let mut text = String::new();
        for command in *commands {
            for json in ["", " --json"] {
                // A change is made once: the second run finds it done.
                let ran = tool.run(command.split(' ').chain(json.split(' ')).filter(|word| !word.is_empty()));
                write!(text, "$ retell {command}{json}\n{}", ran.stdout).unwrap();
                // A verification reports its progress after a second.
                let remarks = ran.stderr.lines().filter(|line| !line.starts_with("note: position "));
                let remarks: String = remarks.flat_map(|line| [line, "\n"]).collect();
                if !remarks.is_empty() {
                    write!(text, "-- stderr\n{remarks}").unwrap();
                }
                write!(text, "-- exit {}\n\n", ran.exit).unwrap();
            }
        }
        let (text, path) = (steady(&text), file(name));
        let golden = fs::read_to_string(&path).unwrap_or_default();
        if text != golden {
            different.push(format!("{}:\n{}", path.display(), first_difference(&golden, &text)));
            if std::env::var("GOLDEN").is_ok_and(|it| it == "write") && matches!(place, Place::Sqlite(_)) {
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
