//! The commands of a program of one's own: the same property for ids, states, keys and arguments. The program is this test, run again.

use std::env;
use std::process::{Command, Stdio};

use proptest::test_runner::{Config, TestRunner};
use retell::prelude::*;
use retell::{EventStore, Generation, ReadModel, Rebuild, Worker};
use retell_cli::Cli;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::tool::Ran;
use crate::{is_active, text};

/// The file of the log, and the arguments as JSON, for the program.
const PROGRAM: &str = "RETELL_TYPED_PROGRAM";

#[derive(Event)]
enum NoteEvent {
    #[event("note.taken")]
    Taken { text: String },
}

#[derive(Aggregate, Clone, Default, Serialize, Deserialize)]
#[aggregate("note", event = NoteEvent, snapshots = 1)]
struct Note {
    text: String,
}

impl Apply<NoteEvent> for Note {
    fn apply(&mut self, event: NoteEvent) {
        let NoteEvent::Taken { text } = event;
        self.text += &text;
    }
}

struct Take(String);

impl Handle<Take> for Note {
    type Error = std::convert::Infallible;

    fn handle(&self, take: &Take) -> Result<Vec<NoteEvent>, Self::Error> {
        Ok(vec![NoteEvent::Taken { text: take.0.clone() }])
    }
}

/// Notes by id. The second generation writes another text.
struct Notes(u64);

impl View for Notes {
    const NAME: &'static str = "notes";
    type Event = NoteEvent;
    type State = String;

    fn generation(&self) -> Generation {
        Generation::new(self.0)
    }

    fn key(&self, event: &Envelope<NoteEvent>) -> Option<String> {
        Some(event.stream.aggregate_id().to_string())
    }

    fn apply(&self, note: &mut String, event: Envelope<NoteEvent>) {
        let NoteEvent::Taken { text } = event.event;
        note.push_str(&text.repeat(usize::try_from(self.0).unwrap()));
    }
}

/// Writes a note under a hostile id, with a snapshot that a hostile text has replaced, and a view.
async fn plant(path: &std::path::Path, id: &str, text: &str) {
    let log = SqliteStore::open(path).await.unwrap();
    let models = SqliteReadModel::open(path).await.unwrap();
    let notes = Repository::<Note>::new(log.clone());
    notes.execute(id, Take(text.to_owned())).await.unwrap();
    notes.flush().await;
    Worker::view(Notes(1), log.clone(), models.clone()).catch_up().await.unwrap();
    let wrong = serde_json::json!({ "text": format!("{text}{text}") }).to_string();
    let db = rusqlite::Connection::open(path).unwrap();
    db.execute("UPDATE retell_snapshots SET state = CAST(? AS BLOB)", [wrong]).unwrap();
    models.close().await.unwrap();
    log.close().await.unwrap();
}

/// Not a test of its own: the program that the test below runs.
#[tokio::test]
async fn program() {
    let Ok(asked) = env::var(PROGRAM) else { return };
    let (path, arguments): (String, Vec<String>) = serde_json::from_str(&asked).unwrap();
    let log = SqliteStore::open(&path).await.unwrap();
    let models = SqliteReadModel::open(&path).await.unwrap();
    let cli = Cli::new("notes").with_stores(log.clone(), models.clone());
    let cli = cli.with_state(Repository::<Note>::new(log.clone())).with_rebuild(Rebuild::new(Notes(2), log, models));
    std::process::exit(cli.run_from(arguments).await.code().into());
}

fn ran(path: &std::path::Path, arguments: &[&str]) -> Ran {
    let asked = serde_json::to_string(&(path.to_str().unwrap(), [&["notes"], arguments].concat())).unwrap();
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["typed::program", "--exact", "--nocapture"]).env(PROGRAM, asked);
    Ran::of(&command.stdin(Stdio::null()).output().unwrap())
}

#[test]
fn no_output_of_typed_commands_holds_an_active_character() {
    let config = Config { cases: 6, failure_persistence: None, max_shrink_iters: 20, ..Config::default() };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let result = TestRunner::new(config).run(&(text(), text()), |(id, text)| {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("notes.db");
        runtime.block_on(plant(&path, &id, &text));
        let note = format!("note/{id}");
        let cases: [(&[&str], i32); 12] = [
            (&["state", "--", &note], 0),
            (&["state", "--at", "1", "--", &note], 0),
            (&["state", "--at", &text, "--", &note], 2),
            (&["state", "--", &text], 2),
            (&["state", "--", &format!("{}/1", text.replace('/', ""))], 2),
            (&["verify-snapshots"], 1),
            (&["verify-snapshots", "--", &note], 1),
            (&["verify-snapshots", "--", &text], 2),
            (&["rebuild", "--", &text], 2),
            (&["rebuild", "notes"], 4),
            (&["rebuild", "notes", "--plan"], 0),
            (&["rebuild", "notes", "--yes"], 1),
        ];
        for (arguments, exit) in cases {
            for json in [&[][..], &["--json"]] {
                let ran = ran(&path, &[json, arguments].concat());
                for said in [&ran.stdout, &ran.stderr] {
                    assert!(!said.chars().any(is_active), "{arguments:?} prints {said:?}");
                }
                assert_eq!(ran.exit, exit, "{arguments:?}: {ran:?}");
            }
        }
        Ok(())
    });
    result.unwrap();
}
