//! A test of the program's events against `events.lock`.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use crate::registry::Registry;
use crate::registry::check::Checked;
use crate::registry::lock::Lock;
use crate::registry::violation::{Readers, Violation};

/// Asserts that the log stays readable: compares the program's events with the lock at `path`. Changes of public events that other teams
/// could not follow are refused, too.
///
/// If a change is compatible, or allowed in the lock, this writes the new lock and panics once, so that the change gets into a review with
/// its lock. The message says what processes of the older release cannot read.
///
/// # Examples
/// ```
/// use retell::Event;
/// use retell::registry::Registry;
/// use retell::testing::assert_compatible;
///
/// #[derive(Event)]
/// enum OrderEvent {
///     #[event("order.placed")]
///     Placed { customer: String },
/// }
///
/// # let folder = std::env::temp_dir().join(format!("retell-lock-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// # let path = folder.join("events.lock");
/// # std::fs::write(&path, "[order.placed 1 json]\ncustomer: text\n")?;
/// # let lock: retell::registry::Lock = std::fs::read_to_string(&path)?.parse()?;
/// # std::fs::write(&path, lock.to_string())?;
/// // In a test, with `path` as `concat!(env!("CARGO_MANIFEST_DIR"), "/events.lock")`:
/// assert_compatible(path, &Registry::new().with::<OrderEvent>()?);
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok::<(), retell::BoxError>(())
/// ```
///
/// # Panics
/// If a change makes stored events unreadable, if the lock was not up to date, or if the file cannot be read or written.
#[track_caller]
pub fn assert_compatible(path: impl AsRef<Path>, registry: &Registry) {
    if let Err(problem) = compare(path.as_ref(), |lock| registry.check(lock)) {
        panic!("{problem}");
    }
}

/// Asserts what [`assert_compatible`] does, and that processes of the older release read all new events, so that the release can be rolled back
/// while they run: see [`Registry::check_forward`].
///
/// # Examples
/// ```should_panic
/// use retell::Event;
/// use retell::testing::assert_forward_compatible;
///
/// #[derive(Event)]
/// #[event("order.placed")]
/// struct Placed {
///     note: Option<String>,
/// }
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("events.lock");
/// # std::fs::write(&path, "[order.placed 1 json]\nnote: text\n").unwrap();
/// // An older process cannot read an order without a note.
/// assert_forward_compatible(path, &retell::registry![Placed].unwrap());
/// ```
///
/// # Panics
/// As [`assert_compatible`], and if a process of the older release could not read a new event.
#[track_caller]
pub fn assert_forward_compatible(path: impl AsRef<Path>, registry: &Registry) {
    if let Err(problem) = compare(path.as_ref(), |lock| registry.check_forward(lock)) {
        panic!("{problem}");
    }
}

fn compare(path: &Path, check: impl FnOnce(&Lock) -> Checked) -> Result<(), String> {
    let shown = path.display();
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => return Err(format!("cannot read {shown}: {error}")),
    };
    let lock: Lock = text.parse().map_err(|error| format!("{shown}: {error}"))?;
    let checked = check(&lock);
    if !checked.errors.is_empty() {
        return Err(refusal(&checked.errors, path));
    }
    let new = checked.lock.to_string();
    // A checkout may have other line ends.
    if text.replace("\r\n", "\n") == new {
        return Ok(());
    }
    fs::write(path, &new).map_err(|error| format!("cannot write {shown}: {error}. It should be:\n{new}"))?;
    let (doubts, warnings): (Vec<_>, Vec<_>) =
        checked.warnings.into_iter().partition(|warning| warning.broken.is_doubt());
    let order = if warnings.is_empty() {
        "Processes of the older release read all new events, so deploy in any order.".to_owned()
    } else {
        format!("Processes of the older release cannot read all new events:\n{}", lines(&warnings))
    };
    let unknown = if doubts.is_empty() {
        String::new()
    } else {
        format!("\nNothing is known about these places, so no change of them is seen:\n{}", lines(&doubts))
    };
    Err(format!("{shown} was not up to date and is now: review the change and commit it.\n{order}{unknown}"))
}

/// Returns the errors by the events and the readers that they concern, and how to allow the first one of each.
fn refusal(errors: &[Violation], path: &Path) -> String {
    let groups = [
        (None, "stored events could not be read any more", "no such event was ever written"),
        (
            Some(Readers::OtherTeams),
            "programs of other teams could not read new events",
            "each of these programs reads the new form already",
        ),
        (
            Some(Readers::OlderRelease),
            "processes of the older release could not read new events",
            "no such process reads the event",
        ),
    ];
    let mut texts = Vec::new();
    for (readers, problem, condition) in groups {
        let found: Vec<_> = errors.iter().filter(|error| error.broken.readers() == readers).cloned().collect();
        if found.is_empty() {
            continue;
        }
        texts.push(format!("{problem}:\n{}", lines(&found)));
        if let Some((error, block)) = found.iter().find_map(|error| Some((error, error.block()?))) {
            let (id, at) = (error.broken.id(), error.broken.path());
            let at = if at.is_empty() { String::new() } else { format!(" at {at}") };
            texts.push(format!(
                "If {condition}, add this line below `{block}` in {}:\n    allow {id}{at}: REASON",
                path.display()
            ));
        }
    }
    texts.join("\n")
}

fn lines(violations: &[Violation]) -> String {
    violations.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
