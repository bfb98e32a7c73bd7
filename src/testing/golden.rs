//! A test that reads events as they were stored once.

mod file;
mod json;
mod kind;
mod reading;

use std::any::type_name;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::event::{Event, EventSchema, EventTypes, NewEvent};
use crate::registry::lock::Lock;
use crate::testing::golden::file::{Golden, create, load, replace};
use crate::testing::golden::kind::Kind;
use crate::testing::golden::reading::{Change, Reading, read};

/// Asserts that the program reads stored events as it always did, by the payloads in the files of `folder`.
///
/// `samples` has at least one event of each kind that `E` can hold. The first run stores the payload of each sample in a file, together with
/// the event that the program reads it as, and panics once, so that the files get into a commit. From then on, every run decodes each file with the
/// upcasters of `E`. A file stays when its event gets a newer version, so the payloads of all older versions are read, too.
///
/// Such a file catches changes that no [shape](crate::shape) shows: an upcaster that returns something else, another `#[serde(with = "..")]`,
/// another default, and code in a `Serialize` or `Deserialize` by hand. It panics:
///
/// - if a file does not decode, or if a stored payload is now read as something else. If that is intended, delete the lines of the file from
///   `reads as` on, and the next run writes them.
/// - once, after it has updated the files, if an event is read as a newer version than before, or if only new fields were added to it. The
///   changed files are then in the review.
/// - if a sample is written as something else than its file is read as. The samples of one kind are compared with its files in their order.
///   So a sample keeps its values, a new field has the value of its default, and further samples go to the end.
/// - if an event of `E`, an older version of it, or a former name has no file, or if a file has an event that `E` does not have. The file of
///   an older version cannot be written again, so restore it from version control.
///
/// Nothing ever changes the payload in a file. Give each type its own folder, or join types in an [`EventUnion`](crate::EventUnion). A set or
/// a list whose order differs from run to run has one element in a sample.
///
/// # The files
/// A file has the extension `golden`. Its first lines are the kind of the event and the payload, as text for JSON and in hexadecimal digits for
/// other payloads:
///
/// ```text
/// [order.placed 1 json]
/// {"dollars":5}
/// reads as [order.placed 2 json]
/// {
///   "cents": 500
/// }
/// ```
///
/// For a version that no sample can make any more, write a file with the first two lines, for example with a payload from the log.
///
/// # Examples
/// ```
/// use retell::Event;
/// use retell::testing::assert_golden;
///
/// #[derive(Event)]
/// enum OrderEvent {
///     #[event("order.placed", version = 2, upcast(from_dollars))]
///     Placed { cents: u64 },
/// }
///
/// fn from_dollars(dollars: u64) -> OrderEvent {
///     OrderEvent::Placed { cents: dollars * 100 }
/// }
///
/// # let folder = tempfile::tempdir()?;
/// # let folder = folder.path();
/// # std::fs::write(folder.join("old.golden"), "[order.placed 1 json]\n5\nreads as [order.placed 2 json]\n{\"cents\":500}\n")?;
/// # std::fs::write(folder.join("order.placed.2.json.golden"), "[order.placed 2 json]\n{\"cents\":950}\nreads as [order.placed 2 json]\n{\"cents\":950}\n")?;
/// // In a test, with `folder` as `concat!(env!("CARGO_MANIFEST_DIR"), "/golden/order")`:
/// assert_golden(folder, [OrderEvent::Placed { cents: 950 }]);
/// # Ok::<(), retell::BoxError>(())
/// ```
///
/// # Panics
/// As described above, and if a file is damaged, cannot be read or cannot be written.
#[track_caller]
pub fn assert_golden<E: Event>(folder: impl AsRef<Path>, samples: impl IntoIterator<Item = E>) {
    let folder = folder.as_ref();
    if let Err(problem) = check(folder, &Lock::default(), samples) {
        panic!("golden payloads in {}: {problem}", folder.display());
    }
}

