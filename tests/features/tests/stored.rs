//! A program with these features reads the data that a program without them has stored, and writes the same form.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, HashMap};

use retell::broker::envelope::Announcement;
use retell::broker::frame::Frame;
use retell::event::StoredEvent;
use retell::prelude::*;
use retell::store::{Fingerprint, Outcome, Snapshot};
use retell::{Codec, DateTime, EventId, EventStore, EventType, IdempotencyKey, Position, RecordedEvent, Repository};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Shape)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Tagged {
    Paid { cents: i64, rate: f64 },
    Free,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Shape)]
#[serde(untagged)]
enum Untagged {
    Number(u64),
    Ratio(f64),
    Text(String),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Shape)]
struct Flat {
    big: u64,
    negative: i64,
    #[serde(flatten)]
    rest: BTreeMap<String, f64>,
}

#[derive(Event, Debug, Clone, PartialEq)]
#[event("odd.noted")]
struct Noted {
    whole: u64,
    float: f64,
    wide: u128,
    tagged: Vec<Tagged>,
    untagged: Vec<Untagged>,
    #[serde(flatten)]
    flat: Flat,
}

/// The payload as a program without the features writes it.
const STORED: &str = concat!(
    r#"{"whole":18446744073709551615,"float":0.1,"wide":340282366920938463463374607431768211455,"#,
    r#""tagged":[{"kind":"paid","cents":-5,"rate":0.75},{"kind":"free"}],"untagged":[7,2.5,"7"],"#,
    r#""big":18446744073709551615,"negative":-9223372036854775808,"a":0.30000000000000004,"b":2.0}"#
);

fn noted() -> Noted {
    Noted {
        whole: u64::MAX,
        float: 0.1,
        wide: u128::MAX,
        tagged: vec![Tagged::Paid { cents: -5, rate: 0.75 }, Tagged::Free],
        untagged: vec![Untagged::Number(7), Untagged::Ratio(2.5), Untagged::Text("7".into())],
        flat: Flat {
            big: u64::MAX,
            negative: i64::MIN,
            rest: BTreeMap::from([("a".into(), 0.1 + 0.2), ("b".into(), 2.0)]),
        },
    }
}

fn stored() -> NewEvent {
    let event_type = EventType::new("odd.noted").unwrap();
    NewEvent::stored(EventId::generate(), event_type, 1, Codec::Json, STORED.into())
}

#[derive(Aggregate, Clone, Default, Debug, PartialEq)]
#[aggregate("odd", event = Noted, snapshots = 1)]
struct Odd {
    notes: u64,
    last: Option<u128>,
    ratios: Vec<f64>,
    tagged: Vec<Tagged>,
    by_name: HashMap<String, Untagged>,
}

impl Apply<Noted> for Odd {
    fn apply(&mut self, noted: Noted) {
        self.notes += 1;
        self.last = Some(noted.wide);
        self.ratios.push(noted.float);
        self.tagged.extend(noted.tagged);
        self.by_name.extend(noted.untagged.into_iter().map(|one| (format!("{one:?}"), one)));
    }
}

struct Note;

impl Handle<Note> for Odd {
    type Error = &'static str;

    fn handle(&self, _: &Note) -> Result<Vec<Noted>, &'static str> {
        Ok(vec![noted()])
    }
}

struct Odds;

impl View for Odds {
    const NAME: &'static str = "odds";
    type Event = Noted;
    type State = Odd2;

    fn key(&self, event: &Envelope<Noted>) -> Option<String> {
        Some(event.stream.to_string())
    }

    fn apply(&self, state: &mut Odd2, event: Envelope<Noted>) {
        state.0 += 1;
        state.1 = Some(event.event.flat);
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, Shape)]
struct Odd2(u64, Option<Flat>);

fn recorded() -> RecordedEvent {
    let stream = StreamId::parse("odd", "1").unwrap();
    RecordedEvent::new(Position::new(1), stream, Version::new(1), DateTime::UNIX_EPOCH, stored())
}

