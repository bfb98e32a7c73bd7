//! `retell pause`, `retire`, `resume`, `parked skip` and `audit`: what operators change, and what they have changed.

use retell::{ProjectionName, StreamId, Version};
use serde_json::json;

use crate::args::Because;
use crate::commands::confirm::confirm;
use crate::commands::time;
use crate::failure::Failure;
use crate::out::{Answer, Page};
use crate::session::Session;

pub(super) async fn pause(session: &Session, processor: &ProjectionName, because: &Because) -> Result<Answer, Failure> {
    confirm(&format!("pause {processor}"), because.yes)?;
    let by = because.by();
    let is_new = session.call("pause the processor", session.stores.models.pause(processor, &by)).await?;
    done(is_new, &format!("{processor} is paused"), &format!("{processor} was paused or retired already"))
}

pub(super) async fn retire(
    session: &Session,
    processor: &ProjectionName,
    because: &Because,
) -> Result<Answer, Failure> {
    confirm(&format!("retire {processor}"), because.yes)?;
    let by = because.by();
    let is_new = session.call("retire the processor", session.stores.models.retire(processor, &by)).await?;
    done(is_new, &format!("{processor} is retired"), &format!("{processor} was retired already"))
}

pub(super) async fn resume(
    session: &Session,
    processor: &ProjectionName,
    because: &Because,
) -> Result<Answer, Failure> {
    confirm(&format!("resume {processor}"), because.yes)?;
    let by = because.by();
    let is_new = session.call("resume the processor", session.stores.models.resume(processor, &by)).await?;
    done(
        is_new,
        &format!("{processor} continues at its next sweep"),
        &format!("{processor} was neither paused nor retired"),
    )
}

pub(super) async fn skip(
    session: &Session,
    processor: &ProjectionName,
    (stream, version): (&StreamId, Version),
    because: &Because,
) -> Result<Answer, Failure> {
    let event = format!("version {version} of {stream}");
    confirm(&format!("skip {event} in {processor}, now and in every replay"), because.yes)?;
    let (log, by) = (&*session.stores.log, because.by());
    let skipped = session.stores.models.skip_parked(log, processor, (stream, version), &by);
    let is_new = session.call("skip the event", skipped).await?;
    let applied = format!("{processor} skips {event}, and applies what comes after it at its next sweep");
    done(is_new, &applied, &format!("{processor} skips {event} already"))
}

pub(super) async fn withdraw_skip(
    session: &Session,
    processor: &ProjectionName,
    (stream, version): (&StreamId, Version),
    because: &Because,
) -> Result<Answer, Failure> {
    let event = format!("version {version} of {stream}");
    confirm(&format!("withdraw the skip of {event} in {processor}"), because.yes)?;
    let by = because.by();
    let withdrawn = session.stores.models.withdraw_skip(processor, (stream, version), &by);
    let is_new = session.call("withdraw the skip", withdrawn).await?;
    let applied = format!("{processor} applies {event} at its next reset or rebuild");
    done(is_new, &applied, &format!("{processor} does not skip {event}"))
}

/// Returns the answer of a change; `is_new` if it changed something.
fn done(is_new: bool, changed: &str, unchanged: &str) -> Result<Answer, Failure> {
    let mut page = Page::default();
    page.line(if is_new { changed } else { unchanged });
    Answer::new(&json!({ "changed": is_new }), page, Vec::new())
}

pub(super) async fn audit(session: &Session, lines: usize) -> Result<Answer, Failure> {
    let entries = session.call("read the audit", session.stores.models.audit(&*session.stores.log, lines)).await?;
    let mut page = Page::default();
    if !entries.is_empty() {
        let rows = entries.iter().map(|entry| {
            let (action, by) = (entry.action.as_str().to_owned(), &entry.by);
            vec![time(entry.at), by.who.clone(), action, entry.target.clone(), by.reason.clone()]
        });
        page.table(&["TIME", "WHO", "CHANGE", "TARGET", "REASON"], rows);
    }
    Answer::new(&json!({ "items": entries }), page, Vec::new())
}
