//! The servers of a database of which one accepts writes, and the search for that one.
//!
//! A standby becomes the primary when another program promotes it. A call then fails or gets no connection, and this search asks all servers
//! which of them accepts writes. New connections go there.

use std::cmp::Reverse;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use sqlx::{ConnectOptions, Connection, Pool};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout_at};

use crate::error::{Error, ErrorKind, Result};
use crate::store::server::fault::{Options, Server};
use crate::store::server::limits::MAX_ANSWER;

/// The pause between two searches. Callers that ask for a search meanwhile share the result of the last one.
const PAUSE: Duration = Duration::from_millis(250);

/// The servers of a database. Clones share what is known about them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hosts(Option<Arc<Known>>);

#[derive(Debug)]
struct Known {
    hosts: Arc<[Host]>,
    search: Mutex<Search>,
    /// The number of times that new connections were directed to another server.
    moves: AtomicU64,
    /// How often the current primary was promoted.
    promotions: AtomicU64,
}

#[derive(Debug, Default)]
struct Search {
    /// The server that new connections go to, if a search has found it.
    current: Option<usize>,
    ended_at: Option<Instant>,
}

#[derive(Debug)]
struct Host {
    name: String,
    port: Option<u16>,
}

impl Hosts {
    /// Parses the names of servers, `host` or `host:port`.
    pub(crate) fn parse(names: &[String]) -> Result<Self> {
        let hosts = names.iter().map(|name| Host::parse(name)).collect::<Result<Arc<[_]>>>()?;
        Ok(Self::of(hosts))
    }

    fn of(hosts: Arc<[Host]>) -> Self {
        let are_given = !hosts.is_empty();
        let known = Known { hosts, search: Mutex::default(), moves: AtomicU64::new(0), promotions: AtomicU64::new(0) };
        Self(are_given.then(|| Arc::new(known)))
    }

    /// Returns the same servers for another pool.
    pub(crate) fn apart(&self) -> Self {
        self.0.as_ref().map_or_else(Self::default, |known| Self::of(known.hosts.clone()))
    }

    /// Returns whether servers are named, as opposed to the one of the pool.
    pub(crate) fn are_named(&self) -> bool {
        self.0.is_some()
    }

    /// Returns whether a server with this answer to [`Server::promotions`] is the primary: it accepts writes, and no other one was promoted later.
    pub(crate) fn is_primary(&self, promotions: Option<u64>) -> bool {
        let Some(known) = &self.0 else { return true };
        promotions.is_some_and(|promotions| promotions >= known.promotions.load(Ordering::Relaxed))
    }

    /// Directs new connections of the pool to the server that accepts writes. Returns whether that is another one than before.
    pub(crate) async fn search<DB: Server>(&self, pool: &Pool<DB>) -> bool {
        let Some(known) = &self.0 else { return false };
        let before = known.moves.load(Ordering::Relaxed);
        let mut search = known.search.lock().await;
        if known.moves.load(Ordering::Relaxed) != before {
            return true;
        }
        if search.ended_at.is_some_and(|ended_at| ended_at.elapsed() < PAUSE) {
            return false;
        }
        let found = known.primary(pool, search.current).await.ok();
        search.ended_at = Some(Instant::now());
        found.is_some_and(|found| known.direct(pool, &mut search, found))
    }

    /// Directs connections of a new pool to the server that accepts writes. If there is none, asks again until `wait` is over.
    pub(crate) async fn search_first<DB: Server>(&self, pool: &Pool<DB>, wait: Duration) -> Result<()> {
        let Some(known) = &self.0 else { return Ok(()) };
        let deadline = Instant::now() + wait;
        loop {
            match known.primary(pool, None).await {
                Ok(found) => {
                    known.direct(pool, &mut *known.search.lock().await, found);
                    return Ok(());
                }
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => sleep(PAUSE).await,
            }
        }
    }
}

impl Known {
    /// Directs new connections to a server. Returns whether that is another one than before.
    fn direct<DB: Server>(&self, pool: &Pool<DB>, search: &mut Search, to: usize) -> bool {
        let has_moved = search.current.replace(to) != Some(to);
        if has_moved {
            pool.set_connect_options(self.hosts[to].options::<DB>(&pool.connect_options()));
            self.moves.fetch_add(1, Ordering::Relaxed);
        }
        has_moved
    }

    /// Returns the server that accepts writes. If there are several, as when an old primary has come back, that is the one that was promoted
    /// last. If the servers cannot tell, it is the current one, and at the start the first one.
    ///
    /// Each server gets the same time to answer, also after one has said that it accepts writes: that may be an old primary that has come back,
    /// while the new one is busy.
    async fn primary<DB: Server>(&self, pool: &Pool<DB>, current: Option<usize>) -> Result<usize> {
        let options = pool.connect_options();
        let mut answers: FuturesUnordered<_> = (0..self.hosts.len())
            .map(|number| {
                let options = self.hosts[number].options::<DB>(&options);
                async move { (number, ask::<DB>(&options).await) }
            })
            .collect();
        let deadline = Instant::now() + MAX_ANSWER;
        let mut found: Option<(u64, bool, Reverse<usize>)> = None;
        let mut problems = vec!["no answer".to_owned(); self.hosts.len()];
        while let Ok(Some((number, answer))) = timeout_at(deadline, answers.next()).await {
            match answer {
                Ok(Some(promotions)) => {
                    found = found.max(Some((promotions, Some(number) == current, Reverse(number))));
                }
                Ok(None) => problems[number] = "it accepts no writes".into(),
                Err(error) => problems[number] = error.to_string(),
            }
        }
        let (promotions, _, Reverse(number)) = found.ok_or_else(|| self.none(&problems))?;
        self.promotions.fetch_max(promotions, Ordering::Relaxed);
        Ok(number)
    }

    fn none(&self, problems: &[String]) -> Error {
        let name = |Host { name, port }: &Host| port.map_or_else(|| name.clone(), |port| format!("{name}:{port}"));
        let each = self.hosts.iter().zip(problems).map(|(host, problem)| format!("{}: {problem}", name(host)));
        let each = each.collect::<Vec<_>>().join("; ");
        Error::with_source(ErrorKind::Transient("find a server that accepts writes".into()), io::Error::other(each))
    }
}

impl Host {
    fn parse(name: &str) -> Result<Self> {
        let invalid =
            || Error::from(ErrorKind::Invalid(format!("{name:?} is not the name of a server, `host` or `host:port`")));
        let (host, port) = match name.rsplit_once(':') {
            // The colon of an IPv6 address.
            Some((_, port)) if port.ends_with(']') => (name, None),
            Some((host, port)) => (host, Some(port.parse().map_err(|_| invalid())?)),
            None => (name, None),
        };
        if host.is_empty() || (host.contains(':') && !host.starts_with('[')) {
            return Err(invalid());
        }
        Ok(Self { name: host.to_owned(), port })
    }

    fn options<DB: Server>(&self, options: &Options<DB>) -> Options<DB> {
        DB::at(options.clone(), &self.name, self.port)
    }
}

/// Returns how often the server was promoted if it accepts writes.
async fn ask<DB: Server>(options: &Options<DB>) -> Result<Option<u64>, sqlx::Error> {
    let mut connection = options.connect().await?;
    let answer = DB::promotions(&mut connection).await;
    drop(connection.close_hard().await);
    answer
}