#[test]
fn every_form_of_a_number_is_read() {
    for (rate, number) in [("1e300", 1e300), ("1e+300", 1e300), ("-0.5E-3", -0.0005), ("7", 7.0), ("0.1", 0.1)] {
        let paid = format!(r#"{{"kind":"paid","cents":-5,"rate":{rate}}}"#);
        let read: Tagged = Codec::Json.decode(paid.as_bytes()).unwrap();
        assert_eq!(read, Tagged::Paid { cents: -5, rate: number }, "{rate}");
    }
}

#[test]
fn payload_is_read_and_written_in_one_form() {
    assert_eq!(recorded().decode::<Noted>().unwrap().event, noted());
    assert_eq!(NewEvent::new(&noted()).unwrap().payload, STORED);
}

#[tokio::test]
async fn commands_snapshots_and_views_read_what_is_stored() {
    let (log, models) = (MemoryStore::new(), MemoryReadModel::new());
    let odd = StreamId::parse("odd", "1").unwrap();
    log.append(Append::new(odd.clone(), ExpectedVersion::NoStream, vec![stored()])).await.unwrap();
    let odds = Repository::<Odd>::new(log.clone());
    odds.execute("1", Note).await.unwrap();
    odds.flush().await;
    assert_eq!(odds.snapshot_failures(), 0);
    let fresh = Repository::<Odd>::new(log.clone());
    let loaded = fresh.load("1").await.unwrap();
    assert_eq!((loaded.state.notes, loaded.state.last, fresh.snapshot_failures()), (2, Some(u128::MAX), 0));
    assert_eq!(loaded.state, odds.load("1").await.unwrap().state);

    // A snapshot that a program without the features has written.
    let snapshot = r#"{"notes":1,"last":340282366920938463463374607431768211455,"ratios":[0.1],"tagged":[{"kind":"paid","cents":-5,"rate":0.75},{"kind":"free"}],"by_name":{}}"#;
    let state = Odd::from_snapshot(snapshot.as_bytes()).unwrap();
    assert_eq!((state.last, state.tagged), (Some(u128::MAX), noted().tagged));
    let last = loaded.last_event().unwrap();
    let kept = Snapshot::new(loaded.version, last, Odd::fingerprint(), snapshot.as_bytes().to_vec());
    log.save_snapshot(&odd, kept).await.unwrap();

    Worker::view(Odds, log, models.clone()).catch_up().await.unwrap();
    let row = Views::new(&Odds, models).get("odd/1").await.unwrap();
    assert_eq!(row, Some(Odd2(2, Some(noted().flat))));
}

#[tokio::test]
async fn keys_of_another_build_are_known() {
    let log = MemoryStore::new();
    let append = || {
        let key = IdempotencyKey::new("k").unwrap();
        Append::new(StreamId::parse("odd", "1").unwrap(), ExpectedVersion::Any, vec![stored()]).with_key(key)
    };
    let hex: String = append().fingerprint().as_bytes()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "08726843ec1c6573");
    assert_ne!(append().fingerprint(), Fingerprint::of_request("k", b""));
    log.append(append()).await.unwrap();
    assert_eq!(log.append(append()).await.unwrap().outcome, Outcome::Repeated);
    let context = || retell::Context::new().with_key(IdempotencyKey::new("c").unwrap());
    let odds = Repository::<Odd>::new(log);
    let first = odds.execute_with("2", Note, context()).await.unwrap();
    let again = odds.execute_with("2", Note, context()).await.unwrap();
    assert_eq!((again.outcome, again.token), (Outcome::Repeated, first.token));
}

#[test]
fn messages_carry_the_payload_unchanged() {
    let frame = Frame::split(&[recorded()], 1, usize::MAX).unwrap().remove(0);
    let body = frame.body().clone();
    assert!(body.windows(STORED.len()).any(|part| part == STORED.as_bytes()));
    let envelope = Announcement::from_event(&recorded()).unwrap();
    assert!(String::from_utf8(envelope.body.to_vec()).unwrap().contains(STORED));
}

#[derive(Event, Debug, Clone, PartialEq)]
enum Plain {
    #[event("plain.named")]
    Named { text: String, large: u64, small: i64, all: Vec<(Option<char>, [u8; 2])>, by: AggregateId },
    #[event("plain.compact", codec = "compact")]
    Compact(Option<String>, i64),
    #[event("plain.map")]
    Map(BTreeMap<String, String>),
}

/// Such events are written without a check that they can be decoded.
#[test]
fn an_event_of_proven_types_reads_back() {
    let by = AggregateId::new("$serde_json::private::Number").unwrap();
    for text in ["", "\0", "1.5", "null", "$serde_json::private::Number", "$serde_json::private::RawValue"] {
        let all = vec![(None, [0, 255]), (Some('\0'), [1, 2]), (Some('\u{10ffff}'), [3, 4])];
        let named = Plain::Named { text: text.into(), large: u64::MAX, small: i64::MIN, all, by: by.clone() };
        for event in [named, Plain::Compact(Some(text.into()), i64::MIN), Plain::Compact(None, -1)] {
            assert!(event.reads_back());
            let new = NewEvent::new(&event).unwrap();
            let stored = StoredEvent::new(new.event_type.as_str(), 1, new.codec, &new.payload);
            assert_eq!(Plain::decode(stored).unwrap(), event);
        }
    }
    assert!(!Plain::Map(BTreeMap::new()).reads_back());
}
