//! Wrong arguments, servers that do not answer, and secrets.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::tool::{Ran, Tool, bare};

fn ran(arguments: &[&str]) -> Ran {
    Ran::of(&bare(arguments).output().unwrap())
}

fn is_without(ran: &Ran, secret: &str) -> bool {
    !ran.stdout.contains(secret) && !ran.stderr.contains(secret)
}

#[test]
fn wrong_usage_exits_with_two() {
    let cases: [&[&str]; 6] = [
        &[],
        &["status"],
        &["status", "--store", "shop.db"],
        &["nothing"],
        &["parked"],
        &["show", "--store", "sqlite:x"],
    ];
    for arguments in cases {
        let plain = ran(arguments);
        assert_eq!((plain.exit, plain.stdout.as_str()), (2, ""), "{plain:?}");
        assert!(!plain.stderr.is_empty(), "{plain:?}");
        let json = ran(&[arguments, &["--json"]].concat());
        assert_eq!((json.exit, json.stderr.as_str()), (2, ""), "{json:?}");
        let envelope: Value = serde_json::from_str(&json.stdout).unwrap();
        let level = &envelope["diagnostics"][0]["level"];
        assert_eq!((&envelope["format"], &envelope["status"], level), (&1.into(), &"error".into(), &"error".into()));
    }
}

#[test]
fn help_names_each_exit_code_and_command() {
    let help = ran(&["--help"]);
    assert_eq!((help.exit, help.stderr.as_str()), (0, ""));
    for word in ["69", "75", "status", "why", "event", "show", "tail", "parked", "schema", "completions"] {
        assert!(help.stdout.contains(word), "{word} is missing in {}", help.stdout);
    }
}

#[test]
fn completions_are_printed_for_each_shell() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let ran = ran(&["completions", shell]);
        assert_eq!((ran.exit, ran.stderr.as_str()), (0, ""), "{shell}");
        assert!(ran.stdout.contains("parked") && ran.stdout.contains("retell"), "{shell}");
    }
}

#[test]
fn unreachable_server_is_unavailable() {
    // No process listens at the first one, and the second one never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    for server in ["127.0.0.1:1".to_owned(), format!("127.0.0.1:{port}")] {
        for scheme in ["postgres", "mysql"] {
            let tool = Tool::at(format!("{scheme}://shop:s3cret%40x@{server}/shop"));
            let begin = Instant::now();
            let plain = tool.run(["status", "--timeout", "1"]);
            assert!(begin.elapsed() < Duration::from_mins(1), "{server}");
            assert_eq!((plain.exit, plain.stdout.as_str()), (69, ""), "{plain:?}");
            assert!(plain.stderr.starts_with("error: ") && is_without(&plain, "s3cret"), "{plain:?}");
            let json = tool.run(["status", "--timeout", "1", "--json"]);
            assert_eq!((json.exit, json.stderr.as_str()), (69, ""), "{json:?}");
            let envelope: Value = serde_json::from_str(&json.stdout).unwrap();
            assert_eq!(envelope["diagnostics"][0]["code"], "unavailable");
            assert!(is_without(&json, "s3cret"), "{json:?}");
        }
    }
}

#[test]
fn refused_login_shows_no_password() {
    let url = std::env::var("MYSQL_URL").expect("MYSQL_URL is not set: tests/run.sh starts a database server");
    let (_, host) = url.rsplit_once('@').unwrap();
    let ran = Tool::at(format!("mysql://stranger:s3cret@{host}")).run(["status"]);
    assert_eq!((ran.exit, ran.stdout.as_str()), (69, ""), "{ran:?}");
    assert!(is_without(&ran, "s3cret") && ran.stderr.contains("stranger"), "{ran:?}");
}

#[test]
fn passwords_in_arguments_are_hidden() {
    let url = "postgres://shop:s3cret@db.example.com/shop";
    let wrong = "redis://shop:s3cret@db.example.com/shop";
    let cases: [&[&str]; 6] = [
        &["status", url],
        &["status", "--stroe", url],
        &["event", url, "--store", "sqlite:x"],
        &["status", "--store", wrong],
        &["status", "--store", "sqlite:x", "--models", wrong],
        &["show", url, "--at", url],
    ];
    for arguments in cases {
        for arguments in [arguments.to_vec(), [arguments, &["--json"]].concat()] {
            let ran = ran(&arguments);
            assert_eq!(ran.exit, 2, "{ran:?}");
            assert!(is_without(&ran, "s3cret"), "{ran:?}");
        }
    }
    let output = bare(["--help"]).env("RETELL_STORE", url).output().unwrap();
    assert!(is_without(&Ran::of(&output), "s3cret"));
}
