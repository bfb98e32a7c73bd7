//! The arguments.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use crate::commands::migrate::Migrate;
use crate::commands::prune::Prune;
use crate::commands::seal::Seal;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use retell::operate::EventRef;
use retell::store::By;
use retell::{DateTime, EventId, Position, ProjectionName, StreamId, Utc, Version};

use crate::commands::archive::{ExportLog, ImportLog};
use crate::commands::trace::Trace;

/// The end of `retell --help`.
const MORE: &str = "\
Exit codes:
  0   good
  1   a finding: something is stuck, is parked, is missing or differs
  2   wrong usage, or no log at the URL
  3   partly done
  4   refused: a change was not confirmed (--yes) or is not safe, the log of an import is not empty, or an export is not whole
  69  the store is unavailable
  75  the store did not answer in time: try again

With --json, each command prints one object {\"format\": 1, \"command\", \"status\": \"ok\" | \"finding\" | \"error\", \"data\", \"diagnostics\"}.
`tail` prints one object a line for each event instead.";

/// Tells operators what is stuck, why an event is not in a read model, and what is parked. Needs only the URL of a store.
#[derive(Debug, Parser)]
#[command(name = "retell", version, after_help = MORE, disable_help_subcommand = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    _place: Place,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    /// Print colors
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: crate::out::Color,
    #[command(subcommand)]
    _command: Command,
}

/// Where the stores are.
#[derive(Debug, Clone, Args)]
pub(crate) struct Place {
    /// The log: sqlite:PATH, postgres://.. or mysql://..
    #[arg(long, global = true, value_name = "URL", env = "RETELL_STORE", hide_env_values = true)]
    pub(crate) store: Option<String>,
    /// The read models, if they are not next to the log. The default for sqlite:shop.db is shop.db.models, shop.models.db or shop.db, the
    /// first one that exists
    #[arg(long, global = true, value_name = "URL", env = "RETELL_MODELS", hide_env_values = true)]
    pub(crate) models: Option<String>,
    /// The schema of the log in PostgreSQL [default: retell]
    #[arg(long, global = true, value_name = "NAME", env = "RETELL_POSTGRES_SCHEMA")]
    pub(crate) postgres_schema: Option<String>,
    /// The longest wait for the store to open, and for each answer
    #[arg(long, global = true, value_name = "SECONDS", default_value = "10")]
    timeout: NonZeroU64,
}

