//! Reads an export, and refuses it unless it is whole.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};

use sha2::{Digest, Sha256};

use crate::error::{Error, ErrorKind, Result};
use crate::id::{Position, ProjectionName};
use crate::operate::archive::counted::ArchivedRows;
use crate::operate::archive::event::EventLine;
use crate::operate::archive::line::{End, Header, Line, parse_header};
use crate::operate::archive::value::{bad, hex};
use crate::store::log::archive::{ArchivedClaim, ArchivedCommit, ArchivedEvent, ArchivedKey, Part, Parts};
use crate::store::log::seal::Seal;
use crate::store::log::shapes::RegisteredShape;
use crate::store::model::processors::RegisteredProcessor;

/// The most rows of a part.
const PART_ROWS: usize = 500;

/// The bytes of events at which a part is full.
const PART_BYTES: usize = 1024 * 1024;

/// The longest line. It holds the largest payload of a store, escaped.
const LINE_BYTES: u64 = 1024 * 1024 * 1024;

/// The bytes that are read at a time.
const BUFFER: usize = 64 * 1024;

/// The lines of an export as parts.
pub(super) struct Source<R> {
    input: R,
    head: u64,
    line: Vec<u8>,
    hash: Sha256,
    rows: ArchivedRows,
    open: Open,
    /// The commit that the next event may belong to.
    commit: Option<ArchivedCommit>,
    ready: VecDeque<Part>,
    processors: Vec<(ProjectionName, RegisteredProcessor)>,
    is_whole: bool,
}

/// Rows for the next parts.
#[derive(Default)]
struct Open {
    events: Vec<ArchivedEvent>,
    event_bytes: usize,
    commits: Vec<ArchivedCommit>,
    keys: Vec<ArchivedKey>,
    claims: Vec<ArchivedClaim>,
    shapes: Vec<RegisteredShape>,
    seals: Vec<Seal>,
}

impl Source<Box<dyn BufRead + Send>> {
    pub(super) fn of<'r>(from: impl Read + Send + 'r) -> Result<Source<Box<dyn BufRead + Send + 'r>>> {
        let mut input = BufReader::with_capacity(BUFFER, from);
        // Magic numbers of zstd begin with this byte, and JSON does not.
        let is_compressed = input.fill_buf().map_err(unreadable)?.first() == Some(&0x28);
        Source::begin(if is_compressed { expanded(input)? } else { Box::new(input) })
    }
}

impl<R: BufRead> Source<R> {
    fn begin(input: R) -> Result<Self> {
        let mut source = Self {
            input,
            head: 0,
            line: Vec::new(),
            hash: Sha256::new(),
            rows: ArchivedRows::default(),
            open: Open::default(),
            commit: None,
            ready: VecDeque::new(),
            processors: Vec::new(),
            is_whole: false,
        };
        source.read_line()?;
        let line = source.line.strip_suffix(b"\n").unwrap_or(&source.line);
        let Header { head, .. } = parse_header(line)?;
        if i64::try_from(head).is_err() {
            return Err(bad("its head is out of range"));
        }
        source.head = head;
        Ok(source)
    }

    pub(super) fn head(&self) -> Position {
        Position::new(self.head)
    }

    /// Returns what was read, with the processors, which do not belong to the log.
    pub(super) fn end(self) -> (ArchivedRows, Vec<(ProjectionName, RegisteredProcessor)>) {
        (self.rows, self.processors)
    }

    /// Reads a line with its line feed.
    fn read_line(&mut self) -> Result<()> {
        self.line.clear();
        self.input.by_ref().take(LINE_BYTES).read_until(b'\n', &mut self.line).map_err(unreadable)?;
        if self.line.ends_with(b"\n") {
            Ok(())
        } else {
            Err(bad("it ends before its last line, or a line is too long"))
        }
    }

    /// Reads the next line and adds its row.
    fn advance(&mut self) -> Result<()> {
        self.read_line()?;
        let bytes = std::mem::take(&mut self.line);
        let rows = self.rows;
        let line: Line<'_> =
            serde_json::from_slice(&bytes).map_err(|error| Error::with_source(at_place(rows), error))?;
        if let Line::End(end) = &line {
            self.check_end(end, &bytes)?;
        } else {
            self.hash.update(&bytes);
            line.count(&mut self.rows);
            self.add(line).map_err(|error| changed(error, self.rows))?;
        }
        self.line = bytes;
        Ok(())
    }

    fn add(&mut self, line: Line<'_>) -> Result<()> {
        if !matches!(line, Line::Event(_)) {
            self.end_commit();
        }
        match line {
            Line::Event(event) => self.add_event(event)?,
            Line::Claim(claim) => self.open.claims.push(claim.parse()?),
            Line::Shape(shape) => self.open.shapes.push(shape.parse()?),
            Line::Processor(processor) => self.processors.push(processor.parse()?),
            Line::Key(key) => self.open.keys.push(key.parse()?),
            Line::Seal(seal) => self.open.seals.push(seal.parse()?),
            Line::End(_) => {}
        }
        let open = &self.open;
        if open.claims.len().max(open.keys.len()).max(open.shapes.len()).max(open.seals.len()) >= PART_ROWS {
            self.flush();
        }
        Ok(())
    }

