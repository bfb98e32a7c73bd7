//! Checks a history of appends and reads against the guarantees of the log.
//!
//! The approach is that of Elle: clients record their calls and the answers, and the verdict is a pure function of
//! those records.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

/// One line of a process's history. Times are nanoseconds of the machine's monotonic clock, which all processes share.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Entry {
    Called(Call),
    Answered {
        append: String,
        at: u64,
        answer: Answer,
    },
    /// The answer of `position_of` for an append.
    Placed {
        append: String,
        position: u64,
    },
    Read(Page),
    /// A read was interrupted and may be retried.
    Interrupted(String),
    /// A call failed that must not fail.
    Failed(String),
}

/// One attempt of an append. All attempts with one name use that name as their idempotency key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Call {
    pub(crate) append: String,
    pub(crate) at: u64,
    pub(crate) parts: Vec<Part>,
    pub(crate) keyed: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) stream: String,
    /// The exact version that the append expects, if any.
    pub(crate) expected: Option<u64>,
    pub(crate) events: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    Written {
        token: String,
        versions: Vec<u64>,
    },
    Repeated {
        token: String,
        versions: Vec<u64>,
    },
    /// A conflict: nothing was written.
    Refused,
    Unknown(String),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Page {
    pub(crate) called: u64,
    pub(crate) answered: u64,
    pub(crate) after: u64,
    pub(crate) limit: u64,
    pub(crate) through: u64,
    pub(crate) events: Vec<Seen>,
}

/// An event at the place where a reader saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub(crate) position: u64,
    pub(crate) event: String,
    pub(crate) stream: String,
    pub(crate) version: u64,
}

/// Everything that the processes recorded, and the whole log at the end of the run.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    pub(crate) entries: Vec<Entry>,
    pub(crate) log: Vec<Seen>,
}

impl Call {
    /// Returns the name of an event, which is also its payload.
    pub(crate) fn event(&self, part: usize, number: usize) -> String {
        format!("{}/{part}.{number}", self.append)
    }
}

impl Answer {
    /// Returns the token and the versions if the append was acknowledged.
    pub(crate) fn acknowledged(&self) -> Option<(&str, &[u64])> {
        match self {
            Self::Written { token, versions } | Self::Repeated { token, versions } => Some((token, versions)),
            Self::Refused | Self::Unknown(_) => None,
        }
    }
}

/// Returns all violations of the guarantees; a good history has none.
pub(crate) fn violations(history: &History) -> Vec<String> {
    let mut found = Vec::new();
    let places = check_log(&history.log, &mut found);
    let appends = appends(&history.entries, &mut found);
    check_unknown_events(&history.log, &appends, &mut found);
    for append in appends.values() {
        append.check(&places, &mut found);
    }
    check_acknowledged_before(&appends, &places, &mut found);
    check_pages(history, &mut found);
    found
}

type Places<'h> = HashMap<&'h str, &'h Seen>;

fn check_log<'h>(log: &'h [Seen], found: &mut Vec<String>) -> Places<'h> {
    let mut places = Places::new();
    let mut versions: HashMap<&str, u64> = HashMap::new();
    for (seen, position) in log.iter().zip(1..) {
        if seen.position != position {
            found.push(format!("position {position}: found {seen:?}"));
        }
        let version = versions.entry(&seen.stream).or_default();
        *version += 1;
        if seen.version != *version {
            found.push(format!("{seen:?} is not the next version of its stream: expected {version}"));
        }
        if let Some(first) = places.insert(&seen.event, seen) {
            found.push(format!("in the log twice: {first:?}, {seen:?}"));
        }
    }
    places
}

/// All attempts of one append.
struct Append<'h> {
    call: &'h Call,
    attempts: usize,
    answers: Vec<(u64, &'h Answer)>,
    placed: Vec<u64>,
}

fn appends<'h>(entries: &'h [Entry], found: &mut Vec<String>) -> BTreeMap<&'h str, Append<'h>> {
    let mut appends: BTreeMap<&str, Append<'_>> = BTreeMap::new();
    // Lines of several processes arrive in any order, so this collects the calls first and then their answers.
    for entry in entries {
        if let Entry::Called(call) = entry {
            let first = || Append { call, attempts: 0, answers: Vec::new(), placed: Vec::new() };
            let append = appends.entry(&call.append).or_insert_with(first);
            append.attempts += 1;
            if call.at < append.call.at {
                append.call = call;
            }
        }
    }
    for entry in entries {
        match entry {
            Entry::Answered { append, at, answer } => match appends.get_mut(append.as_str()) {
                Some(append) => append.answers.push((*at, answer)),
                None => found.push(format!("an answer without a call: {entry:?}")),
            },
            Entry::Placed { append, position } => {
                appends.get_mut(append.as_str()).into_iter().for_each(|append| append.placed.push(*position));
            }
            Entry::Failed(what) => found.push(what.clone()),
            Entry::Called(_) | Entry::Read(_) | Entry::Interrupted(_) => {}
        }
    }
    appends
}

