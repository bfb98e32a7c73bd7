//! The operations of a side. A side is one library on one kind of database, or hand-written code.

use std::ops::Range;

use async_trait::async_trait;
use uuid::Uuid;

use crate::order::Order;

/// Maximum number of attempts at a command that conflicts with others.
pub const ATTEMPTS: usize = 1_000;

/// A result, or the reason why the side does not support the operation.
pub type Supported<T> = Result<T, &'static str>;

/// One library with a pool of connections to its own database. Panics if the database fails.
#[async_trait]
pub trait Side: Send + Sync {
    /// Creates the side's tables.
    async fn create(&self);

    /// Executes one command: loads the order, decides, and appends the event with this number.
    async fn execute(&self, id: Uuid, number: u64);

    /// Returns the number of concurrent tasks that fill the database.
    fn fillers(&self) -> u64 {
        16
    }

    /// Executes one command that appends several events to an order that has all earlier ones.
    async fn add(&self, id: Uuid, numbers: Range<u64>);

    /// Loads the order from all its events.
    async fn load(&self, id: Uuid) -> Order;

    /// Appends events to a new order, with a snapshot after the first `snapshot` events.
    async fn add_with_snapshot(&self, _id: Uuid, _snapshot: u64, _events: u64) -> Supported<()> {
        Err("no snapshots")
    }

    /// Loads an order written by [`add_with_snapshot`](Self::add_with_snapshot) from its snapshot and the events after it.
    async fn load_from_snapshot(&self, _id: Uuid) -> Supported<Order> {
        Err("no snapshots")
    }

    /// Folds all events of all orders into one order.
    async fn count_all(&self) -> Supported<Order>;

    /// Empties the side's view of orders.
    async fn empty_view(&self) -> Supported<()> {
        Err("no view tables of its own")
    }

    /// Applies all events to the view.
    async fn rebuild(&self) {}

    /// Returns a row of the view.
    async fn row(&self, _id: Uuid) -> Option<Order> {
        None
    }
}

/// The database of a side, and the number of connections to it.
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

    /// Returns the URL of the server's default database, and the name of this one.
    pub fn server(&self) -> (String, &str) {
        let (server, name) = self.url.rsplit_once('/').unwrap();
        (format!("{server}/postgres"), name)
    }
}
