//! How serde writes and reads fields and variants: their names, and which are left out.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote, quote_spanned};
use syn::ext::IdentExt as _;
use syn::punctuated::Punctuated;
use syn::spanned::Spanned as _;
use syn::{Expr, ExprLit, Field, Fields, Ident, Lit, LitStr, Meta, Token};

use crate::attr;
use crate::errors::Errors;
use crate::expand::shadow::without_self;

/// Attributes that run the user's own code, of which nothing is known.
const CODE: &[&str] = &["with", "serialize_with", "deserialize_with", "getter"];

/// Generates the names and flags of fields and variants.
pub(crate) struct Wire<'a> {
    pub(crate) krate: &'a TokenStream,
    /// The attribute that makes a field opaque: `event` or `shape`.
    pub(crate) attribute: &'static str,
    /// Replaces `Self` in the types of fields, for code outside of an impl.
    pub(crate) owner: Option<&'a Ident>,
}

/// The rules of an item for the names inside: when written, and when read.
#[derive(Clone, Default)]
pub(crate) struct Rules {
    written: Option<String>,
    read: Option<String>,
}

impl Rules {
    /// Returns the rules of the option `name` among `metas`.
    pub(crate) fn of(metas: &[Meta], name: &str) -> Self {
        let (written, read) = pair(metas, name);
        Self { written, read }
    }

    /// Returns these rules, or else those of `other`.
    pub(crate) fn or(self, other: &Self) -> Self {
        if self.written.is_none() && self.read.is_none() { other.clone() } else { self }
    }
}

