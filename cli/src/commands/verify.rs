//! `retell verify`.

use retell::operate::VerifyOptions;
use retell::{CancellationToken, Position};
use tokio::sync::watch;
use tokio::time::{Duration, MissedTickBehavior, interval};

use crate::commands::count;
use crate::failure::{Diagnostic, Exit, Failure};
use crate::out::{Answer, Page, remark};
use crate::session::Session;

/// The pause between two reports of progress.
const PAUSE: Duration = Duration::from_secs(1);

pub(super) async fn answer(session: &Session, after: Position) -> Result<Answer, Failure> {
    let (stop, progress) = (CancellationToken::new(), watch::Sender::new((after, after)));
    let mut reports = interval(PAUSE);
    reports.set_missed_tick_behavior(MissedTickBehavior::Delay);
    reports.tick().await;
    let seen = progress.subscribe();
    let options = VerifyOptions::new().with_after(after).with_stop(stop.clone());
    let options = options.with_progress(move |position, head| {
        progress.send_replace((position, head));
    });
    let verifying = session.stores.models.verify(&*session.stores.log, options);
    tokio::pin!(verifying);
    // It reads the whole log. Each of its calls has the time limit of the store.
    let verified = loop {
        tokio::select! {
            verified = &mut verifying => break verified?,
            _ = reports.tick() => {
                let (position, head) = *seen.borrow();
                remark(&Diagnostic::note("progress", format!("position {position} of {head}")));
            }
            signal = tokio::signal::ctrl_c() => {
                signal.map_err(Failure::Output)?;
                stop.cancel();
            }
        }
    };
    let mut page = Page::default();
    if !verified.faults.is_empty() {
        let rows = verified.faults.iter().map(|fault| {
            let position = fault.position.map(|position| position.to_string()).unwrap_or_default();
            vec![fault.id.as_str().to_owned(), position, fault.stream.clone().unwrap_or_default(), fault.detail.clone()]
        });
        page.table(&["FAULT", "POSITION", "STREAM", "DETAIL"], rows);
    }
    page.line(format!("{} read, up to position {}", count(verified.events, "event"), verified.through));
    page.line(match (verified.seals.first, verified.seals.last) {
        (Some(first), Some(last)) => {
            format!("unchanged or listed above: positions {first} to {last}, which are sealed")
        }
        _ => "no seals: a changed payload is not noticed".to_owned(),
    });
    let mut diagnostics = Vec::new();
    if !verified.faults.is_empty() {
        let number = count(verified.faults.len() as u64, "fault");
        diagnostics.push(Diagnostic::finding("faults", format!("the log is not whole: {number}")));
    }
    if verified.is_truncated {
        diagnostics.push(Diagnostic::note("truncated", "there are more faults"));
    }
    diagnostics
        .extend(verified.unchecked.iter().map(|check| Diagnostic::note("unchecked", format!("not checked: {check}"))));
    let mut answer = Answer::new(&verified, page, diagnostics)?;
    if !verified.is_complete {
        answer.diagnostics.push(Diagnostic::note("stopped", format!("continue with --after {}", verified.through)));
        answer.exit = Exit::Partly;
    }
    Ok(answer)
}
