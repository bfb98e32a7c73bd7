//! What the drivers for database servers share, whatever their SQL: how appends are gathered and tried again, and how rows become events.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use uuid::Uuid;

use crate::backoff::delays;
use crate::error::{Error, ErrorKind, Result, chain};
use crate::id::{EventId, ExpectedVersion, Version};
use crate::store::log::append::{Append, Appended};

/// Attempts of a call that lost a race. Each loss means that another append went through.
const ATTEMPTS: usize = 20;

/// The longest wait between two attempts: a few of a fast disk's commits.
const LONGEST_DELAY: Duration = Duration::from_millis(50);

/// No further attempt begins after this time: those that fail by waiting for a lock are slow.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why the database refused a round of appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// An event's id is in the log.
    #[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "MySQL names the key only in a message's text"))]
    Duplicate,
    /// A unique key was taken by somebody faster, unless it is an event's id.
    Taken,
    /// Transactions stood in each other's way: a deadlock, or a lock that did not come free in time.
    Blocked,
    /// Something that no further attempt is likely to mend.
    Other,
}

/// What ended a round, with nothing written.
pub(crate) enum Ended {
    /// The server did.
    Server(sqlx::Error),
    /// A projection that runs inline did.
    Inline(Error),
}

impl From<sqlx::Error> for Ended {
    fn from(error: sqlx::Error) -> Self {
        Self::Server(error)
    }
}

/// A driver's commit of appends that share no stream, no key and no claimed value.
#[async_trait]
pub(crate) trait Rounds: Send + Sync {
    async fn append_round(&self, round: &[&Append]) -> Result<Vec<Result<Appended>>, Ended>;

    /// One of these ids that is in the log already.
    async fn known_id(&self, ids: &[Uuid]) -> Result<Option<Uuid>, sqlx::Error>;

    fn refusal(&self, error: &sqlx::Error) -> Refusal;

    /// `attempt` completes "cannot ..".
    fn classify(&self, error: sqlx::Error, attempt: &str) -> Error;
}

/// Commits a batch in as few rounds as its streams, keys and claims allow; one outcome each, in order.
pub(crate) async fn append_batch(driver: &dyn Rounds, batch: &[Append]) -> Vec<Result<Appended>> {
    let mut results: Vec<Option<Result<Appended>>> = vec![None; batch.len()];
    let mut waiting: Vec<usize> = (0..batch.len()).collect();
    while !waiting.is_empty() {
        let (round, later) = split_round(batch, &waiting);
        let appends: Vec<&Append> = round.iter().map(|&place| &batch[place]).collect();
        for (place, result) in round.into_iter().zip(append_round(driver, &appends).await) {
            results[place] = Some(result);
        }
        waiting = later;
    }
    let unanswered = || Err(Error::new(ErrorKind::Transient("learn the outcome of an append".into())));
    results.into_iter().map(|result| result.unwrap_or_else(unanswered)).collect()
}

/// The appends that share no stream, no key and no claimed value with one before them, and the rest for the next round.
fn split_round(batch: &[Append], waiting: &[usize]) -> (Vec<usize>, Vec<usize>) {
    let (mut streams, mut keys, mut values) = (HashSet::new(), HashSet::new(), HashSet::new());
    waiting.iter().partition(|&&place| {
        let append = &batch[place];
        // Also where it has to wait, what it names is taken: appends to one stream keep their order.
        let streams_free = append.stream_ids().filter(|stream| !streams.insert(*stream)).count() == 0;
        let key_free = append.key().is_none_or(|key| keys.insert(key));
        let claims = append.streams().iter().flat_map(|part| &part.claims).map(|claim| (claim.scope(), claim.value()));
        let claims: HashSet<_> = claims.collect();
        let values_free = claims.into_iter().filter(|value| !values.insert(*value)).count() == 0;
        streams_free && key_free && values_free
    })
}

