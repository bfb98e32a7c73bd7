//! A command line: the arguments, and the command that they name.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{ArgMatches, CommandFactory, FromArgMatches, Subcommand};
use retell::operate::Examine;
use retell::store::{Archive, DeadlineStore, EventStore, RelayStore, ViewStore};
use retell::{Aggregate, Rebuild, Repository, View};
use serde::Serialize;

use crate::args::{Arguments, Command, Place, Typed};
use crate::commands::typed::Types;
use crate::commands::{completions, migrate, run, snapshots};
use crate::failure::{Exit, Failure};
use crate::open::{Part, migrate_part, open};
use crate::out::{Answer, Color, Out};
use crate::ports::Stores;
use crate::session::Session;
use crate::text::{escaped, without_passwords};

/// Runs the program `retell`: the command that the arguments of this process name. Returns its exit code.
pub fn main() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Out { is_json: false, command: None }.failure(&Failure::Output(error)).into(),
    };
    let exit = runtime.block_on(Cli::new("retell").run());
    // A call that never returns must not keep the process.
    runtime.shutdown_background();
    exit.into()
}

/// A command line for the operators of one program: all commands of `retell`, and those that need the program's types.
///
/// | command | answers |
/// |---|---|
/// | `state TYPE/ID [--at VERSION\|TIME]` | the state of an aggregate, for each type of [`with_state`](Self::with_state) |
/// | `verify-snapshots [TYPE\|TYPE/ID] [--after TYPE/ID]` | whether each snapshot is the state that its events lead to |
/// | `rebuild VIEW [--plan] [--switch] [--yes]` | the cost of a rebuild, or the rebuild itself, for each view of [`with_rebuild`](Self::with_rebuild) |
///
/// # Examples
/// ```
/// use retell::prelude::*;
/// use retell_cli::{Cli, Exit};
/// use serde::Serialize;
///
/// #[derive(Event)]
/// enum ShelfEvent {
///     #[event("shelf.filled")]
///     Filled { books: u32 },
/// }
///
/// #[derive(Aggregate, Clone, Default, Serialize)]
/// #[aggregate("shelf", event = ShelfEvent)]
/// struct Shelf {
///     books: u32,
/// }
///
/// impl Apply<ShelfEvent> for Shelf {
///     fn apply(&mut self, event: ShelfEvent) {
///         let ShelfEvent::Filled { books } = event;
///         self.books += books;
///     }
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let log = MemoryStore::new();
/// log.append_events(("shelf", "1"), ExpectedVersion::NoStream, [ShelfEvent::Filled { books: 12 }]).await?;
///
/// let cli = Cli::new("library")
///     .with_stores(log.clone(), log.read_model())
///     .with_state(Repository::<Shelf>::new(log));
/// assert_eq!(cli.run_from(["library", "state", "shelf/1"]).await, Exit::Good);
/// assert_eq!(cli.run_from(["library", "state", "shelf/2"]).await, Exit::Finding);
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
#[derive(Default)]
pub struct Cli {
    name: &'static str,
    stores: Option<Stores>,
    types: Types,
}

impl fmt::Debug for Cli {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (states, rebuilds) = (self.types.states.keys(), self.types.rebuilds.keys());
        let mut debug = f.debug_struct("Cli");
        debug.field("name", &self.name).field("states", &states).field("rebuilds", &rebuilds).finish_non_exhaustive()
    }
}

impl Cli {
    /// Creates the command line of the program `name`. It opens the stores that `--store` and `--models` name.
    pub fn new(name: &'static str) -> Self {
        Self { name, ..Self::default() }
    }

    /// Uses these stores, unless `--store` names others. They stay open.
    pub fn with_stores(
        mut self,
        log: impl EventStore + RelayStore + Archive + Examine,
        models: impl ViewStore + DeadlineStore + Examine,
    ) -> Self {
        self.stores = Some(Stores { log: Arc::new(log), models: Arc::new(models) });
        self
    }

    /// Adds the aggregates of `repository` to the command `state`, which shows their states as JSON.
    pub fn with_state<A: Aggregate + Serialize>(mut self, repository: Repository<A>) -> Self {
        self.types.states.insert(A::TYPE, Box::new(repository));
        self
    }

    /// Adds the view of `rebuild` to the command `rebuild`.
    pub fn with_rebuild<V: View, M: ViewStore + Clone>(mut self, rebuild: Rebuild<V, M>) -> Self {
        self.types.rebuilds.insert(V::NAME.to_owned(), Box::new(rebuild));
        self
    }

    /// Runs the command that the arguments of this process name, and prints its answer.
    ///
    /// # Cancel safety
    /// A dropped command may still change what it was about to change.
    pub async fn run(&self) -> Exit {
        self.run_from(std::env::args_os()).await
    }

