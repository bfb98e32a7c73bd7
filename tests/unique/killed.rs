//! Two processes reserve, release and swap a few values until they are killed. Whenever that is, the values held are those that the
//! events in the log say, and in the log's order no value ever has two holders.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::Child;

use retell::event::RecordedEvent;
use retell::store::Append;
use retell::testing::store::{event, stream, whole_log};
use retell::{Claim, ClaimScope, ClaimValue, EventStore, ExpectedVersion, StreamId, Version};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::databases::Place;
use crate::trials::{block_on, child};

const ROUNDS: u64 = 8;
const TASKS: u64 = 8;
const STREAMS: u64 = 6;
const VALUES: u64 = 5;

/// What a child is to do, as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Job {
    place: Place,
    seed: u64,
}

/// What an event says: which append it is of, and what its stream does with that.
#[derive(Debug, Serialize, Deserialize)]
struct Said {
    append: String,
    reserves: Vec<u64>,
    releases: Vec<u64>,
}

pub(crate) fn writers_leave_no_value_without_its_event(place: &Place) {
    let mut events = 0;
    for round in 0..ROUNDS {
        let mut writers = [0, 1].map(|writer| start(&Job { place: place.clone(), seed: 2 * round + writer }));
        for (writer, lines) in &mut writers {
            // In the first round they may die while they open the log.
            for _ in 0..round * 20 {
                let mut line = String::new();
                assert_ne!(lines.read_line(&mut line).unwrap(), 0, "the writer writes until it is killed");
            }
            writer.kill().unwrap();
        }
        for (writer, _) in &mut writers {
            assert_eq!(writer.wait().unwrap().signal(), Some(9), "the writer died on its own");
        }
        events = block_on(check(place));
    }
    assert!(events > 100, "only {events} events were written");
}

fn start(job: &Job) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut writer = child(job).spawn().unwrap();
    let lines = BufReader::new(writer.stdout.take().unwrap());
    (writer, lines)
}

/// Returns the number of events.
async fn check(place: &Place) -> usize {
    let store = place.open().await.unwrap().events;
    let mut log = whole_log(&store).await.unwrap();
    let held = loop {
        let mut held = BTreeMap::new();
        for value in 0..VALUES {
            let (scope, name) = (ClaimScope::new("test").unwrap(), ClaimValue::new(value.to_string()).unwrap());
            if let Some(holder) = store.holder(&scope, &name).await.unwrap() {
                held.insert(value, holder);
            }
        }
        // A server may still be at the last statement of a process that is gone.
        let now = whole_log(&store).await.unwrap();
        if now.len() == log.len() {
            break held;
        }
        log = now;
    };
    assert_eq!(held, fold(&log), "the values held are those of the log");
    store.close().await.unwrap();
    log.len()
}

/// The holders as the events say, one append after the other. The events of an append stand together.
fn fold(log: &[RecordedEvent]) -> BTreeMap<u64, StreamId> {
    let said: Vec<(&RecordedEvent, Said)> =
        log.iter().map(|event| (event, serde_json::from_slice(&event.event.payload).unwrap())).collect();
    let mut held = BTreeMap::new();
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for (number, append) in said.chunk_by(|(_, one), (_, next)| one.append == next.append).enumerate() {
        assert_eq!(seen.insert(&append[0].1.append, number), None, "an append's events stand together");
        for (event, said) in append {
            for value in &said.releases {
                if held.get(value) == Some(&event.stream) {
                    held.remove(value);
                }
            }
        }
        for (event, said) in append {
            for value in &said.reserves {
                let holder = held.entry(*value).or_insert_with(|| event.stream.clone());
                assert_eq!(*holder, event.stream, "position {}: {value} had two holders", event.position);
            }
        }
    }
    held
}

/// The child.
pub(crate) async fn write(job: &Job) {
    let store = job.place.open().await.unwrap().events;
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (store, mut random) = (store.clone(), Random(job.seed * TASKS + task));
        tasks.spawn(async move {
            for number in 0.. {
                let name = format!("{} {task} {number}", std::process::id());
                match store.append(append(&name, &mut random)).await {
                    // One write, whole lines.
                    Ok(_) => std::io::stdout().write_all(b"ok\n").unwrap(),
                    Err(error) => assert!(error.is_taken() || error.is_conflict() || error.is_transient(), "{error}"),
                }
            }
        });
    }
    tasks.join_next().await.unwrap().unwrap();
}

/// One stream or two, each with a value to reserve, one to release, or both. A stale expectation here and there.
fn append(name: &str, random: &mut Random) -> Append {
    let first = random.below(STREAMS);
    let streams = [first, (first + 1 + random.below(STREAMS - 1)) % STREAMS];
    let (wanted, unwanted) = (random.below(VALUES), random.below(VALUES));
    let parts = streams.into_iter().zip(0..).take(usize::try_from(1 + random.below(2)).unwrap());
    let mut append: Option<Append> = None;
    for (number, part) in parts {
        let what = random.below(4);
        // The two want different values, or one gives the other its own.
        let reserves = if what == 0 { vec![] } else { vec![(wanted + part) % VALUES] };
        let releases = if what == 1 { vec![] } else { vec![(unwanted + part) % VALUES] };
        let releases: Vec<_> = releases.into_iter().filter(|value| !reserves.contains(value)).collect();
        let claims: Vec<_> = reserves
            .iter()
            .map(|value| Claim::reserve("test", value.to_string()).unwrap())
            .chain(releases.iter().map(|value| Claim::release("test", value.to_string()).unwrap()))
            .collect();
        let said = Said { append: name.to_owned(), reserves, releases };
        let events = vec![event(serde_json::to_vec(&said).unwrap())];
        let expected = if random.below(8) == 0 {
            ExpectedVersion::Exact(Version::new(random.below(40)))
        } else {
            ExpectedVersion::Any
        };
        let stream = stream(&number.to_string());
        append = Some(
            match append {
                None => Append::new(stream, expected, events),
                Some(append) => append.and(stream, expected, events),
            }
            .with_claims(claims),
        );
    }
    append.unwrap()
}

/// Numbers from a seed (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (bits ^ (bits >> 31)) % bound
    }
}
