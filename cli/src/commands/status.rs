//! `retell status`.

use retell::ProjectionName;
use retell::operate::{self, Blocked, Count, Deadlines, Lag, List, Order, Processor, RelayPlace, Report};
use retell::store::{Blocker, Hold, Pause, ProcessorKind, ProjectionState};

use crate::args::Status;
use crate::commands::{age, count, sizes, time};
use crate::failure::{Diagnostic, Failure};
use crate::out::{Answer, Page};
use crate::session::Session;

/// The most commits without a position. Each read of a log gives them one, so more of them are blocked.
const MAX_UNSEQUENCED: u64 = 1_000;

pub(super) async fn answer(session: &Session, limits: &Status) -> Result<Answer, Failure> {
    let (log, models) = (&*session.stores.log, &session.stores.models);
    let report = match session.call("read the status", models.status(log)).await {
        Ok(report) => report,
        // While commits get no positions, the end of the log cannot be read.
        Err(failure) => match session.call("find the sessions that block the log", operate::blocked(log)).await {
            Ok(blocked) if blocked.unsequenced > 0 => return blocked_answer(&blocked),
            _ => return Err(failure),
        },
    };
    let mut diagnostics = findings(&report, limits);
    if report.processors.items.is_empty() && report.head.position.get() > 0 {
        let text = "no processor has run on these read models: name others with --models";
        diagnostics.push(Diagnostic::note("no_processors", text));
    }
    let mut answer = Answer::new(&report, page(&report), diagnostics)?;
    if limits.sizes {
        sizes::add(session, &mut answer).await?;
    }
    Ok(answer)
}

/// Returns the answer while the end of the log cannot be read.
fn blocked_answer(blocked: &Blocked) -> Result<Answer, Failure> {
    let mut page = Page::default();
    page.line(format!("{} without a position; the end of the log cannot be read", blocked.unsequenced));
    blockers(&mut page, &blocked.blockers);
    let text = format!("{}: end the transaction of a session that blocks the log", waiting(blocked.unsequenced));
    Answer::new(blocked, page, vec![Diagnostic::finding("blocked", text)])
}

fn waiting(commits: u64) -> String {
    format!("{} {} no position", count(commits, "commit"), if commits == 1 { "has" } else { "have" })
}

fn blockers(page: &mut Page, blockers: &List<Blocker>) {
    if !blockers.items.is_empty() {
        page.line("");
        let head = ["SESSION", "HOLDS", "OPEN FOR", "CLIENT", "PROGRAM", "STATE"];
        page.table(&head, blockers.items.iter().map(blocker));
        more(page, blockers);
    }
}

fn findings(report: &Report, limits: &Status) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    if report.unsequenced > MAX_UNSEQUENCED {
        let text = format!("{}: an open transaction blocks the log", waiting(report.unsequenced));
        found.push(Diagnostic::finding("unsequenced", text));
    }
    // Each read of a log gives commits their positions, so an older transaction blocks them.
    found.extend(report.blockers.items.iter().filter(|each| each.seconds > limits.max_age).map(|each| {
        let (commits, age) = (waiting(report.unsequenced), age(each.seconds));
        let text = format!("session {} has a transaction open for {age}: {commits}", each.session);
        Diagnostic::finding("blocked", text)
    }));
    for relay in report.relays.iter().flat_map(|relays| &relays.items) {
        found.extend(of_relay(relay, limits));
    }
    for processor in &report.processors.items {
        found.extend(of_processor(processor, limits));
    }
    let is_retired =
        |name: &ProjectionName| report.processors.items.iter().any(|each| each.name == *name && each.is_retired());
    for view in &report.views {
        if !view.generations.iter().any(|each| each.generation == view.live && !is_retired(&each.processor)) {
            let text = format!("view {}: nothing keeps the live generation {} up to date", view.view, view.live);
            found.push(Diagnostic::finding("live_generation", text));
        }
    }
    for late in report.deadlines.iter().filter(|late| seconds_late(report, late) > limits.max_age) {
        let due = at_least(late.due);
        let text =
            format!("process {}: {due} deadlines are due, the oldest since {}", late.process, time(late.oldest.at));
        found.push(Diagnostic::finding("deadlines", text));
    }
    found
}

fn seconds_late(report: &Report, late: &Deadlines) -> u64 {
    (report.at - late.oldest.at).num_seconds().unsigned_abs()
}

fn of_relay(relay: &RelayPlace, limits: &Status) -> Option<Diagnostic> {
    let name = &relay.name;
    if relay.history_changed {
        let text = "the log does not have the event that it published last: restore the log, or reset the relay";
        return Some(Diagnostic::finding("history_changed", format!("relay {name}: {text}")));
    }
    let lag = relay.lag.filter(|lag| lag.events > 0)?;
    if relay.leader.is_none() {
        let text = format!("relay {name}: no process publishes, and {} wait", count(lag.events, "event"));
        return Some(Diagnostic::finding("no_leader", text));
    }
    behind(&format!("relay {name}"), lag, limits)
}

