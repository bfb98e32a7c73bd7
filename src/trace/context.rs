//! The context of a span in the form of the W3C.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The metadata key, and the header, of the first part of a trace context.
pub(crate) const TRACEPARENT: &str = "traceparent";

/// The metadata key, and the header, of the vendors' part of a trace context.
pub(crate) const TRACESTATE: &str = "tracestate";

/// Bytes of a `traceparent` of version 00.
const PARENT_BYTES: usize = 55;

/// The longest `tracestate` that is passed on. The W3C asks for at least this many bytes.
pub(crate) const MAX_STATE_BYTES: usize = 512;

/// The most entries of a `tracestate`.
const MAX_STATE_ENTRIES: usize = 32;

/// The context of a span, as [W3C Trace Context](https://www.w3.org/TR/trace-context/) defines it: the trace, the span, and whether the caller
/// records it. `{}` displays the `traceparent`, followed by a space and the `tracestate` if there is one. [`FromStr`] reads that form.
///
/// # Examples
/// ```
/// use retell::trace::TraceContext;
///
/// let context = TraceContext::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", Some("rojo=1"))?;
/// assert_eq!(context.span_id(), 0x00f0_67aa_0ba9_02b7);
/// assert!(context.is_sampled());
/// assert_eq!(context.traceparent(), "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
/// # Ok::<(), retell::trace::InvalidTraceContext>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct TraceContext {
    trace_id: u128,
    span_id: u64,
    flags: u8,
    state: Option<Arc<str>>,
}

/// The reason why a text is no trace context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidTraceContext {
    /// The `traceparent` is not `version-trace id-span id-flags` in lowercase hexadecimal digits.
    #[error("a traceparent has four groups of 2, 32, 16 and 2 lowercase hexadecimal digits")]
    Form,
    /// The version `ff` is forbidden.
    #[error("the version ff of a traceparent is not allowed")]
    Version,
    /// The trace id or the span id is zero.
    #[error("the trace id and the span id of a traceparent are not zero")]
    Zero,
    /// The `tracestate` is no list of at most 32 entries `key=value`, or has more than 512 bytes.
    #[error("a tracestate is a list of at most 32 entries `key=value` in at most 512 bytes")]
    State,
}

impl TraceContext {
    /// Creates the context of a span. `flags` are those of the W3C: bit 0 says that the caller records the trace.
    ///
    /// # Errors
    /// [`InvalidTraceContext::Zero`] if `trace_id` or `span_id` is zero.
    pub fn new(trace_id: u128, span_id: u64, flags: u8) -> Result<Self, InvalidTraceContext> {
        if trace_id == 0 || span_id == 0 {
            return Err(InvalidTraceContext::Zero);
        }
        Ok(Self { trace_id, span_id, flags, state: None })
    }

    /// Parses the two headers. A `traceparent` of a later version than 00 is read as far as version 00 goes.
    ///
    /// # Errors
    /// The first rule of the W3C that a header breaks.
    pub fn parse(traceparent: &str, tracestate: Option<&str>) -> Result<Self, InvalidTraceContext> {
        let (version, trace_id, span_id, flags) = fields(traceparent).ok_or(InvalidTraceContext::Form)?;
        if version == 0xff {
            return Err(InvalidTraceContext::Version);
        }
        let context = Self::new(trace_id, span_id, flags)?;
        match tracestate {
            Some(state) => context.with_state(state),
            None => Ok(context),
        }
    }

    /// Sets the vendors' part.
    ///
    /// # Errors
    /// [`InvalidTraceContext::State`]. An empty list is valid, and sets nothing.
    pub fn with_state(mut self, tracestate: &str) -> Result<Self, InvalidTraceContext> {
        let entries =
            || tracestate.split(',').map(|entry| entry.trim_matches([' ', '\t'])).filter(|entry| !entry.is_empty());
        if tracestate.len() > MAX_STATE_BYTES || entries().count() > MAX_STATE_ENTRIES || !entries().all(is_entry) {
            return Err(InvalidTraceContext::State);
        }
        self.state = entries().next().is_some().then(|| tracestate.trim_matches([' ', '\t']).into());
        Ok(self)
    }

    /// Returns the id of the trace.
    pub fn trace_id(&self) -> u128 {
        self.trace_id
    }

    /// Returns the id of the span.
    pub fn span_id(&self) -> u64 {
        self.span_id
    }

    /// Returns the flags of the W3C.
    pub fn flags(&self) -> u8 {
        self.flags
    }

    /// Returns whether the caller records the trace.
    pub fn is_sampled(&self) -> bool {
        self.flags & 1 == 1
    }

