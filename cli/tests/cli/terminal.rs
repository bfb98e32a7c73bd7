//! The program on a terminal: it asks before each change, and prints colors. `script` of util-linux makes the terminal.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::databases::{Database, Place};
use crate::tool::{Ran, Tool};

/// Runs the program on a terminal, where a person types `input`. Both streams are one.
fn on_terminal(tool: &Tool, arguments: &[&str], environment: &[(&str, &str)], input: &str) -> Ran {
    let plain = tool.command(arguments);
    let quoted = |text: &std::ffi::OsStr| format!("'{}'", text.to_str().unwrap());
    let line: Vec<_> = std::iter::once(plain.get_program()).chain(plain.get_args()).map(quoted).collect();
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &line.join(" "), "/dev/null"]);
    script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // `CI` says that a machine shows colors even if its `TERM` does not.
    for variable in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "CI"] {
        script.env_remove(variable);
    }
    script.env("TERM", "xterm");
    script.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?)))).envs(environment.iter().copied());
    let mut running = script.spawn().expect("script of util-linux is missing: install util-linux");
    running.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    Ran::of(&running.wait_with_output().unwrap())
}

fn changes(tool: &Tool) -> usize {
    let ran = tool.run(["audit", "--json"]);
    let envelope: Value = serde_json::from_str(&ran.stdout).unwrap();
    envelope["data"]["items"].as_array().unwrap().len()
}

#[tokio::test]
async fn change_is_made_only_after_a_yes() {
    let database = Database::sqlite();
    crate::planted(&database).await;
    let tool = Tool::of(&database.place);
    let before = changes(&tool);
    let cases: [(&[&str], &str); 5] = [
        (&["pause", "totals", "--reason", "repair"], "pause totals? [y/N]"),
        (&["retire", "totals", "--reason", "replaced"], "retire totals? [y/N]"),
        (&["resume", "totals", "--reason", "repaired"], "resume totals? [y/N]"),
        (&["parked", "skip", "totals", "order/1", "2", "--reason", "poison"], "skip version 2 of order/1 in totals"),
        (&["parked", "retry", "totals", "order/9"], "retry"),
    ];
    for (number, (arguments, question)) in cases.into_iter().enumerate() {
        for no in ["n\n", "\n", "yess\n"] {
            let ran = on_terminal(&tool, arguments, &[], no);
            assert!(ran.exit == 4 && ran.stdout.contains(question), "{arguments:?} {no:?}: {ran:?}");
            assert!(ran.stdout.contains("not confirmed"), "{ran:?}");
        }
        assert_eq!(changes(&tool), before + number);
        let ran = on_terminal(&tool, arguments, &[], "y\n");
        assert!(ran.exit == 0 && ran.stdout.contains(question), "{arguments:?}: {ran:?}");
        assert_eq!(changes(&tool), before + number + 1);
    }
    // Without a terminal, no person can answer.
    assert_eq!(tool.run(["pause", "totals", "--reason", "repair"]).exit, 4);
    assert_eq!(changes(&tool), before + 5);
}

#[tokio::test]
async fn colors_are_for_terminals() {
    let database = Database::sqlite();
    crate::planted(&database).await;
    let tool = Tool::of(&database.place);
    let has_color = |ran: &Ran| {
        assert!(ran.exit == 1 && ran.stdout.contains("totals"), "{ran:?}");
        ran.stdout.contains("\u{1b}[1m")
    };
    let status = |extra: &[&str], environment: &[(&str, &str)]| {
        has_color(&on_terminal(&tool, &[&["status"], extra].concat(), environment, ""))
    };
    assert!(status(&[], &[]));
    assert!(!status(&[], &[("NO_COLOR", "1")]));
    assert!(!status(&["--color", "never"], &[]));
    assert!(status(&["--color", "always"], &[("NO_COLOR", "1")]));
    assert!(!status(&[], &[("TERM", "dumb")]));
    let piped = |extra: &[&str]| has_color(&tool.run([&["status"], extra].concat()));
    assert!(!piped(&[]) && !piped(&["--color", "auto"]) && piped(&["--color", "always"]));
    assert_eq!(tool.run(["status", "--color", "red"]).exit, 2);
    // JSON has no colors anywhere.
    let json = on_terminal(&tool, &["status", "--json", "--color", "always"], &[], "");
    assert!(json.exit == 1 && !json.stdout.contains('\u{1b}'), "{json:?}");
}

#[tokio::test]
async fn change_in_part_exits_with_three() {
    let database = Database::sqlite();
    crate::planted(&database).await;
    let Place::Sqlite(path) = &database.place else { unreachable!("a SQLite file") };
    let models = path.with_extension("models.db");
    rusqlite::Connection::open(models)
        .unwrap()
        .execute_batch(
            "CREATE TRIGGER refuse BEFORE UPDATE ON retell_parked WHEN OLD.aggregate_id = '9'
             BEGIN SELECT RAISE(ABORT, 'not this one'); END",
        )
        .unwrap();
    let tool = Tool::of(&database.place);
    let ran = tool.run(["parked", "retry", "totals", "--all", "--yes", "--json"]);
    assert_eq!(ran.exit, 3, "{ran:?}");
    let envelope: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(envelope["status"], "error", "{envelope}");
}