impl Place {
    pub(crate) fn limit(&self) -> Duration {
        Duration::from_secs(self.timeout.get())
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show how far relays and processors are, and what needs attention
    Status(Status),
    /// Tell why an event is in a read model, or is not
    Why {
        /// The id of the event, or its position
        #[arg(value_parser = event)]
        event: EventRef,
        /// Only this projection, view, reaction or process
        processor: Option<ProjectionName>,
    },
    /// Show one event
    Event {
        /// The id of the event, or its position
        #[arg(value_parser = event)]
        event: EventRef,
    },
    /// Show the events of a stream
    Show(Show),
    /// Show the events that followed from one request, as a tree of causes
    Trace(Trace),
    /// Show the newest events of the log
    Tail(Tail),
    /// List, show and retry parked aggregates, or skip an event
    #[command(subcommand)]
    Parked(Parked),
    /// Stop the workers of a projection, view, reaction or process, in every process
    Pause {
        processor: ProjectionName,
        #[command(flatten)]
        because: Because,
    },
    /// Pause what no program has any more: it needs no attention, and keeps no idempotency keys
    Retire {
        processor: ProjectionName,
        #[command(flatten)]
        because: Because,
    },
    /// End a pause or a retirement
    Resume {
        processor: ProjectionName,
        #[command(flatten)]
        because: Because,
    },
    /// List what operators have changed, the newest first
    Audit {
        /// The most changes, up to 1,000
        #[arg(short = 'n', long = "lines", value_name = "N", default_value_t = 20)]
        lines: usize,
    },
    /// Delete old rows that nothing needs any more
    Prune(Prune),
    /// Create the tables of the log and of the read models, or update them. No other command does
    Migrate(Migrate),
    /// Seal the events since the last seal, so that `verify` notices if one of them changes
    Seal(Seal),
    /// Look for settings, rights and transactions that would break a promise
    Doctor(Doctor),
    /// Read the whole log, and look for events that are missing, moved, damaged or changed
    Verify {
        /// Continue after this position
        #[arg(long, value_name = "POSITION", default_value = "0")]
        after: Position,
    },
    /// Write the whole log to a file
    Export(ExportLog),
    /// Read an export into an empty log
    Import(ImportLog),
    /// List, check, compare and export the shapes of events that programs have registered with the log
    #[command(subcommand)]
    Schema(Schema),
    /// Print the completions of a shell
    Completions { shell: Shell },
}

impl Command {
    /// Returns the name of the command for the envelope.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Status(_) => "status",
            Self::Why { .. } => "why",
            Self::Event { .. } => "event",
            Self::Show(_) => "show",
            Self::Trace(_) => "trace",
            Self::Tail(_) => "tail",
            Self::Parked(Parked::List { .. }) => "parked list",
            Self::Parked(Parked::Show { .. }) => "parked show",
            Self::Parked(Parked::Retry(_)) => "parked retry",
            Self::Parked(Parked::Skip { .. }) => "parked skip",
            Self::Pause { .. } => "pause",
            Self::Retire { .. } => "retire",
            Self::Resume { .. } => "resume",
            Self::Audit { .. } => "audit",
            Self::Doctor(_) => "doctor",
            Self::Prune(_) => "prune",
            Self::Migrate(_) => "migrate",
            Self::Seal(_) => "seal",
            Self::Parked(Parked::WithdrawSkip { .. }) => "parked withdraw-skip",
            Self::Verify { .. } => "verify",
            Self::Export(_) => "export",
            Self::Import(_) => "import",
            Self::Schema(Schema::List) => "schema list",
            Self::Schema(Schema::Check { .. }) => "schema check",
            Self::Schema(Schema::Diff { .. }) => "schema diff",
            Self::Schema(Schema::Export(_)) => "schema export",
            Self::Completions { .. } => "completions",
        }
    }
}

/// The commands that need the types of a program.
#[derive(Debug, Subcommand)]
pub(crate) enum Typed {
    /// Show the state of an aggregate
    State {
        /// The aggregate: TYPE/ID
        #[arg(value_parser = stream)]
        aggregate: StreamId,
        /// The state at this version, or at this time (RFC 3339)
        #[arg(long, value_name = "VERSION|TIME", value_parser = at)]
        at: Option<At>,
    },
    /// Build the generation of a view that this program writes, and compare it with the live one
    Rebuild(Rebuild),
    /// Compare the snapshots of this program's aggregates with the events that they stand for
    VerifySnapshots(crate::commands::snapshots::VerifySnapshots),
}

#[derive(Debug, Args)]
pub(crate) struct Rebuild {
    pub(crate) view: String,
    /// Estimate the cost, and change nothing
    #[arg(long, conflicts_with = "switch")]
    pub(crate) plan: bool,
    /// Make the built generation live
    #[arg(long)]
    pub(crate) switch: bool,
    /// Do it without a question
    #[arg(long)]
    pub(crate) yes: bool,
}

