use retell::Event;

#[derive(Event)]
pub enum OrderEvent {
    #[event("order.placed")]
    Placed {
        customer: String,
        cents: u64,
        #[serde(default)]
        note: Option<String>,
    },
}
