//! The servers that `--store` and `--broker` name by their URLs.
//!
//! The default build of the shop has SQLite and a broker within its own process. A server needs the cargo feature of its name, which keeps
//! the drivers and their dependencies out of the first build.

use std::str::FromStr;

/// The database of a server.
#[derive(Debug, Clone)]
pub enum Server {
    #[cfg(feature = "postgres")]
    Postgres(String),
    #[cfg(feature = "mysql")]
    MySql(String),
}

/// A broker outside of this process.
#[derive(Debug, Clone)]
pub enum Broker {
    #[cfg(feature = "rabbitmq")]
    RabbitMq(String),
}

/// Why a URL names no server that the program can use.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum BadAddress {
    #[error("a store is postgres://.. or mysql://..")]
    UnknownStore,
    #[error("this shop was built without `{0}`; run `cargo run --release --features {0} --example shop`")]
    MissingFeature(&'static str),
}

/// Makes a server of its URL; `None` if the program was built without the server's feature.
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
    fn an_address_without_its_feature_names_the_flag() {
        let error = construct::<Server>(None, "postgres", "postgres://localhost/shop").expect_err("it is not built in");
        assert!(error.to_string().contains("cargo run --release --features postgres --example shop"), "{error}");
    }

    #[test]
    fn each_server_is_there_exactly_with_its_feature() {
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
