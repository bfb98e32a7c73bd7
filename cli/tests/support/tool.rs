//! Runs the program `retell` as a child process.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use crate::databases::Place;

/// The program, with the URLs of its stores.
pub(crate) struct Tool {
    store: String,
    models: Option<String>,
    folder: PathBuf,
}

impl Tool {
    pub(crate) fn at(store: impl Into<String>) -> Self {
        Self { store: store.into(), models: None, folder: std::env::temp_dir() }
    }

    pub(crate) fn of(place: &Place) -> Self {
        Self::at(match place {
            Place::Sqlite(path) => format!("sqlite:{}", path.display()),
            Place::Postgres(url) | Place::MySql(url) => url.clone(),
        })
    }

    pub(crate) fn with_models(mut self, models: impl Into<String>) -> Self {
        self.models = Some(models.into());
        self
    }

    /// Sets the working directory.
    pub(crate) fn in_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = folder.into();
        self
    }

    pub(crate) fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = bare(arguments);
        command.env("RETELL_STORE", &self.store).current_dir(&self.folder);
        if let Some(models) = &self.models {
            command.env("RETELL_MODELS", models);
        }
        command
    }

    pub(crate) fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Ran {
        Ran::of(&self.command(arguments).output().unwrap())
    }
}

/// Returns the program without a store.
pub(crate) fn bare<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_retell"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env("USER", "tester");
    for variable in [
        "RETELL_STORE",
        "RETELL_MODELS",
        "RETELL_POSTGRES_SCHEMA",
        "RETELL_BROKER",
        "RETELL_MANAGEMENT",
        "CLICOLOR_FORCE",
        "CLICOLOR",
    ] {
        command.env_remove(variable);
    }
    command
}

/// The result of a run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) exit: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("the output is UTF-8");
        let exit = output.status.code().expect("the program was not killed");
        Self { exit, stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }
}
