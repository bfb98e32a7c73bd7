//! The servers that `--store` and `--broker` name by their URLs.
//!
//! The default build of the shop contains SQLite and a broker inside the process. A server needs the cargo feature with its name, so that
//! the first build does not compile the drivers and their dependencies.

use std::str::FromStr;

/// A database server.
#[derive(Debug, Clone)]
pub enum Server {
    #[cfg(feature = "postgres")]
    Postgres(String),
    #[cfg(feature = "mysql")]
    MySql(String),
}

/// A broker outside this process.
#[derive(Debug, Clone)]
pub enum Broker {
    #[cfg(feature = "rabbitmq")]
    RabbitMq(String),
}

/// The reason why the program cannot use a URL.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum BadAddress {
    #[error("unknown store: use postgres://.. or mysql://..")]
    UnknownStore,
    #[error("this shop was built without `{0}`; run `cargo run --release --features {0} --example shop`")]
    MissingFeature(&'static str),
}

/// Converts a URL to a server; `None` if the program was built without the server's feature.
type Constructor<S> = Option<fn(String) -> S>;

#[cfg(feature = "postgres")]
const POSTGRES: Constructor<Server> = Some(Server::Postgres);
#[cfg(not(feature = "postgres"))]
const POSTGRES: Constructor<Server> = None;

#[cfg(feature = "mysql")]
const MYSQL: Constructor<Server> = Some(Server::MySql);
#[cfg(not(feature = "mysql"))]
const MYSQL: Constructor<Server> = None;

#[cfg(feature = "rabbitmq")]
const RABBITMQ: Constructor<Broker> = Some(Broker::RabbitMq);
#[cfg(not(feature = "rabbitmq"))]
const RABBITMQ: Constructor<Broker> = None;

impl FromStr for Server {
    type Err = BadAddress;

    fn from_str(url: &str) -> Result<Self, BadAddress> {
        match url.split_once("://").map(|(scheme, _)| scheme) {
            Some("postgres" | "postgresql") => construct(POSTGRES, "postgres", url),
            Some("mysql" | "mariadb") => construct(MYSQL, "mysql", url),
            _ => Err(BadAddress::UnknownStore),
        }
    }
}

impl FromStr for Broker {
    type Err = BadAddress;

    fn from_str(url: &str) -> Result<Self, BadAddress> {
        construct(RABBITMQ, "rabbitmq", url)
    }
}

fn construct<S>(constructor: Constructor<S>, feature: &'static str, url: &str) -> Result<S, BadAddress> {
    let constructor = constructor.ok_or(BadAddress::MissingFeature(feature))?;
    Ok(constructor(url.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_without_its_feature_names_the_flag() {
        let error =
            construct::<Server>(None, "postgres", "postgres://localhost/shop").expect_err("the feature is not enabled");
        assert!(error.to_string().contains("cargo run --release --features postgres --example shop"), "{error}");
    }

    #[test]
    fn each_server_needs_its_feature() {
        let store = |url: &str| url.parse::<Server>().map(drop);
        let expected =
            |built_in: bool, feature| if built_in { Ok(()) } else { Err(BadAddress::MissingFeature(feature)) };
        for url in ["postgres://localhost/shop", "postgresql://localhost/shop"] {
            assert_eq!(store(url), expected(cfg!(feature = "postgres"), "postgres"));
        }
        for url in ["mysql://localhost/shop", "mariadb://localhost/shop"] {
            assert_eq!(store(url), expected(cfg!(feature = "mysql"), "mysql"));
        }
        let broker = "amqp://localhost".parse::<Broker>().map(drop);
        assert_eq!(broker, expected(cfg!(feature = "rabbitmq"), "rabbitmq"));
        assert_eq!(store("redis://localhost"), Err(BadAddress::UnknownStore));
    }
}
