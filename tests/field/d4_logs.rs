//! D4. No payload reaches a log file.

use retell::broker::frame::Frame;
use retell::broker::{Delivery, DeliveryTag};
use retell::testing::store::{event, stream};
use retell::{Append, DateTime, ExpectedVersion, Position, RecordedEvent, Version};

const SECRET: &str = "4111-1111";

/// The debug form of everything that holds an encoded event.
#[test]
fn d4_debug_forms_show_the_size_of_a_payload() {
    let new = event(format!("\"{SECRET}\""));
    let recorded =
        RecordedEvent::new(Position::new(1), stream("a"), Version::new(1), DateTime::UNIX_EPOCH, new.clone());
    let frame = Frame::split(std::slice::from_ref(&recorded), 1, 1).unwrap().remove(0);
    let delivery = Delivery::new(DeliveryTag::new(1), frame.body().clone());
    let append = Append::new(stream("a"), ExpectedVersion::Any, vec![new.clone()]);
    let bytes: Vec<_> = SECRET.bytes().map(|byte| byte.to_string()).collect();
    for text in [
        format!("{new:?}"),
        format!("{recorded:?}"),
        format!("{frame:?}"),
        format!("{delivery:?}"),
        format!("{append:?}"),
    ] {
        assert!(text.contains(" bytes") && !text.contains(SECRET) && !text.contains(&bytes.join(", ")), "{text}");
    }
}