impl Typed {
    /// Returns the name of the command for the envelope.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::State { .. } => "state",
            Self::Rebuild(_) => "rebuild",
            Self::VerifySnapshots(_) => "verify-snapshots",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Find fault with a reader that is more events behind
    #[arg(long, value_name = "EVENTS")]
    pub(crate) max_lag: Option<u64>,
    /// Find fault with a reader whose next event is older
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub(crate) max_age: u64,
    /// Show how large the tables are, too
    #[arg(long)]
    pub(crate) sizes: bool,
    /// Show it again and again
    #[arg(long)]
    pub(crate) watch: bool,
    /// The pause between two looks
    #[arg(long, value_name = "SECONDS", default_value = "2", requires = "watch")]
    pub(crate) interval: NonZeroU64,
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// The stream: TYPE/ID
    #[arg(value_parser = stream)]
    pub(crate) stream: StreamId,
    /// The first version
    #[arg(long, value_name = "VERSION", default_value = "1")]
    pub(crate) from: NonZeroU64,
    /// Only the events up to this version, or up to the last one recorded by this time (RFC 3339)
    #[arg(long, value_name = "VERSION|TIME", value_parser = at)]
    pub(crate) at: Option<At>,
    /// Compare the payloads of two versions
    #[arg(long, num_args = 2, value_names = ["A", "B"], conflicts_with_all = ["from", "at", "limit"])]
    pub(crate) diff: Option<Vec<NonZeroU64>>,
    /// List the unique values that the stream holds, instead of its events
    #[arg(long, conflicts_with_all = ["from", "at", "diff"])]
    pub(crate) claims: bool,
    /// The most events, or values, up to 1,000
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) limit: usize,
}

/// The end of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    Version(Version),
    Time(DateTime<Utc>),
}

