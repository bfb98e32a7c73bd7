use retell::Event;

#[derive(Event)]
#[event("order.weighed")]
struct Weighed {
    #[serde(with = "as_text")]
    grams: u64,
    #[serde(serialize_with = "as_text::serialize")]
    #[event(opaque)]
    tare: u64,
    #[event(opaque, also)]
    scale: u64,
}

fn main() {}