/// Asserts what [`assert_golden`] does, and that each version of the events of `E` in `events.lock` at `lock` has a file in each codec. The type
/// alone does not tell which codecs a version had, and under which of its names it was stored.
///
/// # Examples
/// ```
/// use retell::Event;
/// use retell::testing::assert_golden_of_lock;
///
/// #[derive(Event)]
/// #[event("order.placed")]
/// struct Placed {
///     cents: u64,
/// }
///
/// # let folder = tempfile::tempdir()?;
/// # let lock = folder.path().join("events.lock");
/// # let folder = folder.path();
/// # std::fs::write(&lock, "[order.placed 1 compact]\ncents: u64\n\n[order.placed 1 json]\ncents: u64\n")?;
/// # std::fs::write(folder.join("old.golden"), "[order.placed 1 compact]\nhex 05\nreads as [order.placed 1 json]\n{\"cents\":5}\n")?;
/// # std::fs::write(folder.join("order.placed.1.json.golden"), "[order.placed 1 json]\n{\"cents\":950}\nreads as [order.placed 1 json]\n{\"cents\":950}\n")?;
/// // In a test, with the files next to `Cargo.toml`. The lock has version 1 as `compact`, too.
/// assert_golden_of_lock(lock, folder, [Placed { cents: 950 }]);
/// # Ok::<(), retell::BoxError>(())
/// ```
///
/// # Panics
/// As [`assert_golden`], and if the lock cannot be read.
#[track_caller]
pub fn assert_golden_of_lock<E: Event>(
    lock: impl AsRef<Path>,
    folder: impl AsRef<Path>,
    samples: impl IntoIterator<Item = E>,
) {
    let (path, folder) = (lock.as_ref(), folder.as_ref());
    let text = fs::read_to_string(path).map_err(|error| error.to_string());
    match text.and_then(|text| text.parse::<Lock>().map_err(|error| error.to_string())) {
        Err(problem) => panic!("cannot read {}: {problem}", path.display()),
        Ok(lock) => {
            if let Err(problem) = check(folder, &lock, samples) {
                panic!("golden payloads in {}: {problem}", folder.display());
            }
        }
    }
}

fn check<E: Event>(folder: &Path, lock: &Lock, samples: impl IntoIterator<Item = E>) -> Result<(), String> {
    let EventTypes::Only(schemas) = E::TYPES else {
        return Err(format!("{} holds every event: name a type that lists its events", type_name::<E>()));
    };
    let mut run = Run { stored: load(folder)?, ..Run::default() };
    run.read_stored::<E>();
    run.compare_samples(samples);
    run.find_missing(schemas);
    run.find_lost(schemas, lock);
    if !run.problems.is_empty() {
        return Err(format!("\n{}", run.problems.join("\n")));
    }
    run.write(folder)
}

/// One run of the test.
#[derive(Default)]
struct Run {
    /// The files of the folder by their names.
    stored: BTreeMap<String, Golden>,
    /// The files to create.
    new: BTreeMap<String, Golden>,
    /// The number of samples of each kind.
    sampled: BTreeMap<Kind, usize>,
    /// The files whose payload is read as something else, which is no problem, and the change.
    changed: Vec<(String, Golden, String)>,
    problems: Vec<String>,
}

impl Run {
    /// Reads the payload of each file.
    fn read_stored<E: Event>(&mut self) {
        for (file, golden) in &self.stored {
            match read_file::<E>(golden) {
                Ok((_, Change::None)) => {}
                Ok((reading, change)) => {
                    let golden = Golden { reading: Some(reading), ..golden.clone() };
                    self.changed.push((file.clone(), golden, change.to_string()));
                }
                Err(problem) => self.problems.push(format!("{file}: {problem}")),
            }
        }
    }

    /// Compares each sample with its file, and notes a new file for a sample without one.
    fn compare_samples<E: Event>(&mut self, samples: impl IntoIterator<Item = E>) {
        for sample in samples {
            if let Err(problem) = self.compare_sample(&sample) {
                self.problems.push(problem);
            }
        }
    }

    fn compare_sample<E: Event>(&mut self, sample: &E) -> Result<(), String> {
        let encoded = NewEvent::encode(sample).map_err(|error| format!("a sample cannot be written: {error:#}"))?;
        let kind = Kind::of(&encoded);
        let place = self.sampled.entry(kind.clone()).or_insert(0);
        *place += 1;
        let file = kind.file_name(*place);
        let known = self.stored.get(&file);
        if let Some(known) = known.filter(|known| known.kind != kind) {
            return Err(format!("{file}: the file has {} and not {kind}: give it another name", known.kind));
        }
        let payload = known.map_or(&*encoded.payload, |known| &known.payload);
        let reading = match read::<E>(&kind, payload) {
            Ok(reading) => reading,
            // It is reported for the file already.
            Err(_) if known.is_some() => return Ok(()),
            Err(error) => return Err(format!("the sample of {kind} cannot be read again: {error}")),
        };
        let written = Reading::of(sample, &encoded);
        let (before, now) = if known.is_some() { (&reading, &written) } else { (&written, &reading) };
        match (Change::between(Some(before), now), known) {
            (Change::None, Some(_)) => Ok(()),
            (Change::None, None) => {
                self.new.insert(file, Golden { kind, payload: payload.to_vec(), reading: Some(reading) });
                Ok(())
            }
            (change, Some(_)) => Err(format!(
                "{file}: the sample of {kind} is written as something else than the payload in the file is read as:{change}\n    if the \
                 sample has changed, give it the values of the file: a new field has the value of its default. Further samples go to the \
                 end. Otherwise the program now writes another form, and that needs a new `version`"
            )),
            (change, None) => Err(format!("the sample of {kind} is not read as it was written:{change}")),
        }
    }

