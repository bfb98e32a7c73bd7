//! Parses `#[event(..)]`, `#[aggregate(..)]` and the parts of `#[serde(..)]` that matter here.

use proc_macro2::{TokenStream, TokenTree};
use quote::quote;
use syn::ext::IdentExt as _;
use syn::parse::ParseStream;
use syn::punctuated::Punctuated;
use syn::{Attribute, Error, Ident, Lit, LitInt, LitStr, Meta, Path, Result, Token, Type};

use crate::errors::Errors;

/// Where an attribute stands, and what it may say there.
pub(crate) struct Place {
    /// `event` or `aggregate`.
    pub(crate) attribute: &'static str,
    /// As the messages call it.
    on: &'static str,
    /// The options known there.
    known: &'static [&'static str],
    /// What to write instead of a stored name, where none belongs.
    unnamed: Option<&'static str>,
}

pub(crate) const EVENT_ENUM: Place = Place {
    attribute: "event",
    on: "an enum",
    known: &["codec", "crate"],
    unnamed: Some("an enum has no stored name: write one above each variant"),
};
pub(crate) const EVENT_VARIANT: Place =
    Place { attribute: "event", on: "a variant", known: &["version", "upcast", "codec"], unnamed: None };
pub(crate) const EVENT_STRUCT: Place =
    Place { attribute: "event", on: "a struct", known: &["version", "upcast", "codec", "crate"], unnamed: None };
pub(crate) const UNION: Place = Place {
    attribute: "event",
    on: "a union of events",
    known: &["crate"],
    unnamed: Some("a union has no stored name: names and versions belong to its members"),
};
pub(crate) const AGGREGATE: Place = Place {
    attribute: "aggregate",
    on: "an aggregate",
    known: &["event", "snapshots", "snapshot_version", "claims", "crate"],
    unnamed: None,
};

/// What an option takes, with an example.
pub(crate) fn usage(option: &str) -> &'static str {
    match option {
        "version" => "`version` is a whole number from 1: `version = 2`",
        "upcast" => "`upcast` lists functions, oldest first: `upcast(from_v1, from_v2)`",
        "codec" => "`codec` is `\"json\"` or `\"compact\"`: `codec = \"compact\"`",
        "crate" => "`crate` is a path in quotes: `crate = \"path::to::retell\"`",
        "event" => "`event` is the type of the aggregate's events: `event = AccountEvent`",
        "snapshots" => "`snapshots` is a number of events from 1, `never`, or a path to a function: `snapshots = 100`",
        "claims" => "`claims` is a path to a function: `claims = claims_of`",
        "snapshot_version" => "`snapshot_version` is a whole number from 1: `snapshot_version = 2`",
        _ => "no such option",
    }
}

/// A whole number and where it stands.
pub(crate) struct Number {
    pub(crate) value: u32,
    pub(crate) literal: LitInt,
}

#[derive(Clone, Copy)]
pub(crate) enum Codec {
    Json,
    Compact,
}

/// When an aggregate keeps snapshots.
pub(crate) enum Snapshots {
    Every(Number),
    Never,
    When(Path),
}

/// `upcast(from_v1, from_v2)`.
pub(crate) struct Upcast {
    pub(crate) key: Ident,
    pub(crate) functions: Vec<Path>,
}

/// What one `#[event(..)]` or `#[aggregate(..)]` says.
#[derive(Default)]
pub(crate) struct Attr {
    /// Whether it is there at all.
    pub(crate) found: bool,
    /// Whether part of it could not be parsed, so that what is missing is no second mistake.
    pub(crate) broken: bool,
    pub(crate) name: Option<LitStr>,
    pub(crate) version: Option<Number>,
    pub(crate) upcast: Option<Upcast>,
    pub(crate) codec: Option<Codec>,
    pub(crate) event: Option<Type>,
    pub(crate) snapshots: Option<Snapshots>,
    pub(crate) snapshot_version: Option<Number>,
    pub(crate) claims: Option<Path>,
    krate: Option<Path>,
    /// The options set so far.
    seen: Vec<String>,
}

impl Attr {
    /// Reads the one attribute of `place` among `attrs`.
    pub(crate) fn parse(attrs: &[Attribute], place: &Place, errors: &mut Errors) -> Self {
        let mut attr = Self::default();
        for found in named(attrs, place.attribute) {
            if attr.found {
                let name = place.attribute;
                errors.add(found, format!("a second `#[{name}]`: write all its options in one"));
            } else {
                attr.found = true;
                attr.read(found, place, errors);
            }
        }
        attr
    }

