use retell::Event;

#[derive(Event)]
pub enum OrderEvent {
    #[event("order.placed")]
    Placed {
        customer: String,
        dollars: u64,
        #[serde(default)]
        note: Option<String>,
    },
}
