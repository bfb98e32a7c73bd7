//! Parses `#[event(..)]`, `#[aggregate(..)]` and the parts of `#[serde(..)]` that the macros use.

use proc_macro2::{TokenStream, TokenTree};
use quote::quote;
use syn::ext::IdentExt as _;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Attribute, Error, Ident, Lit, LitInt, LitStr, Meta, Path, Result, Token, Type};

use crate::errors::Errors;

/// A kind of item that takes an attribute, and the options allowed there.
pub(crate) struct Target {
    /// `event`, `aggregate` or `shape`.
    pub(crate) attribute: &'static str,
    /// The item's name in messages.
    on: &'static str,
    /// The options allowed on it.
    known: &'static [&'static str],
    /// The message for a stored name on an item that has none.
    no_name: Option<&'static str>,
}

pub(crate) const EVENT_ENUM: Target = Target {
    attribute: "event",
    on: "an enum",
    known: &["retired", "aggregate", "codec", "public", "crate"],
    no_name: Some("an enum has no stored name: write one above each variant"),
};
pub(crate) const EVENT_VARIANT: Target = Target {
    attribute: "event",
    on: "a variant",
    known: &["version", "upcast", "codec", "renamed_from", "public"],
    no_name: None,
};
pub(crate) const EVENT_STRUCT: Target = Target {
    attribute: "event",
    on: "a struct",
    known: &["version", "upcast", "codec", "renamed_from", "public", "aggregate", "crate"],
    no_name: None,
};
pub(crate) const UNION: Target = Target {
    attribute: "event",
    on: "a union of events",
    known: &["crate"],
    no_name: Some("a union has no stored name: its members define names and versions"),
};
pub(crate) const AGGREGATE: Target = Target {
    attribute: "aggregate",
    on: "an aggregate",
    known: &["event", "snapshots", "snapshot_version", "claims", "crate"],
    no_name: None,
};

pub(crate) const PART: Target = Target {
    attribute: "shape",
    on: "a type",
    known: &["crate"],
    no_name: Some("a part of an event has no stored name: remove it"),
};

/// Returns the message that explains `option`, with an example.
pub(crate) fn usage(option: &str) -> &'static str {
    match option {
        "version" => "`version` is an integer of at least 1, such as `version = 2`",
        "upcast" => "`upcast` lists functions, oldest version first, such as `upcast(from_v1, from_v2)`",
        "renamed_from" => {
            "`renamed_from` is the stored name that the event had, such as `renamed_from = \"order.created\"`, or several in parentheses"
        }
        "retired" => {
            "`retired` lists stored names of events that are no longer read, such as `retired(\"order.flagged\", \"order.rated\")`"
        }
        "aggregate" => "`aggregate` is the stored name of an aggregate in quotes, such as `aggregate = \"order\"`",
        "codec" => "`codec` is `\"json\"` or `\"compact\"`, such as `codec = \"compact\"`",
        "public" => "`public` has no value: write `public` alone",
        "crate" => "`crate` is a path in quotes, such as `crate = \"path::to::retell\"`",
        "event" => "`event` is the type of the aggregate's events, such as `event = AccountEvent`",
        "snapshots" => {
            "`snapshots` is a number of events (at least 1), `never`, or a path to a function, such as `snapshots = 100`"
        }
        "claims" => "`claims` is a path to a function, such as `claims = claims_of`",
        "snapshot_version" => "`snapshot_version` is an integer of at least 1, such as `snapshot_version = 2`",
        _ => "no such option",
    }
}

/// An integer and its token.
pub(crate) struct Number {
    pub(crate) value: u32,
    pub(crate) literal: LitInt,
}

#[derive(Clone, Copy)]
pub(crate) enum Codec {
    Json,
    Compact,
}

/// When to store snapshots of an aggregate.
pub(crate) enum Snapshots {
    Every(Number),
    Never,
    When(Path),
}

/// `upcast(from_v1, split(from_v2))`.
pub(crate) struct Upcast {
    pub(crate) key: Ident,
    pub(crate) functions: Vec<Upcaster>,
}

/// A function that upcasts one version.
pub(crate) struct Upcaster {
    pub(crate) function: Path,
    /// Whether it returns all events that the stored one has become, and not the argument of the next function.
    pub(crate) splits: bool,
}

impl Parse for Upcaster {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let function: Path = input.parse()?;
        if !function.is_ident("split") || !input.peek(syn::token::Paren) {
            return Ok(Self { function, splits: false });
        }
        let inner;
        syn::parenthesized!(inner in input);
        let function = inner.parse();
        let ends = if inner.is_empty() { Ok(()) } else { Err(inner.error("expected one function")) };
        // Leftover tokens would cause a second error.
        while inner.parse::<TokenTree>().is_ok() {}
        ends.and(function).map(|function| Self { function, splits: true })
    }
}

/// The contents of one `#[event(..)]` or `#[aggregate(..)]`.
#[derive(Default)]
pub(crate) struct Attr {
    /// Whether the attribute is present.
    pub(crate) found: bool,
    /// Whether a part failed to parse. Then missing options are not reported as further errors.
    pub(crate) broken: bool,
    pub(crate) name: Option<LitStr>,
    pub(crate) version: Option<Number>,
    pub(crate) upcast: Option<Upcast>,
    pub(crate) codec: Option<Codec>,
    /// Whether programs of other teams read the event.
    pub(crate) public: bool,
    /// The stored names that the event had before.
    pub(crate) renamed_from: Vec<LitStr>,
    /// The stored names of events that are no longer read.
    pub(crate) retired: Vec<LitStr>,
    pub(crate) aggregate: Option<LitStr>,
    pub(crate) event: Option<Type>,
    pub(crate) snapshots: Option<Snapshots>,
    pub(crate) snapshot_version: Option<Number>,
    pub(crate) claims: Option<Path>,
    krate: Option<Path>,
    /// The options set so far.
    seen: Vec<String>,
}

