//! A PostgreSQL that accepts only TLS, with a private certificate authority.

use std::fs;

use crate::certificates::Certificates;
use crate::server::{Place, Server, folder};
use crate::tool::Tool;

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
    let run = |parameters: &str, command: &str| {
        let url = format!("{}?{parameters}", server.url().replace("127.0.0.1", "localhost"));
        Tool::at(url).run(command.split(' '))
    };

    let plain = run("sslmode=disable", "migrate --yes");
    assert_eq!(plain.exit, 69, "{plain:?}");
    let created = run("sslmode=require", "migrate --yes");
    assert_eq!(created.exit, 0, "{created:?}");
    let trusted = run(&format!("sslmode=verify-full&sslrootcert={}", certificates.file("ca")), "status");
    assert_eq!(trusted.exit, 0, "{trusted:?}");
    let stranger = Certificates::of_user("postgres");
    for parameters in ["sslmode=verify-full", &format!("sslmode=verify-full&sslrootcert={}", stranger.file("ca"))] {
        let refused = run(parameters, "status");
        assert!(refused.exit == 69 && refused.stderr.contains("certificate"), "{refused:?}");
    }
}
