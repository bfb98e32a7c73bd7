//! `impl Shape`, and for `#[derive(Value)]` serde's traits, too.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{Data, DeriveInput, Fields, parse_quote};

use super::{in_anonymous_const, shadow};
use crate::ast::Part;
use crate::attr;
use crate::errors::Errors;
use crate::wire::{Rules, Wire, has, text_of};

/// Generates `impl Shape`.
pub(crate) fn expand(part: &Part<'_>) -> TokenStream {
    let krate = part.attr.krate();
    let shape = implementation(part, &krate, false);
    in_anonymous_const(part.input, &shape)
}

/// Generates the impls of `Serialize`, `Deserialize` and `Shape`.
pub(crate) fn expand_value(part: &Part<'_>) -> TokenStream {
    let krate = part.attr.krate();
    let shape = implementation(part, &krate, true);
    let serde = serde(part, &krate);
    in_anonymous_const(part.input, &quote!(#shape #serde))
}

/// Generates stub impls, so that an error in the declaration is not repeated wherever the type is used.
pub(crate) fn stub(part: &Part<'_>, with_serde: bool) -> TokenStream {
    let krate = part.attr.krate();
    let ident = &part.input.ident;
    let (parameters, arguments, _) = part.input.generics.split_for_impl();
    let serde = quote!(#krate::__private::serde);
    let of_serde = with_serde.then(|| {
        quote! {
            #[automatically_derived]
            impl #parameters #serde::Serialize for #ident #arguments {
                fn serialize<__S: #serde::Serializer>(&self, _: __S) -> ::core::result::Result<__S::Ok, __S::Error> {
                    ::core::unreachable!()
                }
            }

            #[automatically_derived]
            impl<'de> #serde::Deserialize<'de> for #ident #arguments {
                fn deserialize<__D: #serde::Deserializer<'de>>(_: __D) -> ::core::result::Result<Self, __D::Error> {
                    ::core::unreachable!()
                }
            }
        }
    });
    // A generic value is an error, and its impls would need the parameters.
    let of_serde = of_serde.filter(|_| part.input.generics.params.is_empty());
    let bounds = (!part.input.generics.params.is_empty()).then(|| quote!(where #ident #arguments: 'static));
    in_anonymous_const(
        part.input,
        &quote! {
            #[automatically_derived]
            impl #parameters #krate::shape::Shape for #ident #arguments #bounds {
                fn shape(_: &mut #krate::shape::Shapes) -> #krate::shape::Type {
                    ::core::unreachable!()
                }
            }
            #of_serde
        },
    )
}

fn implementation(part: &Part<'_>, krate: &TokenStream, is_exact: bool) -> TokenStream {
    let ident = &part.input.ident;
    let mut generics = part.input.generics.clone();
    for parameter in generics.type_params_mut() {
        parameter.bounds.push(parse_quote!(#krate::shape::Shape));
    }
    let (parameters, arguments, bounds) = generics.split_for_impl();
    let shape = shape(part, krate);
    quote! {
        #[automatically_derived]
        impl #parameters #krate::shape::Shape for #ident #arguments #bounds {
            const IS_EXACT: bool = #is_exact;

            fn shape(__shapes: &mut #krate::shape::Shapes) -> #krate::shape::Type {
                #shape
            }
        }
    }
}

fn shape(part: &Part<'_>, krate: &TokenStream) -> TokenStream {
    let shape = quote!(#krate::__private::shape);
    let serde = &part.serde;
    // `into` decides what is written.
    if let Some(Ok(other)) = text_of(serde, "into").map(|other| other.parse::<syn::Type>()) {
        return quote!(#shape::checked::<#other>(__shapes));
    }
    let wire = Wire { krate, attribute: "shape", owner: None };
    match &part.input.data {
        Data::Struct(data) => {
            let body = wire.body(&data.fields, &Rules::of(serde, "rename_all"), serde);
            quote!(#shape::of_struct::<Self>(__shapes, &#body))
        }
        Data::Enum(data) => {
            let (rules, of_fields) = (Rules::of(serde, "rename_all"), Rules::of(serde, "rename_all_fields"));
            let mut errors = Errors::default();
            let variants = data.variants.iter().map(|variant| wire.variant(variant, &rules, &of_fields, &mut errors));
            let variants: Vec<_> = variants.collect();
            let tagging = match (text_of(serde, "tag"), text_of(serde, "content")) {
                (Some(tag), Some(content)) => quote!(Adjacent(#tag, #content)),
                (Some(tag), None) => quote!(Internal(#tag)),
                _ if has(serde, "untagged") => quote!(Untagged),
                _ => quote!(External),
            };
            quote!(#shape::of_enum::<Self>(__shapes, &#shape::TaggingOf::#tagging, &[#(#variants),*]))
        }
        Data::Union(_) => TokenStream::new(),
    }
}

/// Generates the impls of serde's traits through a shadow, so that the user's crate needs no serde.
fn serde(part: &Part<'_>, krate: &TokenStream) -> TokenStream {
    let DeriveInput { ident, data, .. } = part.input;
    let mut options: Vec<_> = part.serde.iter().map(shadow::option).collect();
    options.push(shadow::remote(ident));
    let options = shadow::serde(krate, &options);
    let name = format_ident!("__RetellShadow");
    let shadow = match data {
        Data::Struct(data) => {
            let fields = shadow::same_fields(&data.fields, ident);
            let end = (!matches!(data.fields, Fields::Named(_))).then(|| quote!(;));
            quote!(struct #name #fields #end)
        }
        Data::Enum(data) => {
            let variants = data.variants.iter().map(|variant| {
                let attrs = attr::named(&variant.attrs, "serde");
                let ident_of = &variant.ident;
                let fields = shadow::same_fields(&variant.fields, ident);
                quote!(#(#attrs)* #ident_of #fields)
            });
            quote!(enum #name { #(#variants),* })
        }
        Data::Union(_) => TokenStream::new(),
    };
    let serde = quote!(#krate::__private::serde);
    quote! {
        #[derive(#serde::Serialize, #serde::Deserialize)]
        #options
        #shadow

        #[automatically_derived]
        impl #serde::Serialize for #ident {
            fn serialize<__S: #serde::Serializer>(&self, __to: __S) -> ::core::result::Result<__S::Ok, __S::Error> {
                #name::serialize(self, __to)
            }
        }

        #[automatically_derived]
        impl<'de> #serde::Deserialize<'de> for #ident {
            fn deserialize<__D: #serde::Deserializer<'de>>(__from: __D) -> ::core::result::Result<Self, __D::Error> {
                #name::deserialize(__from)
            }
        }
    }
}
