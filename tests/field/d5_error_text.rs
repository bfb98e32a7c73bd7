//! D5. An error prints its causes.

use std::fmt::Display;

use retell::event::DecodeError;
use retell::process::CommandFailure;
use retell::testing::store::{event, stream};
use retell::{
    AggregateId, Append, BoxError, CommandError, Error, ErrorKind, EventStore, ExpectedVersion, InvalidName,
    MemoryStore, NewEvent, Version,
};

/// Returns an error with two causes, the inner one of which is the library's own type.
fn nested() -> Error {
    let lost = Error::with_source(ErrorKind::Backend("read the socket".into()), "connection reset by peer");
    Error::with_source(ErrorKind::Transient("append".into()), lost)
}

const CHAIN: &str = "temporarily unable to append: cannot read the socket: connection reset by peer";

fn texts(error: impl Display) -> (String, String) {
    (format!("{error}"), format!("{error:#}"))
}

#[test]
fn d5_alternate_form_prints_the_chain() {
    let error = nested();
    assert_eq!(texts(&error), ("temporarily unable to append".to_owned(), CHAIN.to_owned()));
    assert_eq!(error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": "), CHAIN);
    let boxed: BoxError = error.into();
    assert_eq!(format!("{boxed:#}"), CHAIN);
}

#[test]
fn d5_a_cause_that_its_parent_repeats_is_printed_once() {
    let cause = || std::io::Error::other("no space left on device");
    let parent = Error::with_source(ErrorKind::Backend("write: no space left on device".into()), cause());
    assert_eq!(format!("{parent:#}"), "cannot write: no space left on device");
    assert_eq!(parent.chain().count(), 2);
}

#[test]
fn d5_every_error_of_a_command_prints_its_causes() {
    let transient = CommandError::<&str>::from(nested());
    assert!(matches!(transient, CommandError::Transient(_)), "{transient:?}");
    for error in [transient, CommandError::Failed(nested()), CommandError::Corrupt(nested())] {
        assert_eq!(format!("{error:#}"), CHAIN);
    }
    let conflict = ErrorKind::Conflict {
        stream: stream("a"),
        expected: ExpectedVersion::Exact(Version::new(4)),
        actual: Version::new(5),
    };
    let (short, long) = texts(CommandError::<&str>::from(Error::new(conflict)));
    assert_eq!(short, "the command on account/a conflicted with other writers on every attempt; retry later");
    assert!(long.starts_with(&format!("{short}: ")) && long.contains("found version 5"), "{long}");
    assert_eq!(texts(CommandError::Rejected("the account is closed")).1, "the account is closed");
}

#[test]
fn d5_failures_of_processes_and_decoding_print_their_causes() {
    assert_eq!(format!("{:#}", CommandFailure::from(nested())), CHAIN);
    assert_eq!(format!("{:#}", CommandFailure::Rejected("closed".into())), "refused: closed");
    let payload = DecodeError::Payload("missing field `cents`".into());
    assert_eq!(
        texts(&payload),
        ("cannot decode the payload".into(), "cannot decode the payload: missing field `cents`".into())
    );
    let at: NewEvent = event("{}");
    let undecodable = payload.at(&stream("a"), Version::new(3), &at.event_type);
    let long = format!("{undecodable:#}");
    assert!(long.starts_with("account/a version 3") && long.ends_with("missing field `cents`"), "{long}");
    let name: InvalidName = AggregateId::new("").unwrap_err();
    assert_eq!(texts(&name).0, texts(&name).1);
}

#[tokio::test]
async fn d5_the_error_of_a_store_names_what_failed() {
    let store = MemoryStore::new();
    let append = || Append::new(stream("a"), ExpectedVersion::NoStream, vec![event("{}")]);
    store.append(append()).await.unwrap();
    let conflict = store.append(append()).await.unwrap_err();
    assert!(conflict.to_string().starts_with("append to account/a conflicted"), "{conflict}");
}