#[derive(Debug, Args)]
pub(crate) struct Tail {
    /// Wait for more events
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Only events whose type matches: `*` stands for any characters, `?` for one
    #[arg(long = "type", value_name = "GLOB")]
    pub(crate) event_type: Option<String>,
    /// Begin at this position, instead of with the newest events
    #[arg(long, value_name = "POSITION")]
    pub(crate) from: Option<Position>,
    /// The most events [default: 10, or all with --from or --follow]
    #[arg(short = 'n', long = "lines", value_name = "N")]
    pub(crate) lines: Option<usize>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Parked {
    /// List parked aggregates
    List {
        /// Only those of this projection, view, reaction or process
        processor: Option<ProjectionName>,
    },
    /// Show a parked aggregate, and the event that failed
    Show {
        processor: ProjectionName,
        /// The aggregate: TYPE/ID
        #[arg(value_parser = stream)]
        aggregate: StreamId,
    },
    /// Retry parked aggregates now, with a fresh retry budget
    Retry(Retry),
    /// Pass over the event that failed, now and in every replay
    Skip {
        processor: ProjectionName,
        /// The aggregate: TYPE/ID
        #[arg(value_parser = stream)]
        aggregate: StreamId,
        /// The version of the event that failed
        version: Version,
        #[command(flatten)]
        because: Because,
    },
    /// Apply a skipped event again, from the next reset or rebuild on
    WithdrawSkip {
        processor: ProjectionName,
        /// The aggregate: TYPE/ID
        #[arg(value_parser = stream)]
        aggregate: StreamId,
        /// The version of the skipped event
        version: Version,
        #[command(flatten)]
        because: Because,
    },
}

/// The operator of a change, with a reason.
#[derive(Debug, Args)]
pub(crate) struct Because {
    /// The reason, for `audit`
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    who: Who,
    /// Do it without a question
    #[arg(long)]
    pub(crate) yes: bool,
}

impl Because {
    pub(crate) fn by(&self) -> By {
        self.who.because(&self.reason)
    }
}

#[derive(Debug, Args)]
pub(crate) struct Who {
    /// The operator, for `audit`
    #[arg(long = "as", value_name = "NAME", env = "USER", default_value = "unknown", hide_env_values = true)]
    name: String,
}

impl Who {
    pub(crate) fn because(&self, reason: &str) -> By {
        By::new(&self.name, reason)
    }
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Find fault with a transaction that is open for longer
    #[arg(long, value_name = "SECONDS", default_value = "10")]
    pub(crate) patience: NonZeroU64,
    #[command(flatten)]
    pub(crate) broker: crate::rabbitmq::BrokerArguments,
    /// Show which processors and relays are ahead of a log that was restored
    #[arg(long)]
    pub(crate) after_restore: bool,
    /// Set back those that are ahead. Stop their workers first, and rebuild their views afterward
    #[arg(long, requires_all = ["after_restore", "reason"])]
    pub(crate) set_back: bool,
    /// The reason, for `audit`
    #[arg(long, value_name = "TEXT", requires = "set_back")]
    pub(crate) reason: Option<String>,
    #[command(flatten)]
    pub(crate) who: Who,
    /// Do it without a question
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Retry {
    pub(crate) processor: ProjectionName,
    /// The aggregate: TYPE/ID
    #[arg(value_parser = stream, required_unless_present = "all", conflicts_with = "all")]
    pub(crate) aggregate: Option<StreamId>,
    /// Retry every parked aggregate, up to 1,000
    #[arg(long)]
    pub(crate) all: bool,
    /// Only those that failed on an event whose type matches
    #[arg(long = "type", value_name = "GLOB", requires = "all")]
    pub(crate) event_type: Option<String>,
    /// Only those whose error matches
    #[arg(long, value_name = "GLOB", requires = "all")]
    pub(crate) error: Option<String>,
    /// The reason, for `audit` [default: what was selected]
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    #[command(flatten)]
    pub(crate) who: Who,
    /// Show what would be retried, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do it without a question
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Schema {
    /// List the registered shapes
    List,
    /// Check that events.lock accounts for every shape that programs have registered
    Check {
        #[arg(long, value_name = "FILE", default_value = "events.lock")]
        lock: PathBuf,
    },
    /// Show the shapes that only the log or only events.lock has, or that differ
    Diff {
        #[arg(long, value_name = "FILE", default_value = "events.lock")]
        lock: PathBuf,
    },
    /// Print a document for other programs
    Export(Export),
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    pub(crate) form: Form,
    /// Read the shapes from events.lock instead of the log
    #[arg(long, value_name = "FILE")]
    pub(crate) lock: Option<PathBuf>,
    /// Describe the payloads that programs write, and not all that they read (json-schema)
    #[arg(long)]
    pub(crate) written: bool,
    /// Use draft 7 of JSON Schema, and not 2020-12 (json-schema)
    #[arg(long)]
    pub(crate) draft_7: bool,
    /// The title (asyncapi)
    #[arg(long, default_value = "Events")]
    pub(crate) title: String,
    /// The version of the application's interface (asyncapi)
    #[arg(long, default_value = "1.0.0")]
    pub(crate) interface_version: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// A JSON Schema of all payloads
    JsonSchema,
    /// An AsyncAPI document with the channel and the messages of each event
    Asyncapi,
}

fn event(text: &str) -> Result<EventRef, String> {
    if let Ok(position) = text.parse::<Position>() {
        return Ok(position.into());
    }
    text.parse::<EventId>().map(EventRef::Id).map_err(|_| "expected the id of an event (a UUID) or a position".into())
}

pub(crate) fn stream(text: &str) -> Result<StreamId, String> {
    let (kind, id) = text.split_once('/').ok_or("expected TYPE/ID, such as order/17")?;
    StreamId::parse(kind, id).map_err(|error| error.to_string())
}

fn at(text: &str) -> Result<At, String> {
    if let Ok(version) = text.parse::<Version>() {
        return Ok(At::Version(version));
    }
    let time = DateTime::parse_from_rfc3339(text);
    time.map(|time| At::Time(time.to_utc()))
        .map_err(|_| "expected a version, or a time such as 2026-11-28T10:00:00Z".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn arguments_are_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn places_are_parsed() {
        assert_eq!(stream("order/a/b").unwrap().aggregate_id().as_str(), "a/b");
        assert!(stream("order").is_err() && stream("/1").is_err());
        assert_eq!(event("17"), Ok(EventRef::Position(Position::new(17))));
        assert!(matches!(event("00000000-0000-0000-0000-000000000001"), Ok(EventRef::Id(_))) && event("x").is_err());
        assert_eq!(at("3"), Ok(At::Version(Version::new(3))));
        assert!(matches!(at("2026-11-28T10:00:00+01:00"), Ok(At::Time(_))) && at("yesterday").is_err());
    }
}
