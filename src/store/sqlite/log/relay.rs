//! Stores the position and the lease of a relay.

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use rusqlite::{OptionalExtension, Row};
use uuid::Uuid;

use crate::error::Result;
use crate::id::Fence;
use crate::id::mark::Mark;
use crate::store::log::mark::changed;
use crate::store::log::relay::{
    LONGEST_LEASE, RelayStatus, RelayStore, check_fence, check_lease_name, check_relay_name,
};
use crate::store::model::interventions::{AuditEntry, By};
use crate::store::sqlite::audit::{entries, insert_audit};
use crate::store::sqlite::convert::{event_id_to_sql, from_sql, mark_from_sql, to_sql};
use crate::store::sqlite::error::{Failure, corrupt};
use crate::store::sqlite::log::read::mark_at;
use crate::store::sqlite::store::SqliteStore;
use crate::store::sqlite::transaction::OpenTransaction;

#[async_trait]
impl RelayStore for SqliteStore {
    async fn mark(&self, relay: &str) -> Result<Mark> {
        check_relay_name(relay)?;
        let relay = relay.to_owned();
        self.readers
            .run("read a relay's position", move |db| {
                let mut find = db.prepare_cached(MARK)?;
                let found = find.query_row([relay], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
                found.map_or(Ok(Mark::START), mark_from_sql)
            })
            .await
    }

    async fn relays(&self) -> Result<Option<Vec<String>>> {
        self.readers
            .run("list the relays", |db| {
                let mut list = db.prepare_cached(RELAYS)?;
                let names = list.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
                Ok(Some(names))
            })
            .await
    }

    async fn relay_statuses(&self, limit: usize) -> Result<Option<Vec<RelayStatus>>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.readers
            .run("list the relays", move |db| {
                let mut list = db.prepare_cached(STATUSES)?;
                let mut rows = list.query((limit, Utc::now().timestamp_micros()))?;
                let mut statuses = Vec::new();
                while let Some(row) = rows.next()? {
                    statuses.push(status(row)?);
                }
                Ok(Some(statuses))
            })
            .await
    }

    async fn advance(&self, relay: &str, to: Mark, fence: Fence) -> Result<()> {
        check_relay_name(relay)?;
        let relay = relay.to_owned();
        self.writer
            .pool
            .run("advance a relay's position", move |db| {
                let mut set = db.prepare_cached(ADVANCE)?;
                let binds = (&relay, to_sql(to.position.get()), event_id_to_sql(to.event_id), to_sql(fence.get()));
                let Some(newest) = set.query_row(binds, |row| row.get(0)).optional()? else {
                    return Err(changed(to, mark_at(db, to.position)?.event_id).into());
                };
                Ok(check_fence(&relay, fence, Fence::new(from_sql(newest, "fence")?))?)
            })
            .await
    }

    async fn reset(&self, relay: &str, to: Mark) -> Result<()> {
        self.reset_by(relay, to, &By::program("no reason given")).await
    }

    async fn relay_audit(&self, limit: usize, before: Option<u64>) -> Result<Vec<AuditEntry>> {
        self.readers.run("read the audit", move |db| entries(db, limit, before)).await
    }

    async fn reset_by(&self, relay: &str, to: Mark, by: &By) -> Result<()> {
        by.check()?;
        check_relay_name(relay)?;
        self.check_relay(relay).await?;
        let (relay, entry) = (relay.to_owned(), AuditEntry::reset_relay(relay, to.position, by));
        self.writer
            .pool
            .run("reset a relay", move |db| {
                let open = OpenTransaction::begin(db)?;
                open.db.prepare_cached(END_LEASE)?.execute([&relay])?;
                let binds = (&relay, to_sql(to.position.get()), event_id_to_sql(to.event_id));
                open.db.prepare_cached(RESET)?.execute(binds)?;
                insert_audit(open.db, &entry)?;
                open.commit()
            })
            .await
    }

    async fn acquire_lease(&self, name: &str, holder: Uuid, length: Duration) -> Result<Option<Fence>> {
        check_lease_name(name)?;
        let name = name.to_owned();
        let length = i64::try_from(length.min(LONGEST_LEASE).as_micros()).unwrap_or(i64::MAX);
        self.writer
            .pool
            .run("acquire a lease", move |db| {
                let mut acquire = db.prepare_cached(ACQUIRE_LEASE)?;
                let now = Utc::now().timestamp_micros();
                let binds = (name, holder.as_bytes(), now, now.saturating_add(length));
                let fence = acquire.query_row(binds, |row| row.get(0)).optional()?;
                fence.map(|fence| from_sql(fence, "fence").map(Fence::new)).transpose()
            })
            .await
    }

