//! Answers the probes of a supervisor over HTTP: 200 or 503, with the problems as JSON.

use std::io;
use std::time::Duration;

use retell::app::Probe;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

/// The time for one probe.
const LIMIT: Duration = Duration::from_secs(1);

/// The most bytes of a request.
const REQUEST_BYTES: u64 = 8_192;

/// Answers one probe after the other until it is dropped.
pub(crate) async fn serve(listener: TcpListener, probe: Probe) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(timeout(LIMIT, answer(stream, &probe)).await),
            // The process has no free file handle.
            Err(_) => sleep(LIMIT).await,
        }
    }
}

async fn answer(mut stream: TcpStream, probe: &Probe) -> io::Result<()> {
    let mut request = BufReader::new((&mut stream).take(REQUEST_BYTES));
    let (mut first, mut header) = (String::new(), String::new());
    request.read_line(&mut first).await?;
    while request.read_line(&mut header).await? > 0 && header != "\r\n" {
        header.clear();
    }
    let health = probe.look();
    let (live, ready) = (health.live(), health.ready());
    let (is_good, body) = match first.split(' ').nth(1) {
        Some("/live") => (live.yes, serde_json::to_string(&live)?),
        Some("/ready") => (ready.yes, serde_json::to_string(&ready)?),
        // A degraded program still serves.
        Some("/health") => (live.yes && ready.yes, serde_json::to_string(&health)?),
        _ => {
            return stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
        }
    };
    let status = if is_good { "200 OK" } else { "503 Service Unavailable" };
    let head = format!("content-type: application/json\r\ncontent-length: {}\r\nconnection: close", body.len());
    stream.write_all(format!("HTTP/1.1 {status}\r\n{head}\r\n\r\n{body}").as_bytes()).await
}
