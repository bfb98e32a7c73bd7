//! Servers that accept only TLS, with a private certificate authority.

use std::fs;

use crate::certificates::Certificates;
use crate::server::{Place, Server, folder};
use crate::servers::{self, Kind};
use crate::tool::{Ran, Tool};

/// Runs a command on the server at `url` by its name in the certificate, with parameters of the connection.
fn run(url: &str, parameters: &str, command: &str) -> Ran {
    Tool::at(format!("{}?{parameters}", url.replace("127.0.0.1", "localhost"))).run(command.split(' '))
}

#[tokio::test]
async fn postgres_is_reached_over_tls_only() {
    let certificates = Certificates::of_user("postgres");
    let place = folder();
    let hosts = place.path().join("hosts");
    fs::write(&hosts, "hostssl all all 127.0.0.1/32 trust\n").unwrap();
    let file = |setting: &str, name: &str| format!("{setting}={}", certificates.file(name));
    let settings =
        [file("ssl_cert_file", "certificate"), file("ssl_key_file", "key"), format!("hba_file={}", hosts.display())];
    let settings: Vec<_> = settings.iter().map(String::as_str).chain(["ssl=on"]).collect();
    let server = Server::start_with(Place::Folder(place), &settings);
    let url = server.url();

    let plain = run(&url, "sslmode=disable", "migrate --yes");
    assert_eq!(plain.exit, 69, "{plain:?}");
    let created = run(&url, "sslmode=require", "migrate --yes");
    assert_eq!(created.exit, 0, "{created:?}");
    let trusted = run(&url, &format!("sslmode=verify-full&sslrootcert={}", certificates.file("ca")), "status");
    assert_eq!(trusted.exit, 0, "{trusted:?}");
    let stranger = Certificates::of_user("postgres");
    for parameters in ["sslmode=verify-full", &format!("sslmode=verify-full&sslrootcert={}", stranger.file("ca"))] {
        let refused = run(&url, parameters, "status");
        assert!(refused.exit == 69 && refused.stderr.contains("certificate"), "{refused:?}");
    }
}

#[test]
fn mysql_is_reached_over_tls_only() {
    let certificates = Certificates::of_user("mysql");
    let file = |option: &str, name: &str| format!("--{option}={}", certificates.file(name));
    let files = [file("ssl-ca", "ca"), file("ssl-cert", "certificate"), file("ssl-key", "key")];
    let settings = files.into_iter().chain(["--require-secure-transport=ON".to_owned()]).collect();
    let server = servers::Server::start_with(Kind::MySql, settings);
    server.administer("CREATE DATABASE shop");
    let url = server.url().replace("/mysql", "/shop");

    let plain = run(&url, "ssl-mode=DISABLED", "migrate --yes");
    assert_eq!(plain.exit, 69, "{plain:?}");
    let created = run(&url, "ssl-mode=REQUIRED", "migrate --yes");
    assert_eq!(created.exit, 0, "{created:?}");
    let trusted = run(&url, &format!("ssl-mode=VERIFY_IDENTITY&ssl-ca={}", certificates.file("ca")), "status");
    assert_eq!(trusted.exit, 0, "{trusted:?}");
    let stranger = Certificates::of_user("mysql");
    for authority in [String::new(), format!("&ssl-ca={}", stranger.file("ca"))] {
        let refused = run(&url, &format!("ssl-mode=VERIFY_IDENTITY{authority}"), "status");
        assert!(refused.exit == 69 && refused.stderr.contains("certificate"), "{refused:?}");
    }
}
