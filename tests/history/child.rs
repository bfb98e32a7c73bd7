//! The child processes: they append and read, and record their calls and the answers.

use std::collections::HashMap;
use std::env;
use std::io::{BufRead, Write, stdin};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use retell::error::{Error, ErrorKind};
use retell::id::{ExpectedVersion, IdempotencyKey, Position, Version};
use retell::store::{Append, Appended, EventReaderExt, EventStore, Filter, Outcome};
use retell::testing::store::{event, stream};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::check::{Answer, Call, Entry, Page, Part, Seen};
use crate::database::Database;

/// The environment variable that holds a child's [`Job`] as JSON.
pub(crate) const JOB: &str = "RETELL_TEST_JOB";

const TASKS: usize = 16;

/// Number of streams that all writers share; each task also has a stream of its own.
const STREAMS: u64 = 6;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) role: Role,
    pub(crate) database: Database,
    pub(crate) seed: u64,
    /// Unique among all processes of a run.
    pub(crate) name: String,
    /// Keyed appends of a killed process that have no known outcome.
    pub(crate) retries: Vec<Call>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Role {
    Write,
    Read,
}

/// Returns the time in nanoseconds on the clock that all processes of the machine share.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap()
}

/// Pseudorandom numbers from a seed (SplitMix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (bits ^ (bits >> 31)) % bound
    }
}

/// Records an entry with a single write of a whole line: a killed process leaves at most one partial line, its last.
fn record(entry: &Entry) {
    let mut line = serde_json::to_vec(entry).unwrap();
    line.push(b'\n');
    std::io::stdout().lock().write_all(&line).unwrap();
}

/// Works until the parent closes standard input or kills the process.
pub(crate) async fn run(job: String) {
    let job: Job = serde_json::from_str(&job).unwrap();
    let (stop, stopped) = watch::channel(());
    tokio::task::spawn_blocking(move || {
        stdin().lock().read_line(&mut String::new()).unwrap();
        drop(stop);
    });
    match job.role {
        Role::Write => write(job, stopped).await,
        Role::Read => read(&job.database, job.seed, stopped).await,
    }
}

async fn open(database: &Database) -> Arc<dyn EventStore> {
    loop {
        match database.open().await {
            Ok(store) => return store,
            // Several processes may open one file at the same moment, or the server may still be starting.
            Err(error) => assert!(matches!(error.kind(), ErrorKind::Transient(_)), "{error:?}"),
        }
        sleep(Duration::from_millis(20)).await;
    }
}

// -- Writers --

struct Writer {
    store: Arc<dyn EventStore>,
    random: Random,
    name: String,
    /// The highest version of each stream that this process knows.
    versions: Arc<Mutex<HashMap<String, u64>>>,
    stopped: watch::Receiver<()>,
}

async fn write(job: Job, stopped: watch::Receiver<()>) {
    let mut stores = Vec::new();
    for _ in 0..job.database.stores() {
        stores.push(open(&job.database).await);
    }
    let versions = Arc::default();
    let mut retries = job.retries;
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let writer = Writer {
            store: stores[task % stores.len()].clone(),
            random: Random(Random(job.seed ^ task as u64).below(u64::MAX)),
            name: format!("{}.{task}", job.name),
            versions: Arc::clone(&versions),
            stopped: stopped.clone(),
        };
        let share = retries.len() / (TASKS - task);
        tasks.spawn(writer.run(retries.split_off(retries.len() - share)));
    }
    tasks.join_all().await;
}

fn is_stopped(stopped: &watch::Receiver<()>) -> bool {
    stopped.has_changed().is_err()
}

impl Writer {
    async fn run(mut self, retries: Vec<Call>) {
        for call in retries {
            self.append_until_known(&call).await;
        }
        for number in 0u64.. {
            if is_stopped(&self.stopped) {
                return;
            }
            let call = self.choose(number);
            if !call.keyed {
                self.append(&call).await;
            } else if self.random.below(2) == 0 {
                tokio::join!(self.append_until_known(&call), self.append_until_known(&call));
            } else {
                self.append_until_known(&call).await;
                self.append_until_known(&call).await;
            }
        }
    }

    fn choose(&mut self, number: u64) -> Call {
        let mut streams: Vec<String> = (0..=self.random.below(3))
            .map(|_| match self.random.below(STREAMS + 2) {
                shared if shared < STREAMS => format!("shared-{shared}"),
                _ => format!("own-{}", self.name),
            })
            .collect();
        streams.sort();
        streams.dedup();
        let part = |stream: String| {
            let known = *self.versions.lock().unwrap().entry(stream.clone()).or_default();
            let expected = (self.random.below(10) < 4).then_some(known);
            let events = 1 + usize::try_from(self.random.below(3)).unwrap();
            Part { stream, expected, events }
        };
        let parts = streams.into_iter().map(part).collect();
        Call { append: format!("{}.{number}", self.name), at: 0, parts, keyed: self.random.below(5) == 0 }
    }

    /// Appends under its key until the outcome is known or the run ends.
    async fn append_until_known(&self, call: &Call) {
        while let Answer::Unknown(_) = self.append(call).await {
            if is_stopped(&self.stopped) {
                return;
            }
        }
    }

