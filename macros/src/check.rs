//! All rules. Every error points at the smallest token that is wrong and says what to write instead.

use std::collections::{HashMap, HashSet};

use quote::ToTokens;
use syn::{Data, DeriveInput, Fields, Ident, LitStr, Meta};

use crate::ast::{self, Aggregate, Event, Member, Part, Union};
use crate::attr::{self, Attr, Codec, Snapshots, usage};
use crate::errors::Errors;
use crate::wire;

/// Longest stored name that every store accepts; equal to `retell::id::MAX_NAME_BYTES`.
const MAX_NAME_BYTES: usize = 255;

/// Field attributes that only a self-describing format can read back.
const NOT_COMPACT: &[&str] = &["flatten", "skip_serializing", "skip_serializing_if", "skip_deserializing"];

pub(crate) fn event(event: &Event<'_>, errors: &mut Errors) {
    no_generics(event.input, errors);
    only_opaque_on_fields(event.input, "event", errors);
    if let Some(aggregate) = &event.attr.aggregate {
        stored_name(aggregate, errors);
    }
    match &event.input.data {
        Data::Enum(_) => event_enum(event, errors),
        Data::Struct(data) => {
            let suggested = split_last_word(&snake_case(&event.input.ident));
            kind(&event.input.ident, &event.attr, &suggested, errors);
            distinct_names(&[(&event.input.ident, &event.attr)], &[], errors);
            serde_round_trips(&data.fields, event.attr.codec, errors);
        }
        Data::Union(data) => errors.add(
            data.union_token,
            "an event must be a struct or an enum: write `enum`, with one variant for each kind of event",
        ),
    }
}

fn event_enum(event: &Event<'_>, errors: &mut Errors) {
    let prefix = snake_case(&event.input.ident);
    let prefix = prefix.strip_suffix("_event").unwrap_or(&prefix);
    for variant in &event.variants {
        let suggested = format!("{prefix}.{}", snake_case(variant.ident));
        kind(variant.ident, &variant.attr, &suggested, errors);
        serde_round_trips(variant.fields, variant.attr.codec.or(event.attr.codec), errors);
    }
    let kinds: Vec<_> = event.variants.iter().map(|variant| (variant.ident, &variant.attr)).collect();
    distinct_names(&kinds, &event.attr.retired, errors);
    for name in &event.attr.retired {
        former_name(name, errors);
    }
}

/// Checks one kind of event: a variant or a struct.
fn kind(ident: &Ident, attr: &Attr, suggested: &str, errors: &mut Errors) {
    match &attr.name {
        Some(name) if stored_name(name, errors) && !name.value().contains('.') => {
            errors.add(
                name,
                format!(
                    "a stored name has a dot, so that the events of two aggregates never share one: write `{}`",
                    dotted(&name.value(), suggested)
                ),
            );
        }
        Some(_) => {}
        None if attr.broken => {}
        None => errors.add(ident, format!("`{ident}` has no stored name: write `#[event(\"{suggested}\")]` above it")),
    }
    for name in &attr.renamed_from {
        former_name(name, errors);
    }
    if !attr.broken {
        upcasters(attr, errors);
    }
}

/// Returns `name` with the subject of `suggested` in front.
fn dotted(name: &str, suggested: &str) -> String {
    let subject = suggested.split_once('.').map_or("order", |(subject, _)| subject);
    format!("{subject}.{name}")
}

/// Requires one upcaster for each older version.
fn upcasters(attr: &Attr, errors: &mut Errors) {
    let found = attr.upcast.as_ref().map_or(0, |upcast| upcast.functions.len());
    match (&attr.version, &attr.upcast) {
        (Some(version), _) if version.value == 0 => errors.add(&version.literal, usage("version")),
        (Some(version), _) if version.value as usize - 1 != found => {
            errors.add(&version.literal, wrong_upcaster_count(version.value, found));
        }
        (None, Some(upcast)) if found > 0 => {
            errors.add(&upcast.key, format!("`upcast` needs a version: write `version = {}`", found + 1));
        }
        _ => {}
    }
}

fn wrong_upcaster_count(version: u32, found: usize) -> String {
    let (needed, write) = match version - 1 {
        0 => {
            return "version 1 has no older versions to upcast: remove `upcast`, or raise `version`".to_owned();
        }
        1 => ("1 upcast".to_owned(), "`upcast(from_v1)`".to_owned()),
        2 => ("2 upcasts, oldest first,".to_owned(), "`upcast(from_v1, from_v2)`".to_owned()),
        older => (format!("{older} upcasts, oldest first,"), format!("`upcast(from_v1, .., from_v{older})`")),
    };
    format!("version {version} needs {needed} but has {found}: write {write}")
}

