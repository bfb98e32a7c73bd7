//! Reads JSON from an HTTP server.

use std::error::Error;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::handshake;
use hyper::header::{AUTHORIZATION, HOST};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::failure::Failure;

/// The largest answer that is read.
const MAX_BYTES: usize = 32 * 1024 * 1024;

/// The management API of a RabbitMQ.
pub(super) struct Api {
    host: String,
    port: u16,
    authorization: String,
    limit: Duration,
}

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unanswered {
    NotFound,
    Denied,
    Failed(String),
}

impl Api {
    pub(super) fn parse(url: &str, limit: Duration) -> Result<Self, Failure> {
        // The URL has a password, so no message repeats it.
        let wrong = |problem: &str| {
            Failure::Usage(format!("--management: {problem}, such as http://guest:guest@localhost:15672"))
        };
        let uri: Uri = url.parse().map_err(|_| wrong("expected a URL"))?;
        if uri.scheme_str() != Some("http") {
            return Err(wrong("expected an http URL (for https, forward the port)"));
        }
        let authority = uri.authority().ok_or_else(|| wrong("expected a host"))?;
        let user = authority.as_str().rsplit_once('@').map_or("guest:guest", |(user, _)| user);
        let user: Vec<u8> = percent_decode_str(user).collect();
        Ok(Self {
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(15_672),
            authorization: format!("Basic {}", STANDARD.encode(user)),
            limit,
        })
    }

    /// Reads `/api/` and the parts of a path.
    pub(super) async fn get(&self, path: &[&str]) -> Result<Value, Unanswered> {
        let failed = |error: &(dyn Error + Send + Sync)| Unanswered::Failed(error.to_string());
        match timeout(self.limit, self.ask(path)).await {
            Ok(Ok((StatusCode::OK, body))) => serde_json::from_slice(&body).map_err(|error| failed(&error)),
            Ok(Ok((StatusCode::NOT_FOUND, _))) => Err(Unanswered::NotFound),
            Ok(Ok((StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _))) => Err(Unanswered::Denied),
            Ok(Ok((status, _))) => Err(Unanswered::Failed(status.to_string())),
            Ok(Err(error)) => Err(failed(&*error)),
            Err(_) => Err(Unanswered::Failed(format!("no answer within {:?}", self.limit))),
        }
    }

    async fn ask(&self, path: &[&str]) -> Result<(StatusCode, Bytes), Box<dyn Error + Send + Sync>> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
        let path: String = path
            .iter()
            .flat_map(|part| ["/".into(), utf8_percent_encode(part, NON_ALPHANUMERIC).to_string()])
            .collect();
        let request = Request::get(format!("/api{path}"))
            .header(HOST, format!("{}:{}", self.host, self.port))
            .header(AUTHORIZATION, &self.authorization)
            .body(Empty::<Bytes>::new())?;
        let asked = async move {
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            // The sender ends with this block, and the connection with the sender.
            Ok::<_, Box<dyn Error + Send + Sync>>((
                status,
                Limited::new(answer.into_body(), MAX_BYTES).collect().await?.to_bytes(),
            ))
        };
        let (answer, connection) = tokio::join!(asked, connection);
        answer.map_err(|error| connection.err().map_or(error, Into::into))
    }
}

impl std::fmt::Display for Unanswered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotFound => "it is not there",
            Self::Denied => "the user of the management API lacks the right; it needs the tag administrator",
            Self::Failed(problem) => problem,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_parsed_and_their_passwords_kept() {
        let parse = |url| Api::parse(url, Duration::from_secs(1));
        let api = parse("http://a%40b:s%2Fc@mq").unwrap();
        assert_eq!((api.host.as_str(), api.port), ("mq", 15_672));
        assert_eq!(api.authorization, format!("Basic {}", STANDARD.encode("a@b:s/c")));
        let api = parse("http://[::1]:99/").unwrap();
        assert_eq!((api.host.as_str(), api.port), ("::1", 99));
        for wrong in ["https://a:secret@mq", "mq", "", "http://a:secret@ b"] {
            let error = parse(wrong).err().unwrap();
            assert!(matches!(&error, Failure::Usage(text) if !text.contains("secret")), "{wrong}: {error}");
        }
    }
}
