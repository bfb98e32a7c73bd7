//! Turns a panic in the program's code into an error of the call that led to it.
//!
//! The library calls the program's code in many places: it decodes and applies events, decides commands and runs handlers. Each of these places
//! catches a panic here, so that it fails one event, one append or one command. A task that other work depends on never ends because of it.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use futures::FutureExt;

/// The text of a panic that was caught, as the cause of an error.
#[derive(Debug, thiserror::Error)]
#[error("panicked: {0}")]
pub(crate) struct Panicked(String);

impl From<Box<dyn Any + Send>> for Panicked {
    fn from(payload: Box<dyn Any + Send>) -> Self {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
        Self(text.unwrap_or("the payload of the panic is not text").to_owned())
    }
}

/// Calls `call`, and returns its panic as an error.
///
/// The caller drops whatever `call` may have left half-changed: a transaction, or a copy of a state.
#[inline]
pub(crate) fn catch<T>(call: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(call)).map_err(Panicked::from)
}

/// Awaits `work`, and returns its panic as an error. The same rule as for [`catch`] applies.
pub(crate) async fn catch_in<T>(work: impl Future<Output = T>) -> Result<T, Panicked> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(Panicked::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn text_of_a_panic_is_kept() {
        assert_eq!(catch(|| 3).unwrap(), 3);
        assert_eq!(catch(|| panic!("no {}", 13)).unwrap_err().to_string(), "panicked: no 13");
        assert_eq!(catch_in(async { panic!("plain") }).await.unwrap_err().to_string(), "panicked: plain");
        let other = catch(|| std::panic::panic_any(7)).unwrap_err().to_string();
        assert_eq!(other, "panicked: the payload of the panic is not text");
    }
}
