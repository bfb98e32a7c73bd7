//! Settings of a whole MySQL or MariaDB server, on one of the test's own.

use retell::operate::Severity;
use retell::{MySqlOptions, MySqlReadModel, MySqlStore};

use crate::servers::{Kind, Server};
use crate::{expect, findings};

#[test]
fn server_that_does_not_wait_for_the_disk_is_found() {
    // It writes a binary log.
    let server = Server::start_primary(Kind::MySql);
    server.administer("SET GLOBAL sync_binlog = 1; CREATE DATABASE shop");
    let url = format!("{}/shop", server.url().rsplit_once('/').unwrap().0);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let options = || MySqlOptions::new().with_durability_of_the_server();
    let open = async || MySqlStore::connect_with(&url, options()).await.unwrap();
    let log = runtime.block_on(open());
    let models = runtime.block_on(MySqlReadModel::connect(&url)).unwrap();
    // A read model loses its rows and its checkpoint together.
    let both = |ids: &[&str]| {
        runtime.block_on(async {
            expect(&log, ids).await;
            expect(&models, ids).await;
            assert!(findings(&models).await.iter().all(|finding| finding.severity == Severity::Info));
            findings(&log).await
        })
    };
    both(&[]);
    for (off, on, id) in [
        ("innodb_flush_log_at_trx_commit = 2", "innodb_flush_log_at_trx_commit = 1", "flush-log-off"),
        ("sync_binlog = 0", "sync_binlog = 1", "sync-binlog-off"),
    ] {
        server.administer(&format!("SET GLOBAL {off}"));
        assert!(both(&[id])[0].remedy.contains(on));
        server.administer(&format!("SET GLOBAL {on}"));
        both(&[]);
    }
    server.administer("SET GLOBAL max_allowed_packet = 1048576");
    // Sessions that are open keep their limit.
    both(&[]);
    runtime.block_on(async { expect(&open().await, &["packet-small"]).await });
}
