//! Tokens, with which a caller reads its own writes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};
use crate::id::{CommitId, EventId};

/// Identifies the events of one append, so that a caller can read its own writes: see [`wait_for`](crate::projection::wait_for). The default
/// token identifies no events, so every projection has applied it.
///
/// A token names a commit and the last event in it. If the log loses the event, because an older backup was restored or a replica was promoted
/// too early, and writes another commit under the same number, the token does not stand for that commit.
///
/// # Examples
/// ```
/// use retell::{Token, prelude::*};
///
/// #[derive(Event)]
/// #[event("shoe.sold")]
/// struct Sold {
///     cents: u64,
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let log = MemoryStore::new();
/// let appended = log.append_events(("shoe", "1"), ExpectedVersion::NoStream, [Sold { cents: 500 }]).await?;
///
/// // The client gets the token in a cookie and returns it with its next request, perhaps to another process.
/// let cookie = serde_json::to_string(&appended.token())?;
/// let token: Token = serde_json::from_str(&cookie)?;
/// assert_eq!(log.position_of(token).await?, Some(Position::new(1)));
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Token(Option<(CommitId, EventId)>);

impl Token {
    /// Creates the token of an append: its commit, and the id of its last event.
    pub const fn new(commit: CommitId, last_event: EventId) -> Self {
        Self(Some((commit, last_event)))
    }

    /// Returns the commit that the token identifies; zero for the default token.
    pub fn commit(self) -> CommitId {
        self.0.map_or(CommitId::ZERO, |(commit, _)| commit)
    }

    /// Returns the id of the append's last event; `None` for the default token.
    pub fn last_event(self) -> Option<EventId> {
        self.0.map(|(_, event)| event)
    }
}

/// Displays a token as one word of digits, letters and hyphens, which [`from_str`](FromStr::from_str) reads.
impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some((commit, event)) => write!(f, "{commit}-{event}"),
            None => f.write_str("0"),
        }
    }
}

impl From<Token> for String {
    fn from(token: Token) -> Self {
        token.to_string()
    }
}

impl FromStr for Token {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text == "0" {
            return Ok(Self::default());
        }
        let parts = text.split_once('-').and_then(|(commit, event)| Some((commit.parse().ok()?, event.parse().ok()?)));
        parts
            .map(|parts| Self(Some(parts)))
            .ok_or_else(|| ErrorKind::Invalid(format!("{text:?} is not a token")).into())
    }
}

impl TryFrom<String> for Token {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_convert_to_one_word_and_back() {
        let token = Token::new(CommitId::new(17), EventId::generate());
        for token in [token, Token::default()] {
            assert_eq!(token.to_string().parse::<Token>().unwrap(), token);
            let json = serde_json::to_string(&token).unwrap();
            assert_eq!(serde_json::from_str::<Token>(&json).unwrap(), token);
        }
        for other in ["", "17", "17-", "-1", "x-0190163d-8694-739b-aea5-966c26f8ad91"] {
            assert!(matches!(other.parse::<Token>().unwrap_err().kind(), ErrorKind::Invalid(_)), "{other}");
        }
    }
}
