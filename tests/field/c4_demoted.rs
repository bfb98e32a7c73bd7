//! C4. A primary that was demoted keeps its sessions read-only, while new sessions reach a server that can be written to.

use std::time::Duration;

use futures::future::{join_all, try_join_all};
use retell::prelude::*;
use retell::store::{Append, EventStore, ReadModel, Step};
use retell::testing::store::{event, stream};
use retell::{ErrorKind, ProjectionName};

use crate::proxy::{Limits, Proxied, open_mysql, open_postgres};

const LIMITS: Limits = Limits { call: Duration::from_secs(30), wait: Duration::from_secs(5) };

const CONNECTIONS: u32 = 6;

/// Uses every connection at once. Returns the error of a call that failed.
async fn use_all(store: &impl EventStore, models: &impl ReadModel, round: u64) -> retell::Result<()> {
    let calls = async |number: u32| {
        let append = Append::new(stream(&number.to_string()), ExpectedVersion::Any, vec![event("{}")]);
        let appended = store.append(append).await?;
        // Reading the head gives positions to new commits, which writes.
        store.head().await?;
        let position = store.position_of(appended.token()).await?;
        position.ok_or_else(|| ErrorKind::Transient("find the append's position".into()))?;
        let name = ProjectionName::new(format!("p{number}")).unwrap();
        let step = Step::new(&name, Position::new(round), Position::new(round + 1));
        models.commit(step, Box::new(|_| Box::pin(async { Ok(()) }))).await
    };
    try_join_all((0..2 * CONNECTIONS).map(calls)).await.map(drop)
}

/// Makes every open session of each pool read-only, more than a second after the last time: until then, a store takes the server itself for
/// read-only.
macro_rules! demote {
    ($setting:expr, $($pool:expr),*) => {
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        $(let mut sessions = join_all((0..CONNECTIONS).map(|_| $pool.acquire())).await;
        for session in &mut sessions {
            sqlx::raw_sql($setting).execute(&mut **session.as_mut().unwrap()).await.unwrap();
        }
        drop(sessions);)*
    };
}

#[tokio::test(flavor = "multi_thread")]
async fn demoted_sessions_are_replaced_on_postgres() {
    let proxied = Proxied::postgres().await;
    let pool = proxied.postgres_pool(CONNECTIONS, "").await;
    let (store, models) = open_postgres(pool.clone(), LIMITS).await;
    for round in 0..3 {
        use_all(&store, &models, round).await.unwrap();
        demote!("SET default_transaction_read_only = on", pool, models.pool());
    }
    use_all(&store, &models, 3).await.unwrap();
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn demoted_sessions_are_replaced_on_mysql() {
    let proxied = Proxied::mysql().await;
    let pool = proxied.mysql_pool(CONNECTIONS, "SELECT 1").await;
    let (store, models) = open_mysql(pool.clone(), LIMITS).await;
    for round in 0..3 {
        use_all(&store, &models, round).await.unwrap();
        demote!("SET SESSION TRANSACTION READ ONLY", pool, models.pool());
    }
    use_all(&store, &models, 3).await.unwrap();
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn read_only_server_refuses_writes_and_recovers() {
    let proxied = Proxied::postgres().await;
    let pool = proxied.postgres_pool(CONNECTIONS, "").await;
    let (store, models) = open_postgres(pool.clone(), LIMITS).await;
    use_all(&store, &models, 0).await.unwrap();
    let name = pool.connect_options().get_database().unwrap().to_owned();
    proxied.database.place.run(&format!("ALTER DATABASE {name} SET default_transaction_read_only = on")).await;
    demote!("SET default_transaction_read_only = on", pool, models.pool());
    for _ in 0..5 {
        let append = Append::new(stream("0"), ExpectedVersion::Any, vec![event("{}")]);
        assert_eq!(*store.append(append).await.unwrap_err().kind(), ErrorKind::ReadOnly);
        store.head().await.unwrap();
    }
    let writable = format!("BEGIN READ WRITE; ALTER DATABASE {name} RESET default_transaction_read_only; COMMIT");
    proxied.database.place.run(&writable).await;
    // A refusal within the last second came from a session as new as this one, and the next calls close it.
    let recovered = async { while use_all(&store, &models, 1).await.is_err() {} };
    tokio::time::timeout(Duration::from_mins(5), recovered).await.unwrap();
    store.close().await.unwrap();
}
