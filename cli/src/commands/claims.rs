//! `retell show --claims`.

use retell::operate::{self, MAX_ROWS};
use serde_json::{Value, json};

use crate::args::Show;
use crate::failure::{Diagnostic, Failure};
use crate::out::{Answer, Page};
use crate::session::Session;

pub(super) async fn answer(session: &Session, Show { stream, limit, .. }: &Show) -> Result<Answer, Failure> {
    let log = &*session.stores.log;
    let limit = (*limit).min(MAX_ROWS);
    let Some(held) = session.call("list the unique values", operate::held_values(log, stream, limit)).await? else {
        let text = "this store does not list the unique values of a stream";
        return Answer::new(&Value::Null, Page::default(), vec![Diagnostic::finding("not_listed", text)]);
    };
    let mut page = Page::default();
    page.table(&["SCOPE", "VALUE"], held.items.iter().map(|held| vec![held.scope.to_string(), held.value.to_string()]));
    let mut diagnostics = Vec::new();
    if held.items.is_empty() {
        diagnostics.push(Diagnostic::note("no_values", format!("{stream} holds no unique value")));
    }
    if held.truncated {
        diagnostics.push(Diagnostic::note("truncated", "there are more values: --limit"));
    }
    Answer::new(&json!({ "stream": stream, "values": held.items, "truncated": held.truncated }), page, diagnostics)
}
