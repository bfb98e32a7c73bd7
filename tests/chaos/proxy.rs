//! A TCP proxy that cuts, delays and swallows. (The one crate that could do it within a process, noxious, has had no release for years.)

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::sleep;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weather {
    Fine,
    /// Every piece comes this much later.
    Slow(Duration),
    /// Connections stay open, and nothing comes through.
    Silent,
}

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    weather: watch::Sender<Weather>,
    /// Each change cuts what is connected.
    cuts: watch::Sender<u64>,
}

impl Proxy {
    pub(crate) fn start(runtime: &Runtime, to: String) -> Self {
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (weather, cuts) = (watch::Sender::new(Weather::Fine), watch::Sender::new(0));
        let (changes, cut) = (weather.subscribe(), cuts.subscribe());
        let to: Arc<str> = to.into();
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, to.clone(), changes.clone(), cut.clone()));
            }
        });
        Self { address, weather, cuts }
    }

    pub(crate) fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

async fn carry(client: TcpStream, to: Arc<str>, weather: watch::Receiver<Weather>, mut cut: watch::Receiver<u64>) {
    cut.mark_unchanged();
    let Ok(server) = TcpStream::connect(&*to).await else { return };
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    tokio::select! {
        () = pass(from_client, to_server, weather.clone()) => {}
        () = pass(from_server, to_client, weather) => {}
        _ = cut.changed() => {}
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut weather: watch::Receiver<Weather>) {
    let mut piece = vec![0; 64 * 1024];
    loop {
        let Ok(bytes @ 1..) = from.read(&mut piece).await else { return };
        let now = *weather.borrow_and_update();
        match now {
            Weather::Fine => {}
            Weather::Slow(delay) => sleep(delay).await,
            // What was on its way goes on when the weather is better.
            Weather::Silent => {
                if weather.wait_for(|weather| *weather != Weather::Silent).await.map(drop).is_err() {
                    return;
                }
            }
        }
        if to.write_all(&piece[..bytes]).await.is_err() {
            return;
        }
    }
}
