//! Checks the structure of the code: which module may import which, which code may write, and that README and example agree.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod imports;

use std::fs;
use std::path::{Path, PathBuf};

use imports::{Tree, without_text};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries
        .flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect();
    files.sort();
    files
}

/// A source file by its path below `src`, without its unit tests.
struct Source {
    path: String,
    code: String,
}

impl Source {
    fn all() -> Vec<Self> {
        let src = root().join("src");
        let file = |path: PathBuf| {
            let code = fs::read_to_string(&path).unwrap();
            let code = code.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned();
            Self { path: path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned(), code }
        };
        sources(&src).into_iter().map(file).collect()
    }

    /// Returns the top-level module that the file belongs to.
    fn module(&self) -> &str {
        self.path.split(['/', '.']).next().unwrap()
    }

    /// Returns the paths below `crate::` that the file names outside comments.
    fn crate_paths(&self) -> Vec<&str> {
        let lines = self.code.lines().filter(|line| !line.trim_start().starts_with("//") && !line.contains("$crate"));
        lines.flat_map(|line| line.split("crate::").skip(1)).filter(|path| !path.starts_with("__private")).collect()
    }

    /// Returns whether the code contains `word` outside comments and messages.
    fn names(&self, word: &str) -> bool {
        without_text(&self.code).split(|c: char| !c.is_alphanumeric() && c != '_').any(|found| found == word)
    }
}

/// Each module may import from itself and from the modules before it.
const ORDER: [&[&str]; 16] = [
    &["id"],
    &["error"],
    &["panics", "pulse", "trace"],
    &["notice"],
    &["status", "finding"],
    &["codec", "claim", "backoff", "grace", "hosts", "metrics"],
    &["shape"],
    &["event", "shutdown"],
    &["aggregate", "store", "broker"],
    &["command", "projection", "lifecycle", "registry", "operate"],
    &["view", "reaction", "inline"],
    &["repository", "relay", "worker"],
    &["process", "rebuild"],
    &["app"],
    &["testing", "__private", "docs"],
    &["lib"],
];

fn rank(module: &str) -> usize {
    ORDER
        .iter()
        .position(|modules| modules.contains(&module))
        .unwrap_or_else(|| panic!("{module} has no place in ORDER"))
}

#[test]
fn imports_point_one_way() {
    for source in Source::all().iter().filter(|source| source.module() != "lib") {
        for path in source.crate_paths() {
            let target: String = path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if target == source.module() || target.chars().all(char::is_uppercase) {
                continue;
            }
            let allowed = rank(&target) < rank(source.module());
            assert!(allowed, "src/{} imports crate::{target}, which is not below it", source.path);
        }
    }
}

/// Returns the files of the crate with their imports.
fn tree() -> Tree {
    let sources = Source::all();
    Tree::of(sources.iter().map(|source| (source.path.as_str(), source.code.as_str())))
}

/// If a file imports another, directly or through others, the other does not import it.
#[test]
fn no_files_import_each_other() {
    let cycles: Vec<String> = tree().cycles().into_iter().map(|cycle| cycle.join(" -> ")).collect();
    assert!(cycles.is_empty(), "files import each other:\n{}", cycles.join("\n"));
}

#[test]
fn imports_name_the_defining_module() {
    let detours = tree().detours();
    assert!(detours.is_empty(), "{} imports go through a re-export:\n{}", detours.len(), detours.join("\n"));
}

const DRIVERS: [&str; 4] = ["memory", "sqlite", "postgres", "mysql"];

/// Code that the drivers for servers share.
const SHARED: &str = "store/server/";

