//! Stores the position and the lease of a relay.

use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use crate::error::Result;
use crate::id::mark::Mark;
use crate::id::{EventId, Fence};
use crate::store::log::mark::check_mark;
use crate::store::log::relay::{RelayStatus, RelayStore, check_fence, check_lease_name, check_relay_name};
use crate::store::model::interventions::{AuditEntry, By};
use crate::store::mysql::audit::{entries, insert_audit};
use crate::store::mysql::error::classify;
use crate::store::mysql::store::MySqlStore;
use crate::store::server::convert::{
    MarkRow, RelayRow, from_sql, id_to_sql, limit_to_sql, mark_from_sql, micros_to_sql, relays_from_sql, to_sql,
};

/// Each call may be repeated: the position and the fence never decrease, and a lease that the holder has is extended.
#[async_trait]
impl RelayStore for MySqlStore {
    async fn mark(&self, relay: &str) -> Result<Mark> {
        self.writer.connections.repeat("read a relay's position", || self.relay_mark(relay)).await
    }

    async fn relays(&self) -> Result<Option<Vec<String>>> {
        let read = || async {
            let rows = self.writer.connections.all(sqlx::query_as(RELAYS)).await;
            let rows: Vec<(String,)> = rows.map_err(|error| classify(error, "list the relays"))?;
            let mut names: Vec<_> = rows.into_iter().map(|(name,)| name).collect();
            names.sort_unstable();
            Ok(Some(names))
        };
        self.writer.connections.repeat("list the relays", read).await
    }

    async fn relay_statuses(&self, limit: usize) -> Result<Option<Vec<RelayStatus>>> {
        let read = || async {
            let rows = self.writer.connections.all(sqlx::query_as(STATUSES).bind(limit_to_sql(limit))).await;
            let rows: Vec<RelayRow> = rows.map_err(|error| classify(error, "list the relays"))?;
            relays_from_sql(rows)
        };
        self.writer.connections.repeat("list the relays", read).await.map(Some)
    }

    async fn advance(&self, relay: &str, to: Mark, fence: Fence) -> Result<()> {
        self.writer.connections.repeat("advance a relay's position", || self.advance_relay(relay, to, fence)).await
    }

    async fn reset(&self, relay: &str, to: Mark) -> Result<()> {
        self.reset_by(relay, to, &By::program("no reason given")).await
    }

    async fn relay_audit(&self, limit: usize, before: Option<u64>) -> Result<Vec<AuditEntry>> {
        entries(&self.writer.connections, limit, before).await
    }

    async fn reset_by(&self, relay: &str, to: Mark, by: &By) -> Result<()> {
        by.check()?;
        check_relay_name(relay)?;
        self.check_relay(relay).await?;
        let entry = AuditEntry::reset_relay(relay, to.position, by);
        self.writer.connections.repeat("reset a relay", || self.reset_relay(relay, to, &entry)).await
    }

    async fn acquire_lease(&self, name: &str, holder: Uuid, length: Duration) -> Result<Option<Fence>> {
        self.writer.connections.repeat("acquire a lease", || self.take_lease(name, holder, length)).await
    }

    async fn release_lease(&self, name: &str, holder: Uuid) -> Result<()> {
        self.writer.connections.repeat("release a lease", || self.give_up_lease(name, holder)).await
    }
}

impl MySqlStore {
    async fn relay_mark(&self, relay: &str) -> Result<Mark> {
        check_relay_name(relay)?;
        let found: Option<MarkRow> = self
            .writer
            .connections
            .optional(sqlx::query_as(MARK).bind(relay.as_bytes()))
            .await
            .map_err(|error| classify(error, "read a relay's position"))?;
        found.map_or(Ok(Mark::START), mark_from_sql)
    }

