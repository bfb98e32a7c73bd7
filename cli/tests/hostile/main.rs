//! No output of any command has a character that controls a terminal, whatever ids, names, payloads, errors and arguments hold. Needs
//! `POSTGRES_URL`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../../tests/support/databases.rs"]
mod databases;
#[path = "../support/tool.rs"]
mod tool;
mod typed;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use retell::event::NewEvent;
use retell::store::{Parked, ParkedState, ParkingChange, ProcessorKind, RegisteredProcessor, RegisteredShape, Step};
use retell::{
    Append, Codec, EventId, EventStore, EventType, ExpectedVersion, Filter, Mark, Metadata, Position,
    PostgresReadModel, PostgresStore, ProjectionName, ReadModel, RelayStore, SqliteReadModel, SqliteStore, StreamId,
    Utc, Uuid, Version,
};
use serde_json::Value;

use databases::{Database, Place};
use tool::Tool;

/// Parts of hostile texts: sequences for terminals, directions of text, invisible characters, and what a parser may trip over.
const PARTS: [&str; 24] = [
    "\u{1b}[31m",
    "\u{1b}]0;owned\u{7}",
    "\u{9b}2J",
    "\u{9d}8;;",
    "\u{85}",
    "\u{7f}",
    "\r",
    "\n",
    "\t",
    "\u{8}",
    "\u{202e}",
    "\u{2066}",
    "\u{200b}",
    "\u{200d}",
    "\u{2028}",
    "\u{2029}",
    "\u{feff}",
    "\u{ad}",
    "\u{e0041}",
    "\u{61c}",
    "\"\\",
    "'`{}%",
    "a://u:pw@h",
    "é名",
];

/// Returns whether a character may not be printed. Written apart from the program's own list.
fn is_active(c: char) -> bool {
    let invisible = "\u{ad}\u{61c}\u{180e}\u{200b}\u{200c}\u{200d}\u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{202b}\u{202c}\
                     \u{202d}\u{202e}\u{2060}\u{2061}\u{2062}\u{2063}\u{2064}\u{2066}\u{2067}\u{2068}\u{2069}\u{feff}";
    c.is_control() && c != '\n' || invisible.contains(c) || ('\u{e0000}'..='\u{e0fff}').contains(&c)
}

fn text() -> impl Strategy<Value = String> {
    let part = prop_oneof![3 => proptest::sample::select(&PARTS[..]).prop_map(str::to_owned), 1 => "[a-z./@-]{1,4}"];
    proptest::collection::vec(part, 1..6).prop_map(|parts| parts.concat())
}

/// The texts of one situation.
#[derive(Debug, Clone)]
struct Hostile {
    kind: String,
    id: String,
    event_type: String,
    processor: String,
    payload: String,
    error: String,
    program: String,
    relay: String,
    bytes: Vec<u8>,
}

fn hostile() -> impl Strategy<Value = Hostile> {
    let names = (text(), text(), text(), text());
    let bytes = proptest::collection::vec(any::<u8>(), 0..40);
    (names, text(), text(), text(), text(), bytes).prop_map(|(names, payload, error, program, relay, bytes)| {
        let (kind, id, event_type, processor) = names;
        // Arguments separate the two by the first slash.
        let kind = kind.replace('/', "");
        let kind = if kind.is_empty() { "kind".to_owned() } else { kind };
        Hostile { kind, id, event_type, processor, payload, error, program, relay, bytes }
    })
}

