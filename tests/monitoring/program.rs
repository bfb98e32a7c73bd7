//! A small program: an aggregate, and a projection that fails when it is told to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use retell::{Aggregate, Apply, BoxError, Envelope, Event, Handle, Projection, Value, async_trait};

#[derive(Event, Debug, Clone, PartialEq)]
#[event("meter.read", version = 2, upcast(read_v1))]
pub(crate) struct Read {
    pub(crate) watts: u64,
}

#[derive(Value)]
pub(crate) struct ReadV1 {
    kilowatts: u64,
}

fn read_v1(ReadV1 { kilowatts }: ReadV1) -> Read {
    Read { watts: kilowatts * 1_000 }
}

#[derive(Aggregate, Clone, Default)]
#[aggregate("meter", event = Read, snapshots = 4)]
pub(crate) struct Meter {
    pub(crate) watts: u64,
}

impl Apply<Read> for Meter {
    fn apply(&mut self, read: Read) {
        self.watts = read.watts;
    }
}

/// Records a reading.
#[derive(Clone, Hash)]
pub(crate) struct Record(pub(crate) u64);

impl Handle<Record> for Meter {
    type Error = std::convert::Infallible;

    fn handle(&self, Record(watts): &Record) -> Result<Vec<Read>, Self::Error> {
        Ok(vec![Read { watts: *watts }])
    }
}

/// Fails on each reading of more than 9,000 watts, as long as it is broken. If its table is broken, it cannot even start.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fragile {
    pub(crate) is_broken: Arc<AtomicBool>,
    pub(crate) cannot_start: Arc<AtomicBool>,
}

#[async_trait]
impl Projection for Fragile {
    const NAME: &'static str = "fragile";
    type Event = Read;
    type Tx = ();

    async fn setup(&self, (): &mut ()) -> Result<(), BoxError> {
        if self.cannot_start.load(Ordering::SeqCst) { Err("no such table".into()) } else { Ok(()) }
    }

    async fn apply(&self, (): &mut (), read: Envelope<Read>) -> Result<(), BoxError> {
        if read.event.watts > 9_000 && self.is_broken.load(Ordering::SeqCst) {
            return Err("too much".into());
        }
        Ok(())
    }
}
