//! A TCP proxy that cuts, delays and stalls connections. (The one crate that could do this within a process, noxious,
//! has had no release for years.)

#![allow(dead_code, reason = "each test file uses its own part")]

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::sleep;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Traffic {
    Normal,
    /// Delays each chunk by this time.
    Delayed(Duration),
    /// Keeps connections open but forwards nothing.
    Stalled,
}

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    /// Host and port that new connections are forwarded to.
    to: watch::Sender<String>,
    traffic: watch::Sender<Traffic>,
    /// Each change closes all connections.
    cut_count: watch::Sender<u64>,
    /// Each change silences the connections that are open at that time.
    silence_count: watch::Sender<u64>,
}

impl Proxy {
    pub(crate) fn start(runtime: &Runtime, to: String) -> Self {
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let traffic = watch::Sender::new(Traffic::Normal);
        let (cut_count, silence_count) = (watch::Sender::new(0), watch::Sender::new(0));
        let (changes, cut, silence) = (traffic.subscribe(), cut_count.subscribe(), silence_count.subscribe());
        let (to, target) = watch::channel(to);
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, target.borrow().clone(), changes.clone(), cut.clone(), silence.clone()));
            }
        });
        Self { address, to, traffic, cut_count, silence_count }
    }

    pub(crate) fn set(&self, traffic: Traffic) {
        self.traffic.send_replace(traffic);
    }

    pub(crate) fn cut(&self) {
        self.cut_count.send_modify(|cut_count| *cut_count += 1);
    }

    /// Cuts all connections and forwards new ones to another server.
    pub(crate) fn redirect(&self, to: String) {
        self.to.send_replace(to);
        self.cut();
    }

    /// Forwards nothing more on the connections that are open, and tells neither side. New connections work.
    pub(crate) fn silence(&self) {
        self.silence_count.send_modify(|silence_count| *silence_count += 1);
    }
}

async fn serve(
    client: TcpStream,
    to: String,
    traffic: watch::Receiver<Traffic>,
    mut cut: watch::Receiver<u64>,
    mut silence: watch::Receiver<u64>,
) {
    cut.mark_unchanged();
    silence.mark_unchanged();
    let Ok(server) = TcpStream::connect(to).await else { return };
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    tokio::select! {
        () = forward(&mut from_client, &mut to_server, traffic.clone()) => {}
        () = forward(&mut from_server, &mut to_client, traffic) => {}
        _ = cut.changed() => {}
        // Keeps both sockets open until the proxy is gone.
        _ = silence.changed() => drop(cut.changed().await),
    }
}

async fn forward(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, mut traffic: watch::Receiver<Traffic>) {
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let Ok(bytes @ 1..) = from.read(&mut chunk).await else { return };
        let now = *traffic.borrow_and_update();
        match now {
            Traffic::Normal => {}
            Traffic::Delayed(delay) => sleep(delay).await,
            // Forwards the pending chunk once traffic flows again.
            Traffic::Stalled => {
                if traffic.wait_for(|traffic| *traffic != Traffic::Stalled).await.map(drop).is_err() {
                    return;
                }
            }
        }
        if to.write_all(&chunk[..bytes]).await.is_err() {
            return;
        }
    }
}
