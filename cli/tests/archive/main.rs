//! The commands `export` and `import` of the program `retell`, even if it is killed. Needs `POSTGRES_URL` and `MYSQL_URL`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../../tests/support/databases.rs"]
mod databases;
#[path = "../support/tool.rs"]
mod tool;

use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;

use databases::Database;
use retell::event::NewEvent;
use retell::operate::{self, ArchiveOptions};
use retell::{
    Append, Codec, EventId, EventStore, EventType, ExpectedVersion, IdempotencyKey, MemoryStore, StreamId, Uuid,
};
use tempfile::TempDir;
use tool::Tool;

/// The events of a log whose export is larger than any buffer on the way.
const EVENTS: u64 = 4_000;

/// Returns the export of a log in memory, without compression.
async fn exported(events: u64) -> Vec<u8> {
    let log = MemoryStore::new();
    for number in 1..=events {
        let id = EventId::from(Uuid::from_u128(number.into()));
        let event_type = EventType::new("note.made").unwrap();
        let payload = format!("{{\"n\":{number},\"text\":\"{}\"}}", "x".repeat(1_000));
        let event = NewEvent::stored(id, event_type, 1, Codec::Json, payload.into());
        let stream = StreamId::parse("note", &(number % 100).to_string()).unwrap();
        let append = Append::new(stream, ExpectedVersion::Any, vec![event]);
        log.append(append.with_key(IdempotencyKey::new(number.to_string()).unwrap())).await.unwrap();
    }
    let mut file = Vec::new();
    let options = ArchiveOptions::new().without_compression();
    operate::export(&log, &log.read_model(), &mut file, options).await.unwrap();
    file
}

/// Returns the lines after the header.
fn body(file: &[u8]) -> &[u8] {
    let end = file.iter().position(|byte| *byte == b'\n').unwrap();
    &file[end + 1..]
}

fn head(tool: &Tool) -> u64 {
    let ran = tool.run(["export", "-", "--plain"]);
    assert_eq!(ran.exit, 0, "{ran:?}");
    let header: serde_json::Value = serde_json::from_str(ran.stdout.lines().next().unwrap()).unwrap();
    header["head"].as_u64().unwrap()
}

async fn killed_import_leaves_an_empty_log(database: &Database) {
    let tool = Tool::of(&database.place);
    let file = exported(EVENTS).await;
    for half in [file.len() / 2, file.len() - 10] {
        let mut import = tool.command(["import", "-", "--create"]).stdin(Stdio::piped()).spawn().unwrap();
        let mut input = import.stdin.take().unwrap();
        // All of this but what the pipe holds has been read when the call returns.
        input.write_all(&file[..half]).unwrap();
        import.kill().unwrap();
        assert_eq!(import.wait().unwrap().signal(), Some(9), "the import was under way");
        assert_eq!(head(&tool), 0);
    }
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log.jsonl");
    fs::write(&path, &file).unwrap();
    let ran = tool.run([Path::new("import"), &path]);
    assert_eq!(ran.exit, 0, "{ran:?}");
    assert_eq!(tool.run(["verify"]).exit, 0);
    assert!(body(tool.run(["export", "-", "--plain"]).stdout.as_bytes()) == body(&file), "the log is another one");
}

#[tokio::test]
async fn killed_import_leaves_sqlite_empty() {
    killed_import_leaves_an_empty_log(&Database::sqlite()).await;
}

#[tokio::test]
async fn killed_import_leaves_postgres_empty() {
    killed_import_leaves_an_empty_log(&Database::postgres().await).await;
}

#[tokio::test]
async fn killed_import_leaves_mysql_empty() {
    killed_import_leaves_an_empty_log(&Database::mysql().await).await;
}

#[tokio::test]
async fn log_moves_from_store_to_store() {
    let folder = TempDir::new().unwrap();
    let first = folder.path().join("first.jsonl");
    fs::write(&first, exported(600).await).unwrap();
    let databases = [Database::sqlite(), Database::postgres().await, Database::mysql().await];
    let mut file = first.clone();
    for (number, database) in databases.iter().enumerate() {
        let tool = Tool::of(&database.place).in_folder(folder.path());
        let ran = tool.run([Path::new("import"), &file, Path::new("--create")]);
        assert_eq!((ran.exit, &*ran.stdout), (0, "600 events, 600 idempotency keys, up to position 600\n"), "{ran:?}");
        let name = format!("{number}.jsonl.zst");
        let ran = tool.run(["export", &name]);
        assert_eq!(ran.exit, 0, "{ran:?}");
        assert!(ran.stdout.starts_with("600 events, 600 idempotency keys, up to position 600\n"), "{ran:?}");
        file = folder.path().join(name);
        // Compressed, and without the file of an unfinished export.
        assert!(fs::read(&file).unwrap().starts_with(&[0x28, 0xb5, 0x2f, 0xfd]));
        assert!(!folder.path().join(format!("{number}.jsonl.zst.part")).exists());
        let plain = tool.run(["export", "-", "--plain"]);
        assert!(body(plain.stdout.as_bytes()) == body(&fs::read(&first).unwrap()), "{number}");
        assert!(plain.stderr.contains("600 events"), "{}", plain.stderr);
        let json: serde_json::Value =
            serde_json::from_str(&tool.run(["export", "again.zst", "--json"]).stdout).unwrap();
        assert_eq!((&json["status"], &json["data"]["rows"]["events"]), (&"ok".into(), &600.into()));
        fs::remove_file(folder.path().join("again.zst")).unwrap();
    }
}

#[tokio::test]
async fn refusals_have_their_exit_codes() {
    let (folder, database) = (TempDir::new().unwrap(), Database::sqlite());
    let tool = Tool::of(&database.place).in_folder(folder.path());
    fs::write(folder.path().join("log.jsonl"), exported(10).await).unwrap();
    fs::write(folder.path().join("cut.jsonl"), &exported(10).await[..3_000]).unwrap();
    let exit = |arguments: &[&str]| {
        let ran = tool.run(arguments);
        (ran.exit, ran.stderr)
    };
    // There is no log, and no file.
    assert_eq!(exit(&["import", "log.jsonl"]).0, 2);
    assert_eq!(exit(&["import", "none.jsonl", "--create"]).0, 2);
    let (code, said) = exit(&["import", "cut.jsonl", "--create"]);
    assert!(code == 4 && said.contains("the export cannot be imported"), "{code}: {said}");
    assert_eq!(exit(&["import", "log.jsonl"]).0, 0);
    let (code, said) = exit(&["import", "log.jsonl"]);
    assert!(code == 4 && said.contains("the log is not empty"), "{code}: {said}");
    assert_eq!(exit(&["export", "copy.zst"]).0, 0);
    let (code, said) = exit(&["export", "copy.zst"]);
    assert!(code == 4 && said.contains("exists already"), "{code}: {said}");
    assert_eq!(exit(&["export", "no/folder/copy.zst"]).0, 2);
}