async fn plant(log: &(impl EventStore + RelayStore), models: &impl ReadModel, hostile: &Hostile) {
    let stream = StreamId::parse(&hostile.kind, &hostile.id).unwrap();
    let event_type = EventType::new(&hostile.event_type).unwrap();
    let id = |position: u64| EventId::from(Uuid::from_u128(position.into()));
    let payloads = [
        (Codec::Json, Bytes::from(serde_json::json!({ &hostile.payload: hostile.payload }).to_string())),
        (Codec::Json, Bytes::from(hostile.payload.clone())),
        (Codec::Json, Bytes::from(hostile.bytes.clone())),
        (Codec::Compact, Bytes::from(hostile.bytes.clone())),
    ];
    for (position, (codec, payload)) in (1..).zip(payloads) {
        let metadata = Metadata::new().with_source(&*hostile.program).with_entry(&hostile.error, &hostile.payload);
        let event = NewEvent::stored(id(position), event_type.clone(), 1, codec, payload).with_metadata(metadata);
        log.append(Append::new(stream.clone(), ExpectedVersion::Any, vec![event])).await.unwrap();
    }
    let shape =
        |shape: &str| RegisteredShape::new(event_type.clone(), 1, Codec::Json, shape, Utc::now(), &hostile.program);
    let field = serde_json::to_string(&hostile.payload).unwrap();
    log.register_shapes(&[shape(&hostile.payload), shape(&format!("{{{field}: text}}"))]).await.unwrap();
    let lease = log.acquire_lease(&hostile.relay, Uuid::from_u128(1), std::time::Duration::from_hours(1)).await;
    assert!(lease.unwrap().is_some());

    let processor = ProjectionName::new(&hostile.processor).unwrap();
    let filter = Filter::all().with_event_types([event_type]);
    models
        .register_processor(
            &processor,
            &RegisteredProcessor::new(ProcessorKind::Projection, filter, Utc::now(), &hostile.program),
        )
        .await
        .unwrap();
    let parked = Parked::new(stream, Version::new(2), Position::new(2), &hostile.error, 3, Utc::now());
    let change = vec![ParkingChange::Park(parked.with_state(ParkedState::Dead))];
    let step = Step::new(&processor, Position::ZERO, Mark::new(Position::new(2), id(2))).with_parking(1, change);
    models.commit(step, Box::new(|_| Box::pin(async { Ok(()) }))).await.unwrap();
}

/// Returns the arguments of each command, with hostile names, and some that are wrong.
fn commands(hostile: &Hostile) -> Vec<Vec<OsString>> {
    let aggregate = format!("{}/{}", hostile.kind, hostile.id);
    let (processor, payload) = (hostile.processor.as_str(), hostile.payload.as_str());
    let texts: Vec<Vec<&str>> = vec![
        vec!["status"],
        vec!["why", "1"],
        vec!["why", "3", "--", processor],
        vec!["why", "3", "--", payload],
        vec!["event", "1"],
        vec!["event", "2"],
        vec!["event", "3"],
        vec!["event", "4"],
        vec!["show", "--", &aggregate],
        vec!["show", "--diff", "1", "2", "--", &aggregate],
        vec!["tail"],
        vec!["tail", "--type", payload],
        vec!["parked", "list"],
        vec!["parked", "show", "--", processor, &aggregate],
        vec!["parked", "retry", "--dry-run", "--", processor, &aggregate],
        vec!["parked", "retry", "--", processor, &aggregate],
        vec!["parked", "retry", "--yes", "--", processor, &aggregate],
        vec!["parked", "show", "--", payload, &aggregate],
        vec!["parked", "skip", "--reason", payload, "--", processor, &aggregate, "2"],
        vec!["parked", "skip", "--yes", "--reason", payload, "--as", payload, "--", processor, &aggregate, "3"],
        vec!["parked", "skip", "--yes", "--reason", payload, "--as", payload, "--", processor, &aggregate, "2"],
        vec!["pause", "--reason", payload, "--", processor],
        vec!["pause", "--yes", "--reason", payload, "--as", payload, "--", processor],
        vec!["pause", "--yes", "--reason", payload, "--", payload],
        vec!["status"],
        vec!["why", "2", "--", processor],
        vec!["retire", "--reason", payload, "--", processor],
        vec!["retire", "--yes", "--reason", payload, "--as", payload, "--", processor],
        vec!["status"],
        vec!["why", "2", "--", processor],
        vec!["resume", "--reason", payload, "--", processor],
        vec!["resume", "--yes", "--reason", payload, "--as", payload, "--", processor],
        vec!["audit"],
        vec!["audit", "-n", payload],
        vec!["verify"],
        vec!["verify", "--after", payload],
        vec!["doctor"],
        vec!["doctor", "--after-restore"],
        vec!["doctor", "--after-restore", "--set-back"],
        vec!["doctor", "--after-restore", "--set-back", "--yes"],
        vec!["doctor", "--patience", payload],
        vec!["doctor", "--broker", payload],
        vec!["doctor", "--broker", "amqp://127.0.0.1:1", "--management", payload],
        vec!["doctor", "--broker", "amqp://127.0.0.1:1", "--management", "http://127.0.0.1:1"],
        vec!["doctor", "--broker", "amqp://127.0.0.1:1", "--topology", payload],
        vec!["schema", "list"],
        vec!["schema", "diff"],
        vec!["schema", "diff", "--lock", payload],
        vec!["schema", "diff", "--lock", "hostile.lock"],
        vec!["schema", "check", "--lock", "hostile.lock"],
        vec!["schema", "check", "--lock", payload],
        vec!["schema", "export", "json-schema"],
        vec!["schema", "export", "asyncapi", "--title", payload],
        vec![payload],
        vec!["status", payload],
        vec!["event", payload],
        vec!["show", "--at", payload, &aggregate],
        vec!["status", "--store", payload],
        vec!["status", "--store", "sqlite:none", "--models", payload],
    ];
    let mut commands: Vec<Vec<OsString>> =
        texts.into_iter().map(|words| words.into_iter().map(OsString::from).collect()).collect();
    let bytes: Vec<u8> = hostile.bytes.iter().copied().filter(|byte| *byte != 0).collect();
    commands.push(vec!["event".into(), OsStr::from_bytes(&bytes).to_owned()]);
    commands
}

