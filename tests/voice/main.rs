//! Holds the text of the project to plain English: the patterns below appear nowhere that people read.
//! CONTRIBUTING.md says how to write instead.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod prose;

use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

use prose::paragraphs;

/// The files whose text people read. Fixtures and compiler output are kept as they were made.
const ROOTS: [&str; 12] = [
    "src",
    "cli",
    "macros",
    "migrations",
    "examples",
    "tests",
    "benches",
    ".ci",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
];
const APART: [&str; 3] = ["tests/fixtures", "tests/voice", "target"];

/// The longest name of a test, in characters.
const LONGEST_TEST_NAME: usize = 60;

/// A pattern to avoid, what to write instead, a sentence that has it, and one that has not.
struct Rule {
    pattern: &'static str,
    instead: &'static str,
    planted: &'static str,
    plain: &'static str,
}

/// Where a sentence begins. A question may begin with any word.
const RULES: [Rule; 20] = [
    Rule {
        pattern: r"^(?:Who|Whoever)\b[^?]*$|\bwhoever\b|\b(?:of|by|to|than|that) who\b|[;:] who\b",
        instead: "name the actor: a worker, reader, caller, writer",
        planted: "Who loses the race steps back.",
        plain: "A worker that loses the race backs off. Who holds the lease?",
    },
    Rule {
        pattern: r"^What(?:ever)?\b[^?]*$|[;:] what\b[^?]*$",
        instead: "name the thing, or begin with what the item does",
        planted: "What a stream needs.",
        plain: "Parameters of a stream. What does it need?",
    },
    Rule {
        pattern: r"\bmet\b",
        instead: "name the error",
        planted: "An error that reading met.",
        plain: "Returns a read error.",
    },
    Rule {
        pattern: r"\bso (?:many|much|long|often)\b",
        instead: "name the parameter, or `as long as`",
        planted: "At most so many rows.",
        plain: "At most `limit` rows.",
    },
    Rule {
        pattern: r"\b[Bb]eside\b",
        instead: "next to, besides, in addition to",
        planted: "It runs beside the relay.",
        plain: "It runs next to the relay, and nothing besides.",
    },
    Rule {
        pattern: r"\bat hand\b",
        instead: "cached, available",
        planted: "The connection is at hand.",
        plain: "The connection is cached.",
    },
    Rule { pattern: r"\banew\b", instead: "again", planted: "It is built anew.", plain: "It is built again." },
    Rule {
        pattern: r"\ball the same\b",
        instead: "anyway",
        planted: "It is tried all the same.",
        plain: "It is tried anyway.",
    },
    Rule {
        pattern: r"\bin vain\b",
        instead: "without success",
        planted: "It was tried in vain.",
        plain: "It was tried without success.",
    },
    Rule {
        pattern: r"\balso (?:where|when)\b",
        instead: "even if",
        planted: "It runs also where nothing changed.",
        plain: "It runs even if nothing changed.",
    },
    Rule {
        pattern: r"\b(?:stood|lies|hangs)\b|\bstands?(?: [^f]|[^\w ]|$)",
        instead: "is, is stored, is in",
        planted: "The event stands in the log.",
        plain: "The event is in the log, on standby. A token stands for it.",
    },
    Rule {
        pattern: r"\b(?:goes|go|going|went) on\b",
        instead: "continues",
        planted: "The worker goes on.",
        plain: "The worker continues.",
    },
    Rule {
        pattern: r"\bby itself\b",
        instead: "on its own, separately",
        planted: "It ends by itself.",
        plain: "It ends on its own.",
    },
    Rule { pattern: r"\bfor good\b", instead: "permanently", planted: "It is lost for good.", plain: "It is lost." },
    Rule {
        pattern: r"\b(?:[Ss]ome|[Ee]very|[Nn]o)body\b",
        instead: "name the actor",
        planted: "Somebody else holds it.",
        plain: "Another worker holds it.",
    },
    Rule { pattern: r"\bshall\b", instead: "will, must", planted: "It shall end.", plain: "It must end." },
    Rule {
        pattern: r"\b(?:is|are) to be\b",
        instead: "must be, will be",
        planted: "The row is to be deleted.",
        plain: "The row must be deleted.",
    },
    Rule {
        pattern: r"\bas well[.;,:)]|\bas well$",
        instead: "also, too",
        planted: "It polls as well.",
        plain: "It also polls. It works as well as before.",
    },
    Rule {
        pattern: r"^Of\b",
        instead: "begin with the subject",
        planted: "Of several relays one leads.",
        plain: "One of several relays leads. Offsets count.",
    },
    Rule {
        pattern: r"^(?:That, too|Does it|It does)[.,;]",
        instead: "say what the item does",
        planted: "That, too.",
        plain: "Adds a value.",
    },
];

