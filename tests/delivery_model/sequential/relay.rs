//! The steps of a relay: lease, publish, confirm, checkpoint.

use super::{Broken, Delivery, State, Steps};
use crate::search::{Fault, Frame, Regular, Step, bit};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(super) struct Relay {
    pub(super) up: bool,
    sent: u8,
    /// Frames that the broker has and whose confirm is in flight.
    unconfirmed: u8,
    /// Positions this relay knows to be confirmed, as a bit set.
    confirmed: u8,
}

impl Relay {
    fn prefix(self) -> u8 {
        prefix(self.confirmed)
    }
}

impl Delivery {
    pub(super) fn relay(&self, state: &State, index: usize, steps: &mut Steps) {
        let relay = state.relays[index];
        let with = |relay| {
            let mut next = *state;
            next.relays[index] = relay;
            next
        };
        if !relay.up {
            let (sent, confirmed) = (state.relayed, up_to(state.relayed));
            let next = with(Relay { up: true, sent, unconfirmed: 0, confirmed });
            // Otherwise the leader is only slow, and continues as if it still led.
            let gone = state.leader.is_none_or(|leader| !state.relays[leader].up);
            let kind = if gone { Regular } else { Fault };
            steps.push(Step::new(kind, "a relay takes the lease", State { leader: Some(index), ..next }));
            return;
        }
        steps.push(Step::new(Fault, "a relay crashes", with(Relay::default())));
        for frame in Frame::all(state.head) {
            if frame.first == relay.sent + 1 {
                let lost = with(Relay { sent: frame.last, ..relay });
                steps.push(Step::new(Fault, "a frame is lost on its way to the broker", lost));
                let sent = with(Relay { sent: frame.last, unconfirmed: relay.unconfirmed | frame.bit(), ..relay });
                let queue = state.queue | frame.bit();
                steps.push(Step::new(Regular, "a relay publishes a frame", State { queue, ..sent }));
            }
            if relay.unconfirmed & frame.bit() != 0 {
                let unconfirmed = relay.unconfirmed & !frame.bit();
                let lost = with(Relay { unconfirmed, ..relay });
                steps.push(Step::new(Fault, "a confirm is lost", lost));
                let positions = bit(frame.first) | bit(frame.last);
                let heard = with(Relay { unconfirmed, confirmed: relay.confirmed | positions, ..relay });
                let confirmed = state.confirmed | positions;
                steps.push(Step::new(Regular, "a relay gets a confirm", State { confirmed, ..heard }));
            }
        }
        if relay.sent > relay.prefix() {
            let again = with(Relay { sent: relay.prefix(), unconfirmed: 0, confirmed: up_to(relay.prefix()), ..relay });
            let kind = if relay.unconfirmed == 0 { Regular } else { Fault };
            steps.push(Step::new(kind, "a relay publishes again from its first unconfirmed event", again));
        }
        let leads = state.leader == Some(index);
        if !leads && self.broken != Broken::NoFence {
            // Its write fails on another relay's fence.
            steps.push(Step::new(Regular, "a relay notices that it lost the lease", with(Relay::default())));
            return;
        }
        let to = match self.broken {
            Broken::CheckpointBeforeConfirm => relay.sent,
            Broken::CheckpointBeyondPrefix => u8::try_from(8 - relay.confirmed.leading_zeros()).unwrap(),
            _ => relay.prefix(),
        };
        // Without a fence, even a relay that has not seen another relay's checkpoint moves it.
        if to > state.relayed || to < state.relayed && self.broken != Broken::CheckpointBeforeConfirm {
            let backward = to < state.relayed;
            let moved = State { relayed: to, ..*state };
            let to = if backward { Err("the relay's checkpoint went backward") } else { Ok(moved) };
            steps.push(Step { what: "a relay moves its checkpoint", kind: Regular, to });
        }
    }
}

pub(super) fn prefix(positions: u8) -> u8 {
    u8::try_from(positions.trailing_ones()).unwrap()
}

pub(super) fn up_to(position: u8) -> u8 {
    (1..=position).map(bit).sum()
}