fn of_processor(processor: &Processor, limits: &Status) -> Vec<Diagnostic> {
    let Processor { name, parked, .. } = processor;
    let mut found = Vec::new();
    if processor.history_changed {
        let text = "the log does not have the event at its checkpoint: restore the log, or reset the processor";
        found.push(Diagnostic::finding("history_changed", format!("{name}: {text}")));
    }
    found.extend(processor.lag.and_then(|lag| behind(name.as_str(), lag, limits)));
    if let Some(Pause { since, by, retired, .. }) = &processor.paused {
        let text = |state| format!("{name}: {state} by {} since {}: {}", by.who, time(*since), by.reason);
        // A retirement is a decision, so it is no finding.
        found.push(if *retired {
            Diagnostic::note("retired", text("retired"))
        } else {
            Diagnostic::finding("paused", text("paused"))
        });
    }
    if parked.waiting.count + parked.dead.count > 0 && !processor.is_retired() {
        let (waiting, dead) = (at_least(parked.waiting), at_least(parked.dead));
        let text = format!("{name}: has parked aggregates, {waiting} retried and {dead} given up");
        found.push(Diagnostic::finding("parked", text));
    }
    // An operator has decided it, so it is no finding.
    found.extend(processor.skipped.items.iter().map(|skipped| {
        let (event, by) = (format!("version {} of {}", skipped.version, skipped.stream), &skipped.by);
        Diagnostic::note("skipped", format!("{name}: skips {event}, by {}: {}", by.who, by.reason))
    }));
    found
}

fn behind(name: &str, lag: Lag, limits: &Status) -> Option<Diagnostic> {
    let is_behind = limits.max_lag.is_some_and(|max| lag.events > max) || lag.seconds > limits.max_age;
    is_behind.then(|| {
        let (events, age) = (count(lag.events, "event"), age(lag.seconds));
        Diagnostic::finding("behind", format!("{name}: {events} behind, the first one is {age} old"))
    })
}

fn at_least(number: Count) -> String {
    let sign = if number.at_least { "at least " } else { "" };
    format!("{sign}{}", number.count)
}

fn lag(lag: Option<Lag>) -> String {
    lag.map_or("unknown".to_owned(), |lag| match lag.events {
        0 => "none".to_owned(),
        events => format!("{events}, {}", age(lag.seconds)),
    })
}

fn blocker(blocker: &Blocker) -> Vec<String> {
    let holds = match blocker.holds {
        Hold::Lane(lane) => format!("lane {lane}"),
        Hold::Sequencer => "the sequencer".to_owned(),
        _ => "unknown".to_owned(),
    };
    let Blocker { client, program, state, .. } = blocker;
    let known = [client, program, state].map(|text| text.as_deref().unwrap_or("unknown").to_owned());
    [blocker.session.to_string(), holds, age(blocker.seconds)].into_iter().chain(known).collect()
}

fn page(report: &Report) -> Page {
    let mut page = Page::default();
    let recorded = report.head.recorded_at.map(|at| format!(", recorded at {}", time(at))).unwrap_or_default();
    page.line(format!("head {}{recorded}; {} without a position", report.head.position, report.unsequenced));
    blockers(&mut page, &report.blockers);
    if let Some(relays) = report.relays.as_ref().filter(|relays| !relays.items.is_empty()) {
        page.line("");
        page.table(&["RELAY", "POSITION", "LAG", "LEADER", "SINCE", "UNTIL"], relays.items.iter().map(relay));
        more(&mut page, relays);
    }
    if !report.processors.items.is_empty() {
        page.line("");
        let head = ["PROCESSOR", "KIND", "STATE", "CHECKPOINT", "LAG", "RETRIED", "GIVEN UP"];
        page.table(&head, report.processors.items.iter().map(processor));
        more(&mut page, &report.processors);
    }
    if !report.views.is_empty() {
        page.line("");
        page.table(
            &["VIEW", "LIVE", "GENERATIONS"],
            report.views.iter().map(|view| {
                let generations: Vec<_> = view.generations.iter().map(|each| each.generation.to_string()).collect();
                vec![view.view.to_string(), view.live.to_string(), generations.join(" ")]
            }),
        );
    }
    if !report.deadlines.is_empty() {
        page.line("");
        page.table(
            &["PROCESS", "DUE", "OLDEST"],
            report
                .deadlines
                .iter()
                .map(|late| vec![late.process.to_string(), at_least(late.due), time(late.oldest.at)]),
        );
    }
    page
}

fn more<T>(page: &mut Page, list: &List<T>) {
    if list.truncated {
        page.line("..");
    }
}

fn relay(relay: &RelayPlace) -> Vec<String> {
    let [leader, since, until] =
        relay.leader.as_ref().map_or(["none".to_owned(), String::new(), String::new()], |leader| {
            let since = leader.started_at.map_or("unknown".to_owned(), time);
            [leader.holder.to_string(), since, time(leader.ends_at)]
        });
    vec![relay.name.clone(), relay.position.to_string(), lag(relay.lag), leader, since, until]
}

fn kind(kind: Option<ProcessorKind>) -> &'static str {
    match kind {
        Some(ProcessorKind::Projection) => "projection",
        Some(ProcessorKind::View) => "view",
        Some(ProcessorKind::Reaction) => "reaction",
        Some(ProcessorKind::Process) => "process",
        _ => "unknown",
    }
}

fn processor(processor: &Processor) -> Vec<String> {
    let state = match (processor.state, processor.order) {
        _ if processor.history_changed => "other history",
        _ if processor.is_retired() => "retired",
        _ if processor.paused.is_some() => "paused",
        (ProjectionState::Running, Order::Log) => "log order",
        (ProjectionState::Running, Order::Aggregate) => "per aggregate",
        (ProjectionState::Inline, _) => "inline",
        (ProjectionState::Deleting, _) => "deleting",
        _ => "unknown",
    };
    let (waiting, dead) = (at_least(processor.parked.waiting), at_least(processor.parked.dead));
    vec![
        processor.name.to_string(),
        kind(processor.kind).to_owned(),
        state.to_owned(),
        processor.checkpoint.to_string(),
        if processor.is_retired() { "-".to_owned() } else { lag(processor.lag) },
        waiting,
        dead,
    ]
}
