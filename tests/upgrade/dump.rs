//! Dumps a database as text that is the same in every run: the inputs are fixed, and `steady` overwrites the times and
//! lanes that a run chooses.

use std::process::Stdio;

use sqlx::{AssertSqlSafe, Connection, MySqlConnection, Row};

use crate::databases::Place;
use crate::log::DAY;
use crate::programs;

/// Overwrites the parts of a log that differ from run to run.
pub(crate) async fn steady(place: &Place) {
    let statements = match place {
        Place::Sqlite(_) => {
            let trigger = trigger(include_str!("../../migrations/sqlite/0001_tables.sql"), "END;");
            format!(
                "DROP TRIGGER retell_events_no_update;
                UPDATE retell_events SET recorded_at = (unixepoch('{DAY}') + position) * 1000000;
                {trigger}
                UPDATE retell_migrations SET applied_at = '{DAY} 00:00:00';"
            )
        }
        Place::Postgres(_) => format!(
            "ALTER TABLE retell.events DISABLE TRIGGER USER;
            UPDATE retell.events SET recorded_at = timestamptz '{DAY} 00:00:00+00' + commit_id * interval '1 second';
            UPDATE retell.commits SET recorded_at = timestamptz '{DAY} 00:00:00+00' + commit_id * interval '1 second';
            UPDATE retell.log SET recorded_at = timestamptz '{DAY} 00:00:00+00' + commit_id * interval '1 second';
            ALTER TABLE retell.events ENABLE TRIGGER USER;
            UPDATE retell.retell_migrations SET applied_at = timestamptz '{DAY} 00:00:00+00';
            UPDATE retell.commits SET lane = 7;
            UPDATE retell.lanes SET sequenced = CASE lane WHEN 7 THEN (SELECT max(sequenced) FROM retell.lanes) ELSE 0 END;"
        ),
        Place::MySql(_) => {
            let trigger = trigger(include_str!("../../migrations/mysql/0001_tables.sql"), "';");
            format!(
                "DROP TRIGGER retell_events_no_update;
                UPDATE retell_events SET recorded_at = TIMESTAMP '{DAY} 00:00:00' + INTERVAL commit_id SECOND;
                {trigger}
                UPDATE retell_migrations SET applied_at = '{DAY} 00:00:00';"
            )
        }
    };
    place.run(&statements).await;
}

/// Returns the statement that creates the trigger against changes.
fn trigger<'m>(migration: &'m str, end: &str) -> &'m str {
    let start = migration.find("CREATE TRIGGER retell_events_no_update").unwrap();
    let length = migration[start..].find(end).unwrap() + end.len();
    &migration[start..start + length]
}

pub(crate) async fn of(place: &Place) -> String {
    match place {
        Place::Sqlite(path) => lines(&sqlite(&rusqlite::Connection::open(path).unwrap())),
        Place::Postgres(url) => postgres(url, &[]),
        Place::MySql(url) => lines(&mysql(&mut MySqlConnection::connect(url).await.unwrap()).await),
    }
}

/// Dumps the schema without the rows.
pub(crate) async fn schema(place: &Place) -> String {
    match place {
        Place::Sqlite(path) => {
            lines(&sqlite_schema(&rusqlite::Connection::open(path).unwrap(), "'table', 'index', 'trigger', 'view'"))
        }
        Place::Postgres(url) => {
            postgres(url, &["--schema-only"]) + &postgres(url, &["--data-only", "-t", "retell.retell_functions"])
        }
        Place::MySql(url) => {
            let mut db = MySqlConnection::connect(url).await.unwrap();
            let mut statements = Vec::new();
            for table in base_tables(&mut db).await {
                let statement = shown(&mut db, &format!("SHOW CREATE TABLE {table}"), 1).await;
                statements.push(without_collation(&without_next_number(&statement)));
            }
            statements.extend(triggers_and_views(&mut db).await);
            lines(&statements)
        }
    }
}

fn lines(statements: &[String]) -> String {
    statements.join(";\n") + ";\n"
}

// -- SQLite --

fn sqlite_texts(db: &rusqlite::Connection, statement: &str) -> Vec<String> {
    let mut statement = db.prepare(statement).unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
}

fn sqlite_schema(db: &rusqlite::Connection, kinds: &str) -> Vec<String> {
    let sql = format!("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND type IN ({kinds}) ORDER BY type, name");
    sqlite_texts(db, &sql)
}

fn sqlite(db: &rusqlite::Connection) -> Vec<String> {
    let texts = |statement: &str| sqlite_texts(db, statement);
    let mut statements = sqlite_schema(db, "'table'");
    for table in texts("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name") {
        let columns = texts(&format!("SELECT name FROM pragma_table_info('{table}')"));
        let quoted: Vec<_> = columns.iter().map(|column| format!("quote({column})")).collect();
        let row = format!("'INSERT INTO {table} VALUES (' || {} || ')'", quoted.join(" || ', ' || "));
        statements.extend(texts(&format!("SELECT {row} FROM {table} ORDER BY 1")));
    }
    statements.extend(sqlite_schema(db, "'index', 'trigger', 'view'"));
    statements
}

