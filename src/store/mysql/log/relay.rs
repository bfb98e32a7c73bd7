//! Stores the position and the lease of a relay.

use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use crate::error::Result;
use crate::id::{Fence, Position};
use crate::store::log::relay::{RelayStore, check_fence, check_lease_name, check_relay_name};
use crate::store::mysql::error::classify;
use crate::store::mysql::store::MySqlStore;
use crate::store::server::convert::{from_sql, micros_to_sql, to_sql};

#[async_trait]
impl RelayStore for MySqlStore {
    async fn position(&self, relay: &str) -> Result<Position> {
        check_relay_name(relay)?;
        let position: Option<(i64,)> = self
            .writer
            .connections
            .optional(sqlx::query_as(POSITION).bind(relay.as_bytes()))
            .await
            .map_err(|error| classify(error, "read a relay's position"))?;
        from_sql(position.map_or(0, |(position,)| position), "position").map(Position::new)
    }

    async fn advance(&self, relay: &str, position: Position, fence: Fence) -> Result<()> {
        check_relay_name(relay)?;
        let (connections, name) = (&self.writer.connections, relay.as_bytes());
        let failed = |error| classify(error, "advance a relay's position");
        let (position, number) = (to_sql(position.get()), to_sql(fence.get()));
        let set = sqlx::query(ADVANCE).bind(name).bind(position).bind(number).bind(number).bind(position).bind(number);
        connections.execute(set).await.map_err(failed)?;
        // The server does not return the row it wrote. If another relay has raised the fence in between, this relay must stop too.
        let (newest,): (i64,) = connections.one(sqlx::query_as(FENCE).bind(name)).await.map_err(failed)?;
        check_fence(relay, fence, Fence::new(from_sql(newest, "fence")?))
    }

    async fn acquire_lease(&self, name: &str, holder: Uuid, length: Duration) -> Result<Option<Fence>> {
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
            .bind(length);
        connections.execute(query).await.map_err(failed)?;
        // Reads the current holder. If the first statement acquired the lease, no other holder can have it by now.
        let fence: Option<(i64,)> =
            connections.optional(sqlx::query_as(HELD).bind(name).bind(holder)).await.map_err(failed)?;
        fence.map(|(fence,)| from_sql(fence, "fence").map(Fence::new)).transpose()
    }

    async fn release_lease(&self, name: &str, holder: Uuid) -> Result<()> {
        check_lease_name(name)?;
        let release = sqlx::query(RELEASE_LEASE).bind(name.as_bytes()).bind(&holder.as_bytes()[..]);
        self.writer.connections.execute(release).await.map_err(|error| classify(error, "release a lease"))
    }
}

const POSITION: &str = "SELECT position FROM retell_relays WHERE relay = ?";

/// Binds: relay, position, fence; then fence, position, fence. The server assigns from left to right, and each assignment sees those
/// before it.
const ADVANCE: &str = "
    INSERT INTO retell_relays (relay, position, fence) VALUES (?, ?, ?)
    ON DUPLICATE KEY UPDATE position = IF(fence <= ?, GREATEST(position, ?), position), fence = GREATEST(fence, ?)";

const FENCE: &str = "SELECT fence FROM retell_relays WHERE relay = ?";

/// Binds: name, holder, length in microseconds; then holder, holder, holder, length. The server assigns from left to right: the first two
/// assignments read the old end, the last one reads the new holder.
const ACQUIRE_LEASE: &str = "
    INSERT INTO retell_leases (name, holder, fence, ends_at) VALUES (?, ?, 1, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND)
    ON DUPLICATE KEY UPDATE
        fence = IF((holder IS NULL OR ends_at <= UTC_TIMESTAMP(6)) AND NOT (holder <=> ?), fence + 1, fence),
        holder = IF(holder IS NULL OR ends_at <= UTC_TIMESTAMP(6), ?, holder),
        ends_at = IF(holder = ?, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, ends_at)";

/// Binds: name, holder.
const HELD: &str = "SELECT fence FROM retell_leases WHERE name = ? AND holder = ?";

/// Binds: name, holder.
const RELEASE_LEASE: &str = "UPDATE retell_leases SET holder = NULL WHERE name = ? AND holder = ?";