#[test]
fn drivers_are_independent_and_confine_their_client_library() {
    for source in Source::all() {
        let driver = DRIVERS.into_iter().find(|driver| source.path.starts_with(&format!("store/{driver}")));
        let testing = source.module() == "testing";
        // Shared code names no driver.
        let shared = source.path.starts_with(SHARED);
        // The crate root re-exports both client libraries for projections.
        let root = source.path == "lib.rs";
        let sqlite = driver == Some("sqlite") || root;
        assert!(sqlite || !source.names("rusqlite"), "rusqlite in src/{}", source.path);
        let sqlx = matches!(driver, Some("postgres" | "mysql")) || shared || testing || root;
        assert!(sqlx || !source.names("sqlx"), "sqlx in src/{}", source.path);
        for other in DRIVERS {
            let free = driver == Some(other) || driver.is_none() && !shared;
            assert!(free || !source.code.contains(&format!("store::{other}")), "src/{} imports {other}", source.path);
        }
    }
}

#[test]
fn lapin_stays_in_its_broker() {
    for source in Source::all().iter().filter(|source| !source.path.starts_with("broker/rabbitmq/")) {
        assert!(!source.names("lapin"), "lapin in src/{}", source.path);
    }
}

/// A cancelled call must not leave its connection to other callers. `Connections` ensures that, if all code uses it.
#[test]
fn no_mysql_call_runs_on_a_pool() {
    let mysql = |source: &Source| source.path.starts_with("store/mysql/") && source.path != "store/mysql/connection.rs";
    for source in Source::all().iter().filter(|source| mysql(source)) {
        for word in ["acquire", "begin_with", "PoolConnection"] {
            assert!(!source.names(word), "src/{} names {word}", source.path);
        }
        for line in source.code.lines().filter(|line| line.contains(".pool()")) {
            // The pool may only be returned or closed.
            assert!(line.ends_with(".pool()") || line.contains(".pool().close()"), "src/{}: {line}", source.path);
        }
    }
}

#[test]
fn relay_and_worker_cannot_append_and_the_relay_cannot_decode() {
    for source in Source::all()
        .iter()
        .filter(|source| ["relay", "worker", "projection", "view", "rebuild"].contains(&source.module()))
    {
        for word in ["EventStore", "Append", "append"] {
            assert!(!source.names(word), "src/{} names {word}", source.path);
        }
    }
    for relay in Source::all().iter().filter(|source| source.module() == "relay") {
        assert!(!relay.names("codec") && !relay.names("decode"), "src/{} decodes payloads", relay.path);
    }
}

#[test]
fn the_store_never_publishes() {
    for source in Source::all().iter().filter(|source| source.module() == "store") {
        assert!(!source.names("broker") && !source.names("publish"), "src/{} names the broker", source.path);
    }
}

#[test]
fn the_quickstart_is_the_bank_example() {
    let readme = read("README.md");
    let quickstart = readme.split("```rust\n").nth(1).unwrap().split("```").next().unwrap();
    let example = read("examples/bank.rs");
    let code = example.split_once("\n\n").unwrap().1;
    assert_eq!(quickstart, code, "README.md and examples/bank.rs differ");
}

#[test]
fn the_bank_domain_takes_at_most_forty_lines() {
    let example = read("examples/bank.rs");
    let domain = example.split("#[tokio::main]").next().unwrap();
    let lines = domain.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//"));
    let count = lines.count();
    assert!(count <= 40, "the bank account has {count} lines of code before its main function");
    assert_eq!(domain.matches("#[event(").count(), 3);
}

/// The macros reject names that no store accepts, but their crate cannot depend on the library.
#[test]
fn macros_and_library_agree_on_the_longest_name() {
    let stated = format!("const MAX_NAME_BYTES: usize = {};", retell::id::MAX_NAME_BYTES);
    assert!(read("macros/src/check.rs").contains(&stated), "macros/src/check.rs does not say `{stated}`");
}