    fn add_event(&mut self, event: EventLine<'_>) -> Result<()> {
        let (position, ordinal) = (event.position, event.ordinal);
        if position != self.rows.events || position > self.head {
            return Err(bad(&format!("position {position} is not at its place")));
        }
        let first = i64::try_from(position).unwrap_or(i64::MAX) - i64::from(ordinal) + 1;
        let row = event.parse()?;
        match &mut self.commit {
            Some(commit) if commit.first == first && ordinal == commit.events + 1 => {
                if row.recorded_at != commit.recorded_at {
                    return Err(bad(&format!("position {position} has another time than its commit")));
                }
                commit.events = ordinal;
            }
            _ if ordinal == 1 => {
                self.end_commit();
                self.commit = Some(ArchivedCommit { first, events: 1, recorded_at: row.recorded_at });
            }
            _ => return Err(bad(&format!("position {position} is not at its place in its commit"))),
        }
        let bytes = row.bytes();
        if self.open.events.len() >= PART_ROWS || self.open.event_bytes + bytes > PART_BYTES {
            self.flush();
        }
        self.open.event_bytes += bytes;
        self.open.events.push(ArchivedEvent { first, ordinal, row });
        Ok(())
    }

    fn end_commit(&mut self) {
        self.open.commits.extend(self.commit.take());
    }

    /// Moves the rows to the parts that are ready.
    fn flush(&mut self) {
        let Open { events, commits, keys, claims, shapes, seals, .. } = std::mem::take(&mut self.open);
        let parts = [
            Part::Claims(claims),
            Part::Shapes(shapes),
            Part::Events(events),
            Part::Commits(commits),
            Part::Keys(keys),
            Part::Seals(seals),
        ];
        self.ready.extend(parts.into_iter().filter(|part| !is_empty(part)));
    }

    fn check_end(&mut self, end: &End, line: &[u8]) -> Result<()> {
        let expected = End { rows: self.rows, sha256: hex(self.hash.finalize_reset()) };
        let expected = serde_json::to_vec(&Line::End(expected)).unwrap_or_default();
        if line.strip_suffix(b"\n") != Some(&expected) {
            let problem = if end.rows == self.rows { "its digest is another one" } else { "lines are missing" };
            return Err(bad(&format!("it is changed: {problem}")));
        }
        if self.rows.events != self.head {
            return Err(bad("it does not reach its head"));
        }
        if !self.input.fill_buf().map_err(unreadable)?.is_empty() {
            return Err(bad("it has more after its last line"));
        }
        self.end_commit();
        self.flush();
        self.is_whole = true;
        Ok(())
    }
}

impl<R: BufRead + Send> Parts for Source<R> {
    fn next(&mut self) -> Result<Option<Part>> {
        loop {
            if let Some(part) = self.ready.pop_front() {
                return Ok(Some(part));
            }
            if self.is_whole {
                return Ok(None);
            }
            self.advance()?;
        }
    }
}

fn is_empty(part: &Part) -> bool {
    match part {
        Part::Events(rows) => rows.is_empty(),
        Part::Commits(rows) => rows.is_empty(),
        Part::Keys(rows) => rows.is_empty(),
        Part::Claims(rows) => rows.is_empty(),
        Part::Shapes(rows) => rows.is_empty(),
        Part::Seals(rows) => rows.is_empty(),
    }
}

/// Makes every error of a line one of the export. `rows` were read up to the line.
fn changed(error: Error, rows: ArchivedRows) -> Error {
    if matches!(error.kind(), ErrorKind::BadExport(_)) { error } else { Error::with_source(at_place(rows), error) }
}

/// Names the place of a line by the rows up to it.
fn at_place(rows: ArchivedRows) -> ErrorKind {
    let (events, claims, keys) = (rows.events, rows.claims, rows.keys);
    ErrorKind::BadExport(format!(
        "a line after {events} events, {claims} claims and {keys} idempotency keys is changed"
    ))
}

#[cfg(feature = "zstd")]
fn expanded<'r>(input: BufReader<impl Read + Send + 'r>) -> Result<Box<dyn BufRead + Send + 'r>> {
    let decoder = zstd::stream::read::Decoder::with_buffer(input).map_err(unreadable)?;
    Ok(Box::new(BufReader::with_capacity(BUFFER, decoder)))
}

#[cfg(not(feature = "zstd"))]
fn expanded<'r>(_: BufReader<impl Read + Send + 'r>) -> Result<Box<dyn BufRead + Send + 'r>> {
    Err(ErrorKind::Invalid("a compressed export needs the feature `zstd`".into()).into())
}

fn unreadable(error: std::io::Error) -> Error {
    Error::with_source(ErrorKind::BadExport("it cannot be read to its end".into()), error)
}
