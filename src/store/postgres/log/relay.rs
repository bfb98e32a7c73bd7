//! Stores the position and the lease of a relay.

use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use crate::error::Result;
use crate::id::mark::Mark;
use crate::id::{EventId, Fence};
use crate::store::log::mark::changed;
use crate::store::log::relay::{RelayStatus, RelayStore, check_fence, check_lease_name, check_relay_name};
use crate::store::model::interventions::{AuditEntry, By};
use crate::store::postgres::audit::entries;
use crate::store::postgres::error::classify;
use crate::store::postgres::store::PostgresStore;
use crate::store::server::convert::{
    MarkRow, RelayRow, from_sql, id_to_sql, limit_to_sql, mark_from_sql, micros_to_sql, relays_from_sql, to_sql,
};

/// Each call may be repeated: the position and the fence never decrease, and a lease that the holder has is extended.
#[async_trait]
impl RelayStore for PostgresStore {
    async fn mark(&self, relay: &str) -> Result<Mark> {
        self.writer.connections.repeat("read a relay's position", || self.relay_mark(relay)).await
    }

    async fn relays(&self) -> Result<Option<Vec<String>>> {
        let read = || async {
            let rows = self.writer.connections.all(sqlx::query_as(self.schema.sql(RELAYS))).await;
            let rows: Vec<(String,)> = rows.map_err(|error| classify(error, "list the relays"))?;
            let mut names: Vec<_> = rows.into_iter().map(|(name,)| name).collect();
            names.sort_unstable();
            Ok(Some(names))
        };
        self.writer.connections.repeat("list the relays", read).await
    }

