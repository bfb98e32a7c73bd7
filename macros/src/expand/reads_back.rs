//! `Event::reads_back`: whether an event is certain to be decoded exactly as it was encoded.
//!
//! It is if its fields have types of which that is known for every value, and no serde attribute changes how they are written. The compiler
//! answers for each type, so names do not matter. When in doubt, the answer is no, and the event is decoded before it is written.

use std::collections::HashSet;

use proc_macro2::TokenStream;
use quote::{ToTokens as _, quote};
use syn::ext::IdentExt as _;
use syn::{Data, Fields, Ident, Meta};

use crate::ast::Event;
use crate::attr;
use crate::errors::Errors;

/// Options of an item that rename its fields by a rule.
const RULES: &[&str] = &["rename_all", "rename_all_fields"];

/// Generates the method. Nothing if the answer is no for each event, as it is without the method.
pub(super) fn method(event: &Event<'_>, krate: &TokenStream) -> Option<TokenStream> {
    let answer = match &event.input.data {
        Data::Struct(data) => answer(&[&event.serde], &data.fields, krate)?,
        _ => answer_of_enum(event, krate)?,
    };
    Some(quote! {
        fn reads_back(&self) -> bool {
            use #krate::__private::Unproven as _;
            #answer
        }
    })
}

fn answer_of_enum(event: &Event<'_>, krate: &TokenStream) -> Option<TokenStream> {
    let answers = event.variants.iter().filter_map(|variant| {
        let answer = answer(&[&event.serde, &variant.serde], variant.fields, krate)?;
        let ident = variant.ident;
        Some(quote!(Self::#ident { .. } => #answer,))
    });
    let arms: Vec<_> = answers.collect();
    let others = (arms.len() < event.variants.len()).then(|| quote!(_ => false,));
    (!arms.is_empty()).then(|| quote!(match self { #(#arms)* #others }))
}

/// Generates the answer about one kind of event; `None` if the attributes of its items or fields leave a doubt.
fn answer(items: &[&Vec<Meta>], fields: &Fields, krate: &TokenStream) -> Option<TokenStream> {
    let is_plain = items.iter().all(|metas| metas.iter().all(is_plain_option))
        && fields.iter().all(|field| {
            // `check` has reported attributes that do not parse.
            let metas = attr::serde(&field.attrs, &mut Errors::default());
            // Every field is written, so a default is never used.
            metas.iter().all(|meta| meta.path().is_ident("default"))
        });
    let is_renamed = items.iter().copied().flatten().any(is_rule);
    if !is_plain || is_renamed && !fields.iter().all(|field| field.ident.as_ref().is_none_or(is_snake_case)) {
        return None;
    }
    let mut asked = HashSet::new();
    let types = fields.iter().map(|field| &field.ty).filter(|ty| asked.insert(ty.to_token_stream().to_string()));
    let answers = types.map(|ty| quote!(<#krate::__private::Probe<#ty>>::READS_BACK));
    Some(if fields.is_empty() { quote!(true) } else { quote!(#(#answers)&&*) })
}

/// Returns whether an option of an item keeps every value. A rule that differs for the two directions is a list and does not.
fn is_plain_option(meta: &Meta) -> bool {
    match meta {
        Meta::Path(path) => path.is_ident("deny_unknown_fields"),
        Meta::NameValue(_) => is_rule(meta),
        Meta::List(_) => false,
    }
}

fn is_rule(meta: &Meta) -> bool {
    RULES.iter().any(|rule| meta.path().is_ident(rule))
}

/// Returns whether a name consists of lowercase words joined by `_`. No rule of serde makes two such names equal, as `PascalCase` makes
/// `a1` and `a_1`.
fn is_snake_case(ident: &Ident) -> bool {
    ident.unraw().to_string().split('_').all(|word| {
        word.starts_with(|first: char| first.is_ascii_lowercase())
            && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    })
}