/// Sentences that keep such a word for a reason: the file, a part of the sentence, the reason.
const EXCEPTIONS: [(&str, &str, &str); 2] = [
    ("tests/store_postgres.rs", "A process that hangs", "a process can hang"),
    ("tests/store_mysql.rs", "A process that hangs", "a process can hang"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The files below a path, by their paths from the root.
fn files(path: &str) -> Vec<String> {
    let full = root().join(path);
    if APART.contains(&path) || path.ends_with("/target") || !full.exists() {
        return Vec::new();
    }
    if full.is_file() {
        return vec![path.to_owned()];
    }
    let entries = fs::read_dir(full).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    entries.flat_map(|name| files(&format!("{path}/{name}"))).collect()
}

/// The sentences of a paragraph. An abbreviation may end one early, which makes a rule stricter, never laxer.
fn sentences(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive(". ")
        .flat_map(|part| part.split_inclusive("? "))
        .flat_map(|part| part.split_inclusive("! "))
        .flat_map(|part| part.split_inclusive(": "))
        .map(|sentence| sentence.trim().trim_start_matches(['(', '"', '*', '_']))
}

/// The rules with their patterns compiled.
fn rules() -> Vec<(Regex, &'static Rule)> {
    RULES.iter().map(|rule| (Regex::new(rule.pattern).unwrap(), rule)).collect()
}

/// The places of a file that break a rule, each as `path:line: sentence (advice)`.
fn faults(rules: &[(Regex, &Rule)], path: &str, content: &str) -> Vec<String> {
    let mut found = Vec::new();
    for paragraph in paragraphs(path, content) {
        for sentence in sentences(&paragraph.text) {
            let excepted = EXCEPTIONS.iter().any(|(file, part, _)| *file == path && sentence.contains(part));
            let broken = rules.iter().filter(|(pattern, _)| !excepted && pattern.is_match(sentence));
            found.extend(
                broken.map(|(_, rule)| format!("{path}:{}: {sentence} (instead: {})", paragraph.line, rule.instead)),
            );
        }
    }
    found.extend(long_names(path, content));
    found
}

/// The tests of a file whose names are too long: functions in `tests`, in the suites, and under `#[test]`.
fn long_names(path: &str, content: &str) -> Vec<String> {
    let names = content
        .lines()
        .filter_map(|line| line.trim_start().split_once("fn "))
        .filter_map(|(_, rest)| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next());
    let long = names.filter(|name| {
        Path::new(path).extension().is_some_and(|kind| kind == "rs") && name.chars().count() > LONGEST_TEST_NAME
    });
    long.map(|name| format!("{path}: {name} has more than {LONGEST_TEST_NAME} characters")).collect()
}

#[test]
fn every_sentence_is_plain() {
    let rules = rules();
    let files: Vec<String> = ROOTS.iter().flat_map(|path| files(path)).collect();
    assert!(files.len() > 200, "only {} files were found", files.len());
    let text = |path: &String| fs::read_to_string(root().join(path)).ok();
    let faults: Vec<String> =
        files.iter().filter_map(|path| Some(faults(&rules, path, &text(path)?))).flatten().collect();
    assert!(faults.is_empty(), "{} places to rewrite:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn each_rule_finds_its_planted_sentence() {
    for (pattern, rule) in rules() {
        for (path, marker) in [("a.rs", "///"), ("a.rs", "//"), ("a.sql", "--"), ("a.sh", "#"), ("a.md", "")] {
            let one = [(pattern.clone(), rule)];
            let planted = format!("{marker} It is true. {}\n", rule.planted);
            assert_eq!(faults(&one, path, &planted).len(), 1, "{} in {path}", rule.planted);
            assert_eq!(faults(&one, path, &format!("{marker} {}\n", rule.plain)), [""; 0], "{}", rule.plain);
        }
        let message = format!("fail(\"{}\");", rule.planted);
        assert_eq!(faults(&[(pattern, rule)], "a.rs", &message).len(), 1, "{message}");
    }
}

#[test]
fn a_long_test_name_is_found() {
    let name = "a".repeat(LONGEST_TEST_NAME + 1);
    assert_eq!(faults(&[], "tests/a.rs", &format!("async fn {name}() {{}}")).len(), 1);
    assert_eq!(faults(&[], "tests/a.rs", &format!("fn {}() {{}}", &name[1..])), [""; 0]);
}

#[test]
fn every_exception_is_still_needed() {
    for (path, part, reason) in EXCEPTIONS {
        let content = fs::read_to_string(root().join(path)).unwrap();
        assert!(content.contains(part) && !reason.is_empty(), "{path} no longer says `{part}`");
    }
}
