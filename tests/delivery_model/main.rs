//! Model check of delivery: explores every interleaving of a few relays, a broker and workers, and checks that no event is lost, doubled or
//! reordered.
//!
//! A log grows to a few events of two aggregates. Relays carry them to a broker in frames of one or two events. Workers of one projection
//! take the frames and apply them to its read model. Every process takes small atomic steps, and the search tries all orders of all steps
//! with a crash after each of them: it keeps a list of all reachable states and takes every possible step in each. The claims below are
//! therefore certain rather than likely, as far as the model matches the protocol and small numbers are enough.
//!
//! Faults: a process crashes and loses its memory; a lease expires while its holder continues; a frame, a confirm or the answer to a commit
//! is lost; messages are lost, doubled or reordered; a worker continues with a checkpoint that another worker has moved.
//!
//! Invariants, violated in no state:
//! - no event is applied twice, is skipped, or overtakes an earlier event of its aggregate;
//! - neither the checkpoint nor the swept position passes an event that is neither applied nor parked;
//! - a relay's checkpoint never passes an unconfirmed event and never moves backward;
//! - the end stays reachable: from every state, steps without any fault lead to a state in which everything is applied and nothing is
//!   parked.
//!
//! `sequential.rs` models projections in log order from end to end. Two relays, a broker with its queue and two workers at once have more
//! states than a test has time for, so each is checked with part of the others. The worst possible broker covers the rest: it may deliver
//! any frame of the log at any time, which includes everything that relays and queues can do. `parallel.rs` has only that broker.
//! `history.rs` models a log that goes back in time, and everything that remembers a place in it.
//! `search.rs` is the search. (The crate stateright could search too, but it always pulls in a web server and does not check reachability
//! of the end.)
//!
//! Negative tests break each rule of the protocol and check that the search finds the violation, which also shows what the rule is for.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod history;
mod parallel;
mod search;
mod sequential;

mod in_log_order {
    use crate::search::{assert_broken, assert_kept, assert_stuck};
    use crate::sequential::{Broken, Broker, Delivery, Sweep};

    const DOUBLED: &str = "an event was applied twice";
    const SKIPPED: &str = "an event was skipped";

    /// Two workers and the worst possible broker.
    const WORKERS: Delivery = Delivery {
        events: 4,
        relays: 0,
        workers: 2,
        broker: Broker::Arbitrary,
        sweep: Sweep::On,
        poison: None,
        broken: Broken::Nothing,
    };
    const PARKING: Delivery = Delivery { events: 3, poison: Some(1), ..WORKERS };
    /// Two relays that take turns and a broker that loses messages.
    const RELAYS: Delivery = Delivery { events: 2, relays: 2, workers: 1, broker: Broker::Lossy, ..WORKERS };
    /// No sweep: events arrive only through the broker.
    const NO_SWEEP: Delivery =
        Delivery { events: 2, relays: 1, workers: 1, broker: Broker::Durable, sweep: Sweep::Off, ..WORKERS };

    #[test]
    fn every_event_is_applied_once_in_log_order() {
        assert_kept(&WORKERS);
    }

    #[test]
    fn a_parked_aggregate_blocks_no_other_and_loses_nothing() {
        for poison in 1..=PARKING.events {
            assert_kept(&Delivery { poison: Some(poison), ..PARKING });
        }
    }

    #[test]
    fn every_event_arrives_although_the_broker_loses_messages() {
        assert_kept(&RELAYS);
    }

    #[test]
    fn relays_that_take_turns_publish_every_event() {
        assert_kept(&Delivery { events: 3, workers: 0, broker: Broker::Durable, ..RELAYS });
    }

    #[test]
    fn a_durable_broker_needs_no_sweep() {
        assert_kept(&Delivery { workers: 2, ..NO_SWEEP });
        assert_kept(&Delivery { events: 3, ..NO_SWEEP });
    }

    #[test]
    fn a_broker_that_loses_messages_needs_the_sweep() {
        assert_stuck(&Delivery { broker: Broker::Lossy, ..NO_SWEEP });
    }

    #[test]
    fn a_missing_gate_is_found() {
        assert_broken(&Delivery { broken: Broken::NoGate, ..WORKERS }, SKIPPED);
    }

    #[test]
    fn a_checkpoint_in_a_separate_transaction_is_found() {
        assert_broken(&Delivery { broken: Broken::ApplyThenMove, ..WORKERS }, DOUBLED);
        assert_broken(&Delivery { broken: Broken::MoveThenApply, ..WORKERS }, SKIPPED);
    }