    /// The path to the library.
    pub(crate) fn krate(&self) -> TokenStream {
        self.krate.as_ref().map_or_else(|| quote!(::retell), |path| quote!(#path))
    }

    fn read(&mut self, attribute: &Attribute, place: &Place, errors: &mut Errors) {
        // A bare `#[event]` says nothing, which is for `check` to judge.
        if let Meta::Path(_) = attribute.meta {
            return;
        }
        let options = |input: ParseStream<'_>| {
            self.options(input, place, errors);
            Ok(())
        };
        if let Err(error) = attribute.parse_args_with(options) {
            self.fail(error, errors);
        }
    }

    /// Reads options up to the end; a bad one is reported and skipped.
    fn options(&mut self, input: ParseStream<'_>, place: &Place, errors: &mut Errors) {
        while !input.is_empty() {
            if let Err(error) = self.option(input, place).and_then(|()| end_of_option(input)) {
                self.fail(error, errors);
                skip_option(input);
            }
        }
    }

    fn option(&mut self, input: ParseStream<'_>, place: &Place) -> Result<()> {
        if input.peek(Lit) {
            return self.stored_name(&input.parse()?, place);
        }
        let key = input.call(Ident::parse_any)?;
        let option = key.to_string();
        if !place.known.contains(&option.as_str()) {
            return Err(Error::new(key.span(), unknown(&option, place)));
        }
        if self.seen.contains(&option) {
            return Err(Error::new(key.span(), format!("a second `{option}`: write it once")));
        }
        let value = self.value(&key, input);
        let value = value.map_err(|error| Error::new(error.span(), usage(&option)));
        self.seen.push(option);
        value
    }

    fn stored_name(&mut self, literal: &Lit, place: &Place) -> Result<()> {
        let wrong = |message| Err(Error::new(literal.span(), message));
        match (literal, place.unnamed) {
            (_, Some(message)) => wrong(message),
            (Lit::Str(_), None) if self.name.is_some() => {
                wrong("a second stored name: a stored name never changes, write it once")
            }
            (Lit::Str(name), None) => {
                self.name = Some(name.clone());
                Ok(())
            }
            (_, None) => wrong("a stored name is text in quotes: `\"order.created\"`"),
        }
    }

    fn value(&mut self, key: &Ident, input: ParseStream<'_>) -> Result<()> {
        if key == "upcast" {
            self.upcast = Some(Upcast { key: key.clone(), functions: functions(input)? });
            return Ok(());
        }
        input.parse::<Token![=]>()?;
        match key.to_string().as_str() {
            "version" => self.version = Some(number(input)?),
            "codec" => self.codec = Some(codec(input)?),
            "crate" => {
                self.krate = Some(input.parse::<LitStr>()?.parse_with(Path::parse_mod_style)?);
            }
            "event" => self.event = Some(input.parse()?),
            "snapshots" => self.snapshots = Some(snapshots(input)?),
            "claims" => self.claims = Some(input.parse()?),
            "snapshot_version" => self.snapshot_version = Some(number(input)?),
            _ => return Err(input.error("no such option")),
        }
        Ok(())
    }

    fn fail(&mut self, error: Error, errors: &mut Errors) {
        self.broken = true;
        errors.push(error);
    }
}

fn unknown(option: &str, place: &Place) -> String {
    let known: Vec<_> = place.known.iter().map(|known| format!("`{known}`")).collect();
    let Place { attribute, on, .. } = place;
    format!("unknown option `{option}`: `#[{attribute}]` on {on} knows {}", known.join(", "))
}

fn end_of_option(input: ParseStream<'_>) -> Result<()> {
    if input.is_empty() {
        return Ok(());
    }
    match input.parse::<Token![,]>() {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::new(error.span(), "write a comma between two options")),
    }
}

/// Moves past the next comma.
fn skip_option(input: ParseStream<'_>) {
    while let Ok(token) = input.parse::<TokenTree>() {
        if matches!(token, TokenTree::Punct(punct) if punct.as_char() == ',') {
            return;
        }
    }
}

fn number(input: ParseStream<'_>) -> Result<Number> {
    let literal: LitInt = input.parse()?;
    Ok(Number { value: literal.base10_parse()?, literal })
}

fn codec(input: ParseStream<'_>) -> Result<Codec> {
    let literal: LitStr = input.parse()?;
    match literal.value().as_str() {
        "json" => Ok(Codec::Json),
        "compact" => Ok(Codec::Compact),
        _ => Err(Error::new(literal.span(), "unknown codec")),
    }
}

fn functions(input: ParseStream<'_>) -> Result<Vec<Path>> {
    let list;
    syn::parenthesized!(list in input);
    let functions = Punctuated::<Path, Token![,]>::parse_terminated(&list);
    // What is left over would be a second error.
    while list.parse::<TokenTree>().is_ok() {}
    Ok(functions?.into_iter().collect())
}

fn snapshots(input: ParseStream<'_>) -> Result<Snapshots> {
    if input.peek(LitInt) {
        return number(input).map(Snapshots::Every);
    }
    let path: Path = input.parse()?;
    Ok(if path.is_ident("never") { Snapshots::Never } else { Snapshots::When(path) })
}

/// The parts of all `#[serde(..)]` among `attrs`.
pub(crate) fn serde(attrs: &[Attribute], errors: &mut Errors) -> Vec<Meta> {
    let mut metas = Vec::new();
    for attr in named(attrs, "serde") {
        match attr.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated) {
            Ok(parts) => metas.extend(parts),
            Err(error) => errors.push(error),
        }
    }
    metas
}

/// The attributes of this name.
pub(crate) fn named<'a>(attrs: &'a [Attribute], name: &str) -> impl Iterator<Item = &'a Attribute> {
    attrs.iter().filter(move |attr| attr.path().is_ident(name))
}
