//! `retell seal`.

use std::num::NonZeroU64;
use std::time::Duration;

use clap::Args;
use retell::CancellationToken;
use retell::operate::{self, SealOptions, Sealed};

use crate::commands::count;
use crate::failure::{Diagnostic, Exit, Failure};
use crate::out::{Answer, Out, Page};
use crate::session::Session;

#[derive(Debug, Args)]
pub(crate) struct Seal {
    /// The events of a seal. The last one may have fewer
    #[arg(long, value_name = "N", default_value = "1000")]
    events: NonZeroU64,
    /// Seal again after this pause
    #[arg(long, value_name = "SECONDS")]
    watch: Option<NonZeroU64>,
}

pub(super) async fn print(session: &Session, seal: &Seal, out: &Out) -> Result<Exit, Failure> {
    let stop = CancellationToken::new();
    loop {
        let sealing =
            operate::seal(&*session.stores.log, SealOptions::new().with_events(seal.events).with_stop(stop.clone()));
        tokio::pin!(sealing);
        // It reads all events since the last seal. Each of its calls has the time limit of the store.
        let sealed = tokio::select! {
            sealed = &mut sealing => sealed?,
            signal = tokio::signal::ctrl_c() => {
                signal.map_err(Failure::Output)?;
                stop.cancel();
                sealing.await?
            }
        };
        let answer = answer(&sealed, stop.is_cancelled())?;
        let again = seal.watch.filter(|_| !stop.is_cancelled());
        out.answer(&answer, again.is_some())?;
        let Some(pause) = again else { return Ok(answer.exit) };
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(pause.get())) => {}
            signal = tokio::signal::ctrl_c() => return signal.map(|()| Exit::Good).map_err(Failure::Output),
        }
    }
}

fn answer(sealed: &Sealed, is_stopped: bool) -> Result<Answer, Failure> {
    let mut page = Page::default();
    page.line(format!("{} added", count(sealed.seals, "seal")));
    page.line(match &sealed.last {
        Some(last) => {
            format!("the last one ends at position {}: keep its digest {} in another place", last.last, last.digest)
        }
        None => "the log has no seals, because it has no events".to_owned(),
    });
    let stopped = is_stopped.then(|| Diagnostic::note("stopped", "stopped: run the command again"));
    let mut answer = Answer::new(sealed, page, stopped.into_iter().collect())?;
    if is_stopped {
        answer.exit = Exit::Partly;
    }
    Ok(answer)
}