    /// Runs the command that `arguments` name, and prints its answer. The first argument is the name of the program.
    ///
    /// # Cancel safety
    /// A dropped command may still change what it was about to change.
    pub async fn run_from<A: Into<OsString>>(&self, arguments: impl IntoIterator<Item = A>) -> Exit {
        let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
        let parsed = self.command().try_get_matches_from(&arguments).and_then(|matches| Parsed::of(&matches));
        let parsed = match parsed {
            Ok(parsed) => parsed,
            Err(error) => return self.refuse(&arguments, &error),
        };
        parsed.color.set();
        let out = Out { is_json: parsed.is_json, command: Some(parsed.command.name()) };
        self.carry_out(&parsed, &out).await.unwrap_or_else(|failure| out.failure(&failure))
    }

    fn command(&self) -> clap::Command {
        let command = Arguments::command().name(self.name);
        if self.types.is_empty() { command } else { Typed::augment_subcommands(command) }
    }

    async fn carry_out(&self, parsed: &Parsed, out: &Out) -> Result<Exit, Failure> {
        let limit = parsed.place.limit();
        if let Named::Plain(Command::Completions { shell }) = &parsed.command {
            return completions::print(self.command(), *shell);
        }
        if let Named::Plain(Command::Migrate(change)) = &parsed.command
            && (self.stores.is_none() || parsed.place.store.is_some())
        {
            return printed(&migrate::answer(&parsed.place, change).await?, out);
        }
        if let Named::Typed(typed) = &parsed.command
            && let Some(answer) = self.types.answer(typed, limit).await
        {
            return printed(&answer?, out);
        }
        if let (Some(stores), None) = (&self.stores, &parsed.place.store) {
            return self.run_in(&Session { stores: stores.clone(), limit }, &parsed.command, out).await;
        }
        if matches!(&parsed.command, Named::Plain(Command::Import(import)) if import.create) {
            for part in Part::ALL {
                migrate_part(&parsed.place, part).await?;
            }
        }
        let session = Session { stores: open(&parsed.place).await?, limit };
        let done = self.run_in(&session, &parsed.command, out).await;
        session.close().await;
        done
    }

    async fn run_in(&self, session: &Session, command: &Named, out: &Out) -> Result<Exit, Failure> {
        match command {
            Named::Plain(command) => run(session, command, out).await,
            Named::Typed(Typed::VerifySnapshots(arguments)) => {
                let answer = snapshots::answer(&self.types, &*session.stores.log, arguments, session.limit).await?;
                printed(&answer, out)
            }
            // The others have been answered without a log.
            Named::Typed(_) => Ok(Exit::Good),
        }
    }

    /// Prints clap's help, or its error without active characters and passwords.
    fn refuse(&self, arguments: &[OsString], error: &clap::Error) -> Exit {
        if !error.use_stderr() {
            // A reader that closes the pipe has seen enough.
            drop(io::stdout().write_all(lines(&error.to_string()).as_bytes()));
            return Exit::Good;
        }
        // The error quotes arguments. Escaped ones lead to the same error.
        let safe = arguments.iter().map(|each| without_passwords(&escaped(&each.to_string_lossy())));
        let again = self.command().try_get_matches_from(safe).and_then(|matches| Parsed::of(&matches)).err();
        let said = without_passwords(&again.as_ref().unwrap_or(error).to_string());
        let is_json = arguments.iter().any(|each| each == "--json");
        if is_json {
            // The rest is about the usage.
            let problem = said.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ").to_owned();
            return Out { is_json, command: None }.failure(&Failure::Usage(problem));
        }
        drop(io::stderr().write_all(lines(&said).as_bytes()));
        Exit::Usage
    }
}

/// The arguments.
struct Parsed {
    place: Place,
    is_json: bool,
    color: Color,
    command: Named,
}

enum Named {
    Plain(Command),
    Typed(Typed),
}

impl Named {
    fn name(&self) -> &'static str {
        match self {
            Self::Plain(command) => command.name(),
            Self::Typed(typed) => typed.name(),
        }
    }
}

impl Parsed {
    fn of(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let command = match matches.subcommand_name() {
            Some(name) if Typed::has_subcommand(name) => Named::Typed(Typed::from_arg_matches(matches)?),
            _ => Named::Plain(Command::from_arg_matches(matches)?),
        };
        let (place, is_json) = (Place::from_arg_matches(matches)?, matches.get_flag("json"));
        let color = matches.get_one("color").copied().unwrap_or(Color::Auto);
        Ok(Self { place, is_json, color, command })
    }
}

fn printed(answer: &Answer, out: &Out) -> Result<Exit, Failure> {
    out.answer(answer, false)?;
    Ok(answer.exit)
}

/// Escapes a text of several lines.
fn lines(text: &str) -> String {
    text.lines().flat_map(|line| [escaped(line), "\n".to_owned()]).collect()
}
