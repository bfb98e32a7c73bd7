use retell::EventUnion;

#[derive(EventUnion)]
enum ShopEvent {}

fn main() {}