/// Tries a round. A lost race is run again, and seen as the conflict it is then; what keeps failing is taken apart, so that only the
/// append at fault fails.
async fn append_round(driver: &dyn Rounds, round: &[&Append]) -> Vec<Result<Appended>> {
    let began = Instant::now();
    let mut error = None;
    for (attempt, delay) in attempts().enumerate() {
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let failed = match driver.append_round(round).await {
            Ok(results) => return results,
            Err(Ended::Server(failed)) => failed,
            Err(Ended::Inline(failed)) => match inlines_refusal(driver, &failed) {
                Refusal::Blocked => {
                    error = Some(Error::with_source(ErrorKind::Transient("append".into()), failed));
                    continue;
                }
                _ if round.len() == 1 || failed.is_transient() => return vec![Err(failed); round.len()],
                _ => break,
            },
        };
        match driver.refusal(&failed) {
            Refusal::Other => return vec![Err(driver.classify(failed, "append")); round.len()],
            Refusal::Duplicate if round.len() == 1 => return vec![Err(duplicate(driver, round[0], failed).await)],
            Refusal::Duplicate => break,
            Refusal::Blocked => error = Some(driver.classify(failed, "append")),
            Refusal::Taken if round.len() > 1 && attempt >= 2 => break,
            // A conflict would have been seen by now.
            Refusal::Taken if round.len() == 1 && attempt > 0 => match duplicate(driver, round[0], failed).await {
                found if matches!(found.kind(), ErrorKind::DuplicateEvent(_)) => return vec![Err(found)],
                _ => error = Some(lost()),
            },
            Refusal::Taken => error = Some(lost()),
        }
        if began.elapsed() > PATIENCE {
            break;
        }
    }
    if round.len() == 1 {
        return vec![Err(error.unwrap_or_else(lost))];
    }
    let mut results = Vec::with_capacity(round.len());
    for append in round {
        results.extend(Box::pin(append_round(driver, std::slice::from_ref(append))).await);
    }
    results
}

/// Why the server refused what an inline projection did, as far as it was the server.
fn inlines_refusal(driver: &dyn Rounds, error: &Error) -> Refusal {
    let beneath = chain(error).find_map(|cause| cause.downcast_ref::<sqlx::Error>());
    beneath.map_or(Refusal::Other, |beneath| driver.refusal(beneath))
}

/// Returns the wait before each attempt. There is none before the first retry: the winner's events are already visible. Then they
/// double, with jitter.
fn attempts() -> impl Iterator<Item = Duration> + Send {
    let longer = delays(Duration::from_millis(1), LONGEST_DELAY);
    [Duration::ZERO; 2].into_iter().chain(longer.take(ATTEMPTS - 2))
}

/// Which of the append's events is in the log already, or what the database said.
pub(crate) async fn duplicate(driver: &dyn Rounds, append: &Append, failed: sqlx::Error) -> Error {
    let ids = event_ids(append);
    let known = match twice(&ids) {
        Some(twice) => Ok(Some(twice)),
        None => driver.known_id(&ids).await,
    };
    match known {
        Ok(Some(id)) => Error::with_source(ErrorKind::DuplicateEvent(EventId::from(id)), failed),
        Ok(None) => driver.classify(failed, "append"),
        Err(error) => driver.classify(error, "append"),
    }
}

pub(crate) fn event_ids(append: &Append) -> Vec<Uuid> {
    append.streams().iter().flat_map(|part| &part.events).map(|event| *event.id.as_uuid()).collect()
}

/// An id that stands there twice.
pub(crate) fn twice(ids: &[Uuid]) -> Option<Uuid> {
    let mut seen = HashSet::new();
    ids.iter().copied().find(|id| !seen.insert(*id))
}

pub(crate) fn lost() -> Error {
    Error::new(ErrorKind::Transient("append: others were faster each time".into()))
}

/// Another transaction has written the next version since a caller's own took its snapshot, so the version found there is at least one
/// more than the one expected. Of several streams it might be any.
pub(crate) fn lost_race(append: &Append, error: sqlx::Error) -> Error {
    let [part] = append.streams() else { return lost() };
    let (stream, expected) = (part.stream.clone(), part.expected);
    let version = match expected {
        ExpectedVersion::NoStream => Version::ZERO,
        ExpectedVersion::Exact(version) => version,
        ExpectedVersion::Any | ExpectedVersion::Exists => return lost(),
    };
    Error::with_source(ErrorKind::Conflict { stream, expected, actual: version.next() }, error)
}
