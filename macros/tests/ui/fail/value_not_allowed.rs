use retell::{Shape, Value};

#[derive(Value)]
#[serde(try_from = "String", into = "String")]
struct Email(String);

#[derive(Value)]
struct Page<T> {
    items: Vec<T>,
}

#[derive(Value)]
#[shape("order.line")]
struct Line {
    #[shape(skip)]
    sku: String,
    #[serde(deserialize_with = "read")]
    count: u32,
}

#[derive(Value)]
enum Unit {
    #[shape(opaque)]
    Piece,
    #[serde(with = "as_text")]
    Kilogram(u32),
    #[serde(untagged)]
    Other(String),
}

#[derive(Shape)]
union Either {
    number: u32,
    letter: char,
}

fn main() {}