fn check(tool: &Tool, hostile: &Hostile) {
    for command in commands(hostile) {
        for is_json in [false, true] {
            let json = is_json.then_some(OsString::from("--json"));
            let ran = tool.run(json.iter().chain(&command));
            for text in [&ran.stdout, &ran.stderr] {
                assert!(!text.chars().any(is_active), "{command:?} prints {text:?}");
            }
            assert!(matches!(ran.exit, 0 | 1 | 2 | 4 | 69), "{command:?}: {ran:?}");
            if is_json {
                assert_eq!(ran.stderr, "", "{command:?}");
                let values = serde_json::Deserializer::from_str(&ran.stdout).into_iter::<Value>();
                let values: Vec<_> = values.map(Result::unwrap).collect();
                let is_quiet = command[0] == "tail";
                assert!(is_quiet || values.len() == 1, "{command:?}: {}", ran.stdout);
            }
        }
    }
    let shown = tool.run(["event", "1", "--json"]);
    let envelope: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(envelope["data"]["payload"][&hostile.payload], hostile.payload, "JSON keeps the true value");
}

/// Plants situations and checks every command. `open` plants one and returns its place.
fn run(cases: u32, situation: impl Fn(&Hostile) -> Database) {
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 30, ..Config::default() };
    let result = TestRunner::new(config).run(&hostile(), |hostile| {
        let database = situation(&hostile);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("hostile.lock"), &hostile.payload).unwrap();
        check(&Tool::of(&database.place).in_folder(folder.path()), &hostile);
        Ok(())
    });
    result.unwrap();
}

#[test]
fn no_output_holds_an_active_character() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    run(6, |hostile| {
        let database = Database::sqlite();
        let Place::Sqlite(path) = &database.place else { unreachable!("a SQLite file") };
        let models = path.with_extension("models.db");
        runtime.block_on(async {
            let (log, models) = (SqliteStore::open(path).await.unwrap(), SqliteReadModel::open(models).await.unwrap());
            plant(&log, &models, hostile).await;
            models.close().await.unwrap();
            log.close().await.unwrap();
        });
        database
    });
}

#[test]
fn no_output_from_a_server_holds_an_active_character() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    run(2, |hostile| {
        runtime.block_on(async {
            let database = Database::postgres().await;
            let Place::Postgres(url) = &database.place else { unreachable!("a database on PostgreSQL") };
            let log = PostgresStore::connect(url).await.unwrap();
            let models = PostgresReadModel::connect(url).await.unwrap();
            plant(&log, &models, hostile).await;
            models.close().await.unwrap();
            log.close().await.unwrap();
            database
        })
    });
}

#[test]
fn ten_megabytes_are_cut_for_people_only() {
    let database = Database::sqlite();
    let Place::Sqlite(path) = &database.place else { unreachable!("a SQLite file") };
    let text = "x".repeat(10 * 1024 * 1024);
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let log = SqliteStore::open(path).await.unwrap();
        let (id, kind) = (EventId::from(Uuid::from_u128(1)), EventType::new("note.taken").unwrap());
        let event = NewEvent::stored(id, kind, 1, Codec::Json, Bytes::from(format!("{{\"text\":\"{text}\"}}")));
        let stream = StreamId::parse("note", "1").unwrap();
        log.append(Append::new(stream, ExpectedVersion::Any, vec![event])).await.unwrap();
        log.close().await.unwrap();
    });
    let tool = Tool::of(&database.place);
    for command in [["event", "1"], ["show", "note/1"], ["tail", "--from=1"]] {
        let plain = tool.run(command);
        assert!(plain.stdout.len() < 10_000 && plain.stdout.contains(".. (cut, "), "{command:?}");
        let json = tool.run(command.iter().chain(&["--json"]));
        assert!(json.stdout.contains(&text), "{command:?}");
    }
}
