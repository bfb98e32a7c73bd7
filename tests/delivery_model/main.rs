//! Every interleaving of relays, broker and workers, in the small: does any of them lose, double or reorder an event?
//!
//! A log grows to a few events of two aggregates. Relays carry it to a broker, in frames of one or two events. Workers of one
//! projection take the frames and apply them to its read model. Each of them goes in small steps, and the search tries all orders of all
//! steps, with a crash after each of them: it keeps a list of all states that can be reached, and takes every step that is possible in
//! every one of them. So the claims below are not likely but certain, as far as the model is the protocol and small numbers show it.
//!
//! What can go wrong: a process crashes, and loses what it has not stored; a lease runs out while its holder goes on; a frame, a confirm or
//! the answer to a commit is lost; messages are lost, doubled, reordered; a worker goes on with a checkpoint that another has moved.
//!
//! What must not happen, in any state:
//! - an event is applied twice, is skipped, or overtakes an earlier one of its aggregate;
//! - the checkpoint or the swept position passes an event that is neither applied nor parked;
//! - a relay's checkpoint passes an event that was not confirmed, or goes backward;
//! - the end gets out of reach. From every state, steps without any fault lead to where all is applied and nothing is parked.
//!
//! `sequential.rs` is the whole way for projections in log order. Two relays, a broker with its queue and two workers at once are more
//! states than a test has time for, so each is tried with a part of the others. The worst broker of all stands for the rest: what it brings
//! may be any frame of the log at any time, and so whatever relays and queues may do is among it. `parallel.rs` has that broker only.
//! `search.rs` is the search. (The crate stateright would search as well. It brings a web server that no feature leaves out, and does
//! not ask the last of the questions above.)
//!
//! Each rule of the protocol is also broken on purpose, to show that the search would see it, and what the rule is for.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod parallel;
mod search;
mod sequential;

mod in_log_order {
    use crate::search::{assert_broken, assert_kept, assert_stuck};
    use crate::sequential::{Broken, Broker, Delivery, Sweep};

    const DOUBLED: &str = "an event was applied twice";
    const SKIPPED: &str = "an event was skipped";

    /// Two workers, and the worst of all brokers.
    const WORKERS: Delivery = Delivery {
        events: 4,
        relays: 0,
        workers: 2,
        broker: Broker::Whatever,
        sweep: Sweep::On,
        poison: None,
        broken: Broken::Nothing,
    };
    const PARKING: Delivery = Delivery { events: 3, poison: Some(1), ..WORKERS };
    /// Two relays that take turns, and a broker that forgets.
    const RELAYS: Delivery = Delivery { events: 2, relays: 2, workers: 1, broker: Broker::Forgets, ..WORKERS };
    /// All that comes has to come over the broker.
    const NO_SWEEP: Delivery =
        Delivery { events: 2, relays: 1, workers: 1, broker: Broker::Keeps, sweep: Sweep::Off, ..WORKERS };

    #[test]
    fn every_event_is_applied_once_and_in_order_whatever_the_broker_brings() {
        assert_kept(&WORKERS);
    }

    #[test]
    fn a_parked_aggregate_holds_up_no_other_and_loses_nothing() {
        for poison in 1..=PARKING.events {
            assert_kept(&Delivery { poison: Some(poison), ..PARKING });
        }
    }

    #[test]
    fn every_event_arrives_while_relays_take_turns_and_the_broker_forgets() {
        assert_kept(&RELAYS);
    }

    #[test]
    fn relays_that_take_turns_bring_all_events_to_the_broker() {
        assert_kept(&Delivery { events: 3, workers: 0, broker: Broker::Keeps, ..RELAYS });
    }

    #[test]
    fn a_broker_that_keeps_what_it_confirmed_is_enough() {
        assert_kept(&Delivery { workers: 2, ..NO_SWEEP });
        assert_kept(&Delivery { events: 3, ..NO_SWEEP });
    }

    #[test]
    fn a_broker_that_forgets_is_not_enough_without_the_sweep() {
        assert_stuck(&Delivery { broker: Broker::Forgets, ..NO_SWEEP });
    }

    #[test]
    fn a_missing_gate_is_found() {
        assert_broken(&Delivery { broken: Broken::NoGate, ..WORKERS }, SKIPPED);
    }

    #[test]
    fn a_checkpoint_in_a_transaction_of_its_own_is_found() {
        assert_broken(&Delivery { broken: Broken::ApplyThenMove, ..WORKERS }, DOUBLED);
        assert_broken(&Delivery { broken: Broken::MoveThenApply, ..WORKERS }, SKIPPED);
    }

    #[test]
    fn a_checkpoint_that_moves_without_compare_is_found() {
        assert_broken(&Delivery { broken: Broken::NoCompare, ..WORKERS }, DOUBLED);
    }

    #[test]
    fn an_acknowledgement_before_the_commit_is_found_where_nothing_sweeps() {
        assert_stuck(&Delivery { broken: Broken::AcknowledgeFirst, ..NO_SWEEP });
        assert_kept(&Delivery { broken: Broken::AcknowledgeFirst, sweep: Sweep::On, ..NO_SWEEP });
    }

    #[test]
    fn an_acknowledgement_after_a_lost_race_is_found_where_nothing_sweeps() {
        let broken = Broken::AcknowledgeAfterLostRace;
        assert_stuck(&Delivery { broken, workers: 2, ..NO_SWEEP });
        assert_kept(&Delivery { broken, ..WORKERS });
    }

    #[test]
    fn a_relay_that_keeps_before_the_confirm_is_found_where_nothing_sweeps() {
        assert_stuck(&Delivery { broken: Broken::KeepBeforeConfirm, ..NO_SWEEP });
        assert_kept(&Delivery { broken: Broken::KeepBeforeConfirm, sweep: Sweep::On, ..NO_SWEEP });
    }

