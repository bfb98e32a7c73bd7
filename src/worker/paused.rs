//! A worker of a paused or retired projection waits until the projection is resumed.

use tokio::time::Instant;

use crate::backoff::retry_transient;
use crate::error::Result;
use crate::status::Wait;
use crate::store::model::read_model::ReadModel;
use crate::worker::runner::{Order, Runner};

impl<M: ReadModel, O> Runner<'_, M, O> {
    /// Waits while the projection is paused, and gives its messages back meanwhile. Returns whether it was paused: then what the worker has read
    /// may be out of date.
    ///
    /// # Errors
    /// [`ErrorKind::Paused`](crate::ErrorKind::Paused) if the worker only catches up, or is stopped.
    pub(super) async fn wait_while_paused(&mut self) -> Result<bool> {
        let mut was_paused = false;
        loop {
            let (models, name) = (&self.job.models, &self.name);
            let pause = retry_transient(&self.stop, self.delays(), || models.paused(name)).await?;
            self.next_pause_look = Instant::now() + self.job.options.sweep;
            let Some(pause) = pause else { break };
            if self.limit.is_some() {
                return Err(pause.refuse(name));
            }
            was_paused = true;
            // A newer release does not end this wait.
            self.go_on_after_deploy();
            self.feed.go_away();
            let on = if pause.retired { Wait::Retired } else { Wait::Paused };
            self.job.reporter.is_paused(on, pause.since, pause.to_string());
            self.job.reporter.runs();
            let _rest = self.pulse.rest();
            self.stop.run_until_cancelled(tokio::time::sleep(self.job.options.sweep)).await;
            if self.stop.is_cancelled() {
                return Err(pause.refuse(&self.name));
            }
        }
        if was_paused {
            self.job.reporter.done(Wait::Paused);
            self.job.reporter.done(Wait::Retired);
            self.feed.come_back();
        }
        Ok(was_paused)
    }
}

impl<M: ReadModel, O> Runner<'_, M, O>
where
    Self: Order,
{
    /// Looks from time to time whether the projection is paused: a worker that has nothing to apply would not notice otherwise.
    pub(super) async fn look_for_pause(&mut self) -> Result<()> {
        if Instant::now() < self.next_pause_look {
            return Ok(());
        }
        self.next_pause_look = Instant::now() + self.job.options.sweep;
        match self.job.models.paused(&self.name).await {
            Ok(Some(_)) => self.return_to_stored().await,
            Ok(None) => Ok(()),
            // The next look will do. A transaction fails if it is paused.
            Err(error) if error.is_outage() => Ok(()),
            Err(error) => Err(error),
        }
    }
}
