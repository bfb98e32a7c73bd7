//! The commands that need the types of a program: `state` and `rebuild`.

use std::collections::BTreeMap;
use std::time::Duration;

use retell::error::Result;
use retell::rebuild::{Diff, Plan, Progress};
use retell::repository::SnapshotCheck;
use retell::store::{UpTo, ViewStore};
use retell::{
    Aggregate, AggregateId, CancellationToken, Generation, Rebuild, Repository, StreamId, Version, View, async_trait,
    watch,
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::args::{At, Rebuild as Arguments, Typed};
use crate::commands::confirm::confirm;
use crate::commands::{age, count};
use crate::failure::{Diagnostic, Exit, Failure, Level};
use crate::out::{Answer, Page, remark};
use crate::session::within;

/// The differing rows that an answer names.
const ROWS: usize = 20;

/// The pause between two reports of progress.
const PAUSE: Duration = Duration::from_secs(2);

/// The aggregates and views of a program.
#[derive(Default)]
pub(crate) struct Types {
    pub(crate) states: BTreeMap<&'static str, Box<dyn States>>,
    pub(crate) rebuilds: BTreeMap<String, Box<dyn Rebuilds>>,
}

/// The states of the aggregates of one type.
#[async_trait]
pub(crate) trait States: Send + Sync {
    async fn state(&self, id: AggregateId, at: UpTo) -> Result<(Version, serde_json::Result<Value>)>;
    async fn verify_snapshot(&self, id: AggregateId) -> Result<SnapshotCheck>;
}

#[async_trait]
impl<A: Aggregate + Serialize> States for Repository<A> {
    async fn state(&self, id: AggregateId, at: UpTo) -> Result<(Version, serde_json::Result<Value>)> {
        let loaded = self.load_at(id, at).await?;
        Ok((loaded.version, serde_json::to_value(&loaded.state)))
    }

    async fn verify_snapshot(&self, id: AggregateId) -> Result<SnapshotCheck> {
        Self::verify_snapshot(self, id).await
    }
}

/// A view that can be rebuilt. The states of a view need not be shared between threads, so a rebuild stays on its own.
#[async_trait(?Send)]
pub(crate) trait Rebuilds: Send + Sync {
    fn progress(&self) -> watch::Receiver<Progress>;
    async fn plan(&self) -> Result<Plan>;
    async fn run(&self, stop: CancellationToken) -> Result<()>;
    async fn diff(&self, limit: usize) -> Result<Diff>;
    async fn switch(&self) -> Result<Generation>;
}

#[async_trait(?Send)]
impl<V: View, M: ViewStore + Clone> Rebuilds for Rebuild<V, M> {
    fn progress(&self) -> watch::Receiver<Progress> {
        Self::progress(self)
    }

    async fn plan(&self) -> Result<Plan> {
        Self::plan(self).await
    }

    async fn run(&self, stop: CancellationToken) -> Result<()> {
        Self::run(self, stop).await
    }

    async fn diff(&self, limit: usize) -> Result<Diff> {
        Self::diff(self, limit).await
    }

    async fn switch(&self) -> Result<Generation> {
        Self::switch(self).await
    }
}

impl Types {
    pub(crate) fn is_empty(&self) -> bool {
        self.states.is_empty() && self.rebuilds.is_empty()
    }

    /// Answers a command that uses only the stores of the types; `None` for any other.
    pub(crate) async fn answer(&self, typed: &Typed, limit: Duration) -> Option<Result<Answer, Failure>> {
        match typed {
            Typed::State { aggregate, at } => Some(self.state(aggregate, *at, limit).await),
            Typed::Rebuild(arguments) => Some(self.rebuild(arguments, limit).await),
            Typed::VerifySnapshots(_) => None,
        }
    }

    async fn state(&self, aggregate: &StreamId, at: Option<At>, limit: Duration) -> Result<Answer, Failure> {
        let kind = aggregate.aggregate_type().as_str();
        let states = self.states.get(kind).ok_or_else(|| unknown("aggregate", kind, self.states.keys()))?;
        let end = match at {
            None => UpTo::Head,
            Some(At::Version(version)) => UpTo::Version(version),
            Some(At::Time(time)) => UpTo::Time(time),
        };
        let loading = states.state(aggregate.aggregate_id().clone(), end);
        let (version, state) = within(limit, "load the aggregate", loading).await?;
        if version == Version::ZERO {
            let text = format!("{aggregate} has no such events");
            let finding = Diagnostic::finding("no_events", text);
            return Answer::new(&Value::Null, Page::default(), vec![finding]);
        }
        let state = state?;
        let mut page = Page::default();
        page.title(format!("{aggregate} at version {version}"));
        page.json(&state)?;
        Answer::new(&json!({ "stream": aggregate, "version": version, "state": state }), page, Vec::new())
    }

    async fn rebuild(&self, arguments: &Arguments, limit: Duration) -> Result<Answer, Failure> {
        let view = &arguments.view;
        let rebuild = self.rebuilds.get(view).ok_or_else(|| unknown("view", view, self.rebuilds.keys()))?;
        let plan = within(limit, "plan the rebuild", rebuild.plan()).await?;
        if arguments.plan {
            return planned(&plan);
        }
        confirm(&format!("rebuild {view} from {}", count(plan.events, "event")), arguments.yes)?;
        if !build(&**rebuild).await? {
            let text = "stopped: the same command continues from here";
            let mut answer = Answer::new(&Value::Null, Page::default(), vec![Diagnostic::note("stopped", text)])?;
            answer.exit = Exit::Partly;
            return Ok(answer);
        }
        let diff = rebuild.diff(ROWS).await?;
        let replaced = if arguments.switch { Some(rebuild.switch().await?) } else { None };
        built(&diff, replaced)
    }
}

/// Builds, and reports the progress on standard error. Returns whether the build has come to its end.
async fn build(rebuild: &dyn Rebuilds) -> Result<bool, Failure> {
    let (stop, progress) = (CancellationToken::new(), rebuild.progress());
    let mut running = rebuild.run(stop.clone());
    let mut reports = tokio::time::interval(PAUSE);
    loop {
        tokio::select! {
            done = &mut running => return Ok(done.map(|()| !stop.is_cancelled())?),
            // The build writes what it has, and ends.
            signal = tokio::signal::ctrl_c(), if !stop.is_cancelled() => {
                signal.map_err(Failure::Output)?;
                stop.cancel();
            }
            _ = reports.tick() => remark(&report(*progress.borrow())),
        }
    }
}

fn report(progress: Progress) -> Diagnostic {
    let left = progress.time_left.map(|time| format!(", {} left", age(time.as_secs()))).unwrap_or_default();
    Diagnostic::note("progress", format!("position {} of {}{left}", progress.position, progress.head))
}

fn planned(plan: &Plan) -> Result<Answer, Failure> {
    let seconds = plan.time.map(|time| time.as_secs());
    let mut page = Page::default();
    page.pairs([
        ("from", plan.from.to_string()),
        ("head", plan.head.to_string()),
        ("events", plan.events.to_string()),
        ("time", seconds.map_or("none".to_owned(), age)),
    ]);
    let data = json!({ "from": plan.from, "head": plan.head, "events": plan.events, "seconds": seconds });
    Answer::new(&data, page, Vec::new())
}

fn built(diff: &Diff, replaced: Option<Generation>) -> Result<Answer, Failure> {
    let mut page = Page::default();
    page.pairs([
        ("same rows", diff.same.to_string()),
        ("different rows", diff.different.to_string()),
        ("undecided rows", diff.unsettled.to_string()),
        ("live before", replaced.unwrap_or(diff.live).to_string()),
    ]);
    let keys: Vec<_> = diff.differences.iter().map(|each| each.key.to_string()).collect();
    page.lines("differs: ", &keys);
    let data = json!({
        "same": diff.same, "different": diff.different, "unsettled": diff.unsettled, "keys": keys, "live": diff.live,
        "replaced": replaced,
    });
    let mut diagnostics = Vec::new();
    if diff.different > 0 {
        let text =
            format!("the built generation differs from generation {} in {}", diff.live, count(diff.different, "row"));
        diagnostics.push(Diagnostic { level: Level::Finding, code: "differs", message: text, causes: Vec::new() });
    }
    Answer::new(&data, page, diagnostics)
}

pub(crate) fn unknown(kind: &str, name: &str, known: impl Iterator<Item = impl AsRef<str>>) -> Failure {
    let known: Vec<_> = known.map(|name| name.as_ref().to_owned()).collect();
    Failure::Usage(format!("this program has no {kind} called {name}; it has: {}", known.join(", ")))
}

#[cfg(test)]
mod tests {
    use retell::prelude::*;
    use retell::{Generation, Utc};

    use super::*;

    #[derive(Event)]
    enum ShelfEvent {
        #[event("shelf.filled")]
        Filled { books: u32 },
    }

    #[derive(Aggregate, Clone, Default, Serialize)]
    #[aggregate("shelf", event = ShelfEvent)]
    struct Shelf {
        books: u32,
    }

    impl Apply<ShelfEvent> for Shelf {
        fn apply(&mut self, event: ShelfEvent) {
            let ShelfEvent::Filled { books } = event;
            self.books += books;
        }
    }

    /// Sums up the books of a shelf, times `factor`.
    struct Books {
        generation: u64,
        factor: u32,
    }

    impl View for Books {
        const NAME: &'static str = "books";
        type Event = ShelfEvent;
        type State = u32;

        fn generation(&self) -> Generation {
            Generation::new(self.generation)
        }

        fn key(&self, event: &Envelope<ShelfEvent>) -> Option<String> {
            Some(event.stream.aggregate_id().to_string())
        }

        fn apply(&self, books: &mut u32, event: Envelope<ShelfEvent>) {
            let ShelfEvent::Filled { books: added } = event.event;
            *books += added * self.factor;
        }
    }

    async fn library() -> (MemoryStore, MemoryReadModel) {
        let log = MemoryStore::new();
        for books in [12, 30] {
            let filled = [ShelfEvent::Filled { books }];
            log.append_events(("shelf", "1"), ExpectedVersion::Any, filled).await.unwrap();
        }
        let models = log.read_model();
        let live = Books { generation: 1, factor: 1 };
        retell::Worker::view(live, log.clone(), models.clone()).catch_up().await.unwrap();
        (log, models)
    }

    fn types(log: MemoryStore, models: MemoryReadModel, factor: u32) -> Types {
        let mut types = Types::default();
        types.states.insert(Shelf::TYPE, Box::new(Repository::<Shelf>::new(log.clone())));
        let rebuild = Rebuild::new(Books { generation: 2, factor }, log, models);
        types.rebuilds.insert("books".into(), Box::new(rebuild));
        types
    }

    async fn answer(types: &Types, command: Typed) -> Result<Answer, Failure> {
        types.answer(&command, Duration::from_mins(1)).await.unwrap()
    }

    #[tokio::test]
    async fn state_is_shown_as_of_a_version_and_a_time() {
        let (log, models) = library().await;
        let types = types(log, models, 1);
        let shelf = |id: &str, at| Typed::State { aggregate: StreamId::parse("shelf", id).unwrap(), at };
        let at = [(None, 2, 42), (Some(At::Version(Version::new(1))), 1, 12), (Some(At::Time(Utc::now())), 2, 42)];
        for (at, version, books) in at {
            let found = answer(&types, shelf("1", at)).await.unwrap();
            assert_eq!((&found.data["version"], &found.data["state"]), (&version.into(), &json!({ "books": books })));
        }
        assert_eq!(answer(&types, shelf("2", None)).await.unwrap().exit, Exit::Finding);
        let other = Typed::State { aggregate: StreamId::parse("box", "1").unwrap(), at: None };
        let failure = answer(&types, other).await.unwrap_err();
        assert_eq!(failure.to_string(), "this program has no aggregate called box; it has: shelf");
    }

    #[tokio::test]
    async fn rebuild_is_planned_confirmed_and_compared() {
        let rebuild = |plan, switch, yes| Typed::Rebuild(Arguments { view: "books".into(), plan, switch, yes });
        let (log, models) = library().await;
        let types = types(log, models.clone(), 2);
        let planned = answer(&types, rebuild(true, false, false)).await.unwrap();
        assert_eq!((planned.exit, &planned.data["events"]), (Exit::Good, &2.into()));
        // The tests have no terminal.
        if !std::io::IsTerminal::is_terminal(&std::io::stdin()) {
            let refused = answer(&types, rebuild(false, false, false)).await.unwrap_err();
            assert_eq!(refused.exit(), Exit::Refused);
        }
        let built = answer(&types, rebuild(false, true, true)).await.unwrap();
        assert_eq!(
            (built.exit, &built.data["keys"], &built.data["replaced"]),
            (Exit::Finding, &json!(["1"]), &1.into())
        );
        let live = retell::Views::new(&Books { generation: 2, factor: 2 }, models).get("1").await.unwrap();
        assert_eq!(live, Some(84));
    }
}
