//! An import refuses a file that is not whole, and the log then stays empty.

use std::io::Write;

use retell::error::Error;
use retell::operate::ArchiveOptions;
use retell::{Append, ErrorKind, ExpectedVersion, Position};

use crate::databases::Place;
use crate::home::Home;
use crate::hostile::{key, reserve, small, stream};
use crate::rounds::body;

/// A log of a few lines of each kind.
async fn few(home: &Home) {
    for number in 1..4 {
        let append = Append::new(stream("order", "1"), ExpectedVersion::Any, vec![small(number), small(number + 10)]);
        let append = append.with_key(key(&number.to_string())).with_claims([reserve(&number.to_string())]);
        home.log().append(append).await.unwrap();
    }
    home.log().head().await.unwrap();
    home.seal(retell::operate::SealOptions::new()).await;
}

async fn refused(home: &Home, file: &[u8], what: &str) -> Error {
    let error = home.import(file).await.expect_err(what);
    assert!(matches!(error.kind(), ErrorKind::BadExport(_)), "{what}: {error:#}");
    assert_eq!(home.log().head().await.unwrap(), Position::ZERO, "{what}");
    error
}

#[tokio::test]
async fn cut_file_is_refused_at_every_byte() {
    let first = Home::memory();
    few(&first).await;
    for file in [first.export().await, first.export_with(ArchiveOptions::new()).await.unwrap().1] {
        let empty = Home::memory();
        for end in 0..file.len() {
            refused(&empty, &file[..end], &format!("{end} bytes of {}", file.len())).await;
        }
        empty.import(&file).await.unwrap();
        assert_eq!(*empty.import(&file).await.unwrap_err().kind(), ErrorKind::NotEmpty("events"));
    }
}

#[tokio::test]
async fn changed_byte_is_refused_at_every_place() {
    let (first, empty) = (Home::memory(), Home::memory());
    few(&first).await;
    let file = first.export().await;
    for place in 0..file.len() {
        for bit in [1, 0x20] {
            let mut changed = file.clone();
            changed[place] ^= bit;
            refused(&empty, &changed, &format!("byte {place} of {}", file.len())).await;
        }
    }
}

#[tokio::test]
async fn changed_byte_of_a_compressed_file_does_no_harm() {
    let first = Home::memory();
    few(&first).await;
    let whole = first.export().await;
    let file = first.export_with(ArchiveOptions::new()).await.unwrap().1;
    let mut refusals = 0;
    for place in 0..file.len() {
        let mut changed = file.clone();
        changed[place] ^= 4;
        let empty = Home::memory();
        // Some bits of a frame, such as the size of its window, do not change what it expands to.
        match empty.import(&changed).await {
            Ok(_) => assert_eq!(body(&empty.export().await), body(&whole), "byte {place}"),
            Err(_) => refusals += 1,
        }
    }
    assert!(refusals + 10 > file.len(), "{refusals} of {}", file.len());
}

#[tokio::test]
async fn bad_file_leaves_every_store_empty() {
    let first = Home::sqlite().await;
    few(&first).await;
    let file = first.export().await;
    let text = String::from_utf8(file.clone()).unwrap();
    let without_a_line: Vec<&str> = text.lines().filter(|line| !line.contains("\"position\":3,")).collect();
    let bad = [
        file[..file.len() - 1].to_vec(),
        text.replacen("note.made", "note.mode", 1).into_bytes(),
        (without_a_line.join("\n") + "\n").into_bytes(),
        [file.clone(), b"{}\n".to_vec()].concat(),
        Vec::new(),
        b"{\"position\":1}\n".to_vec(),
    ];
    for home in Home::all().await {
        for (number, bad) in bad.iter().enumerate() {
            refused(&home, bad, &format!("{}: file {number}", home.name())).await;
        }
        // The refusals have left nothing behind.
        home.import(&file).await.unwrap();
        assert_eq!(body(&home.export().await), body(&file), "{}", home.name());
        assert!(home.verify().await.is_whole(), "{}", home.name());
    }
}

