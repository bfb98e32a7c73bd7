//! An application with metrics: `curl 127.0.0.1:9464/metrics` shows them, and `docker compose --profile monitoring up` starts Prometheus
//! and Grafana for them. `curl 127.0.0.1:9465/ready` shows whether it is ready. Arguments, with defaults: the folder of the database files,
//! the address of the metrics, that of the probes.

mod probes;

use std::{env::args, net::SocketAddr, path::Path, time::Duration};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use retell::operate::ObserverOptions;
use retell::{prelude::*, shutdown};
use tokio::{net::TcpListener, task::JoinSet};

/// Bounds of the buckets, in seconds. Without buckets, the exporter computes quantiles, which Prometheus cannot add up over processes.
const SECONDS: [f64; 9] = [0.000_1, 0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0];
const COUNTS: [f64; 7] = [1.0, 4.0, 16.0, 64.0, 256.0, 1_024.0, 65_536.0];

#[derive(Event)]
#[event("meter.read")]
struct Read {
    watts: u64,
}

#[derive(Aggregate, Clone, Default)]
#[aggregate("meter", event = Read)]
struct Meter;

impl Apply<Read> for Meter {
    fn apply(&mut self, _: Read) {}
}

impl Handle<u64> for Meter {
    type Error = std::convert::Infallible;

    fn handle(&self, watts: &u64) -> Result<Vec<Read>, Self::Error> {
        Ok(vec![Read { watts: *watts }])
    }
}

struct Consumption;

impl View for Consumption {
    const NAME: &'static str = "consumption";
    type Event = Read;
    type State = u64;

    fn key(&self, read: &Envelope<Read>) -> Option<String> {
        Some(read.stream.aggregate_id().to_string())
    }

    fn apply(&self, watts: &mut u64, read: Envelope<Read>) {
        *watts = read.event.watts;
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let argument = |place, default: &str| args().nth(place).unwrap_or_else(|| default.to_owned());
    let probes = TcpListener::bind(argument(3, "127.0.0.1:9465")).await?;
    let metrics: SocketAddr = argument(2, "127.0.0.1:9464").parse()?;
    // The recorder comes first: a handle that is taken before it records nothing.
    let exporter = PrometheusBuilder::new().with_http_listener(metrics);
    exporter.set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?.set_buckets(&COUNTS)?.install()?;
    retell::metrics::describe();

    let file = |name| Path::new(&argument(1, ".")).join(name);
    let (log, models) = (SqliteStore::open(file("meters.db")).await?, SqliteReadModel::open(file("views.db")).await?);
    let meters = Repository::<Meter>::new(log.clone());
    let observer = ObserverOptions::new().with_interval(Duration::from_secs(1));
    let running = App::new(log, models).view(Consumption).with_observer(observer).start();
    let mut tasks = JoinSet::new();
    tasks.spawn(probes::serve(probes, running.probe()));
    tasks.spawn(async move {
        for watts in 0_u64.. {
            // A failure is counted, too.
            drop(meters.execute(format!("m-{}", watts % 10), watts).await);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    shutdown::requested().await?;
    Ok(running.stop().await?)
}
