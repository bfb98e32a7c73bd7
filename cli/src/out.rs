//! The output: one envelope of JSON, or lines for people.

use std::io::{self, IsTerminal, Write};

use anstream::{AutoStream, ColorChoice};
use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;
use unicode_width::UnicodeWidthStr;

use crate::failure::{Diagnostic, Exit, Failure, Level};
use crate::text::{Safe, json};

const RED: &str = "\u{1b}[31m";
const BOLD: &str = "\u{1b}[1m";
const PLAIN: &str = "\u{1b}[0m";

/// When to print colors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    Always,
    Never,
}

impl Color {
    /// Sets the colors of this process.
    pub(crate) fn set(self) {
        match self {
            Self::Auto => ColorChoice::Auto,
            Self::Always => ColorChoice::Always,
            Self::Never => ColorChoice::Never,
        }
        .write_global();
    }
}

/// Lines for people.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Page(Vec<(Safe, Option<&'static str>)>);

impl Page {
    pub(crate) fn line(&mut self, text: impl AsRef<str>) {
        self.0.push((Safe::line(text.as_ref()), None));
    }

    /// Adds lines that begin in the same way.
    pub(crate) fn lines<T: AsRef<str>>(&mut self, begin: &str, lines: impl IntoIterator<Item = T>) {
        lines.into_iter().for_each(|line| self.line(format!("{begin}{}", line.as_ref())));
    }

    pub(crate) fn title(&mut self, text: impl AsRef<str>) {
        self.0.push((Safe::line(text.as_ref()), Some(BOLD)));
    }

    /// Adds rows in aligned columns, the first one as a title.
    pub(crate) fn table(&mut self, head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
        let head: Vec<_> = head.iter().map(|cell| Safe::cell(cell)).collect();
        let rows = rows.into_iter().map(|row| row.iter().map(|cell| Safe::cell(cell)).collect::<Vec<_>>());
        let rows: Vec<Vec<Safe>> = std::iter::once(head).chain(rows).collect();
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        let width =
            |column: usize| rows.iter().filter_map(|row| Some(row.get(column)?.as_str().width())).max().unwrap_or(0);
        let widths: Vec<_> = (0..columns).map(width).collect();
        for (number, row) in rows.into_iter().enumerate() {
            let cells: Vec<_> = row.into_iter().zip(widths.iter().copied()).collect();
            self.0.push((Safe::row(&cells), (number == 0).then_some(BOLD)));
        }
    }

    /// Adds a document that is JSON for people, too: it is not cut.
    pub(crate) fn json(&mut self, document: &Value) -> Result<(), Failure> {
        self.0.extend(Safe::document(document)?.into_iter().map(|line| (line, None)));
        Ok(())
    }

    /// Adds two columns without a title.
    pub(crate) fn pairs(&mut self, pairs: impl IntoIterator<Item = (&'static str, String)>) {
        let pairs: Vec<_> = pairs.into_iter().collect();
        let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, value) in pairs {
            self.line(format!("{name:width$}  {value}"));
        }
    }
}

/// The answer of a command.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) exit: Exit,
    pub(crate) data: Value,
    pub(crate) page: Page,
    pub(crate) diagnostics: Vec<Diagnostic>,
}

impl Answer {
    /// Creates an answer. A finding among the diagnostics decides the exit code.
    pub(crate) fn new(data: &impl Serialize, page: Page, diagnostics: Vec<Diagnostic>) -> Result<Self, Failure> {
        let is_finding = diagnostics.iter().any(|each| each.level == Level::Finding);
        let exit = if is_finding { Exit::Finding } else { Exit::Good };
        Ok(Self { exit, data: serde_json::to_value(data)?, page, diagnostics })
    }
}

/// The one form of all answers in JSON.
#[derive(Serialize)]
struct Envelope<'a> {
    format: u32,
    command: Option<&'a str>,
    status: &'static str,
    data: &'a Value,
    diagnostics: &'a [Diagnostic],
}