impl<'h> Append<'h> {
    fn acknowledgements(&self) -> impl Iterator<Item = (u64, (&'h str, &'h [u64]))> {
        self.answers.iter().filter_map(|(at, answer)| Some((*at, answer.acknowledged()?)))
    }

    /// Returns the places of its events in order, with `None` for an event that is not in the log.
    fn places(&self, places: &Places<'h>) -> Vec<Option<&'h Seen>> {
        let parts = self.call.parts.iter().enumerate();
        let events = parts.flat_map(|(part, Part { events, .. })| (0..*events).map(move |number| (part, number)));
        events.map(|(part, number)| places.get(&*self.call.event(part, number)).copied()).collect()
    }

    fn check(&self, places: &Places<'_>, found: &mut Vec<String>) {
        let name = &self.call.append;
        let seen = self.places(places);
        let present = seen.iter().flatten().count();
        if present != 0 && present != seen.len() {
            found.push(format!("{name}: {present} of {} events are in the log", seen.len()));
        }
        let refused = self.answers.len() == self.attempts && self.answers.iter().all(|(_, a)| **a == Answer::Refused);
        if refused && present != 0 {
            found.push(format!("{name} was refused but is in the log"));
        }
        let mut acknowledged = self.acknowledgements().map(|(_, answer)| answer);
        let Some((token, versions)) = acknowledged.next() else { return };
        if present == 0 {
            found.push(format!("{name} was acknowledged but is lost"));
        }
        if acknowledged.any(|other| other != (token, versions)) {
            found.push(format!("{name} got two different acknowledgements: {:?}", self.answers));
        }
        if self.answers.iter().filter(|(_, answer)| matches!(answer, Answer::Written { .. })).count() > 1 {
            found.push(format!("{name} was written twice under one key"));
        }
        self.check_versions(versions, &seen, found);
        if let Some(last) = seen.last().copied().flatten()
            && let Some(placed) = self.placed.iter().find(|&&position| position != last.position)
        {
            found.push(format!("`position_of` placed {name} at {placed}: {last:?}"));
        }
    }

    fn check_versions(&self, versions: &[u64], seen: &[Option<&Seen>], found: &mut Vec<String>) {
        let mut seen = seen.iter();
        for (part, last) in self.call.parts.iter().zip(versions) {
            let first = last + 1 - part.events as u64;
            if part.expected.is_some_and(|expected| first != expected + 1) {
                found.push(format!(
                    "{}: version {last} does not follow the expected version: {part:?}",
                    self.call.append
                ));
            }
            for (event, version) in seen.by_ref().take(part.events).zip(first..) {
                if event.is_some_and(|event| event.version != version || event.stream != part.stream) {
                    found.push(format!("{}: {event:?} was acknowledged with version {version}", self.call.append));
                }
            }
        }
    }
}

fn check_unknown_events(log: &[Seen], appends: &BTreeMap<&str, Append<'_>>, found: &mut Vec<String>) {
    for seen in log {
        let append = seen.event.split('/').next().unwrap_or_default();
        if !appends.contains_key(append) {
            found.push(format!("no call appended {seen:?}"));
        }
    }
}

/// Checks that an append has a higher position than every append that was acknowledged before its call.
fn check_acknowledged_before(appends: &BTreeMap<&str, Append<'_>>, places: &Places<'_>, found: &mut Vec<String>) {
    let (mut calls, mut answers) = (Vec::new(), Vec::new());
    for append in appends.values() {
        let seen: Vec<&Seen> = append.places(places).into_iter().flatten().collect();
        let Some(first) = seen.iter().min_by_key(|seen| seen.position) else { continue };
        calls.push((append.call.at, *first));
        let last = seen.iter().max_by_key(|seen| seen.position);
        answers.extend(append.acknowledgements().map(|(at, _)| at).min().zip(last.copied()));
    }
    calls.sort_by_key(|(at, _)| *at);
    answers.sort_by_key(|(at, _)| *at);
    let mut answers = answers.into_iter().peekable();
    let mut newest: Option<&Seen> = None;
    for (called, first) in calls {
        while let Some((_, last)) = answers.next_if(|(answered, _)| *answered < called) {
            newest = newest.filter(|newest| newest.position > last.position).or(Some(last));
        }
        if let Some(before) = newest.filter(|newest| newest.position > first.position) {
            found.push(format!("{before:?} was acknowledged before {first:?} was appended but comes after it"));
        }
    }
}

/// Checks that each page is a contiguous part of the log, and that a later page reaches at least as far as an earlier
/// one.
fn check_pages(history: &History, found: &mut Vec<String>) {
    let mut pages: Vec<&Page> = Vec::new();
    for entry in &history.entries {
        let Entry::Read(page) = entry else { continue };
        pages.push(page);
        let range = usize::try_from(page.after).ok().zip(usize::try_from(page.through).ok());
        let part = range.and_then(|(after, through)| history.log.get(after..through));
        if part != Some(&page.events) {
            let differs = page.events.iter().zip(part.unwrap_or_default()).find(|(seen, log)| seen != log);
            let (after, through) = (page.after, page.through);
            found.push(format!("the page from {after} through {through} differs from the log: {differs:?}"));
        }
    }
    let mut answers: Vec<(u64, u64)> = pages.iter().map(|page| (page.answered, page.through)).collect();
    answers.sort_unstable();
    pages.sort_by_key(|page| page.called);
    let mut answers = answers.into_iter().peekable();
    let mut head = 0;
    for page in pages {
        while let Some((_, through)) = answers.next_if(|(answered, _)| *answered < page.called) {
            head = through.max(head);
        }
        if page.through < head.min(page.after + page.limit) {
            found.push(format!(
                "a reader saw position {head}, but a later page after {} ends at {}",
                page.after, page.through
            ));
        }
    }
}

/// Hand-made histories with one fault each.
pub(crate) mod synthetic {
    use super::{Answer, Call, Entry, History, Page, Part, Seen, violations};

