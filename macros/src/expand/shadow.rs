//! Copies of the user's type for which serde's traits are derived (`#[serde(remote)]`). The type itself needs no serde impl, and can have
//! one of its own.

use proc_macro2::{Group, TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::{Field, Fields, Ident, LitStr, Meta};

use crate::attr;

/// Generates `#[serde(..)]` with the path to serde and `options`.
pub(crate) fn serde(krate: &TokenStream, options: &[TokenStream]) -> TokenStream {
    let path = quote!(#krate::__private::serde).to_string();
    quote!(#[serde(crate = #path #(, #options)*)])
}

/// Generates the option that makes a shadow represent `ident`.
pub(crate) fn remote(ident: &Ident) -> TokenStream {
    let name = LitStr::new(&ident.to_string(), ident.span());
    quote!(remote = #name)
}

/// Returns the options among `metas` with one of these names.
pub(crate) fn options(metas: &[Meta], names: &[&str]) -> Vec<TokenStream> {
    let wanted = |meta: &&Meta| names.iter().any(|name| meta.path().is_ident(name));
    metas.iter().filter(wanted).map(option).collect()
}

/// Converts an option. serde would require `Default` of the shadow; naming the function makes it use the user's type.
pub(crate) fn option(meta: &Meta) -> TokenStream {
    match meta {
        Meta::Path(path) if path.is_ident("default") => {
            quote!(default = "::core::default::Default::default")
        }
        _ => meta.to_token_stream(),
    }
}

/// Generates the fields of a shadow of `owner`, with their serde attributes. An item without fields becomes an empty object whatever its
/// brackets, so that fields with a default can be added later.
pub(crate) fn fields(fields: &Fields, owner: &Ident) -> TokenStream {
    let shadows = fields.iter().map(|each| field(each, owner));
    match fields {
        Fields::Unnamed(fields) if !fields.unnamed.is_empty() => quote!((#(#shadows),*)),
        _ => quote!({ #(#shadows),* }),
    }
}

/// Generates the fields of a shadow of `owner` with their serde attributes, in the same brackets.
pub(crate) fn same_fields(fields: &Fields, owner: &Ident) -> TokenStream {
    let shadows = fields.iter().map(|each| field(each, owner));
    match fields {
        Fields::Named(_) => quote!({ #(#shadows),* }),
        Fields::Unnamed(_) => quote!((#(#shadows),*)),
        Fields::Unit => TokenStream::new(),
    }
}

fn field(field: &Field, owner: &Ident) -> TokenStream {
    let attrs = attr::named(&field.attrs, "serde");
    let name = field.ident.iter();
    let ty = without_self(field.ty.to_token_stream(), owner);
    quote!(#(#attrs)* #(#name:)* #ty)
}

/// Replaces `Self`, which would be the shadow, by `owner`.
pub(crate) fn without_self(tokens: TokenStream, owner: &Ident) -> TokenStream {
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

/// Generates a struct; unnamed fields need a semicolon after them.
pub(crate) fn structure(name: &Ident, fields: &Fields, owner: &Ident) -> TokenStream {
    let end = matches!(fields, Fields::Unnamed(fields) if !fields.unnamed.is_empty()).then(|| quote!(;));
    let fields = self::fields(fields, owner);
    quote!(struct #name #fields #end)
}

/// Generates `__RetellRef(&value)`, which serializes like `__RetellShadow`.
pub(crate) fn reference(krate: &TokenStream, ident: &Ident) -> TokenStream {
    let serde = quote!(#krate::__private::serde);
    quote! {
        struct __RetellRef<'a>(&'a #ident);

        #[automatically_derived]
        impl #serde::Serialize for __RetellRef<'_> {
            fn serialize<S: #serde::Serializer>(&self, __serializer: S) -> ::core::result::Result<S::Ok, S::Error> {
                __RetellShadow::serialize(self.0, __serializer)
            }
        }
    }
}

/// Generates `__RetellOwned(value)`, which deserializes like `__RetellShadow`.
pub(crate) fn owned(krate: &TokenStream, ident: &Ident) -> TokenStream {
    let serde = quote!(#krate::__private::serde);
    quote! {
        struct __RetellOwned(#ident);

        #[automatically_derived]
        impl<'de> #serde::Deserialize<'de> for __RetellOwned {
            fn deserialize<D: #serde::Deserializer<'de>>(__deserializer: D) -> ::core::result::Result<Self, D::Error> {
                ::core::result::Result::map(__RetellShadow::deserialize(__deserializer), Self)
            }
        }
    }
}
