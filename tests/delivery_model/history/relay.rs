//! A relay, whose position is in the log's database: it is lost with the log's tail, or it stays.

use super::{EVENTS, Events, History, Log, Mark};
use crate::search::{Fault, Model, Regular, Step};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    Nothing,
    /// Only the start compares the event at the position.
    ComparedAtStartOnly,
    /// Nothing compares it.
    NotCompared,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Publishing {
    pub(crate) broken: Broken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
enum Relay {
    #[default]
    Down,
    /// The broker has confirmed everything up to this place.
    Leads(Mark),
    /// Has read a page and not published it.
    Page(Mark, Mark, Events),
    Refused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct State {
    history: History,
    stored: Mark,
    published: Events,
    relay: Relay,
    backup: Option<(Log, Mark)>,
}

impl Model for Publishing {
    type State = State;

    fn start(&self) -> State {
        State::default()
    }

    fn steps(&self, state: &State, steps: &mut Vec<Step<State>>) {
        let log = state.history.log;
        state.history.steps(1, steps, |history| State { history, ..*state });
        match state.backup {
            None if !state.history.is_replaced => {
                let backup = Some((log, state.stored));
                steps.push(Step::new(Fault, "a backup is taken", State { backup, ..*state }));
            }
            Some((log, stored)) if !state.history.is_replaced => {
                let history = History { log, lost: state.history.log, is_replaced: true };
                steps.push(Step::new(Fault, "the log is restored", State { history, stored, ..*state }));
            }
            _ => {}
        }
        let with = |relay| State { relay, ..*state };
        match state.relay {
            Relay::Down => {
                let is_compared = self.broken != Broken::NotCompared;
                let relay =
                    if is_compared && !log.has(state.stored) { Relay::Refused } else { Relay::Leads(state.stored) };
                steps.push(Step::new(Regular, "a relay starts", with(relay)));
                return;
            }
            Relay::Refused => {
                steps.push(Step::new(Regular, "a refused relay starts again", with(Relay::Down)));
                if !log.has(state.stored) {
                    let reset = State { stored: Mark::default(), ..with(Relay::Down) };
                    steps.push(Step::new(Regular, "an operator resets the relay", reset));
                }
                return;
            }
            Relay::Leads(confirmed) => {
                if log.has(confirmed) || self.broken != Broken::Nothing {
                    for last in confirmed.position + 1..=log.head() {
                        let page = Relay::Page(confirmed, log.mark(last), log.events(confirmed.position, last));
                        steps.push(Step::new(Regular, "a relay reads a page", with(page)));
                    }
                } else {
                    steps.push(Step::new(Regular, "a relay is refused", with(Relay::Refused)));
                }
                if confirmed.position > state.stored.position {
                    let stored = State { stored: confirmed, ..*state };
                    steps.push(Step::new(Regular, "a relay stores its position", stored));
                }
            }
            Relay::Page(_, last, events) => {
                let published = Events(state.published.0 | events.0);
                let confirmed = State { published, ..with(Relay::Leads(last)) };
                steps.push(Step::new(Regular, "the broker confirms a page", confirmed));
            }
        }
        steps.push(Step::new(Fault, "a relay crashes", with(Relay::Down)));
    }

    fn violation(&self, state: &State) -> Option<&'static str> {
        let log = state.history.log;
        let passed = log.events(0, state.stored.position.min(log.head()));
        let is_skipped = log.has(state.stored) && state.published.0 & passed.0 != passed.0;
        is_skipped.then_some("a relay passed over an event in silence")
    }

    fn done(&self, state: &State) -> bool {
        state.history.is_full() && state.stored == state.history.log.mark(EVENTS)
    }
}
