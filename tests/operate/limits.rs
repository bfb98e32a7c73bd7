//! Answers tell that there is more beyond a limit.

use retell::operate::{self, MAX_DUE, MAX_PARKED, MAX_PROCESSORS, MAX_RELEASES};
use retell::store::{Deadline, DeadlineChange, ParkedState, ParkingChange, ProcessorKind, RegisteredProcessor, Step};
use retell::{AggregateId, EventType, Filter, MemoryStore, Position, ReadModel, RelayStore, Uuid};

use crate::planted::{Log, Models, mark, name, nothing, parked, stream, then};

pub(crate) async fn number_beyond_its_limit_is_a_lower_bound(log: &impl Log, models: &impl Models) {
    let (totals, rows) = (name("totals"), MAX_PARKED as u64 + 2);
    let park = |number: u64| {
        let row = parked(stream("order", &format!("{:04}", rows - number)), 1, number);
        let is_dead = number.is_multiple_of(2);
        ParkingChange::Park(if is_dead { row.with_state(ParkedState::Dead) } else { row })
    };
    let step = Step::new(&totals, Position::ZERO, Position::new(rows));
    models.commit(step.with_parking(0, (1..=rows).map(park).collect()), nothing()).await.unwrap();
    let deadline = |number: usize| {
        let key = AggregateId::new(format!("order-{number}")).unwrap();
        DeadlineChange::Set(Deadline::new(Uuid::from_u128(number as u128), key, "payment", then()))
    };
    models.settle_deadlines(&totals, &(0..=MAX_DUE).map(deadline).collect::<Vec<_>>()).await.unwrap();

    let report = operate::status(log, models).await.unwrap();
    let parked = &report.processors.items[0].parked;
    let counts = [parked.waiting, parked.dead, report.deadlines[0].due].map(|count| (count.count, count.at_least));
    let half = MAX_PARKED as u64 / 2;
    assert_eq!(counts, [(half, true), (half, true), (MAX_DUE as u64, true)]);
    assert_eq!(parked.oldest.as_ref().unwrap().position.get(), 1);
}

#[tokio::test]
async fn lists_beyond_their_limits_are_truncated() {
    let log = MemoryStore::new();
    let models = log.read_model();
    for number in 0..=MAX_PROCESSORS {
        let step = Step::new(&name(&format!("p{number:03}")), Position::ZERO, mark(1).position);
        models.commit(step, nothing()).await.unwrap();
    }
    for number in 0..=MAX_RELEASES {
        let filter = Filter::all().with_event_types([EventType::new(format!("event.{number:02}")).unwrap()]);
        models
            .register_processor(&name("p000"), &RegisteredProcessor::new(ProcessorKind::Projection, filter, then(), ""))
            .await
            .unwrap();
    }
    for number in 0..=operate::MAX_RELAYS {
        log.advance(&format!("r{number:03}"), Position::ZERO.into(), retell::Fence::ZERO).await.unwrap();
    }
    let report = operate::status(&log, &models).await.unwrap();
    assert_eq!((report.processors.items.len(), report.processors.truncated), (MAX_PROCESSORS, true));
    let releases = &report.processors.items[0].releases;
    assert_eq!((releases.items.len(), releases.truncated), (MAX_RELEASES, true));
    assert_eq!(releases.items[0].filter.event_types[0].as_str(), "event.01", "the newest are kept");
    let relays = report.relays.unwrap();
    assert_eq!((relays.items.len(), relays.truncated), (operate::MAX_RELAYS, true));
}
