//! Types inside a function, with another path to the library.
mod vendored {
    pub mod path {
        pub use retell;
    }
}

fn main() {
    use retell::Event as _;

    #[derive(Debug, PartialEq, retell::Event)]
    #[event(crate = "vendored::path::retell", codec = "compact")]
    enum OrderEvent {
        #[event("order.created", version = 2, upcast(Self::from_v1))]
        Created(Local),
        #[event("order.closed", codec = "json")]
        Closed,
    }

    #[derive(Debug, PartialEq, retell::Value)]
    struct Local(u8);

    impl OrderEvent {
        fn from_v1(id: u8) -> Self {
            Self::Created(Local(id))
        }
    }

    #[derive(retell::EventUnion)]
    #[event(crate = "self::vendored::path::retell")]
    enum ShopEvent {
        Order(OrderEvent),
    }

    #[derive(Default, Clone, retell::Aggregate)]
    #[aggregate("order", event = OrderEvent, crate = "crate::vendored::path::retell")]
    struct Order {
        number: Option<u8>,
    }

    impl retell::Apply<OrderEvent> for Order {
        fn apply(&mut self, event: OrderEvent) {
            self.number = match event {
                OrderEvent::Created(Local(number)) => Some(number),
                OrderEvent::Closed => None,
            };
        }
    }

    let mut payload = Vec::new();
    ShopEvent::from(OrderEvent::Created(Local(7))).encode(&mut payload).unwrap();
    assert_eq!(payload, [7]);
}
