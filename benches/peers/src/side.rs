//! What a side can do. A side is one library on one kind of database, or what is written by hand.

use std::ops::Range;

use async_trait::async_trait;
use uuid::Uuid;

use crate::order::Order;

/// How often a command that was refused because of another is tried.
pub const ATTEMPTS: usize = 1_000;

/// What a side does, or why it cannot.
pub type Can<T> = Result<T, &'static str>;

/// One library, with a pool of connections to a database of its own. Panics where its database fails.
#[async_trait]
pub trait Side: Send + Sync {
    /// Makes its tables.
    async fn create(&self);

    /// One command: loads the order, decides, adds the event of this number.
    async fn execute(&self, id: Uuid, number: u64);

    /// How many at once fill its database.
    fn fillers(&self) -> u64 {
        16
    }

    /// One command that adds several events to an order that has those before them.
    async fn add(&self, id: Uuid, numbers: Range<u64>);

    /// The order from all its events.
    async fn load(&self, id: Uuid) -> Order;

    /// Adds events to an order that has none, so that a snapshot is kept of the first `snapshot` of them.
    async fn keep(&self, _id: Uuid, _snapshot: u64, _events: u64) -> Can<()> {
        Err("no snapshots")
    }

    /// Such an order from its snapshot and what follows.
    async fn load_kept(&self, _id: Uuid) -> Can<Order> {
        Err("no snapshots")
    }

    /// All events of all orders, folded into one.
    async fn count_all(&self) -> Can<Order>;

    /// Empties its view of orders.
    async fn empty_view(&self) -> Can<()> {
        Err("no view tables of its own")
    }

    /// Brings every event there is into the view.
    async fn rebuild(&self) {}

    /// A row of the view.
    async fn row(&self, _id: Uuid) -> Option<Order> {
        None
    }
}

/// Where a side keeps its events, and how it is used.
#[derive(Debug, Clone)]
pub struct Place {
    /// `postgres://.../name`, or the path of a file.
    pub url: String,
    pub connections: u32,
}

impl Place {
    pub fn is_postgres(&self) -> bool {
        self.url.starts_with("postgres")
    }

    /// The server's own database, and the name of this one.
    pub fn server(&self) -> (String, &str) {
        let (server, name) = self.url.rsplit_once('/').unwrap();
        (format!("{server}/postgres"), name)
    }
}