    async fn advance_relay(&self, relay: &str, to: Mark, fence: Fence) -> Result<()> {
        check_relay_name(relay)?;
        let (connections, name) = (&self.writer.connections, relay.as_bytes());
        let failed = |error| classify(error, "advance a relay's position");
        let (position, id, number) = (to_sql(to.position.get()), id_to_sql(to), to_sql(fence.get()));
        let set = sqlx::query(ADVANCE).bind(name).bind(position).bind(id).bind(number);
        let set = set.bind(id).bind(id).bind(position).bind(position);
        let set = set.bind(number).bind(position).bind(id).bind(number).bind(position).bind(number);
        connections.execute(set).await.map_err(failed)?;
        // The server does not return the row it wrote. If another relay has raised the fence in between, this relay must stop too.
        let advanced = sqlx::query_as(ADVANCED).bind(name).bind(position).bind(position);
        let (newest, found): (Option<i64>, Option<Uuid>) = connections.one(advanced).await.map_err(failed)?;
        let newest = newest.map_or(Ok(0), |newest| from_sql(newest, "fence"))?;
        check_fence(relay, fence, Fence::new(newest))?;
        check_mark(to, found.map(EventId::from))
    }

    async fn reset_relay(&self, relay: &str, to: Mark, entry: &AuditEntry) -> Result<()> {
        let failed = |error| classify(error, "reset a relay");
        let mut lease = self.writer.connections.lease().await.map_err(failed)?;
        let reset = async {
            let (name, position, id) = (relay.as_bytes(), to_sql(to.position.get()), id_to_sql(to));
            let mut tx = lease.begin().await?;
            // The lease ends first: a leader that takes it again gets a fence that the second statement does not exceed.
            sqlx::query(END_LEASE).bind(name).execute(&mut *tx).await?;
            let reset = sqlx::query(RESET).bind(name).bind(position).bind(id).bind(name);
            reset.bind(position).bind(id).execute(&mut *tx).await?;
            insert_audit(&mut tx, entry).await?;
            tx.commit().await
        };
        let reset = reset.await;
        lease.finish(reset.map_err(failed))
    }

    async fn take_lease(&self, name: &str, holder: Uuid, length: Duration) -> Result<Option<Fence>> {
        check_lease_name(name)?;
        let (connections, name, holder) = (&self.writer.connections, name.as_bytes(), &holder.as_bytes()[..]);
        let failed = |error| classify(error, "acquire a lease");
        let length = micros_to_sql(length);
        let query = sqlx::query(ACQUIRE_LEASE)
            .bind(name)
            .bind(holder)
            .bind(length)
            .bind(holder)
            .bind(holder)
            .bind(holder)
            .bind(length)
            .bind(holder);
        connections.execute(query).await.map_err(failed)?;
        // Reads the current holder. If the first statement acquired the lease, no other holder can have it by now.
        let fence: Option<(i64,)> =
            connections.optional(sqlx::query_as(HELD).bind(name).bind(holder)).await.map_err(failed)?;
        fence.map(|(fence,)| from_sql(fence, "fence").map(Fence::new)).transpose()
    }

    async fn give_up_lease(&self, name: &str, holder: Uuid) -> Result<()> {
        check_lease_name(name)?;
        let release = sqlx::query(RELEASE_LEASE).bind(name.as_bytes()).bind(&holder.as_bytes()[..]);
        self.writer.connections.execute(release).await.map_err(|error| classify(error, "release a lease"))
    }
}

const RELAYS: &str = "SELECT CONVERT(relay USING utf8mb4) FROM retell_relays UNION SELECT CONVERT(name USING utf8mb4) FROM retell_leases";

/// Binds: limit. A lease that was given later than a minute from now has ended.
const STATUSES: &str = "
    SELECT CONVERT(n.name USING utf8mb4), COALESCE(r.position, 0), r.event_id, l.holder, l.ends_at
    FROM (SELECT relay AS name FROM retell_relays UNION SELECT name FROM retell_leases ORDER BY name LIMIT ?) AS n
    LEFT JOIN retell_relays AS r ON r.relay = n.name
    LEFT JOIN retell_leases AS l ON l.name = n.name AND l.holder IS NOT NULL AND l.ends_at > UTC_TIMESTAMP(6)
        AND l.given_at <= UTC_TIMESTAMP(6) + INTERVAL 1 MINUTE
    ORDER BY n.name";

