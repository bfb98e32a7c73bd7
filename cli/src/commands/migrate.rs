//! `retell migrate`: the only command that creates or updates a schema.

use clap::Args;
use retell::store::{Action, AuditEntry};
use retell::{Error, ErrorKind};
use serde::Serialize;
use serde_json::json;

use crate::args::{Place, Who};
use crate::commands::confirm::confirm_on;
use crate::failure::{Diagnostic, Failure};
use crate::open::{self, Part};
use crate::out::{Answer, Page};

#[derive(Debug, Args)]
pub(crate) struct Migrate {
    /// The reason, for `audit`
    #[arg(long, value_name = "TEXT", default_value = "the schema was not that of this release")]
    reason: String,
    #[command(flatten)]
    who: Who,
    /// Show what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do it without a question
    #[arg(long)]
    yes: bool,
}

/// The schema of a part, before the migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "schema")]
enum Found {
    UpToDate,
    Missing {
        known: u32,
    },
    Older {
        found: u32,
        known: u32,
    },
    /// The tables are those of this release, and functions are not.
    OtherFunctions {
        known: u32,
    },
}

impl Found {
    fn of(opened: Result<(), Failure>) -> Result<Self, Failure> {
        let Err(failure) = opened else { return Ok(Self::UpToDate) };
        match failure {
            Failure::Opening(error) => Self::of_error(error),
            other => Err(other),
        }
    }

    fn of_error(error: Error) -> Result<Self, Failure> {
        match *error.kind() {
            ErrorKind::NotMigrated { found: 0, known } => Ok(Self::Missing { known }),
            ErrorKind::NotMigrated { found, known } if found == known => Ok(Self::OtherFunctions { known }),
            ErrorKind::NotMigrated { found, known } => Ok(Self::Older { found, known }),
            _ => Err(Failure::Opening(error)),
        }
    }

    /// Returns what a migration changes.
    fn change(self) -> Option<String> {
        match self {
            Self::UpToDate => None,
            Self::Missing { known } => Some(format!("to schema {known}")),
            Self::Older { found, known } => Some(format!("from schema {found} to {known}")),
            Self::OtherFunctions { known } => Some(format!("functions of schema {known}")),
        }
    }

    fn tells(self, part: Part, is_planned: bool) -> String {
        let would = |done: &str| if is_planned { format!("would be {done}") } else { done.to_owned() };
        match self {
            Self::UpToDate => format!("{part}: up to date"),
            Self::Missing { known } => format!("{part}: {} with schema {known}", would("created")),
            Self::Older { found, known } => format!("{part}: {} from schema {found} to {known}", would("updated")),
            Self::OtherFunctions { known } => format!("{part}: functions of schema {known} {}", would("replaced")),
        }
    }
}

pub(crate) async fn answer(place: &Place, migrate: &Migrate) -> Result<Answer, Failure> {
    let mut found = Vec::new();
    for part in Part::ALL {
        found.push((part, Found::of(open::try_part(place, part).await)?));
    }
    let is_needed = found.iter().any(|(_, found)| *found != Found::UpToDate);
    if is_needed && !migrate.dry_run {
        confirm_on("the schema", "create or update the tables", migrate.yes)?;
        let (by, mut entries) = (migrate.who.because(&migrate.reason), Vec::new());
        by.check()?;
        for (part, found) in &found {
            if let Some(change) = found.change() {
                open::migrate_part(place, *part).await?;
                entries.push(AuditEntry::new(Action::Migrate, format!("{part} {change}"), &by));
            }
        }
        // The last part has the table of the records.
        open::record(place, &entries).await?;
    }
    let mut page = Page::default();
    page.lines("", found.iter().map(|(part, found)| found.tells(*part, migrate.dry_run)));
    let parts: Vec<_> = found.iter().map(|(part, found)| json!({ "part": part.to_string(), "found": found })).collect();
    Answer::new(
        &json!({ "dry_run": migrate.dry_run, "changed": is_needed && !migrate.dry_run, "parts": parts }),
        page,
        Vec::new(),
    )
}

/// The answer of a program that has opened its own stores.
pub(crate) fn of_open_stores() -> Result<Answer, Failure> {
    let note = Diagnostic::note("own_stores", "this program opens its stores itself: name others with --store");
    Answer::new(&json!({ "dry_run": false, "changed": false, "parts": [] }), Page::default(), vec![note])
}