impl Attr {
    /// Parses the attribute for `target` among `attrs`.
    pub(crate) fn parse(attrs: &[Attribute], target: &Target, errors: &mut Errors) -> Self {
        let mut attr = Self::default();
        for found in named(attrs, target.attribute) {
            if attr.found {
                let name = target.attribute;
                errors.add(found, format!("duplicate `#[{name}]`: write all options in one attribute"));
            } else {
                attr.found = true;
                attr.read(found, target, errors);
            }
        }
        attr
    }

    /// Returns the path to the library.
    pub(crate) fn krate(&self) -> TokenStream {
        self.krate.as_ref().map_or_else(|| quote!(::retell), |path| quote!(#path))
    }

    fn read(&mut self, attribute: &Attribute, target: &Target, errors: &mut Errors) {
        // `check` reports a bare `#[event]`, which lacks the stored name.
        if let Meta::Path(_) = attribute.meta {
            return;
        }
        let options = |input: ParseStream<'_>| {
            self.options(input, target, errors);
            Ok(())
        };
        if let Err(error) = attribute.parse_args_with(options) {
            self.fail(error, errors);
        }
    }

    /// Parses options up to the end. Reports a bad option and skips it.
    fn options(&mut self, input: ParseStream<'_>, target: &Target, errors: &mut Errors) {
        while !input.is_empty() {
            if let Err(error) = self.option(input, target).and_then(|()| end_of_option(input)) {
                self.fail(error, errors);
                skip_option(input);
            }
        }
    }

    fn option(&mut self, input: ParseStream<'_>, target: &Target) -> Result<()> {
        if input.peek(Lit) {
            return self.stored_name(&input.parse()?, target);
        }
        let key = input.call(Ident::parse_any)?;
        let option = key.to_string();
        if !target.known.contains(&option.as_str()) {
            return Err(Error::new(key.span(), unknown(&option, target)));
        }
        if self.seen.contains(&option) {
            return Err(Error::new(key.span(), format!("duplicate option `{option}`: write it once")));
        }
        let value = self.value(&key, input);
        let value = value.map_err(|error| Error::new(error.span(), usage(&option)));
        self.seen.push(option);
        value
    }

    fn stored_name(&mut self, literal: &Lit, target: &Target) -> Result<()> {
        let wrong = |message| Err(Error::new(literal.span(), message));
        match (literal, target.no_name) {
            (_, Some(message)) => wrong(message),
            (Lit::Str(_), None) if self.name.is_some() => {
                wrong("duplicate stored name: a stored name never changes, so write it once")
            }
            (Lit::Str(name), None) => {
                self.name = Some(name.clone());
                Ok(())
            }
            (_, None) => wrong("a stored name is a string literal: write one such as `\"order.created\"`"),
        }
    }

    fn value(&mut self, key: &Ident, input: ParseStream<'_>) -> Result<()> {
        if key == "public" {
            self.public = true;
            return if input.is_empty() || input.peek(Token![,]) { Ok(()) } else { Err(input.error("no value")) };
        }
        if key == "upcast" {
            self.upcast = Some(Upcast { key: key.clone(), functions: listed(input)? });
            return Ok(());
        }
        if key == "retired" {
            self.retired = listed(input)?;
            return Ok(());
        }
        if key == "renamed_from" && input.peek(syn::token::Paren) {
            self.renamed_from = listed(input)?;
            return Ok(());
        }
        input.parse::<Token![=]>()?;
        match key.to_string().as_str() {
            "version" => self.version = Some(number(input)?),
            "codec" => self.codec = Some(codec(input)?),
            "renamed_from" => self.renamed_from = vec![input.parse()?],
            "aggregate" => self.aggregate = Some(input.parse()?),
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

fn unknown(option: &str, target: &Target) -> String {
    let known: Vec<_> = target.known.iter().map(|known| format!("`{known}`")).collect();
    let Target { attribute, on, .. } = target;
    format!("unknown option `{option}`: `#[{attribute}]` on {on} accepts {}", known.join(", "))
}

fn end_of_option(input: ParseStream<'_>) -> Result<()> {
    if input.is_empty() {
        return Ok(());
    }
    match input.parse::<Token![,]>() {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::new(error.span(), "expected a comma between two options")),
    }
}

/// Skips tokens up to and including the next comma.
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

/// Parses a list in parentheses.
fn listed<T: Parse>(input: ParseStream<'_>) -> Result<Vec<T>> {
    let list;
    syn::parenthesized!(list in input);
    let items = Punctuated::<T, Token![,]>::parse_terminated(&list);
    // Leftover tokens would cause a second error.
    while list.parse::<TokenTree>().is_ok() {}
    Ok(items?.into_iter().collect())
}

fn snapshots(input: ParseStream<'_>) -> Result<Snapshots> {
    if input.peek(LitInt) {
        return number(input).map(Snapshots::Every);
    }
    let path: Path = input.parse()?;
    Ok(if path.is_ident("never") { Snapshots::Never } else { Snapshots::When(path) })
}

/// Returns the parts of all `#[serde(..)]` among `attrs`.
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

/// Returns the attributes with this name.
pub(crate) fn named<'a>(attrs: &'a [Attribute], name: &str) -> impl Iterator<Item = &'a Attribute> {
    attrs.iter().filter(move |attr| attr.path().is_ident(name))
}
