//! C7. An up-to-date log opens without rights to change the schema.

use retell::store::mysql::MySqlStore;
use retell::store::postgres::{PostgresReadModel, PostgresStore};
use retell::store::{Append, EventStore};
use retell::testing::store::{events, stream};
use retell::{ExpectedVersion, Position};

use crate::databases::{Database, Place};
use crate::unfit::{report, sql};

/// A database with a user of its own, which is dropped by `drop_user`.
struct WithUser {
    database: Database,
    user: String,
    /// The URL that the user connects with.
    url: String,
}

impl WithUser {
    async fn create(database: Database, sql: &str) -> Self {
        let (Place::Postgres(url) | Place::MySql(url)) = &database.place else { unreachable!("a file has no users") };
        let (server, name) = url.rsplit_once('/').unwrap();
        let user = format!("{name}_user");
        let host = server.rsplit_once('@').unwrap().1;
        let scheme = server.split_once("://").unwrap().0;
        let url = format!("{scheme}://{user}:retell@{host}/{name}");
        let created = Self { database, user, url };
        created.run(sql).await;
        created
    }

    /// Runs SQL as an administrator. `USER` and `DATABASE` stand for the names.
    async fn run(&self, sql: &str) {
        let name = self.url.rsplit_once('/').unwrap().1;
        self.database.place.run(&sql.replace("USER_NAME", &self.user).replace("DATABASE_NAME", name)).await;
    }
}

async fn use_log(store: impl EventStore) {
    store.append(Append::new(stream("a"), ExpectedVersion::NoStream, events(1))).await.unwrap();
    assert_eq!(store.head().await.unwrap(), Position::new(1));
    store.close().await.unwrap();
}

#[tokio::test]
async fn owner_of_the_schema_needs_no_right_on_the_database() {
    let create = "CREATE ROLE USER_NAME LOGIN PASSWORD 'retell'; CREATE SCHEMA retell AUTHORIZATION USER_NAME";
    let own = WithUser::create(Database::postgres().await, create).await;
    PostgresReadModel::connect(&own.url).await.unwrap();
    use_log(PostgresStore::connect(&own.url).await.unwrap()).await;
    own.run("DROP OWNED BY USER_NAME; DROP ROLE USER_NAME").await;
}

#[tokio::test]
async fn missing_rights_on_postgres_are_told_as_sql() {
    let create = "CREATE ROLE USER_NAME LOGIN PASSWORD 'retell'";
    let own = WithUser::create(Database::postgres().await, create).await;
    let missing = PostgresStore::connect(&own.url).await.unwrap_err();
    assert!(report(&missing).contains(&format!("CREATE SCHEMA retell AUTHORIZATION {}", own.user)), "{missing}");

    let Place::Postgres(admin) = &own.database.place else { unreachable!() };
    PostgresStore::connect(admin).await.unwrap().close().await.unwrap();
    // Each report names the next rights, and its SQL grants them.
    let unusable = PostgresStore::connect(&own.url).await.unwrap_err();
    assert!(report(&unusable).contains("GRANT USAGE ON SCHEMA retell"), "{unusable}");
    own.run(&sql(&unusable)).await;
    let denied = PostgresStore::connect(&own.url).await.unwrap_err();
    assert!(report(&denied).contains("GRANT SELECT, INSERT ON retell.events TO"), "{denied}");
    own.run(&sql(&denied)).await;
    use_log(PostgresStore::connect(&own.url).await.unwrap()).await;

    // An upgrade is another matter.
    own.run("UPDATE retell.retell_functions SET text_hash = 0 WHERE name = 'append'").await;
    let outdated = PostgresStore::connect(&own.url).await.unwrap_err();
    let told = report(&outdated);
    assert!(told.contains("GRANT CREATE ON SCHEMA retell") && told.contains("belongs to"), "{told}");
    own.run("DROP OWNED BY USER_NAME; DROP ROLE USER_NAME").await;
}

#[tokio::test]
async fn missing_rights_on_mysql_are_told_as_sql() {
    let create = "CREATE USER USER_NAME IDENTIFIED BY 'retell'; GRANT SELECT ON DATABASE_NAME.* TO USER_NAME";
    let own = WithUser::create(Database::mysql().await, create).await;
    let missing = MySqlStore::connect(&own.url).await.unwrap_err();
    assert!(report(&missing).contains("CREATE VIEW, DROP, TRIGGER ON"), "{missing}");

    let Place::MySql(admin) = &own.database.place else { unreachable!() };
    MySqlStore::connect(admin).await.unwrap().close().await.unwrap();
    let denied = MySqlStore::connect(&own.url).await.unwrap_err();
    assert!(report(&denied).contains("GRANT INSERT, DELETE ON"), "{denied}");
    own.run(&sql(&denied).replace(&format!("{}@%", own.user), &own.user)).await;
    use_log(MySqlStore::connect(&own.url).await.unwrap()).await;
    own.run("DROP USER USER_NAME").await;
}
