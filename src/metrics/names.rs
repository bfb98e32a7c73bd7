//! The names of the metrics.

/// A metric: its name, and everything that a dashboard or an alert needs to know about it.
///
/// # Examples
/// ```
/// use retell::metrics::{Kind, LAG_SECONDS};
///
/// let rule = format!("max by (processor) ({}) > 60", LAG_SECONDS.name);
/// assert_eq!(rule, "max by (processor) (retell_lag_seconds) > 60");
/// assert_eq!((LAG_SECONDS.kind, LAG_SECONDS.labels), (Kind::Gauge, &["processor"][..]));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metric {
    /// The name.
    pub name: &'static str,
    /// The kind.
    pub kind: Kind,
    /// The unit of its value.
    pub unit: &'static str,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// The question that it answers.
    pub question: &'static str,
}

/// The kind of a [`Metric`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Counts up from the start of the process.
    Counter,
    /// Holds the newest value.
    Gauge,
    /// Holds the distribution of all values.
    Histogram,
}

/// Declares a constant for each metric, and [`ALL`].
macro_rules! metrics {
    ($($constant:ident = $kind:ident $name:literal [$unit:literal] by $($label:literal)*, $question:literal;)*) => {
        $(
            #[doc = concat!(
                $question, "\n\n",
                "A [`", stringify!($kind), "`](Kind::", stringify!($kind), ") named `", $name, "`. Unit: ", $unit, ". Labels:", $(" `", $label, "`",)* "."
            )]
            pub const $constant: Metric = Metric {
                name: $name,
                kind: Kind::$kind,
                unit: $unit,
                labels: &[$($label),*],
                question: $question,
            };
        )*

        /// All metrics, in the order of the [table](crate::metrics#metrics).
        pub const ALL: &[Metric] = &[$($constant),*];
    };
}

metrics! {
    APPEND_SECONDS = Histogram "retell_append_seconds" ["seconds"] by "store",
        "How long does an append take, from the call to its outcome?";
    APPENDS = Counter "retell_appends_total" ["appends"] by "store" "outcome",
        "How do appends end: do writers conflict, is the database in trouble?";
    COMMIT_APPENDS = Histogram "retell_commit_appends" ["appends"] by "store",
        "How many appends share a commit?";
    COMMIT_EVENTS = Histogram "retell_commit_events" ["events"] by "store",
        "How many events do the appends of a commit have?";
    LOAD_SECONDS = Histogram "retell_load_seconds" ["seconds"] by "aggregate_type" "source",
        "How long does it take to read an aggregate from the store?";
    LOAD_EVENTS = Histogram "retell_load_events" ["events"] by "aggregate_type" "source",
        "How many events does a load replay: are there enough snapshots?";
    CACHE_HITS = Counter "retell_cache_hits_total" ["commands"] by "aggregate_type",
        "How many commands found their aggregate in memory?";
    SNAPSHOTS = Counter "retell_snapshots_total" ["snapshots"] by "aggregate_type" "outcome",
        "Are snapshots written, and can they be read?";
    SCHEMA_UPCASTS = Counter "retell_schema_upcasts_total" ["events"] by "event_type" "from",
        "Which older schema versions are still read?";
    APPLY_SECONDS = Histogram "retell_apply_seconds" ["seconds"] by "processor",
        "How long does the handler take for a batch?";
    APPLIED = Counter "retell_applied_total" ["events"] by "processor" "outcome",
        "How many events does a processor apply, and how many fail?";
    PARKINGS = Counter "retell_parkings_total" ["aggregates"] by "processor" "reason",
        "Why are aggregates parked?";
    GATE_DROPS = Counter "retell_gate_drops_total" ["messages"] by "processor" "reason",
        "How many messages of the broker bring nothing?";
    HOLES_HEALED = Counter "retell_holes_healed_total" ["holes"] by "processor",
        "How often does the broker lose or reorder messages, so that a worker reads the store?";
    BEHIND_DEPLOY = Gauge "retell_behind_deploy" ["0 or 1"] by "processor",
        "Does the worker wait, because only a newer release can apply the next event?";
    FRAMES = Counter "retell_frames_total" ["frames"] by "relay",
        "How many frames does a relay send?";
    FRAME_BYTES = Histogram "retell_frame_bytes" ["bytes"] by "relay",
        "How large are the frames?";
    RELAYED_EVENTS = Counter "retell_relayed_events_total" ["events"] by "relay",
        "How many events does a relay send, repetitions included?";
    UNCONFIRMED = Gauge "retell_unconfirmed" ["pages"] by "relay",
        "Does the broker confirm as fast as the relay sends?";
    UNROUTABLE = Counter "retell_unroutable_total" ["events"] by "relay",
        "How many announced events did no queue receive?";
    RECONNECTS = Counter "retell_reconnects_total" ["attempts"] by "connection" "outcome",
        "Is the broker reachable?";
    TASK_FAILURES = Counter "retell_task_failures_total" ["failures"] by "task",
        "Does a relay or a worker fail and restart?";
    HEAD = Gauge "retell_head" ["position"] by "log",
        "How many events does the log have?";
    UNSEQUENCED_COMMITS = Gauge "retell_unsequenced_commits" ["commits"] by "log",
        "How many commits wait for their position?";
    UNSEQUENCED_AGE_SECONDS = Gauge "retell_unsequenced_age_seconds" ["seconds"] by "log",
        "For how long has no commit got its position: does a transaction block all readers?";
    KEYS_ROWS = Gauge "retell_keys_rows" ["rows"] by "log",
        "How many idempotency keys are kept: is it time to prune them?";
    INBOX_ROWS = Gauge "retell_inbox_rows" ["rows"] by "log",
        "How many handled events do reactions remember?";
    LAG_EVENTS = Gauge "retell_lag_events" ["events"] by "processor",
        "How many events is a processor behind the head?";
    LAG_SECONDS = Gauge "retell_lag_seconds" ["seconds"] by "processor",
        "How old is what readers of the processor see?";
    PARKED = Gauge "retell_parked" ["aggregates"] by "processor",
        "How many aggregates are parked and retried?";
    DEAD = Gauge "retell_dead" ["aggregates"] by "processor",
        "How many aggregates wait for an operator?";
    PARKED_OLDEST_SECONDS = Gauge "retell_parked_oldest_seconds" ["seconds"] by "processor",
        "How old is the oldest event that could not be applied?";
    PROCESSOR_STATE = Gauge "retell_processor_state" ["0 or 1"] by "processor" "state",
        "Does the processor run, or was it paused and forgotten?";
    DEADLINES_DUE = Gauge "retell_deadlines_due" ["deadlines"] by "processor",
        "How many deadlines have passed without their step?";
    RELAY_LAG_EVENTS = Gauge "retell_relay_lag_events" ["events"] by "relay",
        "How many events has the broker not confirmed?";
    RELAY_LAG_SECONDS = Gauge "retell_relay_lag_seconds" ["seconds"] by "relay",
        "How old is the first event that the broker has not confirmed?";
    RELAY_LEADER = Gauge "retell_relay_leader" ["0 or 1"] by "relay",
        "Does any process publish for the relay?";
    OBSERVATIONS = Counter "retell_observations_total" ["observations"] by "log" "outcome",
        "Can the gauges be trusted: do observations succeed?";
    OBSERVED_TIMESTAMP_SECONDS = Gauge "retell_observed_timestamp_seconds" ["seconds since 1970"] by "log",
        "When were the gauges read from the store?";
}
