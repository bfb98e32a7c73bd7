//! Problems of the databases of read models.

use retell::operate::Severity;
use retell::{MySqlReadModel, PostgresReadModel, ReadModel, SqliteReadModel};
use sqlx::{AssertSqlSafe, Connection, MySqlConnection};

use crate::databases::{Database, Place};
use crate::{expect, findings};

#[tokio::test]
async fn problems_of_a_postgres_are_found() {
    let database = Database::postgres().await;
    let Place::Postgres(url) = &database.place else { unreachable!("a database on PostgreSQL") };
    let models = PostgresReadModel::connect(url).await.unwrap();
    expect(&models, &[]).await;
    for (sql, id) in [
        ("ALTER TABLE retell.audit DISABLE TRIGGER audit_no_change", "trigger-disabled"),
        (
            "ALTER TABLE retell.audit ENABLE TRIGGER audit_no_change; DROP TRIGGER skipped_no_change ON retell.skipped",
            "trigger-missing",
        ),
        (
            "CREATE TRIGGER skipped_no_change BEFORE UPDATE OR DELETE ON retell.skipped
                FOR EACH ROW EXECUTE FUNCTION retell.refuse_change_of_record();
             DROP TRIGGER audit_no_truncate ON retell.audit",
            "trigger-missing",
        ),
    ] {
        database.place.run(sql).await;
        expect(&models, &[id]).await;
        assert!(findings(&models).await[0].breaks.contains("operators"));
    }
    let (server, name) = url.rsplit_once('/').unwrap();
    let (role, host) = (format!("m{name}"), server.rsplit_once('@').unwrap().1);
    database
        .place
        .run(&format!(
            "CREATE TRIGGER audit_no_truncate BEFORE TRUNCATE ON retell.audit
                FOR EACH STATEMENT EXECUTE FUNCTION retell.refuse_change_of_record();
             ALTER DATABASE {name} SET synchronous_commit = off;
             CREATE ROLE {role} LOGIN PASSWORD 'secret'; GRANT USAGE ON SCHEMA retell TO {role};
             GRANT pg_read_all_stats TO {role};
             GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA retell TO {role}"
        ))
        .await;
    models.close().await.unwrap();
    let models = PostgresReadModel::connect(&format!("postgres://{role}:secret@{host}/{name}")).await.unwrap();
    expect(&models, &["synchronous-commit-off"]).await;
    assert_eq!(findings(&models).await[0].severity, Severity::Info);
    database.place.run(&format!("REVOKE UPDATE ON retell.parked FROM {role}")).await;
    expect(&models, &["right-missing", "synchronous-commit-off"]).await;
    models.close().await.unwrap();
    database.place.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[tokio::test]
async fn problems_of_a_mysql_are_found() {
    let database = Database::mysql().await;
    let url = crate::mysql::url(&database);
    let models = MySqlReadModel::connect(url).await.unwrap();
    expect(&models, &[]).await;
    database.place.run("DROP TRIGGER retell_audit_no_delete").await;
    expect(&models, &["trigger-missing"]).await;
    let refuses = "CREATE TRIGGER retell_audit_no_delete BEFORE DELETE ON retell_audit
                   FOR EACH ROW SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'rows of audit are immutable'";
    database.place.run(refuses).await;
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT CONVERT(table_name USING utf8mb4) FROM information_schema.tables WHERE table_schema = DATABASE()",
    )
    .fetch_all(models.pool())
    .await
    .unwrap();
    models.close().await.unwrap();
    let (server, name) = (url.rsplit_once('@').unwrap().1, url.rsplit_once('/').unwrap().1);
    let user = format!("m{name}");
    let mut operator = MySqlConnection::connect(url).await.unwrap();
    let mut run = async |sql: String| sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut operator).await.map(drop).unwrap();
    run(format!("CREATE USER {user} IDENTIFIED BY 'secret'")).await;
    for table in tables {
        run(format!("GRANT SELECT, INSERT, UPDATE, DELETE, TRIGGER ON {name}.{table} TO {user}")).await;
    }
    let models = MySqlReadModel::connect(&format!("mysql://{user}:secret@{server}")).await.unwrap();
    // The right to see the transactions of others is missing.
    expect(&models, &["unknown"]).await;
    run(format!("REVOKE UPDATE ON {name}.retell_parked FROM {user}")).await;
    expect(&models, &["right-missing", "unknown"]).await;
    models.close().await.unwrap();
    run(format!("DROP USER {user}")).await;
}

#[tokio::test]
async fn problems_of_a_file_are_found() {
    let database = Database::sqlite();
    let Place::Sqlite(path) = &database.place else { unreachable!("a SQLite file") };
    let models = SqliteReadModel::open(path).await.unwrap();
    expect(&models, &[]).await;
    database.place.run("DROP TRIGGER retell_skipped_no_update").await;
    expect(&models, &["trigger-missing"]).await;
    std::fs::rename(path, path.with_extension("old")).unwrap();
    std::fs::copy(path.with_extension("old"), path).unwrap();
    expect(&models, &["file-replaced"]).await;
    expect(&SqliteReadModel::in_memory().await.unwrap(), &[]).await;
}