/// Requires that each stored name belongs to one kind of event. The present names come first, so that the error is at a former one.
fn distinct_names(kinds: &[(&Ident, &Attr)], retired: &[LitStr], errors: &mut Errors) {
    let mut owners: HashMap<_, &Ident> = HashMap::new();
    for (ident, attr) in kinds {
        let Some(name) = &attr.name else { continue };
        if let Some(first) = owners.get(&name.value()) {
            errors.add(
                name,
                format!(
                    "`{first}` already has this stored name: write another, since each kind of event needs its own"
                ),
            );
        } else {
            owners.insert(name.value(), ident);
        }
    }
    for (ident, attr) in kinds {
        for name in &attr.renamed_from {
            match owners.get(&name.value()) {
                Some(own) if own == ident => {
                    errors.add(name, format!("`{own}` has this stored name already: write it once"));
                }
                Some(other) => errors.add(
                    name,
                    format!("`{other}` has this stored name, so stored events would be read as `{other}`: remove it from one of the two"),
                ),
                None => drop(owners.insert(name.value(), ident)),
            }
        }
    }
    let mut seen = HashSet::new();
    for name in retired {
        if let Some(own) = owners.get(&name.value()) {
            errors.add(
                name,
                format!("`{own}` has this stored name, so stored events are read as `{own}`: remove it here"),
            );
        } else if !seen.insert(name.value()) {
            errors.add(name, "this stored name is retired already: write it once");
        }
    }
}

/// Rejects attributes with which serde could write a field but not read it back.
fn serde_round_trips(fields: &Fields, codec: Option<Codec>, errors: &mut Errors) {
    let only = matches!(fields, Fields::Unnamed(fields) if fields.unnamed.len() == 1);
    let compact = matches!(codec, Some(Codec::Compact));
    for field in fields {
        for meta in attr::serde(&field.attrs, errors) {
            if only && is_any(&meta, &["skip", "skip_serializing", "skip_deserializing"]) {
                errors.add(meta, "the only field is the payload and cannot be skipped: remove the field, or name it");
            } else if compact && is_any(&meta, NOT_COMPACT) {
                errors.add(
                    meta,
                    "a compact payload holds every field: remove this attribute, or write `codec = \"json\"`",
                );
            }
        }
    }
}

fn is_any(meta: &Meta, names: &[&str]) -> bool {
    names.iter().any(|name| meta.path().is_ident(name))
}

pub(crate) fn union(union: &Union<'_>, errors: &mut Errors) {
    no_generics(union.input, errors);
    no_attribute_on_fields(union.input, "event", "the enum", errors);
    let only_enum = "a union of events must be an enum: write `enum`, with one variant for each member";
    match &union.input.data {
        Data::Struct(data) => errors.add(data.struct_token, only_enum),
        Data::Union(data) => errors.add(data.union_token, only_enum),
        Data::Enum(_) if union.members.is_empty() => errors
            .add(&union.input.ident, "a union needs at least one member: write a variant such as `Order(OrderEvent)`"),
        Data::Enum(_) => {}
    }
    for member in &union.members {
        member_shape(member, errors);
    }
    distinct_members(union, errors);
}

fn member_shape(member: &Member<'_>, errors: &mut Errors) {
    let ident = &member.variant.ident;
    for attr in attr::named(&member.variant.attrs, "event") {
        errors.add(attr, "the members of a union define names and versions: remove this attribute");
    }
    if member.event.is_none() {
        errors.add(ident, format!("a variant of a union holds one event type: write `{ident}({ident}Event)`"));
    }
}

fn distinct_members(union: &Union<'_>, errors: &mut Errors) {
    let mut variants = HashMap::new();
    for member in &union.members {
        let Some(event) = member.event else { continue };
        let text = event.to_token_stream().to_string();
        if let Some(first) = variants.get(&text) {
            errors.add(event, format!("`{first}` already holds this type: remove one of the two variants"));
        } else {
            variants.insert(text, &member.variant.ident);
        }
    }
}

pub(crate) fn aggregate(aggregate: &Aggregate<'_>, errors: &mut Errors) {
    let Aggregate { input, attr, .. } = aggregate;
    no_generics(input, errors);
    no_attribute_on_fields(input, "aggregate", "the type", errors);
    for attr in ast::variants(input).flat_map(|variant| attr::named(&variant.attrs, "aggregate")) {
        errors.add(attr, "`#[aggregate]` belongs on the type: remove it here");
    }
    if let Data::Union(data) = &input.data {
        errors.add(data.union_token, "an aggregate must be a struct or an enum: write `struct`");
    }
    aggregate_attribute(&input.ident, attr, errors);
    snapshots(attr, errors);
}

fn snapshots(attr: &Attr, errors: &mut Errors) {
    if let Some(Snapshots::Every(events)) = &attr.snapshots
        && events.value == 0
    {
        errors.add(
            &events.literal,
            "`snapshots = 0` is not allowed: write `snapshots = never`, or a number of at least 1",
        );
    }
    if let Some(version) = &attr.snapshot_version
        && version.value == 0
    {
        errors.add(&version.literal, usage("snapshot_version"));
    }
}

