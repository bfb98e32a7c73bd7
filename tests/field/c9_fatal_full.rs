//! C9. `Full` means that nothing was written. A session that ends with "disk full" may have written its commit.

use std::time::Duration;

use retell::prelude::*;
use retell::store::{Append, EventStore, Replay};
use retell::testing::store::{event, replayed, stream};
use retell::{Error, ErrorKind};

use crate::proxy::{Limits, Proxied, Traffic, open_mysql, open_postgres};

const LIMITS: Limits = Limits { call: Duration::from_secs(30), wait: Duration::from_secs(5) };

/// Returns the error of an append whose answer is replaced, and the number of events that it has written.
async fn answered(
    proxied: &Proxied,
    store: impl EventStore,
    request: &'static [u8],
    answer: Vec<u8>,
) -> (Error, usize) {
    let append = |id| Append::new(stream(id), ExpectedVersion::NoStream, vec![event("{}")]);
    // Prepares the statements, so that the request with the name of the stream is the one that writes.
    store.append(append("first")).await.unwrap();
    proxied.proxy.set(Traffic::Replaced(request, answer));
    let error = store.append(append("second")).await.unwrap_err();
    proxied.proxy.set(Traffic::Flows);
    let written = replayed(&store, &stream("second"), Replay::ALL).await.unwrap().events.len();
    store.close().await.unwrap();
    (error, written)
}

/// An error message in PostgreSQL's protocol.
fn postgres_error(severity: &str) -> Vec<u8> {
    let fields = format!("S{severity}\0V{severity}\0C53100\0Mcould not write to file: No space left on device\0\0");
    let length = u32::try_from(fields.len() + 4).unwrap();
    [b"E".as_slice(), &length.to_be_bytes(), fields.as_bytes()].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn fatal_full_disk_is_transient_on_postgres() {
    for severity in ["FATAL", "PANIC"] {
        let proxied = Proxied::postgres().await;
        let (store, _) = open_postgres(proxied.postgres_pool(1, "").await, LIMITS).await;
        let (error, written) = answered(&proxied, store, b"second", postgres_error(severity)).await;
        assert_eq!((error.is_transient(), written), (true, 1), "{severity}: {error:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn full_disk_at_commit_is_transient_on_mysql() {
    let proxied = Proxied::mysql().await;
    let (store, _) = open_mysql(proxied.mysql_pool(1, "SELECT 1").await, LIMITS).await;
    // A packet of MySQL's protocol: length, number, kind, error 1021, SQLSTATE, text.
    let text = b"\xff\xfd\x03#HY000Disk full";
    let packet = [&[u8::try_from(text.len()).unwrap(), 0, 0, 1], text.as_slice()].concat();
    let (error, written) = answered(&proxied, store, b"\x03COMMIT", packet).await;
    assert!(matches!(error.kind(), ErrorKind::Transient(_)), "{error:#}");
    assert_eq!(written, 1);
}