const MARK: &str = "SELECT position, event_id FROM retell_relays WHERE relay = ?";

/// Binds: relay, position, event, fence; event, event, position, position; then fence, position, event, fence, position, fence. Writes nothing if
/// the log does not have the event at the position. The server assigns from left to right, and each assignment sees those before it.
const ADVANCE: &str = "
    INSERT INTO retell_relays (relay, position, event_id, fence)
    SELECT ?, ?, ?, ? FROM DUAL WHERE ? IS NULL OR ? = (
        SELECT e.event_id FROM retell_events AS e, (
            SELECT commit_id, first_position FROM retell_log WHERE first_position <= ? ORDER BY first_position DESC LIMIT 1
        ) AS l WHERE e.commit_id = l.commit_id AND e.ordinal = ? - l.first_position + 1
    )
    ON DUPLICATE KEY UPDATE
        event_id = IF(retell_relays.fence <= ? AND retell_relays.position < ?, ?, retell_relays.event_id),
        position = IF(retell_relays.fence <= ?, GREATEST(retell_relays.position, ?), retell_relays.position),
        fence = GREATEST(retell_relays.fence, ?)";

/// Binds: relay, position, position. Returns the stored fence, and the event at the given position.
const ADVANCED: &str = "
    SELECT (SELECT fence FROM retell_relays WHERE relay = ?), (
        SELECT e.event_id FROM retell_events AS e, (
            SELECT commit_id, first_position FROM retell_log WHERE first_position <= ? ORDER BY first_position DESC LIMIT 1
        ) AS l WHERE e.commit_id = l.commit_id AND e.ordinal = ? - l.first_position + 1
    )";

/// Binds: name.
const END_LEASE: &str = "UPDATE retell_leases SET fence = fence + 1, holder = NULL WHERE name = ?";

/// Binds: relay, position, event, name; then position, event.
const RESET: &str = "
    INSERT INTO retell_relays (relay, position, event_id, fence)
    SELECT ?, ?, ?, COALESCE((SELECT fence FROM retell_leases WHERE name = ?), 0)
    ON DUPLICATE KEY UPDATE position = ?, event_id = ?, fence = GREATEST(retell_relays.fence, VALUES(fence))";

/// Binds: name, holder, length in microseconds; then holder, holder, holder, length, holder. A lease that was given later than a minute from now
/// has ended. The server assigns from left to right: the first two assignments read the old times, the others read the new holder.
const ACQUIRE_LEASE: &str = "
    INSERT INTO retell_leases (name, holder, fence, ends_at, given_at)
    VALUES (?, ?, 1, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, UTC_TIMESTAMP(6))
    ON DUPLICATE KEY UPDATE
        fence = IF((holder IS NULL OR ends_at <= UTC_TIMESTAMP(6) OR given_at > UTC_TIMESTAMP(6) + INTERVAL 1 MINUTE)
            AND NOT (holder <=> ?), fence + 1, fence),
        holder = IF(holder IS NULL OR ends_at <= UTC_TIMESTAMP(6) OR given_at > UTC_TIMESTAMP(6) + INTERVAL 1 MINUTE, ?, holder),
        ends_at = IF(holder = ?, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, ends_at),
        given_at = IF(holder = ?, UTC_TIMESTAMP(6), given_at)";

/// Binds: name, holder.
const HELD: &str = "SELECT fence FROM retell_leases WHERE name = ? AND holder = ?";

/// Binds: name, holder.
const RELEASE_LEASE: &str = "UPDATE retell_leases SET holder = NULL WHERE name = ? AND holder = ?";
