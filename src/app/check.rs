//! Checks that the parts of an app fit together.

use std::collections::BTreeMap;

use crate::app::part::Part;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{EventSchema, EventTypes};
use crate::store::log::query::Filter;

/// Returns the problem of each part that cannot run next to the others, under its name. `relays` are the names of the app's relays.
pub(super) fn problems(parts: &[Box<dyn Part>], relays: &[&str]) -> BTreeMap<String, Error> {
    let mut problems = BTreeMap::new();
    for (place, part) in parts.iter().enumerate() {
        let (name, earlier) = (part.name(), &parts[..place]);
        if earlier.iter().any(|other| other.name() == name) {
            let problem =
                "several parts of the app have this name and would share one checkpoint: give each its own name";
            problems.insert(name.to_owned(), refused(name, problem));
        }
        if relays.contains(&name) {
            let problem = "a relay of the app has this name, and health could not tell them apart: choose another name";
            problems.insert(name.to_owned(), refused(name, problem));
        }
        for other in earlier {
            let Some(problem) = mixed(&**part, &**other) else { continue };
            for name in [name, other.name()] {
                problems.entry(name.to_owned()).or_insert_with(|| refused(name, &problem));
            }
        }
    }
    problems
}

fn refused(part: &str, problem: &str) -> Error {
    ErrorKind::Invalid(format!("part {part}: {problem}")).into()
}

/// Describes two types of event that share a stored name, if one of the parts would take the events of one for those of the other.
fn mixed(part: &dyn Part, other: &dyn Part) -> Option<String> {
    let ((own, own_filter), (others, others_filter)) = (part.receives(), other.receives());
    let (EventTypes::Only(own), EventTypes::Only(others)) = (own, others) else { return None };
    let pairs = own.iter().flat_map(|own| others.iter().map(move |other| (own, other)));
    let (own, other) = pairs
        .filter(|(own, other)| are_two_kinds(own, other))
        .find(|(own, other)| is_passed(own_filter.as_ref(), other) || is_passed(others_filter.as_ref(), own))?;
    let name = own.names().find(|name| other.is_named(name)).unwrap_or(own.name);
    Some(format!(
        "events called {} are of the type {} here and of {} elsewhere, so the events of one aggregate would be taken for those of \
         another: choose another stored name, or name the aggregate in both types by `#[event(aggregate = \"..\")]`",
        name, own.declaration, other.declaration
    ))
}

/// Returns whether two schemas with one stored name come from different types, and do not both say which aggregate they belong to.
fn are_two_kinds(one: &EventSchema, other: &EventSchema) -> bool {
    let are_declared = !one.declaration.is_empty() && !other.declaration.is_empty();
    one.names().any(|name| other.is_named(name))
        && are_declared
        && one.declaration != other.declaration
        && !(one.aggregate.is_some() && other.aggregate.is_some())
}

/// Returns whether a part with this filter may receive events of the kind `schema` that another type declares.
fn is_passed(filter: Result<&Filter, &Error>, schema: &EventSchema) -> bool {
    let Ok(filter) = filter else { return false };
    let aggregates = &filter.aggregate_types;
    aggregates.is_empty() || schema.aggregate.is_some_and(|named| aggregates.iter().any(|one| one.as_str() == named))
}
