//! `retell schema`.

use std::collections::BTreeSet;
use std::path::Path;

use retell::broker::rabbitmq::topology::Topology;
use retell::registry::asyncapi::AsyncApi;
use retell::registry::{Differs, Lock};
use retell::shape::{Changes, Contract, Dialect, Finding};
use retell::store::{EventReader, EventReaderExt, RegisteredShape};
use serde_json::{Value, json};

use crate::args::{Export, Form, Schema};
use crate::commands::time;
use crate::failure::{Diagnostic, Failure};
use crate::out::{Answer, Page};
use crate::session::Session;

/// The event of the library itself, which no lock has.
const OWN: &str = "process.stepped";

pub(super) async fn answer(session: &Session, schema: &Schema) -> Result<Answer, Failure> {
    let log = &session.stores.log;
    let registered = session.call("read the registered shapes", log.registered_shapes()).await?;
    match schema {
        Schema::List => list(session, &registered).await,
        Schema::Check { lock } => check(&read(lock)?, &registered),
        Schema::Diff { lock } => diff(&read(lock)?, &registered),
        Schema::Export(export) => {
            let lock = export.lock.as_deref().map_or_else(|| Ok(Lock::registered(&registered)), read)?;
            document(&lock, export)
        }
    }
}

/// Reads a lock from a file.
fn read(path: &Path) -> Result<Lock, Failure> {
    let wrong = |problem: String| Failure::Usage(format!("{}: {problem}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    text.parse().map_err(|error: retell::registry::InvalidLock| wrong(error.to_string()))
}

fn shape(shape: &RegisteredShape) -> Value {
    json!({
        "event_type": shape.event_type, "version": shape.version, "codec": shape.codec.name(), "shape": shape.shape,
        "first_seen": shape.first_seen, "program": shape.program,
    })
}

async fn list(session: &Session, registered: &[RegisteredShape]) -> Result<Answer, Failure> {
    let stored = session.call("list the event types", session.stores.log.event_types()).await?;
    let known: BTreeSet<_> = registered.iter().map(|shape| &shape.event_type).collect();
    let unknown: Vec<_> = stored.iter().filter(|stored| stored.as_str() != OWN && !known.contains(stored)).collect();
    let mut page = Page::default();
    page.table(
        &["EVENT", "VERSION", "CODEC", "FIRST SEEN", "PROGRAM", "SHAPE"],
        registered.iter().map(|shape| {
            vec![
                shape.event_type.to_string(),
                shape.version.to_string(),
                shape.codec.name().to_owned(),
                time(shape.first_seen),
                shape.program.clone(),
                shape.shape.clone(),
            ]
        }),
    );
    let note = |event_type| format!("the log has events of {event_type}, which no program has registered");
    let notes = unknown.iter().map(|each| Diagnostic::note("not_registered", note(each))).collect();
    let shapes: Vec<_> = registered.iter().map(shape).collect();
    Answer::new(&json!({ "shapes": shapes, "not_registered": unknown }), page, notes)
}

fn check(lock: &Lock, registered: &[RegisteredShape]) -> Result<Answer, Failure> {
    let differences = lock.compare(registered);
    let (mut page, mut data, mut diagnostics) = (Page::default(), Vec::new(), Vec::new());
    for difference in &differences {
        let (id, of) = (difference.differs.id(), &difference.registered);
        let place = match &difference.differs {
            Differs::Unreadable(finding) => at(finding),
            _ => String::new(),
        };
        let event = format!("{} {} {}", of.event_type, of.version, of.codec.name());
        page.line(format!("{event}: {id}{place}: registered by {} at {}", of.program, time(of.first_seen)));
        page.line(format!("    {}", difference.differs.cure()));
        if difference.differs == Differs::NotLocked {
            block(&mut page, of);
        }
        data.push(json!({
            "rule": id, "path": path(&difference.differs), "cure": difference.differs.cure(),
            "is_doubt": difference.differs.is_doubt(), "registered": shape(of),
        }));
        if !difference.differs.is_doubt() {
            diagnostics
                .push(Diagnostic::finding("not_in_lock", format!("the lock does not account for {event}: {id}")));
        }
    }
    if differences.is_empty() {
        page.line("the lock accounts for every registered shape");
    }
    Answer::new(&data, page, diagnostics)
}

/// Adds the block of a registered shape, as a lock would have it.
fn block(page: &mut Page, shape: &RegisteredShape) {
    page.line(format!("    [{} {} {}]", shape.event_type, shape.version, shape.codec.name()));
    for block in Lock::registered(std::slice::from_ref(shape)).blocks.values() {
        page.lines("    ", block.to_string().lines());
    }
}

fn at(finding: &Finding) -> String {
    let path = if finding.path.is_empty() { String::new() } else { format!(" at {}", finding.path) };
    if finding.detail.is_empty() { path } else { format!("{path}: {}", finding.detail) }
}

fn path(differs: &Differs) -> Option<&str> {
    let Differs::Unreadable(finding) = differs else { return None };
    Some(&finding.path)
}

fn diff(lock: &Lock, registered: &[RegisteredShape]) -> Result<Answer, Failure> {
    let log = Lock::registered(registered);
    let (mut page, mut data) = (Page::default(), Vec::new());
    for key in lock.blocks.keys().chain(log.blocks.keys()).collect::<BTreeSet<_>>() {
        let (name, version, codec) = key;
        let (locked, stored) = (lock.blocks.get(key), log.blocks.get(key));
        let (sign, side) = match (locked, stored) {
            (Some(locked), Some(stored)) if locked.shape == stored.shape => continue,
            (Some(_), Some(_)) => ("~", "both"),
            (Some(_), None) => ("-", "lock"),
            _ => ("+", "log"),
        };
        page.title(format!("{sign} {name} {version} {}", codec.name()));
        let lines = |block: Option<&retell::registry::Block>| block.map(fields).unwrap_or_default();
        let (before, after) = (lines(locked), lines(stored));
        let removed: Vec<_> = before.iter().filter(|line| !after.contains(line)).collect();
        let added: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
        page.lines("    - ", &removed);
        page.lines("    + ", &added);
        let changes = locked.zip(stored).map(|(locked, stored)| Changes::between(&locked.shape, &stored.shape, *codec));
        let rules = |findings: &[Finding]| findings.iter().map(|each| each.rule.id().to_owned() + &at(each)).collect();
        let (backward, forward): (Vec<String>, Vec<String>) =
            changes.map(|changes| (rules(&changes.backward), rules(&changes.forward))).unwrap_or_default();
        page.lines("    the log's shape cannot read the lock's: ", &backward);
        page.lines("    the lock's shape cannot read the log's: ", &forward);
        data.push(json!({
            "event_type": name, "version": version, "codec": codec.name(), "only_in": side, "removed": removed,
            "added": added, "backward": backward, "forward": forward,
        }));
    }
    let is_same = data.is_empty();
    if is_same {
        page.line("the lock and the log have the same shapes");
    }
    let finding = || Diagnostic::finding("differs", "the lock and the log have different shapes");
    Answer::new(&data, page, if is_same { Vec::new() } else { vec![finding()] })
}

/// Returns the lines of a block that describe its shape.
fn fields(block: &retell::registry::Block) -> Vec<String> {
    let mut alone = block.clone();
    (alone.is_public, alone.former, alone.exceptions) = (false, Vec::new(), Vec::new());
    alone.to_string().lines().map(str::to_owned).collect()
}

fn document(lock: &Lock, export: &Export) -> Result<Answer, Failure> {
    let document = match export.form {
        Form::JsonSchema => {
            let dialect = if export.draft_7 { Dialect::Draft07 } else { Dialect::Draft202012 };
            lock.json_schema(dialect, if export.written { Contract::Written } else { Contract::Read })
        }
        Form::Asyncapi => AsyncApi::new(&export.title, &export.interface_version, Topology::new())
            .with_events(lock.clone())
            .document()?,
    };
    let mut page = Page::default();
    page.json(&document)?;
    let opaque = lock.blocks.iter().filter(|(_, block)| block.shape == retell::shape::Type::Opaque);
    let note = |name: &str| Diagnostic::note("opaque", format!("nothing is known about the payload of {name}"));
    Answer::new(&document, page, opaque.map(|((name, ..), _)| note(name)).collect())
}