impl Wire<'_> {
    /// Generates the `Body` of fields. `Fields::Unit` is `null`.
    pub(crate) fn body(&self, fields: &Fields, rules: &Rules, metas: &[Meta]) -> TokenStream {
        let krate = self.krate;
        let shape = quote!(#krate::__private::shape);
        let kept = || fields.iter().filter(|field| !is_skipped(field));
        let is_partial = kept().count() < fields.len();
        match fields {
            Fields::Unit => quote!(#shape::Body::Unit),
            Fields::Unnamed(all) if all.unnamed.len() == 1 && !is_partial => {
                let of = kept().map(|field| self.of(field));
                quote!(#shape::Body::Inner(#(#of)*))
            }
            _ if has(metas, "transparent") => {
                // serde demands that only one field is written.
                let of = kept().find(|field| !is_phantom(field)).map(|field| self.of(field));
                let kind = if fields.len() == 1 { quote!(Inner) } else { quote!(PartOf) };
                quote!(#shape::Body::#kind(#of))
            }
            Fields::Unnamed(_) => {
                let of = kept().map(|field| self.of(field));
                let is_partial = is_partial || fields.iter().any(|field| has(&serde(field), "skip_serializing_if"));
                quote!(#shape::Body::Tuple(&[#(#of),*], #is_partial))
            }
            Fields::Named(_) => {
                let has_default = has(metas, "default");
                let fields = kept().map(|field| self.field(field, rules, has_default));
                let is_closed = has(metas, "deny_unknown_fields");
                quote!(#shape::Body::Named(&[#(#fields),*], #is_closed, #is_partial))
            }
        }
    }

    fn field(&self, field: &Field, rules: &Rules, has_default: bool) -> TokenStream {
        let krate = self.krate;
        let shape = quote!(#krate::__private::shape);
        let metas = serde(field);
        let name = field.ident.as_ref().map(|ident| ident.unraw().to_string()).unwrap_or_default();
        let (written, read) = names(&name, &metas, rules, renamed_field);
        let aliases = aliases(&metas);
        let of = self.of(field);
        let flags = [
            (has_default || has(&metas, "default"), "DEFAULT"),
            (has(&metas, "skip_serializing_if"), "WRITTEN_SOMETIMES"),
            (has(&metas, "skip_serializing"), "NOT_WRITTEN"),
            (has(&metas, "skip_deserializing"), "NOT_READ"),
            (has(&metas, "flatten"), "FLATTENED"),
        ];
        let flags = sum(&shape, &flags);
        quote! {
            #shape::FieldOf { name: #written, read_as: #read, aliases: &[#(#aliases),*], of: #of, flags: #flags }
        }
    }

    /// Generates the function that returns the shape of a field's value.
    fn of(&self, field: &Field) -> TokenStream {
        let krate = self.krate;
        if is_opaque(field, self.attribute) {
            return quote!(#krate::__private::shape::opaque);
        }
        let mut ty = field.ty.to_token_stream();
        if let Some(owner) = self.owner {
            ty = without_self(ty, owner);
        }
        quote_spanned!(field.ty.span()=> #krate::__private::shape::of::<#ty>)
    }

    /// Generates a `VariantOf`.
    pub(crate) fn variant(
        &self,
        variant: &syn::Variant,
        rules: &Rules,
        of_fields: &Rules,
        errors: &mut Errors,
    ) -> TokenStream {
        let krate = self.krate;
        let shape = quote!(#krate::__private::shape);
        let metas = attr::serde(&variant.attrs, errors);
        let (written, read) = names(&variant.ident.unraw().to_string(), &metas, rules, renamed_variant);
        let aliases = aliases(&metas);
        let body = self.body(&variant.fields, &Rules::of(&metas, "rename_all").or(of_fields), &metas);
        let is_skipped = has(&metas, "skip");
        let flags = [
            (is_skipped || has(&metas, "skip_serializing"), "NOT_WRITTEN"),
            (is_skipped || has(&metas, "skip_deserializing"), "NOT_READ"),
            (has(&metas, "other"), "OTHER"),
        ];
        let flags = sum(&shape, &flags);
        quote! {
            #shape::VariantOf { name: #written, read_as: #read, aliases: &[#(#aliases),*], body: #body, flags: #flags }
        }
    }
}

/// Reports attributes of fields whose effect on the payload is unknown.
pub(crate) fn check(fields: &Fields, attribute: &str, errors: &mut Errors) {
    for field in fields {
        if is_opaque(field, attribute) {
            continue;
        }
        for meta in serde(field) {
            if CODE.iter().any(|name| meta.path().is_ident(name)) {
                let name = meta.path().to_token_stream();
                errors.add(
                    meta,
                    format!("what `{name}` does is unknown: write `#[{attribute}(opaque)]` above the field"),
                );
            }
        }
    }
}

/// Reports attributes of variants that a shape cannot express.
pub(crate) fn check_variants<'a>(variants: impl Iterator<Item = &'a syn::Variant>, errors: &mut Errors) {
    for variant in variants {
        for meta in attr::serde(&variant.attrs, errors) {
            if CODE.iter().any(|name| meta.path().is_ident(name)) || meta.path().is_ident("untagged") {
                let name = meta.path().to_token_stream();
                errors.add(
                    meta,
                    format!("no shape can express `{name}` on a variant: implement `retell::Shape` by hand"),
                );
            }
        }
    }
}

fn is_phantom(field: &Field) -> bool {
    matches!(&field.ty, syn::Type::Path(path) if path.path.segments.last().is_some_and(|last| last.ident == "PhantomData"))
}

/// Returns whether a field has `#[event(opaque)]` or `#[shape(opaque)]`.
pub(crate) fn is_opaque(field: &Field, attribute: &str) -> bool {
    attr::named(&field.attrs, attribute).any(|attr| attr.parse_args::<Ident>().is_ok_and(|option| option == "opaque"))
}

fn is_skipped(field: &Field) -> bool {
    let metas = serde(field);
    has(&metas, "skip") || has(&metas, "skip_serializing") && has(&metas, "skip_deserializing")
}

/// Returns the serde options of a field. Others report those that do not parse.
fn serde(field: &Field) -> Vec<Meta> {
    attr::serde(&field.attrs, &mut Errors::default())
}

pub(crate) fn has(metas: &[Meta], name: &str) -> bool {
    metas.iter().any(|meta| meta.path().is_ident(name))
}

/// Returns the text of the option `name`.
pub(crate) fn text_of(metas: &[Meta], name: &str) -> Option<LitStr> {
    metas.iter().find(|meta| meta.path().is_ident(name)).and_then(literal)
}

fn literal(meta: &Meta) -> Option<LitStr> {
    match meta {
        Meta::NameValue(pair) => match &pair.value {
            Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.clone()),
            _ => None,
        },
        Meta::Path(_) | Meta::List(_) => None,
    }
}

/// Returns the values of an option for writing and reading: `name = ".."` or `name(serialize = "..", deserialize = "..")`.
fn pair(metas: &[Meta], name: &str) -> (Option<String>, Option<String>) {
    let Some(meta) = metas.iter().find(|meta| meta.path().is_ident(name)) else { return (None, None) };
    if let Meta::List(list) = meta {
        let parts = list.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated);
        let parts: Vec<Meta> = parts.map(|parts| parts.into_iter().collect()).unwrap_or_default();
        let value = |name| text_of(&parts, name).map(|text| text.value());
        return (value("serialize"), value("deserialize"));
    }
    let both = literal(meta).map(|text| text.value());
    (both.clone(), both)
}

/// Returns the names under which a field or variant is written and read.
fn names(name: &str, metas: &[Meta], rules: &Rules, renamed: fn(&str, &str) -> String) -> (String, String) {
    let by_rule = |rule: &Option<String>| rule.as_ref().map_or_else(|| name.to_owned(), |rule| renamed(rule, name));
    let (written, read) = pair(metas, "rename");
    (written.unwrap_or_else(|| by_rule(&rules.written)), read.unwrap_or_else(|| by_rule(&rules.read)))
}

fn aliases(metas: &[Meta]) -> Vec<LitStr> {
    metas.iter().filter(|meta| meta.path().is_ident("alias")).filter_map(literal).collect()
}

fn sum(shape: &TokenStream, flags: &[(bool, &str)]) -> TokenStream {
    let set =
        flags.iter().filter(|(is_set, _)| *is_set).map(|(_, name)| Ident::new(name, proc_macro2::Span::call_site()));
    quote!(0 #(| #shape::#set)*)
}

/// Applies serde's `rename_all` to the name of a field.
fn renamed_field(rule: &str, name: &str) -> String {
    match rule {
        "PascalCase" => pascal(name),
        "camelCase" => lower_first(&pascal(name)),
        "UPPERCASE" | "SCREAMING_SNAKE_CASE" => name.to_ascii_uppercase(),
        "kebab-case" => name.replace('_', "-"),
        "SCREAMING-KEBAB-CASE" => name.to_ascii_uppercase().replace('_', "-"),
        _ => name.to_owned(),
    }
}

/// Applies serde's `rename_all` to the name of a variant.
fn renamed_variant(rule: &str, name: &str) -> String {
    match rule {
        "lowercase" => name.to_ascii_lowercase(),
        "UPPERCASE" => name.to_ascii_uppercase(),
        "camelCase" => lower_first(name),
        "snake_case" => snake(name),
        "SCREAMING_SNAKE_CASE" => snake(name).to_ascii_uppercase(),
        "kebab-case" => snake(name).replace('_', "-"),
        "SCREAMING-KEBAB-CASE" => snake(name).to_ascii_uppercase().replace('_', "-"),
        _ => name.to_owned(),
    }
}

fn pascal(name: &str) -> String {
    let mut capitalize = true;
    let mut pascal = String::new();
    for c in name.chars() {
        if c == '_' {
            capitalize = true;
        } else if capitalize {
            pascal.push(c.to_ascii_uppercase());
            capitalize = false;
        } else {
            pascal.push(c);
        }
    }
    pascal
}

fn lower_first(name: &str) -> String {
    let mut chars = name.chars();
    chars.next().map(|first| first.to_ascii_lowercase()).into_iter().chain(chars).collect()
}

fn snake(name: &str) -> String {
    let mut snake = String::new();
    for (place, c) in name.char_indices() {
        if place > 0 && c.is_uppercase() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}
