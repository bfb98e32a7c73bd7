//! Stores the position and the lease of a relay.

use std::time::Duration;

use async_trait::async_trait;
use chrono::Utc;
use rusqlite::OptionalExtension;
use uuid::Uuid;

use crate::error::Result;
use crate::id::{Fence, Position};
use crate::store::log::relay::{LONGEST_LEASE, RelayStore, check_fence, check_lease_name, check_relay_name};
use crate::store::sqlite::convert::{from_sql, position_from_sql, to_sql};
use crate::store::sqlite::store::SqliteStore;

#[async_trait]
impl RelayStore for SqliteStore {
    async fn position(&self, relay: &str) -> Result<Position> {
        check_relay_name(relay)?;
        let relay = relay.to_owned();
        self.readers
            .run("read a relay's position", move |db| {
                let position = db.prepare_cached(POSITION)?.query_row([relay], |row| row.get(0)).optional()?;
                position_from_sql(position.unwrap_or(0))
            })
            .await
    }

    async fn advance(&self, relay: &str, position: Position, fence: Fence) -> Result<()> {
        check_relay_name(relay)?;
        let relay = relay.to_owned();
        self.writer
            .pool
            .run("advance a relay's position", move |db| {
                let mut set = db.prepare_cached(ADVANCE)?;
                let binds = (&relay, to_sql(position.get()), to_sql(fence.get()));
                let newest = set.query_row(binds, |row| row.get(0))?;
                Ok(check_fence(&relay, fence, Fence::new(from_sql(newest, "fence")?))?)
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

const POSITION: &str = "SELECT position FROM retell_relays WHERE relay = ?1";

/// Binds: relay, position, fence. Returns the newest fence. If it is larger than the given one, the statement has changed nothing.
const ADVANCE: &str = "
    INSERT INTO retell_relays (relay, position, fence) VALUES (?1, ?2, ?3)
    ON CONFLICT (relay) DO UPDATE SET
        position = CASE WHEN fence <= excluded.fence THEN max(position, excluded.position) ELSE position END,
        fence = max(fence, excluded.fence)
    RETURNING fence";

/// Binds: name, holder, now, end. Returns no row while another holder has the lease.
const ACQUIRE_LEASE: &str = "
    INSERT INTO retell_leases (name, holder, fence, ends_at) VALUES (?1, ?2, 1, ?4)
    ON CONFLICT (name) DO UPDATE SET
        fence = CASE WHEN holder = excluded.holder THEN fence ELSE fence + 1 END,
        holder = excluded.holder,
        ends_at = excluded.ends_at
    WHERE holder = excluded.holder OR holder IS NULL OR ends_at <= ?3
    RETURNING fence";

/// Binds: name, holder.
const RELEASE_LEASE: &str = "UPDATE retell_leases SET holder = NULL WHERE name = ?1 AND holder = ?2";
