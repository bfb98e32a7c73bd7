//! Certificates for a RabbitMQ that speaks TLS.

use std::fs;

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
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec!["localhost".into()]).unwrap().signed_by(&key, &authority).unwrap();
        let folder = programs::folder("rabbitmq");
        for (name, text) in [("ca", authority.pem()), ("certificate", certificate.pem()), ("key", key.serialize_pem())]
        {
            fs::write(folder.path().join(name), text).unwrap();
        }
        Self { folder, authority: authority.pem() }
    }

    /// Returns the settings of a broker that speaks TLS on `port`, in the syntax of `advanced.config`.
    pub(crate) fn settings(&self, port: u16) -> String {
        let file = |name| self.folder.path().join(name).display().to_string();
        format!(
            "[{{rabbit, [{{ssl_listeners, [{{\"127.0.0.1\", {port}}}]}}, {{ssl_options, [{{cacertfile, \"{}\"}}, \
             {{certfile, \"{}\"}}, {{keyfile, \"{}\"}}]}}]}}].",
            file("ca"),
            file("certificate"),
            file("key")
        )
    }
}