    /// Notes the kinds of events that have neither a file nor a sample.
    fn find_missing(&mut self, schemas: &[EventSchema]) {
        let known: BTreeSet<_> =
            self.stored.values().map(|golden| &golden.kind).chain(self.sampled.keys()).cloned().collect();
        let missing = schemas.iter().map(Kind::newest).filter(|kind| !known.contains(kind));
        self.problems.extend(missing.map(|kind| format!("{kind} has no golden payload: add a sample of it")));
    }

    /// Notes what logs may hold besides the newest versions and what has no file. No sample can write it again.
    fn find_lost(&mut self, schemas: &[EventSchema], lock: &Lock) {
        let has = |is: &dyn Fn(&Kind) -> bool| self.stored.values().any(|golden| is(&golden.kind));
        let mut lost = Vec::new();
        for schema in schemas {
            let EventSchema { name, former_names, version: newest, .. } = schema;
            let kinds = lock.blocks.keys().filter(|(name, ..)| schema.is_named(name)).cloned().map(Kind::from);
            let locked: Vec<_> = kinds.filter(|kind| *kind != Kind::newest(schema)).collect();
            lost.extend(locked.iter().filter(|kind| !has(&|other| other == *kind)).map(ToString::to_string));
            // The lock tells the codec and the name. Without it, one file of each version and of each name is needed.
            let has = |is: &dyn Fn(&Kind) -> bool| has(is) || locked.iter().any(is);
            let versions =
                (1..*newest).filter(|version| !has(&|kind| schema.is_named(&kind.name) && kind.version == *version));
            lost.extend(versions.map(|version| format!("version {version} of {name}")));
            let former = former_names.iter().filter(|former| !has(&|kind| kind.name == **former));
            lost.extend(former.map(|former| format!("{former}, now {name},")));
        }
        self.problems.extend(lost.into_iter().map(|lost| {
            format!(
                "{lost} has no golden payload: restore its file from version control, because no sample can write it again. If there was \
                 none, write its first two lines with a payload from the log"
            )
        }));
    }

    /// Writes the new and the changed files.
    fn write(self, folder: &Path) -> Result<(), String> {
        if self.new.is_empty() && self.changed.is_empty() {
            return Ok(());
        }
        let mut told = Vec::new();
        for (file, golden) in &self.new {
            create(folder, file, golden)?;
            told.push(format!("{file}: it is new"));
        }
        for (file, golden, change) in &self.changed {
            replace(folder, file, golden)?;
            told.push(format!("{file}:{change}"));
        }
        Err(format!("the files were not up to date and are now: review and commit them\n{}", told.join("\n")))
    }
}

/// Reads the payload of a file, and returns a change that needs only a review.
fn read_file<E: Event>(golden: &Golden) -> Result<(Reading, Change), String> {
    let kind = &golden.kind;
    if !E::TYPES.contains(&kind.name) && !E::RETIRED.contains(&&*kind.name) {
        return Err(format!(
            "{} has no event {}: keep its variant for as long as a log may hold such events. If no log does, delete the file. If another \
             type has the event, give each type its own folder, or join both in an `EventUnion`",
            type_name::<E>(),
            kind.name
        ));
    }
    let reading = read::<E>(kind, &golden.payload).map_err(|error| {
        format!(
            "{kind} cannot be read any more: {error}\n    logs may hold such events: change the type or the upcaster so that it reads the \
             payload in the file"
        )
    })?;
    match Change::between(golden.reading.as_ref(), &reading) {
        Change::Breaks(places) => Err(format!(
            "the payload of {kind} is read as something else than before:{places}\n    an upcaster, a default or a part of the type has \
             changed what stored events mean. If that is intended, delete the lines of the file from `reads as` on, and run the test again"
        )),
        change => Ok((reading, change)),
    }
}
