use retell::Event;

#[derive(Event)]
enum OrderEvent<T> {
    #[event("order.created")]
    Created(T),
}

#[derive(Event)]
#[event("user.registered")]
struct UserRegistered<'a>(&'a str);

#[derive(Event)]
#[event("user.left")]
struct UserLeft<const N: usize>([u8; N]);

fn main() {}
