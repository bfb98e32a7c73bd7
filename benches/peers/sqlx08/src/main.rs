//! Measures one figure of one side, as requested by the driver.

mod cqrs;
#[path = "../../shared/database.rs"]
mod database;
mod disintegrate;
mod entity;
mod esrs;
mod eventastic;
mod eventcore;

use std::sync::Arc;

use peers::measure::Task;
use peers::side::Side;

use crate::disintegrate::Disintegrate;
use crate::entity::Orders;
use crate::esrs::Esrs;
use crate::eventastic::Eventastic;

#[tokio::main]
async fn main() {
    let task = Task::from_arguments();
    if task.is("drop") {
        return database::drop(&task.place).await;
    }
    if task.is("settle") {
        return database::settle(&task.place).await;
    }
    if task.is("create") {
        database::create(&task.place).await;
    }
    let place = &task.place;
    let side: Arc<dyn Side> = match (task.side.as_str(), place.is_postgres()) {
        ("cqrs-es", true) => cqrs::postgres(database::postgres(place).await),
        ("cqrs-es", false) => cqrs::sqlite(database::sqlite(place).await),
        ("esrs", true) => Arc::new(Esrs::new(database::postgres(place).await, task.is("create")).await),
        ("disintegrate", true) => Arc::new(Disintegrate::new(database::postgres(place).await)),
        ("eventastic", true) => Arc::new(Eventastic::new(place).await),
        ("es-entity", true) => Arc::new(Orders::new(database::postgres(place).await)),
        ("eventcore", true) => Arc::new(eventcore::postgres(database::postgres(place).await)),
        ("eventcore", false) => Arc::new(eventcore::sqlite(place)),
        (side, _) => panic!("{side}"),
    };
    task.run(side).await;
}

fn statement(sql: String) -> &'static str {
    sql.leak()
}
