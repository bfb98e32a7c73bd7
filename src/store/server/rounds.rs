//! Rounds of appends on database servers: how a batch is split into rounds, and how a round is retried.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use uuid::Uuid;

use crate::backoff::delays;
use crate::error::{Error, ErrorKind, Result, chain};
use crate::id::{EventId, ExpectedVersion, Version};
use crate::store::log::append::{Append, Appended};

/// The maximum number of attempts of a round that loses to concurrent writers. Each lost attempt means that another append was written.
const MAX_ATTEMPTS: usize = 20;

/// The maximum delay between two attempts: the time of a few commits on a fast disk.
const MAX_DELAY: Duration = Duration::from_millis(50);

/// No further attempt begins after this time, because an attempt that fails after a wait for a lock is slow.
const MAX_RETRY_TIME: Duration = Duration::from_secs(30);

/// Why the database refused a round of appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// An event with the same id is already in the log.
    #[cfg_attr(
        not(feature = "postgres"),
        expect(dead_code, reason = "MySQL names the violated key only in the message text")
    )]
    Duplicate,
    /// A concurrent writer inserted the same unique key first. The key is not the id of an event, if the database tells them apart.
    Taken,
    /// The transaction was blocked by another one: a deadlock, or a timeout while waiting for a lock.
    Blocked,
    /// Any other error. Another attempt is unlikely to succeed.
    Other,
}

/// The error that ended a round. Nothing was written.
pub(crate) enum Ended {
    /// An error of the server.
    Server(sqlx::Error),
    /// An error of an inline projection.
    Inline(Error),
}

impl From<sqlx::Error> for Ended {
    fn from(error: sqlx::Error) -> Self {
        Self::Server(error)
    }
}

/// The part of [`append_batch`] that differs between drivers.
#[async_trait]
pub(crate) trait Rounds: Send + Sync {
    /// Commits appends that share no stream, no idempotency key and no claimed value. Returns one outcome per append, in order.
    async fn append_round(&self, round: &[&Append]) -> Result<Vec<Result<Appended>>, Ended>;

    /// Returns one of `ids` that is already in the log.
    async fn known_id(&self, ids: &[Uuid]) -> Result<Option<Uuid>, sqlx::Error>;

    /// Returns why the database refused a round.
    fn refusal(&self, error: &sqlx::Error) -> Refusal;

    /// Classifies `error`. `attempt` completes the message "cannot ..".
    fn classify(&self, error: sqlx::Error, attempt: &str) -> Error;
}

/// Commits a batch in as few rounds as its streams, keys and claims allow. Returns one outcome per append, in order.
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

/// Returns the appends that share no stream, no key and no claimed value with an earlier append, and the other ones for the next round.
fn split_round(batch: &[Append], waiting: &[usize]) -> (Vec<usize>, Vec<usize>) {
    let (mut streams, mut keys, mut values) = (HashSet::new(), HashSet::new(), HashSet::new());
    waiting.iter().partition(|&&place| {
        let append = &batch[place];
        // An append that has to wait also blocks later appends to its streams, so appends to one stream keep their order.
        let streams_free = append.stream_ids().filter(|stream| !streams.insert(*stream)).count() == 0;
        let key_free = append.key().is_none_or(|key| keys.insert(key));
        let claims = append.streams().iter().flat_map(|part| &part.claims).map(|claim| (claim.scope(), claim.value()));
        let claims: HashSet<_> = claims.collect();
        let values_free = claims.into_iter().filter(|value| !values.insert(*value)).count() == 0;
        streams_free && key_free && values_free
    })
}

/// Commits a round and retries it if a concurrent writer was faster; the next attempt then detects the conflict. A round that keeps failing
/// is halved until the append at fault is found, so that only that append fails.
async fn append_round(driver: &dyn Rounds, round: &[&Append]) -> Vec<Result<Appended>> {
    let began = Instant::now();
    let mut error = None;
    for (attempt, delay) in attempt_delays().enumerate() {
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let failed = match driver.append_round(round).await {
            Ok(results) => return results,
            Err(Ended::Server(failed)) => failed,
            Err(Ended::Inline(failed)) => match inline_refusal(driver, &failed) {
                Refusal::Blocked => {
                    error = Some(Error::with_source(ErrorKind::Transient("append".into()), failed));
                    continue;
                }
                _ if round.len() == 1 || failed.is_outage() => return vec![Err(failed); round.len()],
                _ => break,
            },
        };
        match driver.refusal(&failed) {
            Refusal::Other => {
                let is_refused = is_refused(&failed);
                let failed = driver.classify(failed, "append");
                if round.len() == 1 || !is_refused || failed.is_outage() {
                    return vec![Err(failed); round.len()];
                }
                break;
            }
            Refusal::Duplicate if round.len() == 1 => return vec![Err(duplicate(driver, round[0], failed).await)],
            Refusal::Duplicate => break,
            Refusal::Blocked => error = Some(driver.classify(failed, "append")),
            Refusal::Taken if round.len() > 1 && attempt >= 2 => break,
            // A version conflict would have been detected by this attempt, so check the ids of the events.
            Refusal::Taken if round.len() == 1 && attempt > 0 => match duplicate(driver, round[0], failed).await {
                found if matches!(found.kind(), ErrorKind::DuplicateEvent(_)) => return vec![Err(found)],
                _ => error = Some(lost()),
            },
            Refusal::Taken => error = Some(lost()),
        }
        if began.elapsed() > MAX_RETRY_TIME {
            break;
        }
    }
    if round.len() == 1 {
        return vec![Err(error.unwrap_or_else(lost))];
    }
    let (first, second) = round.split_at(round.len() / 2);
    let mut results = Box::pin(append_round(driver, first)).await;
    results.extend(Box::pin(append_round(driver, second)).await);
    results
}

/// Returns whether the server, or sqlx before it sent anything, refused a statement, so that nothing was written. After any other error the
/// round may be in the log, and a second attempt would find its own events.
fn is_refused(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(_) | sqlx::Error::Encode(_))
}

/// Returns why the server refused a statement of an inline projection, or [`Refusal::Other`] if the error did not come from the server.
fn inline_refusal(driver: &dyn Rounds, error: &Error) -> Refusal {
    let server_error = chain(error).find_map(|cause| cause.downcast_ref::<sqlx::Error>());
    server_error.map_or(Refusal::Other, |server_error| driver.refusal(server_error))
}

/// Returns the delay before each attempt. There is no delay before the first retry, because the winner's events are already visible. Later
/// delays double, with jitter.
fn attempt_delays() -> impl Iterator<Item = Duration> + Send {
    let longer = delays(Duration::from_millis(1), MAX_DELAY);
    [Duration::ZERO; 2].into_iter().chain(longer.take(MAX_ATTEMPTS - 2))
}

/// Returns [`ErrorKind::DuplicateEvent`] with the id of an event that is already in the log, or else the classified error of the database.
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

/// Returns an id that occurs twice in `ids`.
pub(crate) fn twice(ids: &[Uuid]) -> Option<Uuid> {
    let mut seen = HashSet::new();
    ids.iter().copied().find(|id| !seen.insert(*id))
}

/// Returns the error of an append that lost to concurrent writers on every attempt.
pub(crate) fn lost() -> Error {
    Error::new(ErrorKind::Transient("append: concurrent writers won every attempt; retry later".into()))
}

/// Returns the error of an append in a caller's transaction that lost to a concurrent writer.
///
/// Another transaction has written the next version since the caller's transaction took its snapshot, so the actual version is at least one
/// more than the expected version. If the append has several streams, any of them may be the one in conflict.
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
