//! Export and import: a log goes from store to store and stays the same, byte for byte. Needs `POSTGRES_URL` and `MYSQL_URL`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/databases.rs"]
mod databases;
mod home;
mod hostile;
mod live;
mod refused;
mod rounds;
