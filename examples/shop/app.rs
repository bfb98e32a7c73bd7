//! The tasks that follow the log: the relay that publishes events, and the consumers. A process runs all of them, or those of its role.

use std::marker::PhantomData;

use retell::{App, StartFrom, Worker};

use crate::carrier::Carrier;
use crate::consumers::analytics::Analytics;
use crate::consumers::audit::Audit;
use crate::consumers::customers::Customers;
use crate::consumers::notification::Notification;
use crate::consumers::search::Search;
use crate::fulfilment::Fulfilment;
use crate::read_models::ReadModels;
use crate::stores::Stores;

/// The name of the relay. Among all processes with a relay of this name, one leads.
#[cfg(feature = "rabbitmq")]
const RELAY: &str = "shop";

/// Number of mails recorded in one transaction; a mail's only effect is its row in that transaction.
const MAILS_AT_ONCE: usize = 500;

pub fn app<M: ReadModels>(stores: &Stores<M>, carrier: &Carrier, fulfilment: Fulfilment) -> App<M> {
    let app = App::over(stores.log.clone(), stores.relays.clone(), stores.models.clone());
    let app = match carrier {
        Carrier::Memory(broker) => app.with_broker(broker.clone()),
        #[cfg(feature = "rabbitmq")]
        Carrier::RabbitMq(broker) => app.with_shared_broker(broker.clone(), RELAY),
    };
    let mails =
        Worker::reaction(Notification(PhantomData), StartFrom::Beginning, stores.log.clone(), stores.models.clone());
    app.projection(Analytics(PhantomData))
        .projection(Search(PhantomData))
        .projection(Audit(PhantomData))
        .view(Customers)
        .worker(mails.with_reactions_at_once(MAILS_AT_ONCE))
        .process(fulfilment)
}
