//! Generates the impls from input that `check` has accepted.

pub(crate) mod aggregate;
pub(crate) mod event;
pub(crate) mod shadow;
pub(crate) mod shape;
pub(crate) mod union;

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Attribute, DeriveInput, Meta};

use crate::ast;

/// Wraps generated items in an anonymous constant, so that they stay out of the user's scope. The items repeat the user's types and names,
/// so the lints that the user allows there are allowed here. No others are: allowing a lint that the user forbids would be an error.
fn in_anonymous_const(input: &DeriveInput, items: &TokenStream) -> TokenStream {
    let of_variants = ast::variants(input).map(|variant| &variant.attrs);
    let of_fields = ast::fields(input).map(|field| &field.attrs);
    let attrs = [&input.attrs].into_iter().chain(of_variants).chain(of_fields);
    let allowed = attrs.flatten().filter_map(allowed_lints);
    quote! {
        #(#[allow(#allowed)])*
        const _: () = {
            #items
        };
    }
}

/// Returns the lints of `#[allow(..)]` and `#[expect(..)]`.
fn allowed_lints(attr: &Attribute) -> Option<&TokenStream> {
    match &attr.meta {
        Meta::List(list) if list.path.is_ident("allow") || list.path.is_ident("expect") => Some(&list.tokens),
        _ => None,
    }
}