#[tokio::test]
async fn file_of_a_newer_release_is_refused() {
    let file = "{\"retell_export\":2,\"head\":0,\"more\":[]}\n";
    let error = refused(&Home::memory(), file.as_bytes(), "format 2").await;
    assert!(error.to_string().contains("format 2"), "{error}");
    let codec = {
        let first = Home::memory();
        few(&first).await;
        String::from_utf8(first.export().await).unwrap().replacen("\"codec\":0", "\"codec\":2", 1)
    };
    let error = refused(&Home::memory(), codec.as_bytes(), "codec 2").await;
    assert!(error.to_string().contains("codec 2"), "{error}");
}

#[tokio::test]
async fn time_that_no_store_keeps_is_refused() {
    let first = Home::memory();
    few(&first).await;
    let text = String::from_utf8(first.export().await).unwrap();
    let at = text.find("\"recorded_at\":\"").unwrap() + "\"recorded_at\":\"".len();
    let time = &text[at..at + 27];
    for other in [time.replace('Z', "123Z"), time.replace('Z', "+00:00"), "2026-02-30T00:00:00.000000Z".into()] {
        let error = refused(&Home::memory(), text.replacen(time, &other, 1).as_bytes(), &other).await;
        assert!(error.to_string().contains(&other), "{error}");
    }
}

#[tokio::test]
async fn log_with_anything_is_refused_and_unchanged() {
    let first = Home::memory();
    few(&first).await;
    let file = first.export().await;
    for home in Home::all().await {
        home.log().append(Append::new(stream("order", "2"), ExpectedVersion::NoStream, vec![small(99)])).await.unwrap();
        home.log().head().await.unwrap();
        let before = home.export().await;
        let error = home.import(&file).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::NotEmpty("events"), "{}", home.name());
        assert_eq!(body(&home.export().await), body(&before), "{}", home.name());
    }
    // An inline projection has applied the whole log, so it would never apply these events.
    for home in [Home::sqlite().await, Home::postgres().await, Home::mysql().await] {
        let place = home.place().unwrap();
        place
            .run(match place {
                Place::Sqlite(_) => {
                    "INSERT INTO retell_checkpoints (projection, position, inline) VALUES ('sums', 0, 1)"
                }
                Place::Postgres(_) => {
                    "INSERT INTO retell.checkpoints (projection, position, state) VALUES ('sums', 0, 'inline')"
                }
                Place::MySql(_) => {
                    "INSERT INTO retell_checkpoints (projection, position, state) VALUES ('sums', 0, 'inline')"
                }
            })
            .await;
        let error = home.import(&file).await.unwrap_err();
        assert!(error.to_string().contains("inline"), "{}: {error}", home.name());
    }
}

#[tokio::test]
async fn damaged_log_is_not_exported() {
    for home in [Home::sqlite().await, Home::postgres().await, Home::mysql().await] {
        few(&home).await;
        let place = home.place().unwrap();
        place
            .run(match place {
                Place::Sqlite(_) => {
                    "DROP TRIGGER retell_events_no_delete; DELETE FROM retell_events WHERE position = 3"
                }
                Place::Postgres(_) => {
                    "ALTER TABLE retell.events DISABLE TRIGGER USER;
                     DELETE FROM retell.events WHERE ordinal = 1 AND version = 3"
                }
                Place::MySql(_) => {
                    "DROP TRIGGER retell_events_no_delete; DELETE FROM retell_events WHERE ordinal = 1 AND version = 3"
                }
            })
            .await;
        let error = home.export_with(ArchiveOptions::new()).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Corrupt(_)), "{}: {error}", home.name());
        assert!(error.to_string().contains("position 3"), "{}: {error}", home.name());
    }
}

/// A writer that is full after some bytes.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0 < bytes.len() {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.0 -= bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn full_disk_fails_the_export() {
    let Home::Memory(log) = Home::memory() else { unreachable!("a log in memory") };
    few(&Home::Memory(log.clone())).await;
    for options in [ArchiveOptions::new(), ArchiveOptions::new().without_compression()] {
        let error = retell::operate::export(&log, &log.read_model(), Full(100), options).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Backend(_)), "{error}");
    }
}