    type Break = fn(&mut History);

    /// Returns a history of two appends (the second to two streams), a refused third one, and a page with all events.
    fn good() -> History {
        let part = |stream: &str| Part { stream: stream.to_owned(), expected: None, events: 1 };
        let call = |append: &str, at, parts| Entry::Called(Call { append: append.to_owned(), at, parts, keyed: false });
        let answered = |append: &str, at, answer| Entry::Answered { append: append.to_owned(), at, answer };
        let seen = |position, event: &str, stream: &str, version| {
            let (event, stream) = (event.to_owned(), stream.to_owned());
            Seen { position, event, stream, version }
        };
        let log = vec![seen(1, "a/0.0", "s", 1), seen(2, "b/0.0", "s", 2), seen(3, "b/1.0", "t", 1)];
        let page = Page { called: 50, answered: 60, after: 0, limit: 10, through: 3, events: log.clone() };
        let entries = vec![
            call("a", 10, vec![part("s")]),
            answered("a", 20, Answer::Written { token: "1".into(), versions: vec![1] }),
            Entry::Placed { append: "a".to_owned(), position: 1 },
            call("b", 30, vec![part("s"), part("t")]),
            answered("b", 40, Answer::Written { token: "2".into(), versions: vec![2, 1] }),
            call("c", 30, vec![part("t")]),
            answered("c", 40, Answer::Refused),
            Entry::Read(page),
        ];
        History { entries, log }
    }

    fn renumber(log: &mut [Seen]) {
        log.iter_mut().zip(1..).for_each(|(seen, position)| seen.position = position);
    }

    pub(crate) fn a_good_history_passes() {
        assert_eq!(violations(&good()), Vec::<String>::new());
    }

    pub(crate) fn a_faulty_history_fails() {
        let faults: [(&str, Break); 9] = [
            ("was acknowledged but is lost", |history| drop(history.log.remove(0))),
            ("in the log twice", |history| {
                history.log.push(Seen { position: 4, version: 3, ..history.log[0].clone() });
            }),
            ("but comes after it", |history| {
                history.log.rotate_left(1);
                renumber(&mut history.log);
            }),
            ("1 of 2 events are in the log", |history| drop(history.log.pop())),
            ("differs from the log", |history| {
                let Some(Entry::Read(page)) = history.entries.last_mut() else { return };
                page.events.remove(1);
            }),
            ("a later page after 0 ends at 2", |history| {
                let Some(Entry::Read(page)) = history.entries.last().cloned() else { return };
                let events = page.events[..2].to_vec();
                history.entries.push(Entry::Read(Page { called: 70, answered: 80, through: 2, events, ..page }));
            }),
            ("was refused but is in the log", |history| {
                history.entries[4] = Entry::Answered { append: "b".to_owned(), at: 40, answer: Answer::Refused };
            }),
            ("placed a at 7", |history| {
                history.entries[2] = Entry::Placed { append: "a".to_owned(), position: 7 };
            }),
            ("was acknowledged with version 2", |history| {
                let answer = Answer::Written { token: "1".into(), versions: vec![2] };
                history.entries[1] = Entry::Answered { append: "a".to_owned(), at: 20, answer };
            }),
        ];
        for (expected, fault) in faults {
            let mut history = good();
            fault(&mut history);
            let found = violations(&history);
            assert!(found.iter().any(|violation| violation.contains(expected)), "{expected}: {found:#?}");
        }
    }
}
