//! Copies of the user's type that serde derives for in its stead (`#[serde(remote)]`): the type itself needs no serde, and may
//! derive a serde form of its own.

use proc_macro2::{Group, TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::{Field, Fields, Ident, LitStr, Meta};

use crate::attr;

/// `#[serde(..)]` with the path to serde and these options.
pub(crate) fn serde(krate: &TokenStream, options: &[TokenStream]) -> TokenStream {
    let path = quote!(#krate::__private::serde).to_string();
    quote!(#[serde(crate = #path #(, #options)*)])
}

/// The option that makes a shadow stand for `ident`.
pub(crate) fn remote(ident: &Ident) -> TokenStream {
    let name = LitStr::new(&ident.to_string(), ident.span());
    quote!(remote = #name)
}

/// The options among `metas` that have one of these names.
pub(crate) fn options(metas: &[Meta], names: &[&str]) -> Vec<TokenStream> {
    let wanted = |meta: &&Meta| names.iter().any(|name| meta.path().is_ident(name));
    metas.iter().filter(wanted).map(option).collect()
}

/// serde would ask for a `Default` of the shadow; by its path, the function is that of the user's type.
fn option(meta: &Meta) -> TokenStream {
    match meta {
        Meta::Path(path) if path.is_ident("default") => {
            quote!(default = "::core::default::Default::default")
        }
        _ => meta.to_token_stream(),
    }
}

/// The fields of a shadow of `owner`, with their serde attributes. No fields are an empty object, whatever brackets they have:
/// fields with a default can be added later.
pub(crate) fn fields(fields: &Fields, owner: &Ident) -> TokenStream {
    let shadows = fields.iter().map(|each| field(each, owner));
    match fields {
        Fields::Unnamed(fields) if !fields.unnamed.is_empty() => quote!((#(#shadows),*)),
        _ => quote!({ #(#shadows),* }),
    }
}

fn field(field: &Field, owner: &Ident) -> TokenStream {
    let attrs = attr::named(&field.attrs, "serde");
    let name = field.ident.iter();
    let ty = without_self(field.ty.to_token_stream(), owner);
    quote!(#(#attrs)* #(#name:)* #ty)
}

/// `Self` would be the shadow.
fn without_self(tokens: TokenStream, owner: &Ident) -> TokenStream {
    let replace = |token| match token {
        TokenTree::Ident(ident) if ident == "Self" => owner.clone().into(),
        TokenTree::Group(group) => {
            let mut inner = Group::new(group.delimiter(), without_self(group.stream(), owner));
            inner.set_span(group.span());
            inner.into()
        }
        other => other,
    };
    tokens.into_iter().map(replace).collect()
}

/// A struct needs a semicolon after unnamed fields.
pub(crate) fn structure(name: &Ident, fields: &Fields, owner: &Ident) -> TokenStream {
    let end = matches!(fields, Fields::Unnamed(fields) if !fields.unnamed.is_empty()).then(|| quote!(;));
    let fields = self::fields(fields, owner);
    quote!(struct #name #fields #end)
}

/// `__RetellRef(&value)`, which serialises as `__RetellShadow` says.
pub(crate) fn reference(krate: &TokenStream, ident: &Ident) -> TokenStream {
    let serde = quote!(#krate::__private::serde);
    quote! {
        struct __RetellRef<'a>(&'a #ident);

        #[automatically_derived]
        impl #serde::Serialize for __RetellRef<'_> {
            fn serialize<S: #serde::Serializer>(&self, serializer: S) -> ::core::result::Result<S::Ok, S::Error> {
                __RetellShadow::serialize(self.0, serializer)
            }
        }
    }
}

/// `__RetellOwned(value)`, which deserialises as `__RetellShadow` says.
pub(crate) fn owned(krate: &TokenStream, ident: &Ident) -> TokenStream {
    let serde = quote!(#krate::__private::serde);
    quote! {
        struct __RetellOwned(#ident);

        #[automatically_derived]
        impl<'de> #serde::Deserialize<'de> for __RetellOwned {
            fn deserialize<D: #serde::Deserializer<'de>>(deserializer: D) -> ::core::result::Result<Self, D::Error> {
                ::core::result::Result::map(__RetellShadow::deserialize(deserializer), Self)
            }
        }
    }
}