/// A guarantee names the tests that show it. A name in backquotes with three underscores or more is such a test.
#[test]
fn the_guarantees_cite_tests_that_exist() {
    let guarantees = read("src/docs/guarantees.md");
    let is_test = |name: &&str| {
        name.matches('_').count() >= 3 && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    let cited: Vec<&str> = guarantees.split('`').skip(1).step_by(2).filter(is_test).collect();
    assert!(cited.len() > 80, "only {} tests are cited", cited.len());
    let code: String = ["src", "tests", "macros"]
        .iter()
        .flat_map(|folder| sources(&root().join(folder)))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let missing: Vec<_> = cited.into_iter().filter(|name| !code.contains(name)).collect();
    assert!(missing.is_empty(), "src/docs/guarantees.md cites tests that do not exist: {missing:?}");
}

#[test]
fn readme_shows_both_commands_and_ci_runs_the_tests_first() {
    let readme = read("README.md");
    for command in ["cargo run --release --example shop", "tests/run.sh"] {
        assert!(readme.contains(command), "README.md does not say `{command}`");
    }
    let ci = read(".ci/run");
    let first = ci.lines().find(|line| line.starts_with("step ") && !line.starts_with("step()")).unwrap();
    assert_eq!(first, "step tests/run.sh");
}

#[test]
fn schema_lives_in_migrations_and_statements_are_static() {
    for source in Source::all() {
        for line in source.code.lines() {
            let statement = ["SELECT ", "INSERT ", "UPDATE ", "DELETE "].iter().any(|verb| line.contains(verb));
            assert!(!(statement && line.contains("format!")), "src/{}: {line}", source.path);
        }
    }
}

/// Planted cycles and detours in small crates.
mod planted {
    use super::Tree;

    fn cycles(files: &[(&str, &str)]) -> Vec<String> {
        Tree::of(files.iter().copied()).cycles().into_iter().map(|cycle| cycle.join(" -> ")).collect()
    }

    const LIB: (&str, &str) = ("lib.rs", "mod a;\nmod b;\npub use a::One;");

    #[test]
    fn a_cycle_between_siblings_is_found() {
        let files =
            [LIB, ("a.rs", "use crate::b::Two;\npub struct One;"), ("b.rs", "use crate::a::One;\npub struct Two;")];
        assert_eq!(cycles(&files), ["a.rs -> b.rs -> a.rs"]);
    }

    #[test]
    fn a_cycle_within_a_folder_is_found() {
        let files = [
            LIB,
            ("a/mod.rs", "mod one;\nmod two;\npub use one::One;"),
            ("a/one.rs", "use super::two;\npub struct One(two::Two);"),
            ("a/two.rs", "pub struct Two;\nfn make() { crate::a::One::new() }"),
        ];
        assert_eq!(cycles(&files), ["a/one.rs -> a/two.rs -> a/one.rs"]);
    }

    #[test]
    fn a_parent_and_a_child_that_import_each_other_are_found() {
        let files = [
            LIB,
            ("a.rs", "mod child;\nuse child::Two;\npub struct One;"),
            ("a/child.rs", "use super::One;\npub struct Two;"),
        ];
        assert_eq!(cycles(&files), ["a.rs -> a/child.rs -> a.rs"]);
    }

    #[test]
    fn a_path_outside_a_use_line_is_an_import() {
        let files = [LIB, ("a.rs", "fn one() { crate::b::two() }"), ("b.rs", "fn two() { let x = crate::a::one; }")];
        assert_eq!(cycles(&files), ["a.rs -> b.rs -> a.rs"]);
    }

    #[test]
    fn declarations_reexports_comments_and_strings_are_no_imports() {
        let files = [
            LIB,
            ("a/mod.rs", "mod one;\npub use one::One;\npub struct Top;"),
            ("a/one.rs", "use crate::a::Top;\npub struct One;"),
            ("b.rs", "// crate::a::Top\nconst B: &str = \"crate::b::c\";"),
        ];
        assert_eq!(cycles(&files), Vec::<String>::new());
    }

    #[test]
    fn a_path_through_a_reexport_is_a_detour() {
        let files = [
            LIB,
            ("a/mod.rs", "mod one;\npub use one::One;"),
            ("a/one.rs", "pub struct One;"),
            ("b.rs", "use crate::{a::One as Other};\nuse crate::One;\nuse crate::a::one::One;"),
        ];
        let expected = ["b.rs: crate::a::One (defined in a/one.rs)", "b.rs: crate::One (defined in a/one.rs)"];
        assert_eq!(Tree::of(files).detours(), expected);
    }
}
