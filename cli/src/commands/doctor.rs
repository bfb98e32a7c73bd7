//! `retell doctor`.

use std::time::Duration;

use retell::operate::{self, Examine, Follower, JudgedPlace, Severity, Verdict};
use serde_json::json;

use crate::args::Doctor;
use crate::commands::confirm::confirm;
use crate::commands::count;
use crate::failure::{Diagnostic, Failure};
use crate::out::{Answer, Page};
use crate::session::Session;

/// The most projections whose queues are examined.
const QUEUES: usize = 1_000;

pub(super) async fn answer(session: &Session, doctor: &Doctor) -> Result<Answer, Failure> {
    let patience = Duration::from_secs(doctor.patience.get());
    // Only the queues of projections depend on the read models.
    let processors = if doctor.broker.is_named() {
        session.call("list the processors", session.stores.models.processors(QUEUES)).await?
    } else {
        Vec::new()
    };
    let brokers = doctor.broker.parts(processors, session.limit)?;
    let models: &dyn Examine = &*session.stores.models;
    let log: &dyn Examine = &*session.stores.log;
    let parts: Vec<&dyn Examine> = [log, models].into_iter().chain(brokers.iter().map(|part| &**part)).collect();
    // It has a time limit of its own for each part.
    let diagnosis = operate::doctor(&parts, patience).await;
    let mut page = Page::default();
    for part in &diagnosis.parts {
        page.title(&part.part);
        if part.findings.is_empty() {
            page.line("  nothing found");
        }
        for finding in &part.findings {
            page.line(format!("  {} {}: {}", word(finding.severity), finding.id, finding.seen));
            page.line(format!("    breaks: {}", finding.breaks));
            page.line(format!("    do: {}", finding.remedy));
        }
    }
    let mut diagnostics = Vec::new();
    if diagnosis.needs_attention() {
        let number = diagnosis.findings().filter(|finding| finding.severity <= Severity::Unknown).count();
        diagnostics.push(Diagnostic::finding("doctor", format!("{} to look at", count(number as u64, "finding"))));
    }
    Answer::new(&diagnosis, page, diagnostics)
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Broken => "BROKEN",
        Severity::Risk => "RISK",
        Severity::Slow => "SLOW",
        Severity::Info => "INFO",
        _ => "UNKNOWN",
    }
}

pub(super) async fn after_restore(session: &Session, doctor: &Doctor) -> Result<Answer, Failure> {
    let (log, models) = (&*session.stores.log, &session.stores.models);
    let places = session.call("read the places", models.after_restore(log)).await?;
    let mut page = Page::default();
    let relays = places.relays.iter().flat_map(|relays| &relays.items);
    let rows = places.processors.items.iter().chain(relays).map(row);
    page.table(&["KIND", "NAME", "POSITION", "VERDICT"], rows);
    let ahead: Vec<_> = places.ahead().collect();
    let mut diagnostics = Vec::new();
    let mut set_back = Vec::new();
    if doctor.set_back && !ahead.is_empty() {
        confirm(&format!("set back {}", count(ahead.len() as u64, "place")), doctor.yes)?;
        let by = doctor.who.because(doctor.reason.as_deref().unwrap_or_default());
        for place in ahead {
            let position = session.call("set a place back", models.set_back(log, &place.follower, &by)).await?;
            page.line(format!("{} continues after position {position}", name(&place.follower).1));
            set_back.push(json!({ "follower": place.follower, "position": position }));
        }
    } else if !ahead.is_empty() {
        let number = count(ahead.len() as u64, "place");
        diagnostics.push(Diagnostic::finding("ahead", format!("{number} ahead of the log: --set-back sets them back")));
    }
    Answer::new(&json!({ "places": places, "set_back": set_back }), page, diagnostics)
}

fn row(place: &JudgedPlace) -> Vec<String> {
    let (kind, name) = name(&place.follower);
    let verdict = match place.verdict {
        Verdict::Consistent => "consistent",
        Verdict::Ahead => "ahead",
        _ => "unknown",
    };
    vec![kind.to_owned(), name, place.position.to_string(), verdict.to_owned()]
}

fn name(follower: &Follower) -> (&'static str, String) {
    match follower {
        Follower::Relay(relay) => ("relay", relay.clone()),
        Follower::Processor(processor) => ("processor", processor.to_string()),
        _ => ("other", String::new()),
    }
}