    async fn release_lease(&self, name: &str, holder: Uuid) -> Result<()> {
        check_lease_name(name)?;
        let name = name.to_owned();
        self.writer
            .pool
            .run("release a lease", move |db| {
                db.prepare_cached(RELEASE_LEASE)?.execute((name, holder.as_bytes()))?;
                Ok(())
            })
            .await
    }
}

fn status(row: &Row<'_>) -> Result<RelayStatus, Failure> {
    let mark = mark_from_sql((row.get(1)?, row.get(2)?))?;
    let leader = match (row.get::<_, Option<[u8; 16]>>(3)?, row.get::<_, Option<i64>>(4)?) {
        (Some(holder), Some(micros)) => {
            let ends_at = DateTime::from_timestamp_micros(micros);
            Some((Uuid::from_bytes(holder), ends_at.ok_or_else(|| corrupt(format!("invalid time {micros}")))?))
        }
        _ => None,
    };
    Ok(RelayStatus::new(row.get::<_, String>(0)?, mark).with_leader(leader))
}

const RELAYS: &str = "SELECT relay FROM retell_relays UNION SELECT name FROM retell_leases ORDER BY 1";

/// Binds: limit, now. A lease that was given later than a minute from now has ended.
const STATUSES: &str = "
    SELECT n.name, coalesce(r.position, 0), r.event_id, l.holder, l.ends_at
    FROM (SELECT relay AS name FROM retell_relays UNION SELECT name FROM retell_leases ORDER BY 1 LIMIT ?1) AS n
    LEFT JOIN retell_relays AS r ON r.relay = n.name
    LEFT JOIN retell_leases AS l ON l.name = n.name AND l.holder IS NOT NULL AND l.ends_at > ?2 AND l.given_at <= ?2 + 60000000
    ORDER BY n.name";

const MARK: &str = "SELECT position, event_id FROM retell_relays WHERE relay = ?1";

/// Binds: relay, position, event, fence. Returns the newest fence. If it is larger than the given one, the statement has changed nothing. Returns
/// no row if the log does not have the event at the position.
const ADVANCE: &str = "
    INSERT INTO retell_relays (relay, position, event_id, fence)
    SELECT ?1, ?2, ?3, ?4 WHERE ?3 IS NULL OR ?3 = (SELECT event_id FROM retell_events WHERE position = ?2)
    ON CONFLICT (relay) DO UPDATE SET
        event_id = CASE WHEN fence <= excluded.fence AND position < excluded.position THEN excluded.event_id ELSE event_id END,
        position = CASE WHEN fence <= excluded.fence THEN max(position, excluded.position) ELSE position END,
        fence = max(fence, excluded.fence)
    RETURNING fence";

/// Binds: name.
const END_LEASE: &str = "UPDATE retell_leases SET fence = fence + 1, holder = NULL WHERE name = ?1";

/// Binds: relay, position, event.
const RESET: &str = "
    INSERT INTO retell_relays (relay, position, event_id, fence)
    VALUES (?1, ?2, ?3, coalesce((SELECT fence FROM retell_leases WHERE name = ?1), 0))
    ON CONFLICT (relay) DO UPDATE
    SET position = excluded.position, event_id = excluded.event_id, fence = max(fence, excluded.fence)";

/// Binds: name, holder, now, end. Returns no row while another holder has the lease. One that was given later than a minute from now has ended.
const ACQUIRE_LEASE: &str = "
    INSERT INTO retell_leases (name, holder, fence, ends_at, given_at) VALUES (?1, ?2, 1, ?4, ?3)
    ON CONFLICT (name) DO UPDATE SET
        fence = CASE WHEN holder = excluded.holder THEN fence ELSE fence + 1 END,
        holder = excluded.holder,
        ends_at = excluded.ends_at,
        given_at = excluded.given_at
    WHERE holder = excluded.holder OR holder IS NULL OR ends_at <= ?3 OR given_at > ?3 + 60000000
    RETURNING fence";

/// Binds: name, holder.
const RELEASE_LEASE: &str = "UPDATE retell_leases SET holder = NULL WHERE name = ?1 AND holder = ?2";
