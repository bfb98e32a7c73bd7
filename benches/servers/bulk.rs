//! Measures one append of many events.

use std::fmt::Write as _;
use std::time::Instant;

use retell::event::NewEvent;
use uuid::Uuid;

use crate::database::{Database, MYSQL_BULK, POSTGRES_COPY};
use crate::{new_event, report, to_new_stream};

impl Database {
    /// Compares one append of 10,000 events with the bulk insert of as many rows: `COPY`, or long `INSERT` statements.
    pub(crate) async fn bulk(&self) {
        const EVENTS: u64 = 10_000;
        let store = self.store().await;
        let (mut by_hand, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            let events: Vec<NewEvent> = (0..EVENTS).map(new_event).collect();
            let id = Uuid::now_v7().to_string();
            let began = Instant::now();
            match self {
                Self::Postgres { pool, .. } => {
                    let mut rows = String::new();
                    for (event, version) in events.iter().zip(1..) {
                        let (event_id, event_type) = (event.id.as_uuid(), &event.event_type);
                        write!(rows, "{event_id}\torder\t{id}\t{version}\t{event_type}\t\\\\x").unwrap();
                        for byte in &event.payload {
                            write!(rows, "{byte:02x}").unwrap();
                        }
                        rows.push('\n');
                    }
                    let began = Instant::now();
                    let mut connection = pool.acquire().await.unwrap();
                    let mut copy = connection.copy_in_raw(POSTGRES_COPY).await.unwrap();
                    copy.send(rows.into_bytes()).await.unwrap();
                    copy.finish().await.unwrap();
                    by_hand.push(began.elapsed().as_secs_f64());
                }
                Self::MySql { pool, .. } => {
                    let mut tx = pool.begin().await.unwrap();
                    for (chunk, events) in events.chunks(1_000).enumerate() {
                        let mut insert = sqlx::QueryBuilder::new(MYSQL_BULK);
                        insert.push_values(events.iter().zip(1 + chunk * 1_000..), |mut row, (event, version)| {
                            let version = i64::try_from(version).unwrap();
                            row.push_bind(event.id.as_uuid()).push_bind("order").push_bind(&id).push_bind(version);
                            row.push_bind(event.event_type.as_str()).push_bind(&event.payload[..]);
                        });
                        insert.build().persistent(false).execute(&mut *tx).await.unwrap();
                    }
                    tx.commit().await.unwrap();
                    by_hand.push(began.elapsed().as_secs_f64());
                }
            }
            let append = to_new_stream(0..EVENTS);
            let began = Instant::now();
            store.append(append).await.unwrap();
            ours.push(began.elapsed().as_secs_f64());
        }
        report("one append of 10,000", by_hand, ours);
    }
}
