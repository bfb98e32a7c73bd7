//! Generates the impls, from input that `check` has accepted.

pub(crate) mod aggregate;
pub(crate) mod event;
mod shadow;
pub(crate) mod union;

use proc_macro2::TokenStream;
use quote::quote;

/// Hides generated items from the user's scope, and the user's lints from them: types and names of fields are repeated in them.
fn hidden(items: &TokenStream) -> TokenStream {
    quote! {
        #[allow(
            deprecated,
            non_camel_case_types,
            non_snake_case,
            unused_qualifications,
            clippy::all,
            clippy::pedantic,
            clippy::nursery
        )]
        const _: () = {
            #items
        };
    }
}
