//! The console blocks of the guide, compared with what the commands print.

use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

use crate::steady::steady;
use crate::tool::Tool;

const BEGIN: &str = "```console\n";
const END: &str = "```\n";

/// The guide, up to the block that was compared last.
pub(crate) struct Page {
    path: PathBuf,
    text: String,
    passed: usize,
    different: Vec<String>,
}

impl Page {
    pub(crate) fn open() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src/docs/guide/operations.md");
        Self { text: fs::read_to_string(&path).unwrap(), path, passed: 0, different: Vec::new() }
    }

    /// Runs a command, and compares it and its output with the next block.
    pub(crate) fn shows(&mut self, tool: &Tool, arguments: &[&str], exit: i32) {
        let ran = tool.run(arguments);
        assert_eq!(ran.exit, exit, "retell {arguments:?}: {ran:?}");
        let found = format!(
            "$ retell {}\n{}{}",
            arguments.iter().map(quoted).collect::<Vec<_>>().join(" "),
            ran.stdout,
            ran.stderr
        );
        let begin = self.text[self.passed..].find(BEGIN).map(|it| self.passed + it + BEGIN.len());
        println!("{found}");
        let Some(begin) = begin else {
            return self.different.push(format!("the page has no block for:\n{found}"));
        };
        let end = begin + self.text[begin..].find(END).unwrap();
        let shown = &self.text[begin..end];
        if comparable(shown) == comparable(&found) {
            self.passed = end + END.len();
            return;
        }
        self.different.push(format!("the page shows:\n{shown}\nthe command prints:\n{found}"));
        self.text.replace_range(begin..end, &found);
        self.passed = begin + found.len() + END.len();
    }

    /// Fails if a block differs, or was not run.
    pub(crate) fn end(self) {
        if std::env::var("GOLDEN").is_ok_and(|it| it == "write") {
            fs::write(&self.path, &self.text).unwrap();
        }
        assert!(self.different.is_empty(), "{}", self.different.join("\n"));
        assert!(!self.text[self.passed..].contains(BEGIN), "the page has a block that no step runs");
    }
}

fn quoted(argument: &&str) -> String {
    if argument.contains(' ') { format!("'{argument}'") } else { (*argument).to_owned() }
}

/// Replaces what differs between two runs: ids, the numbers of sessions, ports and attempts, and what `steady` replaces.
fn comparable(text: &str) -> String {
    let ids = Regex::new("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").unwrap().replace_all(text, "<id>").into_owned();
    let ids = Regex::new("[0-9a-f]{64}").unwrap().replace_all(&ids, "<digest>").into_owned();
    let ports = Regex::new(r"127\.0\.0\.1:\d+").unwrap().replace_all(&ids, "<address>").into_owned();
    let keys = Regex::new("[0-9a-f]{32}").unwrap().replace_all(&ports, "<id>").into_owned();
    let sessions = Regex::new(r"\d+( +the sequencer)").unwrap().replace_all(&keys, "<number>$1").into_owned();
    let attempts =
        Regex::new(r"\b\d+ attempts?\b|attempts +\d+").unwrap().replace_all(&sessions, "<attempts>").into_owned();
    let steady = steady(&attempts);
    // Where a long text is cut depends on the number of attempts before it, which a table has without a word.
    let cut = Regex::new(r"\S*\.\. \(cut, \d+ bytes in all\)").unwrap().replace_all(&steady, "<cut>").into_owned();
    Regex::new(r"\d+  <time>").unwrap().replace_all(&cut, "<number>  <time>").into_owned()
}
