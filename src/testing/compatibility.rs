//! A test of the program's events against `events.lock`.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use crate::registry::Registry;
use crate::registry::lock::Lock;
use crate::registry::violation::Violation;

/// Asserts that the log stays readable: compares the program's events with the lock at `path`.
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
    let path = path.as_ref();
    let shown = path.display();
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => panic!("cannot read {shown}: {error}"),
    };
    let lock: Lock = text.parse().unwrap_or_else(|error| panic!("{shown}: {error}"));
    let checked = registry.check(&lock);
    let (doubts, warnings): (Vec<_>, Vec<_>) =
        checked.warnings.into_iter().partition(|warning| warning.broken.is_doubt());
    assert!(checked.errors.is_empty(), "{}", refusal(&checked.errors, path));
    let new = checked.lock.to_string();
    // A checkout may have other line ends.
    if text.replace("\r\n", "\n") == new {
        return;
    }
    if let Err(error) = fs::write(path, &new) {
        panic!("cannot write {shown}: {error}. It should be:\n{new}");
    }
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
    panic!("{shown} was not up to date and is now: review the change and commit it.\n{order}{unknown}");
}

fn refusal(errors: &[Violation], path: &Path) -> String {
    let first = &errors[0];
    let place = if first.broken.path().is_empty() { String::new() } else { format!(" at {}", first.broken.path()) };
    format!(
        "stored events could not be read any more:\n{}\nIf no such event was ever written, add this line below `[{} {} ..]` in {}:\n    \
         allow {}{place}: REASON",
        lines(errors),
        first.event,
        first.version,
        path.display(),
        first.broken.id(),
    )
}

fn lines(violations: &[Violation]) -> String {
    violations.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