    async fn append(&self, call: &Call) -> Answer {
        let append = append_of(call);
        record(&Entry::Called(Call { at: now(), ..call.clone() }));
        let appended = self.store.append(append).await;
        let at = now();
        let answer = match &appended {
            Ok(appended @ Appended { versions, outcome, .. }) => {
                let (token, versions) =
                    (appended.token().to_string(), versions.iter().map(|version| version.get()).collect());
                match outcome {
                    Outcome::Written => Answer::Written { token, versions },
                    Outcome::Repeated => Answer::Repeated { token, versions },
                }
            }
            Err(error) => match error.kind() {
                ErrorKind::Conflict { stream, actual, .. } => {
                    self.learn_version(stream.aggregate_id().as_str(), actual.get());
                    Answer::Refused
                }
                kind => {
                    if !matches!(kind, ErrorKind::Transient(_)) {
                        record(&Entry::Failed(format!("append {}: {error:?}", call.append)));
                    }
                    Answer::Unknown(format!("{error:?}"))
                }
            },
        };
        record(&Entry::Answered { append: call.append.clone(), at, answer: answer.clone() });
        match (&answer, &appended) {
            (Answer::Unknown(_), _) => sleep(Duration::from_millis(10)).await,
            (_, Ok(appended)) => {
                for (part, version) in call.parts.iter().zip(&appended.versions) {
                    self.learn_version(&part.stream, version.get());
                }
                // One append in four asks at once, so that some ask while the sequencer is still busy with them.
                if at.is_multiple_of(4) {
                    self.ask_for_position(call, appended).await;
                }
            }
            _ => {}
        }
        answer
    }

    async fn ask_for_position(&self, call: &Call, appended: &Appended) {
        let append = call.append.clone();
        match self.store.position_of(appended.token()).await {
            Ok(Some(position)) => record(&Entry::Placed { append, position: position.get() }),
            // The commit was acknowledged, so it must get a position.
            Ok(None) => record(&Entry::Failed(format!("{append} has no position"))),
            Err(error) => record(&failure(&format!("ask for the position of {append}"), &error)),
        }
    }

    fn learn_version(&self, stream: &str, version: u64) {
        let mut versions = self.versions.lock().unwrap();
        let known = versions.entry(stream.to_owned()).or_default();
        *known = version.max(*known);
    }
}

/// Builds an append with new event ids on every attempt, so that only the key keeps a repeated attempt from writing
/// again.
fn append_of(call: &Call) -> Append {
    let parts = call.parts.iter().enumerate().map(|(part, Part { stream: id, expected, events })| {
        let expected = expected.map_or(ExpectedVersion::Any, |version| ExpectedVersion::Exact(Version::new(version)));
        let events = (0..*events).map(|number| event(call.event(part, number))).collect();
        Append::new(stream(id), expected, events)
    });
    let append = parts.reduce(|append, part| {
        let part = &part.streams()[0];
        append.with_stream(part.stream.clone(), part.expected, part.events.clone())
    });
    let append = append.expect("an append has a part");
    if call.keyed { append.with_key(IdempotencyKey::new(&call.append).unwrap()) } else { append }
}

// -- Readers --

/// One task follows the tail; the other reads the whole log again each time it has grown by a quarter. Both read to the
/// end.
async fn read(database: &Database, seed: u64, stopped: watch::Receiver<()>) {
    let (store, mut random) = (open(database).await, Random(seed));
    let rereads = async {
        let mut wanted = 1;
        loop {
            let last = is_stopped(&stopped);
            let head = follow(&*store, Position::ZERO, &mut random).await;
            if last {
                return;
            }
            wanted = wanted.max(head.get() * 5 / 4);
            while !is_stopped(&stopped) && store.head().await.is_ok_and(|head| head.get() < wanted) {
                sleep(Duration::from_millis(5)).await;
            }
        }
    };
    let mut tail_random = Random(!seed);
    let tail = async {
        let mut head = store.head().await.unwrap_or_default();
        loop {
            let last = is_stopped(&stopped);
            head = follow(&*store, head, &mut tail_random).await;
            if last {
                return;
            }
            sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::join!(rereads, tail);
}

/// Reads to the end of the log.
async fn follow(store: &dyn EventStore, mut after: Position, random: &mut Random) -> Position {
    loop {
        let limit = 1 + random.below(200);
        let Some(page) = page(store, after, limit).await else { return after };
        if !page.events.is_empty() {
            record(&Entry::Read(page.clone()));
        }
        if page.through == after.get() {
            return after;
        }
        after = Position::new(page.through);
    }
}

async fn page(store: &dyn EventStore, after: Position, limit: u64) -> Option<Page> {
    let called = now();
    match store.read_all(after, usize::try_from(limit).unwrap(), &Filter::all()).await {
        Ok(page) => {
            let (answered, through) = (now(), page.through.get());
            let events = page.events.iter().map(seen).collect();
            Some(Page { called, answered, after: after.get(), limit, through, events })
        }
        Err(error) => {
            record(&failure(&format!("read after {after}"), &error));
            None
        }
    }
}

fn failure(what: &str, error: &Error) -> Entry {
    let text = format!("{what}: {error:?}");
    if matches!(error.kind(), ErrorKind::Transient(_)) { Entry::Interrupted(text) } else { Entry::Failed(text) }
}

/// Reads the whole log; also returns the error that stopped the read, if any.
pub(crate) async fn whole_log(store: &dyn EventStore) -> (Vec<Seen>, Option<String>) {
    let mut log = Vec::new();
    let mut after = Position::ZERO;
    loop {
        match store.read_all(after, 1000, &Filter::all()).await {
            Ok(page) if page.through == after => return (log, None),
            Ok(page) => {
                log.extend(page.events.iter().map(seen));
                after = page.through;
            }
            Err(error) => return (log, Some(format!("read the whole log: {error:?}"))),
        }
    }
}

fn seen(event: &retell::event::RecordedEvent) -> Seen {
    Seen {
        position: event.position.get(),
        event: String::from_utf8_lossy(&event.event.payload).into_owned(),
        stream: event.stream.aggregate_id().as_str().to_owned(),
        version: event.version.get(),
    }
}

pub(crate) fn is_child() -> Option<String> {
    env::var(JOB).ok()
}