    /// Returns the first header, of version 00.
    pub fn traceparent(&self) -> String {
        format!("00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }

    /// Returns the second header, if there is one.
    pub fn tracestate(&self) -> Option<&str> {
        self.state.as_deref()
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)?;
        self.state.as_ref().map_or(Ok(()), |state| write!(f, " {state}"))
    }
}

impl FromStr for TraceContext {
    type Err = InvalidTraceContext;

    fn from_str(text: &str) -> Result<Self, InvalidTraceContext> {
        match text.split_once(' ') {
            Some((parent, state)) => Self::parse(parent, Some(state)),
            None => Self::parse(text, None),
        }
    }
}

impl TryFrom<String> for TraceContext {
    type Error = InvalidTraceContext;

    fn try_from(text: String) -> Result<Self, InvalidTraceContext> {
        text.parse()
    }
}

impl From<TraceContext> for String {
    fn from(context: TraceContext) -> Self {
        context.to_string()
    }
}

/// Returns the version, the trace id, the span id and the flags of a `traceparent`.
fn fields(text: &str) -> Option<(u8, u128, u64, u8)> {
    let bytes = text.as_bytes();
    let is_hex = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
    let is_in_form =
        |(place, byte): (usize, &u8)| if [2, 35, 52].contains(&place) { *byte == b'-' } else { is_hex(byte) };
    let known = bytes.get(..PARENT_BYTES)?;
    if !known.iter().enumerate().all(is_in_form) {
        return None;
    }
    let version = u8::from_str_radix(&text[..2], 16).ok()?;
    // Only a later version may have more, after another dash.
    let ends = match bytes.get(PARENT_BYTES) {
        None => true,
        Some(next) => version > 0 && *next == b'-',
    };
    let ids = (u128::from_str_radix(&text[3..35], 16).ok()?, u64::from_str_radix(&text[36..52], 16).ok()?);
    let flags = u8::from_str_radix(&text[53..PARENT_BYTES], 16).ok()?;
    ends.then_some((version, ids.0, ids.1, flags))
}

/// Returns whether this is an entry of a `tracestate`.
fn is_entry(entry: &str) -> bool {
    let Some((key, value)) = entry.split_once('=') else { return false };
    let is_key = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/@".contains(&byte);
    let is_value = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b'=';
    let begins = key.bytes().next().is_some_and(|first| first.is_ascii_lowercase() || first.is_ascii_digit());
    begins && key.len() <= 256 && value.len() <= 256 && key.bytes().all(is_key) && value.bytes().all(is_value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_trace_context_prints_what_it_was_parsed_from() {
        let context = TraceContext::parse(PARENT, Some("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE")).unwrap();
        assert_eq!(context.traceparent(), PARENT);
        assert_eq!(context.tracestate(), Some("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"));
        assert_eq!(context.to_string().parse(), Ok(context.clone()));
        let json = serde_json::to_string(&context).unwrap();
        assert_eq!(serde_json::from_str::<TraceContext>(&json).unwrap(), context);
        assert_eq!(TraceContext::parse(PARENT, Some("")).unwrap().to_string(), PARENT);
        let unsampled = TraceContext::new(1, 2, 0).unwrap();
        assert!(!unsampled.is_sampled() && unsampled.to_string().parse() == Ok(unsampled.clone()));
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        let later = PARENT.replacen("00", "cc", 1);
        for text in [later.clone(), format!("{later}-what-comes-later")] {
            assert_eq!(TraceContext::parse(&text, None).unwrap().traceparent(), PARENT);
        }
        assert_eq!(TraceContext::parse(&format!("{later}.later"), None), Err(InvalidTraceContext::Form));
        assert_eq!(TraceContext::parse(&format!("{PARENT}-00"), None), Err(InvalidTraceContext::Form));
    }

    #[test]
    fn broken_headers_are_refused_with_their_rule() {
        let upper = PARENT.replace('b', "B");
        for text in ["", "00", "xyz", &upper, &PARENT[1..], &PARENT.replace('-', "_"), &PARENT.replace('4', "ü")] {
            assert_eq!(TraceContext::parse(text, None), Err(InvalidTraceContext::Form), "{text}");
        }
        assert_eq!(TraceContext::parse(&PARENT.replacen("00", "ff", 1), None), Err(InvalidTraceContext::Version));
        let zero = "00-00000000000000000000000000000000-00f067aa0ba902b7-01";
        assert_eq!(TraceContext::parse(zero, None), Err(InvalidTraceContext::Zero));
        assert_eq!(TraceContext::new(1, 0, 1), Err(InvalidTraceContext::Zero));
        let many = vec!["a=1"; 33].join(",");
        for state in ["a", "=1", "A=1", "a=ü", "a=b=c", &"a=1,".repeat(200), &many] {
            assert_eq!(TraceContext::parse(PARENT, Some(state)), Err(InvalidTraceContext::State), "{state}");
        }
    }
}