fn aggregate_attribute(ident: &Ident, attr: &Attr, errors: &mut Errors) {
    let name = snake_case(ident);
    if !attr.found {
        let write = format!("`#[aggregate(\"{name}\", event = {ident}Event)]`");
        return errors.add(ident, format!("`{ident}` has no stored name: write {write} above it"));
    }
    if let Some(name) = &attr.name {
        stored_name(name, errors);
    } else if !attr.broken {
        errors.add(ident, format!("`{ident}` has no stored name: write `\"{name}\"` first"));
    }
    if attr.event.is_none() && !attr.broken {
        errors.add(ident, format!("`{ident}` has no event type: write `event = {ident}Event`"));
    }
}

/// Checks that a stored name consists of lowercase words of letters, digits and `_`, joined by dots, in at most 255 bytes.
///
/// Returns whether the name is valid.
fn stored_name(literal: &LitStr, errors: &mut Errors) -> bool {
    let name = literal.value();
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    if name.is_empty() {
        errors.add(literal, "a stored name cannot be empty: write one such as `order.created`");
    } else if !name.split('.').all(is_word) {
        errors.add(
            literal,
            "a stored name consists of words of `a-z`, `0-9` and `_` joined by dots: write one such as `order.created`",
        );
    } else if name.len() > MAX_NAME_BYTES {
        let bytes = name.len();
        errors.add(
            literal,
            format!("a stored name has at most {MAX_NAME_BYTES} bytes, but this one has {bytes}: shorten it"),
        );
    } else {
        return true;
    }
    false
}

/// Checks a stored name that the log may have. An event that was written without the derive may have any name that a store accepts.
fn former_name(literal: &LitStr, errors: &mut Errors) {
    let name = literal.value();
    if name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains(|c: char| c.is_whitespace() || c.is_control()) {
        errors.add(
            literal,
            format!(
                "a stored name has 1 to {MAX_NAME_BYTES} bytes and no spaces: write the name that the log has, such as `order.created`"
            ),
        );
    }
}

fn no_generics(input: &DeriveInput, errors: &mut Errors) {
    if !input.generics.params.is_empty() {
        errors.add(&input.generics, "a stored type cannot be generic: remove the parameters and write concrete types");
    }
}

/// Checks the attributes of the fields of an event or a part of one.
fn only_opaque_on_fields(input: &DeriveInput, name: &str, errors: &mut Errors) {
    for field in ast::fields(input) {
        for attr in attr::named(&field.attrs, name) {
            if !wire::is_opaque(field, name) {
                errors.add(attr, format!("a field takes `#[{name}(opaque)]` and `#[serde(..)]`, and nothing else"));
            }
        }
    }
    let of_variants = ast::variants(input).map(|variant| &variant.fields);
    match &input.data {
        Data::Struct(data) => wire::check(&data.fields, name, errors),
        _ => of_variants.for_each(|fields| wire::check(fields, name, errors)),
    }
}

/// Checks the input of `#[derive(Value)]`.
pub(crate) fn value(part: &Part<'_>, errors: &mut Errors) {
    self::part(part, errors);
    no_generics(part.input, errors);
    for meta in &part.serde {
        if is_any(meta, &["from", "try_from", "into", "remote"]) {
            let derive = "derive `Serialize`, `Deserialize` and `retell::Shape` instead of `Value`";
            errors.add(meta, format!("`Value` has no conversions: {derive}"));
        }
    }
}

/// Checks the input of `#[derive(Shape)]`.
pub(crate) fn part(part: &Part<'_>, errors: &mut Errors) {
    only_opaque_on_fields(part.input, "shape", errors);
    wire::check_variants(ast::variants(part.input), errors);
    for attr in ast::variants(part.input).flat_map(|variant| attr::named(&variant.attrs, "shape")) {
        errors.add(attr, "`#[shape]` belongs on the type or on a field: remove it here");
    }
    if let Data::Union(data) = &part.input.data {
        errors.add(data.union_token, "a part of an event must be a struct or an enum: write `struct`");
    }
}

fn no_attribute_on_fields(input: &DeriveInput, name: &str, place: &str, errors: &mut Errors) {
    for field in ast::fields(input) {
        for attr in attr::named(&field.attrs, name) {
            errors.add(attr, format!("`#[{name}]` belongs on {place}: a field takes `#[serde(..)]`"));
        }
    }
}

/// Converts `OrderCreated` to `order_created`.
fn snake_case(ident: &Ident) -> String {
    let mut snake = String::new();
    for character in ident.to_string().trim_start_matches("r#").chars() {
        if character.is_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.extend(character.to_lowercase());
    }
    snake
}

/// Converts `order_created` to `order.created`.
fn split_last_word(snake: &str) -> String {
    match snake.rsplit_once('_') {
        Some((subject, verb)) => format!("{subject}.{verb}"),
        None => snake.to_owned(),
    }
}
