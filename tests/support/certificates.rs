//! Certificates for a server that speaks TLS.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;

use crate::programs;

/// The certificate of `localhost`, and the authority that signed it.
pub(crate) struct Certificates {
    /// The server can read its files.
    folder: TempDir,
    /// The certificate of the authority, as PEM.
    pub(crate) authority: String,
}

impl Certificates {
    /// Creates certificates for RabbitMQ.
    pub(crate) fn new() -> Self {
        Self::of_user("rabbitmq")
    }

    /// Creates certificates for the server that runs as `user`.
    pub(crate) fn of_user(user: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec!["localhost".into()]).unwrap().signed_by(&key, &authority).unwrap();
        let folder = programs::folder(user);
        for (name, text) in [("ca", authority.pem()), ("certificate", certificate.pem()), ("key", key.serialize_pem())]
        {
            fs::write(folder.path().join(name), text).unwrap();
        }
        // PostgreSQL refuses a key that others may read.
        let key = folder.path().join("key");
        chown(&key, Some(fs::metadata(folder.path()).unwrap().uid()), None).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        Self { folder, authority: authority.pem() }
    }

    /// Returns the path of `ca`, `certificate` or `key`.
    pub(crate) fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Returns the settings of a broker that speaks TLS on `port`, in the syntax of `advanced.config`.
    pub(crate) fn settings(&self, port: u16) -> String {
        let file = |name| self.file(name);
        format!(
            "[{{rabbit, [{{ssl_listeners, [{{\"127.0.0.1\", {port}}}]}}, {{ssl_options, [{{cacertfile, \"{}\"}}, \
             {{certfile, \"{}\"}}, {{keyfile, \"{}\"}}]}}]}}].",
            file("ca"),
            file("certificate"),
            file("key")
        )
    }
}