    #[test]
    fn a_relay_that_keeps_beyond_the_confirmed_prefix_is_found() {
        let expected = "the relay's checkpoint is beyond what was confirmed";
        assert_broken(&Delivery { broken: Broken::KeepBeyondPrefix, ..RELAYS }, expected);
    }

    #[test]
    fn a_relay_without_a_fence_is_found() {
        assert_broken(&Delivery { broken: Broken::NoFence, ..RELAYS }, "the relay's checkpoint went backward");
    }

    #[test]
    fn a_retry_beyond_the_checkpoint_is_found() {
        assert_broken(&Delivery { broken: Broken::RetryBeyondCheckpoint, ..PARKING }, DOUBLED);
    }

    #[test]
    fn a_retry_without_compare_is_found() {
        assert_broken(&Delivery { broken: Broken::RetryWithoutCompare, ..PARKING }, SKIPPED);
    }

    /// A retry leaves the checkpoint where it is, so comparing that does not keep out a second one.
    #[test]
    fn a_retry_of_a_row_that_is_gone_is_found() {
        assert_broken(&Delivery { broken: Broken::RetryWithoutRow, ..PARKING }, DOUBLED);
    }

    /// For the same reason, a worker that looks at the parking rows too early passes over what a retry has just freed.
    #[test]
    fn parking_rows_read_before_the_checkpoint_is_locked_are_found() {
        assert_broken(&Delivery { broken: Broken::ParkedSeenEarly, ..PARKING }, SKIPPED);
    }

    #[test]
    fn a_later_event_of_a_parked_aggregate_that_is_applied_is_found() {
        let expected = "an event overtook an earlier one of its aggregate";
        assert_broken(&Delivery { broken: Broken::ParkedNotPassedOver, ..PARKING }, expected);
    }
}

mod in_parallel {
    use crate::parallel::{Broken, Delivery, ReadModel};
    use crate::search::{assert_broken, assert_kept, assert_stuck};

    const DOUBLED: &str = "an event was applied twice";
    const SWEPT_TOO_FAR: &str = "an event at or before the swept position is neither applied nor parked";
    const DIFFER: &str = "the rows and the read model differ";

    const WORKERS: Delivery =
        Delivery { log: &[0, 1, 0, 0], read_model: ReadModel::PerAggregate, poison: None, broken: Broken::Nothing };
    const SHARED: Delivery = Delivery { read_model: ReadModel::Shared, ..WORKERS };
    const PARKING: Delivery = Delivery { poison: Some(1), ..WORKERS };

    #[test]
    fn every_event_is_applied_once_and_in_its_aggregates_order_whatever_the_broker_brings() {
        assert_kept(&WORKERS);
        assert_kept(&Delivery { log: &[0, 0, 1, 1], ..WORKERS });
    }

    #[test]
    fn a_view_of_two_aggregates_loses_no_update_where_it_is_locked() {
        assert_kept(&SHARED);
    }

    #[test]
    fn a_parked_aggregate_holds_up_no_other_and_loses_nothing() {
        for poison in 1..=4 {
            assert_kept(&Delivery { poison: Some(poison), ..PARKING });
        }
    }

    #[test]
    fn a_version_applied_before_the_missing_ones_is_found() {
        assert_broken(&Delivery { broken: Broken::NoFill, ..WORKERS }, DIFFER);
    }

    #[test]
    fn rows_read_before_they_are_locked_are_found() {
        assert_broken(&Delivery { broken: Broken::RowsReadUnlocked, ..WORKERS }, DOUBLED);
    }

    #[test]
    fn rows_locked_in_log_order_are_found() {
        let log = &[0, 1, 0];
        assert_stuck(&Delivery { broken: Broken::LockedInLogOrder, log, ..WORKERS });
    }

    #[test]
    fn a_sweep_over_what_others_have_in_hand_is_found() {
        assert_broken(&Delivery { broken: Broken::SweptOverOthers, ..WORKERS }, SWEPT_TOO_FAR);
    }

    #[test]
    fn a_swept_position_that_frames_move_is_found() {
        assert_broken(&Delivery { broken: Broken::SweptByFrames, ..WORKERS }, SWEPT_TOO_FAR);
    }

    #[test]
    fn a_swept_position_that_moves_before_the_sweep_is_found() {
        assert_broken(&Delivery { broken: Broken::SweptFirst, ..WORKERS }, SWEPT_TOO_FAR);
    }

    #[test]
    fn a_swept_position_that_moves_without_compare_is_found() {
        assert_broken(&Delivery { broken: Broken::NoCompare, ..WORKERS }, "the swept position went backward");
    }

    #[test]
    fn a_view_of_two_aggregates_that_is_loaded_unlocked_is_found() {
        assert_broken(&Delivery { broken: Broken::ViewLoadedUnlocked, ..SHARED }, DIFFER);
    }

    /// The swept position may move over an event that was parked when the sweep saw it, after the retry.
    #[test]
    fn a_retry_up_to_the_swept_position_is_found() {
        assert_broken(&Delivery { broken: Broken::RetriedToSwept, ..PARKING }, SWEPT_TOO_FAR);
    }

    #[test]
    fn a_retry_up_to_a_head_read_before_the_lock_is_found() {
        assert_broken(&Delivery { broken: Broken::HeadReadUnlocked, ..PARKING }, SWEPT_TOO_FAR);
    }

    #[test]
    fn a_later_event_of_a_parked_aggregate_that_is_applied_is_found() {
        assert_broken(&Delivery { broken: Broken::ParkedNotPassedOver, ..PARKING }, DIFFER);
    }
}