// -- PostgreSQL --

/// Dumps with `pg_dump`, and leaves out lines that depend on its release or on the user.
fn postgres(url: &str, options: &[&str]) -> String {
    // The one that has the version of the server.
    let mut dump = programs::client(programs::find("pg_dump").expect("pg_dump is installed"));
    dump.args(options)
        .args(["--inserts", "--no-owner", "--no-privileges", "--no-comments"])
        .arg(url)
        .env("PGTZ", "UTC");
    let output = dump.stdin(Stdio::null()).output().expect("pg_dump is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let is_noise = |line: &&str| {
        // This setting is kept: the functions are created before the tables that they name.
        *line != "SET check_function_bodies = false;"
            && (["--", "\\", "SET ", "SELECT pg_catalog.set_config"].iter().any(|start| line.starts_with(start))
                || line.is_empty())
    };
    let mut lines: Vec<&str> = text.lines().filter(|line| !is_noise(line)).collect();
    // The updates above have moved rows within a table, so this sorts them.
    for rows in lines.chunk_by_mut(|one, next| one.starts_with("INSERT") && next.starts_with("INSERT")) {
        rows.sort_unstable();
    }
    lines.join("\n") + "\n"
}

// -- MySQL --

async fn mysql(db: &mut MySqlConnection) -> Vec<String> {
    let mut statements = Vec::new();
    for table in base_tables(db).await {
        statements.push(shown(db, &format!("SHOW CREATE TABLE {table}"), 1).await);
        let columns = format!(
            "SELECT CASE WHEN data_type IN ('binary', 'varbinary', 'longblob')
                THEN CONCAT('IF(`', column_name, '` IS NULL, ''NULL'', CONCAT(''x'''''', HEX(`', column_name, '`), ''''''''))')
                ELSE CONCAT('QUOTE(`', column_name, '`)') END
            FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = '{table}' ORDER BY ordinal_position"
        );
        let columns = texts(db, &columns).await.join(", ', ', ");
        let rows = format!("SELECT CONCAT('INSERT INTO {table} VALUES (', {columns}, ')') FROM {table} ORDER BY 1");
        statements.extend(texts(db, &rows).await);
    }
    statements.extend(triggers_and_views(db).await);
    statements
}

const TABLES: &str =
    "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() AND table_type = ";

async fn base_tables(db: &mut MySqlConnection) -> Vec<String> {
    texts(db, &format!("{TABLES} 'BASE TABLE' ORDER BY table_name")).await
}

/// Returns the statements of triggers and views.
async fn triggers_and_views(db: &mut MySqlConnection) -> Vec<String> {
    let mut statements = Vec::new();
    let triggers =
        "SELECT trigger_name FROM information_schema.triggers WHERE trigger_schema = DATABASE() ORDER BY trigger_name";
    for trigger in texts(db, triggers).await {
        statements.push(without_definer(&shown(db, &format!("SHOW CREATE TRIGGER {trigger}"), 2).await));
    }
    for view in texts(db, &format!("{TABLES} 'VIEW' ORDER BY table_name")).await {
        statements.push(without_definer(&shown(db, &format!("SHOW CREATE VIEW {view}"), 1).await));
    }
    statements
}

/// Returns the first column, which some servers declare as bytes.
async fn texts(db: &mut MySqlConnection, sql: &str) -> Vec<String> {
    let rows = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).fetch_all(db).await.unwrap();
    rows.iter().map(|row| String::from_utf8(row.get_unchecked::<Vec<u8>, _>(0)).unwrap()).collect()
}

async fn shown(db: &mut MySqlConnection, sql: &str, column: usize) -> String {
    let row = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).fetch_one(db).await.unwrap();
    String::from_utf8(row.get_unchecked::<Vec<u8>, _>(column)).unwrap()
}

/// Removes a table's next automatic number, which depends on its rows.
fn without_next_number(statement: &str) -> String {
    let Some((before, rest)) = statement.split_once(" AUTO_INCREMENT=") else { return statement.to_owned() };
    before.to_owned() + rest.trim_start_matches(|digit: char| digit.is_ascii_digit())
}

/// Removes default collations, which differ by server. All columns that are compared are binary.
fn without_collation(statement: &str) -> String {
    let mut parts = statement.split(" COLLATE");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |before, rest| {
        let rest = rest.trim_start_matches(['=', ' ']);
        before + rest.trim_start_matches(|letter: char| letter.is_ascii_alphanumeric() || letter == '_')
    })
}

/// Removes the user that created the object, who may not exist where the dump is loaded.
fn without_definer(statement: &str) -> String {
    let (before, rest) = statement.split_once(" DEFINER=").unwrap();
    let end = rest.find(" SQL SECURITY").or_else(|| rest.find(" TRIGGER")).unwrap();
    format!("{before}{}", &rest[end..])
}