    async fn relay_statuses(&self, limit: usize) -> Result<Option<Vec<RelayStatus>>> {
        let read = || async {
            let list = sqlx::query_as(self.schema.sql(STATUSES)).bind(limit_to_sql(limit));
            let rows: Vec<RelayRow> =
                self.writer.connections.all(list).await.map_err(|error| classify(error, "list the relays"))?;
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
        entries(&self.writer.connections, &self.schema, limit, before).await
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

impl PostgresStore {
    async fn relay_mark(&self, relay: &str) -> Result<Mark> {
        check_relay_name(relay)?;
        let query = sqlx::query_as(self.schema.sql(MARK)).bind(relay);
        let found: Option<MarkRow> = self
            .writer
            .connections
            .optional(query)
            .await
            .map_err(|error| classify(error, "read a relay's position"))?;
        found.map_or(Ok(Mark::START), mark_from_sql)
    }

    async fn advance_relay(&self, relay: &str, to: Mark, fence: Fence) -> Result<()> {
        check_relay_name(relay)?;
        let query = sqlx::query_as(self.schema.sql(ADVANCE)).bind(relay).bind(to_sql(to.position.get()));
        let query = query.bind(id_to_sql(to)).bind(to_sql(fence.get()));
        let (newest, found): (Option<i64>, Option<Uuid>) =
            self.writer.connections.one(query).await.map_err(|error| classify(error, "advance a relay's position"))?;
        let newest = newest.ok_or_else(|| changed(to, found.map(EventId::from)))?;
        check_fence(relay, fence, Fence::new(from_sql(newest, "fence")?))
    }

    async fn reset_relay(&self, relay: &str, to: Mark, entry: &AuditEntry) -> Result<()> {
        let query = sqlx::query(self.schema.sql(RESET)).bind(relay).bind(to_sql(to.position.get())).bind(id_to_sql(to));
        let query = query.bind(entry.at).bind(&entry.by.who).bind(entry.action.as_str());
        let query = query.bind(&entry.target).bind(&entry.by.reason).bind(to_sql(entry.count));
        self.writer.connections.execute(query).await.map_err(|error| classify(error, "reset a relay"))
    }

    async fn take_lease(&self, name: &str, holder: Uuid, length: Duration) -> Result<Option<Fence>> {
        check_lease_name(name)?;
        let query = sqlx::query_as(self.schema.sql(ACQUIRE_LEASE)).bind(name).bind(holder);
        let fence: Option<(i64,)> = self
            .writer
            .connections
            .optional(query.bind(micros_to_sql(length)))
            .await
            .map_err(|error| classify(error, "acquire a lease"))?;
        fence.map(|(fence,)| from_sql(fence, "fence").map(Fence::new)).transpose()
    }

    async fn give_up_lease(&self, name: &str, holder: Uuid) -> Result<()> {
        check_lease_name(name)?;
        let query = sqlx::query(self.schema.sql(RELEASE_LEASE)).bind(name).bind(holder);
        self.writer.connections.execute(query).await.map_err(|error| classify(error, "release a lease"))
    }
}

const RELAYS: &str = "SELECT relay FROM {schema}.relays UNION SELECT name FROM {schema}.leases";

/// Binds: limit. A lease that was given later than a minute from now has ended. The collations are those of the two keys.
const STATUSES: &str = "
    SELECT n.name, coalesce(r.position, 0), r.event_id, l.holder, l.ends_at
    FROM (SELECT relay COLLATE \"C\" AS name FROM {schema}.relays UNION SELECT name FROM {schema}.leases ORDER BY name LIMIT $1) AS n
    LEFT JOIN {schema}.relays r ON r.relay = n.name COLLATE \"default\"
    LEFT JOIN {schema}.leases l ON l.name = n.name AND l.holder IS NOT NULL AND l.ends_at > clock_timestamp()
        AND l.given_at <= clock_timestamp() + interval '1 minute'
    ORDER BY n.name";

const MARK: &str = "SELECT position, event_id FROM {schema}.relays WHERE relay = $1";

/// Binds: relay, position, event, fence. Returns the newest fence, and the event at the position. If the fence is larger than the given one, the
/// statement has changed nothing. It is NULL if the log does not have the given event at the position.
const ADVANCE: &str = "
    WITH found AS MATERIALIZED (
        SELECT (
            SELECT (SELECT event_id FROM {schema}.events e WHERE e.commit_id = l.commit_id AND e.ordinal = $2 - l.first_position + 1)
            FROM {schema}.log l WHERE l.first_position <= $2 ORDER BY l.first_position DESC LIMIT 1
        ) AS event_id
    ), written AS (
        INSERT INTO {schema}.relays AS r (relay, position, event_id, fence)
        SELECT $1, $2, $3, $4 FROM found WHERE $3 IS NULL OR found.event_id = $3
        ON CONFLICT (relay) DO UPDATE SET
            event_id = CASE WHEN r.fence <= excluded.fence AND r.position < excluded.position THEN excluded.event_id ELSE r.event_id END,
            position = CASE WHEN r.fence <= excluded.fence THEN greatest(r.position, excluded.position) ELSE r.position END,
            fence = greatest(r.fence, excluded.fence)
        RETURNING fence
    )
    SELECT (SELECT fence FROM written), event_id FROM found";

/// Binds: relay, position, event. The lease that the leading relay holds ends, and its fence is not enough to move the position.
const RESET: &str = "
    WITH lease AS (UPDATE {schema}.leases SET fence = fence + 1, holder = NULL WHERE name = $1 RETURNING fence),
    record AS (
        INSERT INTO {schema}.audit (at, who, action, target, reason, count) VALUES ($4, $5, $6, $7, $8, $9))
    INSERT INTO {schema}.relays AS r (relay, position, event_id, fence) VALUES ($1, $2, $3, coalesce((SELECT fence FROM lease), 0))
    ON CONFLICT (relay) DO UPDATE
    SET position = excluded.position, event_id = excluded.event_id, fence = greatest(r.fence, excluded.fence)";

/// Binds: name, holder, length in microseconds. Returns no row while another holder has the lease. One that was given later than a minute from
/// now has ended. If two sessions race, the second waits for the row of the first, and then reads the clock again.
const ACQUIRE_LEASE: &str = "
    INSERT INTO {schema}.leases AS l (name, holder, fence, ends_at, given_at)
    VALUES ($1, $2, 1, clock_timestamp() + $3 * interval '1 microsecond', clock_timestamp())
    ON CONFLICT (name) DO UPDATE SET
        fence = CASE WHEN l.holder = excluded.holder THEN l.fence ELSE l.fence + 1 END,
        holder = excluded.holder,
        ends_at = excluded.ends_at,
        given_at = excluded.given_at
    WHERE l.holder = excluded.holder OR l.holder IS NULL OR l.ends_at <= clock_timestamp()
        OR l.given_at > clock_timestamp() + interval '1 minute'
    RETURNING fence";

/// Binds: name, holder.
const RELEASE_LEASE: &str = "UPDATE {schema}.leases SET holder = NULL WHERE name = $1 AND holder = $2";