/// The streams of the process.
#[derive(Debug)]
pub(crate) struct Out {
    pub(crate) is_json: bool,
    /// The name of the command; `None` if the arguments name none.
    pub(crate) command: Option<&'static str>,
}

impl Out {
    /// Prints an answer. `is_repeated` if more answers follow.
    pub(crate) fn answer(&self, answer: &Answer, is_repeated: bool) -> Result<(), Failure> {
        if self.is_json {
            return self.envelope(answer.exit, &answer.data, &answer.diagnostics, !is_repeated);
        }
        let mut text = String::new();
        if is_repeated && io::stdout().is_terminal() {
            // Clears the screen.
            text.push_str("\u{1b}[2J\u{1b}[H");
        }
        for (line, style) in &answer.page.0 {
            styled(&mut text, line, *style);
        }
        let findings = answer.diagnostics.iter().filter(|each| each.level == Level::Finding);
        for finding in findings {
            styled(&mut text, &Safe::line(&format!("! {}", finding.message)), Some(RED));
        }
        if is_repeated {
            text.push('\n');
        }
        let mut out = AutoStream::auto(io::stdout());
        out.write_all(text.as_bytes())?;
        out.flush()?;
        answer.diagnostics.iter().filter(|each| each.level != Level::Finding).for_each(remark);
        Ok(())
    }

    /// Prints the row of a list that may never end.
    pub(crate) fn row(&self, data: &impl Serialize, page: &Page) -> Result<(), Failure> {
        let mut text = String::new();
        if self.is_json {
            text.push_str(&json(data, false)?);
            text.push('\n');
        } else {
            page.0.iter().for_each(|(line, style)| styled(&mut text, line, *style));
        }
        let mut out = AutoStream::auto(io::stdout());
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }

    /// Prints a failure, and returns its exit code.
    pub(crate) fn failure(&self, failure: &Failure) -> Exit {
        let diagnostic = Diagnostic::of(failure);
        let exit = failure.exit();
        if matches!(failure, Failure::ClosedPipe) {
            return exit;
        }
        if self.is_json {
            // Nothing is left to say where the output cannot be written.
            drop(self.envelope(exit, &Value::Null, &[diagnostic], true));
        } else {
            remark(&diagnostic);
        }
        exit
    }

    fn envelope(&self, exit: Exit, data: &Value, diagnostics: &[Diagnostic], is_pretty: bool) -> Result<(), Failure> {
        let status = match exit {
            Exit::Good => "ok",
            Exit::Finding if !diagnostics.iter().any(|each| each.level == Level::Error) => "finding",
            _ => "error",
        };
        let envelope = Envelope { format: 1, command: self.command, status, data, diagnostics };
        let text = json(&envelope, is_pretty)? + "\n";
        let mut out = io::stdout();
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }
}

/// Prints a remark on standard error, each cause on a line of its own.
pub(crate) fn remark(diagnostic: &Diagnostic) {
    let (word, style) = match diagnostic.level {
        Level::Error => ("error", Some(RED)),
        Level::Finding => ("finding", Some(RED)),
        Level::Note => ("note", None),
    };
    let mut text = String::new();
    styled(&mut text, &Safe::line(&format!("{word}: {}", diagnostic.message)), style);
    for cause in &diagnostic.causes {
        styled(&mut text, &Safe::line(&format!("  because: {cause}")), None);
    }
    // There is no other place to report that standard error is closed.
    drop(AutoStream::auto(io::stderr()).write_all(text.as_bytes()));
}

fn styled(text: &mut String, line: &Safe, style: Option<&str>) {
    let end = if style.is_some() { PLAIN } else { "" };
    text.extend([style.unwrap_or_default(), line.as_str(), end, "\n"]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_by_width() {
        let mut page = Page::default();
        page.table(&["NAME", "LAG"], [vec!["名前".into(), "1".into()], vec!["a\u{1b}".into(), "22".into()]]);
        let lines: Vec<_> = page.0.iter().map(|(line, _)| line.as_str()).collect();
        assert_eq!(lines, ["NAME     LAG", "名前     1", "a\\u{1b}  22"]);
    }
}