    #[test]
    fn a_checkpoint_moved_without_compare_is_found() {
        assert_broken(&Delivery { broken: Broken::NoCompare, ..WORKERS }, DOUBLED);
    }

    #[test]
    fn an_ack_before_the_commit_is_found_without_the_sweep() {
        assert_stuck(&Delivery { broken: Broken::AcknowledgeFirst, ..NO_SWEEP });
        assert_kept(&Delivery { broken: Broken::AcknowledgeFirst, sweep: Sweep::On, ..NO_SWEEP });
    }

    #[test]
    fn an_ack_after_a_lost_race_is_found_without_the_sweep() {
        let broken = Broken::AcknowledgeAfterLostRace;
        assert_stuck(&Delivery { broken, workers: 2, ..NO_SWEEP });
        assert_kept(&Delivery { broken, ..WORKERS });
    }

    #[test]
    fn a_relay_checkpoint_before_the_confirm_is_found() {
        assert_stuck(&Delivery { broken: Broken::CheckpointBeforeConfirm, ..NO_SWEEP });
        assert_kept(&Delivery { broken: Broken::CheckpointBeforeConfirm, sweep: Sweep::On, ..NO_SWEEP });
    }

    #[test]
    fn a_relay_checkpoint_beyond_the_confirmed_prefix_is_found() {
        let expected = "the relay's checkpoint is beyond what was confirmed";
        assert_broken(&Delivery { broken: Broken::CheckpointBeyondPrefix, ..RELAYS }, expected);
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

    /// A retry does not move the checkpoint, so comparing the checkpoint does not exclude a second retry.
    #[test]
    fn a_retry_of_a_released_row_is_found() {
        assert_broken(&Delivery { broken: Broken::RetryWithoutRow, ..PARKING }, DOUBLED);
    }

    /// For the same reason, a worker that reads the parking rows too early passes over events that a retry has just released.
    #[test]
    fn parking_rows_read_before_the_checkpoint_is_locked_are_found() {
        assert_broken(&Delivery { broken: Broken::ParkedSeenEarly, ..PARKING }, SKIPPED);
    }

    #[test]
    fn applying_a_later_event_of_a_parked_aggregate_is_found() {
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
    fn every_event_is_applied_once_in_aggregate_order() {
        assert_kept(&WORKERS);
        assert_kept(&Delivery { log: &[0, 0, 1, 1], ..WORKERS });
    }

    #[test]
    fn a_locked_view_of_two_aggregates_loses_no_update() {
        assert_kept(&SHARED);
    }

    #[test]
    fn a_parked_aggregate_blocks_no_other_and_loses_nothing() {
        for poison in 1..=4 {
            assert_kept(&Delivery { poison: Some(poison), ..PARKING });
        }
    }

    #[test]
    fn a_version_applied_before_missing_ones_is_found() {
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
    fn a_sweep_over_uncommitted_work_of_others_is_found() {
        assert_broken(&Delivery { broken: Broken::SweptOverOthers, ..WORKERS }, SWEPT_TOO_FAR);
    }

    #[test]
    fn a_swept_position_moved_by_frames_is_found() {
        assert_broken(&Delivery { broken: Broken::SweptByFrames, ..WORKERS }, SWEPT_TOO_FAR);
    }

    #[test]
    fn a_swept_position_moved_before_the_sweep_is_found() {
        assert_broken(&Delivery { broken: Broken::SweptFirst, ..WORKERS }, SWEPT_TOO_FAR);
    }

    #[test]
    fn a_swept_position_moved_without_compare_is_found() {
        assert_broken(&Delivery { broken: Broken::NoCompare, ..WORKERS }, "the swept position went backward");
    }

    #[test]
    fn a_view_of_two_aggregates_loaded_unlocked_is_found() {
        assert_broken(&Delivery { broken: Broken::ViewLoadedUnlocked, ..SHARED }, DIFFER);
    }

    /// After the retry, the swept position may pass an event that was parked when the sweep saw it.
    #[test]
    fn a_retry_up_to_the_swept_position_is_found() {
        assert_broken(&Delivery { broken: Broken::RetriedToSwept, ..PARKING }, SWEPT_TOO_FAR);
    }

    #[test]
    fn a_retry_up_to_a_head_read_before_the_lock_is_found() {
        assert_broken(&Delivery { broken: Broken::HeadReadUnlocked, ..PARKING }, SWEPT_TOO_FAR);
    }

    #[test]
    fn applying_a_later_event_of_a_parked_aggregate_is_found() {
        assert_broken(&Delivery { broken: Broken::ParkedNotPassedOver, ..PARKING }, DIFFER);
    }
}

mod in_a_log_that_goes_back {
    use crate::history::{cache, log_order, per_aggregate, relay};
    use crate::search::{assert_broken, assert_kept, assert_stuck};

    const MIXED: &str = "a state mixes two histories";
    const SILENT: &str = "the log and the state differ in silence";

    mod states {
        use super::*;
        use cache::{Broken, Loading};

        #[test]
        fn no_state_mixes_two_histories() {
            assert_kept(&Loading { broken: Broken::Nothing });
        }

        #[test]
        fn a_cached_state_read_on_by_version_is_found() {
            assert_broken(&Loading { broken: Broken::CachedByVersion }, MIXED);
        }

        #[test]
        fn a_snapshot_that_counts_by_version_is_found() {
            assert_broken(&Loading { broken: Broken::SnapshotByVersion }, MIXED);
        }

        #[test]
        fn an_append_that_compares_versions_is_found() {
            assert_broken(&Loading { broken: Broken::AppendByVersion }, "a command was decided on a lost state");
        }
    }

    mod relays {
        use super::*;
        use relay::{Broken, Publishing};

        const PASSED_OVER: &str = "a relay passed over an event in silence";

        #[test]
        fn every_event_of_the_new_history_is_published() {
            assert_kept(&Publishing { broken: Broken::Nothing });
        }

        #[test]
        fn a_position_that_is_compared_at_the_start_only_is_found() {
            assert_broken(&Publishing { broken: Broken::ComparedAtStartOnly }, PASSED_OVER);
        }

        #[test]
        fn a_position_that_is_not_compared_is_found() {
            assert_broken(&Publishing { broken: Broken::NotCompared }, PASSED_OVER);
        }
    }

    mod workers_in_log_order {
        use super::*;
        use log_order::{Broken, Delivery};

        #[test]
        fn models_are_of_one_history_and_skip_nothing() {
            assert_kept(&Delivery { broken: Broken::Nothing });
        }

        #[test]
        fn a_checkpoint_that_is_compared_at_the_start_only_is_found() {
            assert_broken(&Delivery { broken: Broken::ComparedAtStartOnly }, MIXED);
        }

        #[test]
        fn a_gate_that_compares_positions_is_found() {
            assert_broken(&Delivery { broken: Broken::FramesByPosition }, MIXED);
        }

        #[test]
        fn a_compare_and_set_of_positions_is_found() {
            assert_broken(&Delivery { broken: Broken::CheckpointByPosition }, MIXED);
        }

        #[test]
        fn a_worker_that_keeps_the_larger_position_is_found() {
            assert_stuck(&Delivery { broken: Broken::KeepsTheLarger });
        }

        #[test]
        fn a_stored_position_that_is_never_compared_is_found() {
            assert_stuck(&Delivery { broken: Broken::StoredNotCompared });
        }
    }

    mod workers_per_aggregate {
        use super::*;
        use per_aggregate::{Broken, Delivery, Faults};

        #[test]
        fn models_are_of_one_history_and_skip_nothing() {
            for faults in [Faults::Frames, Faults::Restores, Faults::Crash] {
                assert_kept(&Delivery { faults, broken: Broken::Nothing });
            }
        }

        #[test]
        fn a_sweep_that_does_not_look_back_is_found() {
            assert_broken(&Delivery { faults: Faults::Restores, broken: Broken::SweptNotLookedAt }, SILENT);
        }

        #[test]
        fn an_applied_event_that_is_not_compared_is_found() {
            assert_broken(&Delivery { faults: Faults::Frames, broken: Broken::AppliedNotCompared }, SILENT);
        }

        #[test]
        fn a_row_ahead_that_is_not_compared_is_found() {
            assert_broken(&Delivery { faults: Faults::Crash, broken: Broken::AheadNotCompared }, SILENT);
        }

        #[test]
        fn a_refusal_that_is_not_stored_is_found() {
            assert_broken(&Delivery { faults: Faults::Frames, broken: Broken::RefusalNotStored }, SILENT);
        }

        #[test]
        fn a_worker_that_keeps_the_larger_position_is_found() {
            assert_stuck(&Delivery { faults: Faults::Restores, broken: Broken::KeepsTheLarger });
        }

        #[test]
        fn a_position_that_is_compared_at_the_start_only_is_found() {
            assert_broken(&Delivery { faults: Faults::Restores, broken: Broken::ComparedAtStartOnly }, SILENT);
        }
    }
}
