//! Two processes reserve, release and swap a few values until they are killed. After every kill the reserved values are
//! those that the events of the log imply, and no value ever has two holders in log order.

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

/// The job of a child process, as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Job {
    place: Place,
    seed: u64,
}

/// The payload of an event: the append that it belongs to, and the values that its stream reserves and releases with
/// it.
#[derive(Debug, Serialize, Deserialize)]
struct Payload {
    append: String,
    reserves: Vec<u64>,
    releases: Vec<u64>,
}

pub(crate) fn writers_leave_no_value_without_its_event(place: &Place) {
    let mut events = 0;
    for round in 0..ROUNDS {
        let mut writers = [0, 1].map(|writer| start(&Job { place: place.clone(), seed: 2 * round + writer }));
        for (writer, lines) in &mut writers {
            // In the first round the writers may be killed while they open the log.
            for _ in 0..round * 20 {
                let mut line = String::new();
                assert_ne!(lines.read_line(&mut line).unwrap(), 0, "the writer writes until it is killed");
            }
            writer.kill().unwrap();
        }
        for (writer, _) in &mut writers {
            assert_eq!(writer.wait().unwrap().signal(), Some(9), "the writer ended before the kill");
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

/// Checks the log, and returns its number of events.
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
        // A server may still be running the last statement of a killed process.
        let now = whole_log(&store).await.unwrap();
        if now.len() == log.len() {
            break held;
        }
        log = now;
    };
    assert_eq!(held, fold(&log), "the reserved values are those that the log implies");
    store.close().await.unwrap();
    log.len()
}

/// Returns the holders that the events imply, one append after the other.
fn fold(log: &[RecordedEvent]) -> BTreeMap<u64, StreamId> {
    let payload: Vec<(&RecordedEvent, Payload)> =
        log.iter().map(|event| (event, serde_json::from_slice(&event.event.payload).unwrap())).collect();
    let mut held = BTreeMap::new();
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for (number, append) in payload.chunk_by(|(_, one), (_, next)| one.append == next.append).enumerate() {
        assert_eq!(seen.insert(&append[0].1.append, number), None, "the events of an append are contiguous");
        for (event, payload) in append {
            for value in &payload.releases {
                if held.get(value) == Some(&event.stream) {
                    held.remove(value);
                }
            }
        }
        for (event, payload) in append {
            for value in &payload.reserves {
                let holder = held.entry(*value).or_insert_with(|| event.stream.clone());
                assert_eq!(*holder, event.stream, "position {}: {value} had two holders", event.position);
            }
        }
    }
    held
}

/// The work of the child process.
pub(crate) async fn write(job: &Job) {
    let store = job.place.open().await.unwrap().events;
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (store, mut random) = (store.clone(), Random(job.seed * TASKS + task));
        tasks.spawn(async move {
            for number in 0.. {
                let name = format!("{} {task} {number}", std::process::id());
                match store.append(append(&name, &mut random)).await {
                    // A single write of a whole line.
                    Ok(_) => std::io::stdout().write_all(b"ok\n").unwrap(),
                    Err(error) => assert!(error.is_taken() || error.is_conflict() || error.is_transient(), "{error}"),
                }
            }
        });
    }
    tasks.join_next().await.unwrap().unwrap();
}

/// Builds an append to one or two streams, each with a value to reserve, to release, or both. One stream in eight has a
/// random expected version.
fn append(name: &str, random: &mut Random) -> Append {
    let first = random.below(STREAMS);
    let streams = [first, (first + 1 + random.below(STREAMS - 1)) % STREAMS];
    let (wanted, unwanted) = (random.below(VALUES), random.below(VALUES));
    let parts = streams.into_iter().zip(0..).take(usize::try_from(1 + random.below(2)).unwrap());
    let mut append: Option<Append> = None;
    for (number, part) in parts {
        let choice = random.below(4);
        // The two streams want different values, or one takes over the other's.
        let reserves = if choice == 0 { vec![] } else { vec![(wanted + part) % VALUES] };
        let releases = if choice == 1 { vec![] } else { vec![(unwanted + part) % VALUES] };
        let releases: Vec<_> = releases.into_iter().filter(|value| !reserves.contains(value)).collect();
        let claims: Vec<_> = reserves
            .iter()
            .map(|value| Claim::reserve("test", value.to_string()).unwrap())
            .chain(releases.iter().map(|value| Claim::release("test", value.to_string()).unwrap()))
            .collect();
        let payload = Payload { append: name.to_owned(), reserves, releases };
        let events = vec![event(serde_json::to_vec(&payload).unwrap())];
        let expected = if random.below(8) == 0 {
            ExpectedVersion::Exact(Version::new(random.below(40)))
        } else {
            ExpectedVersion::Any
        };
        let stream = stream(&number.to_string());
        append = Some(
            match append {
                None => Append::new(stream, expected, events),
                Some(append) => append.with_stream(stream, expected, events),
            }
            .with_claims(claims),
        );
    }
    append.unwrap()
}

/// Pseudorandom numbers from a seed (SplitMix64).
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
