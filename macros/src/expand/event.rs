//! `impl Event`.
//!
//! An enum is encoded through one shadow enum without tags, since the stored name is the tag. Each variant is decoded through a struct of
//! its fields. A struct is encoded and decoded through one shadow.

use proc_macro2::TokenStream;
use quote::{ToTokens as _, format_ident, quote, quote_spanned};
use syn::spanned::Spanned as _;
use syn::{Data, Fields, Ident, Meta};

use super::{in_anonymous_const, shadow};
use crate::ast::{Event, Variant};
use crate::attr::{Attr, Codec, Upcaster};
use crate::wire::{Rules, Wire};

/// One kind of event: a variant or a struct.
struct Kind<'a> {
    attr: &'a Attr,
    /// `Self` or `Self::Variant`.
    path: TokenStream,
    /// Statements and a final expression that decode the newest version from `__stored`.
    decode: TokenStream,
    /// The declaration of its fields.
    body: TokenStream,
}

pub(crate) fn expand(event: &Event<'_>) -> TokenStream {
    let krate = event.attr.krate();
    let kinds = kinds(event, &krate);
    let shadow = shadow(event, &krate);
    let ident = &event.input.ident;
    let count = kinds.len();
    let schemas = kinds.iter().enumerate().map(|(place, kind)| schema(kind.attr, event, place, &krate));
    let bodies = kinds.iter().map(|kind| &kind.body);
    let (schema, encode) = if kinds.is_empty() {
        (quote!(match *self {}), quote!(match *self {}))
    } else {
        (schema_of(&kinds), encode(&krate))
    };
    let arms = kinds.iter().map(|kind| decode(kind, &krate));
    let reads_back = reads_back(&kinds, &krate);
    let decode_all = decode_all(&kinds, &krate);
    let retired = &event.attr.retired;
    let (retired_names, retired_arm) = if retired.is_empty() {
        (TokenStream::new(), TokenStream::new())
    } else {
        (
            quote!(const RETIRED: &'static [&'static ::core::primitive::str] = &[#(#retired),*];),
            quote!(#(#retired)|* => ::core::result::Result::Err(#krate::event::DecodeError::NotOne),),
        )
    };
    in_anonymous_const(
        event.input,
        &quote! {
            #shadow

            static __RETELL_FIELDS: [#krate::__private::shape::Body; #count] = [#(#bodies),*];

            const __RETELL_SCHEMAS: [#krate::event::EventSchema; #count] = [#(#schemas),*];

            #[automatically_derived]
            impl #krate::event::Event for #ident {
                const TYPES: #krate::event::EventTypes = #krate::event::EventTypes::Only(&__RETELL_SCHEMAS);
                #retired_names

                fn schema(&self) -> #krate::event::EventSchema {
                    #schema
                }

                fn encode(
                    &self,
                    __payload: &mut ::std::vec::Vec<u8>,
                ) -> ::core::result::Result<(), #krate::error::BoxError> {
                    #encode
                }

                #[inline]
                fn decode(
                    __stored: #krate::event::StoredEvent<'_>,
                ) -> ::core::result::Result<Self, #krate::event::DecodeError> {
                    match __stored.event_type {
                        #(#arms)*
                        #retired_arm
                        _ => ::core::result::Result::Err(#krate::event::DecodeError::UnknownType),
                    }
                }

                #decode_all

                #reads_back
            }
        },
    )
}

/// Generates a stub impl, so that an error in the declaration is not repeated wherever the type is used.
pub(crate) fn stub(input: &syn::DeriveInput, attr: &Attr) -> TokenStream {
    let krate = attr.krate();
    let ident = &input.ident;
    let (parameters, arguments, _) = input.generics.split_for_impl();
    // Only generic parameters need the bounds, and then they are the error.
    let bounds = (!input.generics.params.is_empty())
        .then(|| quote!(where #ident #arguments: ::core::marker::Send + ::core::marker::Sync + 'static));
    in_anonymous_const(
        input,
        &quote! {
            #[automatically_derived]
            impl #parameters #krate::event::Event for #ident #arguments #bounds {
                const TYPES: #krate::event::EventTypes = #krate::event::EventTypes::Only(&[]);

                fn schema(&self) -> #krate::event::EventSchema {
                    ::core::unreachable!()
                }

                fn encode(
                    &self,
                    _: &mut ::std::vec::Vec<u8>,
                ) -> ::core::result::Result<(), #krate::error::BoxError> {
                    ::core::unreachable!()
                }

                fn decode(
                    _: #krate::event::StoredEvent<'_>,
                ) -> ::core::result::Result<Self, #krate::event::DecodeError> {
                    ::core::unreachable!()
                }
            }
        },
    )
}

fn kinds<'a>(event: &'a Event<'_>, krate: &TokenStream) -> Vec<Kind<'a>> {
    if let Data::Struct(data) = &event.input.data {
        let decode = quote! {
            let __RetellOwned(__event) = __stored.payload()?;
            ::core::result::Result::Ok(__event)
        };
        let body =
            body(&event.input.ident, &data.fields, &Rules::of(&event.serde, "rename_all"), &[&event.serde], krate);
        return vec![Kind { attr: &event.attr, path: quote!(Self), decode, body }];
    }
    let of_fields = Rules::of(&event.serde, "rename_all_fields");
    let kind = |variant: &'a Variant<'_>| {
        let ident = variant.ident;
        let decode = decode_variant(event, variant, krate);
        let rules = Rules::of(&variant.serde, "rename_all").or(&of_fields);
        // Others of the enum, such as `tag`, do not apply.
        let deny = event.serde.iter().filter(|meta| meta.path().is_ident("deny_unknown_fields")).cloned().collect();
        let body = body(&event.input.ident, variant.fields, &rules, &[&variant.serde, &deny], krate);
        Kind { attr: &variant.attr, path: quote!(Self::#ident), decode, body }
    };
    event.variants.iter().map(kind).collect()
}

/// Generates the declaration of the fields of one kind of event. Without fields, the payload is an empty object.
fn body(owner: &Ident, fields: &Fields, rules: &Rules, metas: &[&Vec<Meta>], krate: &TokenStream) -> TokenStream {
    let honoured = ["default", "deny_unknown_fields"];
    let is_honoured = |meta: &&Meta| honoured.iter().any(|name| meta.path().is_ident(name));
    let metas: Vec<_> = metas.iter().copied().flatten().filter(is_honoured).cloned().collect();
    let none = Fields::Named(syn::FieldsNamed {
        brace_token: syn::token::Brace::default(),
        named: syn::punctuated::Punctuated::new(),
    });
    let fields = if fields.is_empty() { &none } else { fields };
    Wire { krate, attribute: "event", owner: Some(owner) }.body(fields, rules, &metas)
}

/// Generates `Event::reads_back`: whether an event is certain to be decoded exactly as it was encoded.
fn reads_back(kinds: &[Kind<'_>], krate: &TokenStream) -> TokenStream {
    if kinds.is_empty() {
        return TokenStream::new();
    }
    let count = kinds.len();
    let paths = kinds.iter().map(|kind| &kind.path);
    let index = 0..count;
    quote! {
        fn reads_back(&self) -> bool {
            static __RETELL_KNOWN: [::std::sync::OnceLock<bool>; #count] = [const { ::std::sync::OnceLock::new() }; #count];
            let __kind = match self { #(#paths { .. } => #index,)* };
            #krate::__private::shape::reads_back(&__RETELL_KNOWN[__kind], &__RETELL_FIELDS[__kind])
        }
    }
}

fn shadow(event: &Event<'_>, krate: &TokenStream) -> TokenStream {
    match &event.input.data {
        Data::Struct(data) => shadow_of_struct(event, &data.fields, krate),
        _ if event.variants.is_empty() => TokenStream::new(),
        _ => shadow_of_enum(event, krate),
    }
}

/// Generates the shadow that a struct is encoded and decoded through.
fn shadow_of_struct(event: &Event<'_>, fields: &Fields, krate: &TokenStream) -> TokenStream {
    let ident = &event.input.ident;
    let honoured = ["rename_all", "default", "deny_unknown_fields"];
    let mut options = shadow::options(&event.serde, &honoured);
    options.push(shadow::remote(ident));
    let serde = shadow::serde(krate, &options);
    let shadow = shadow::structure(&format_ident!("__RetellShadow"), fields, ident);
    let (reference, owned) = (shadow::reference(krate, ident), shadow::owned(krate, ident));
    quote! {
        #[derive(#krate::__private::serde::Serialize, #krate::__private::serde::Deserialize)]
        #serde
        #shadow
        #reference
        #owned
    }
}

/// Generates the shadow that an enum is encoded through.
fn shadow_of_enum(event: &Event<'_>, krate: &TokenStream) -> TokenStream {
    let ident = &event.input.ident;
    let serde = shadow::serde(krate, &[shadow::remote(ident), quote!(untagged)]);
    let reference = shadow::reference(krate, ident);
    let variants = event.variants.iter().map(|variant| {
        let rename = rename_all(event, variant).map(|rename| quote!(#[serde(#rename)]));
        let name = variant.ident;
        let fields = shadow::fields(variant.fields, ident);
        quote!(#rename #name #fields)
    });
    quote! {
        #[derive(#krate::__private::serde::Serialize)]
        #serde
        enum __RetellShadow { #(#variants),* }
        #reference
    }
}

/// Generates code that decodes a variant through a struct of its fields.
fn decode_variant(event: &Event<'_>, variant: &Variant<'_>, krate: &TokenStream) -> TokenStream {
    let mut options: Vec<_> = rename_all(event, variant).into_iter().collect();
    let deny = &["deny_unknown_fields"];
    let denied = shadow::options(&variant.serde, deny).into_iter().chain(shadow::options(&event.serde, deny));
    options.extend(denied.take(1));
    let expected = variant.attr.name.as_ref().map(|name| format!("the payload of `{}`", name.value()));
    options.push(quote!(expecting = #expected));
    let serde = shadow::serde(krate, &options);
    let payload = shadow::structure(&format_ident!("__RetellFields"), variant.fields, &event.input.ident);
    let (ident, members) = (variant.ident, variant.fields.members());
    let moved = members.map(|member| quote!(#member: __fields.#member));
    quote! {
        #[derive(#krate::__private::serde::Deserialize)]
        #serde
        #payload
        let __fields: __RetellFields = __stored.payload()?;
        ::core::result::Result::Ok(Self::#ident { #(#moved),* })
    }
}

/// Returns the variant's own `rename_all`, or else the enum's `rename_all_fields`.
fn rename_all(event: &Event<'_>, variant: &Variant<'_>) -> Option<TokenStream> {
    let named = |metas: &[Meta], name| metas.iter().find(|meta| meta.path().is_ident(name)).cloned();
    let rule = named(&variant.serde, "rename_all").or_else(|| named(&event.serde, "rename_all_fields"))?;
    Some(match rule {
        Meta::Path(_) => quote!(rename_all),
        Meta::List(list) => {
            let rules = list.tokens;
            quote!(rename_all(#rules))
        }
        Meta::NameValue(pair) => {
            let rule = pair.value;
            quote!(rename_all = #rule)
        }
    })
}

fn schema(attr: &Attr, event: &Event<'_>, place: usize, krate: &TokenStream) -> TokenStream {
    let name = &attr.name;
    let version = newest(attr);
    let aggregate = event.attr.aggregate.as_ref().map(|aggregate| quote!(.with_aggregate(#aggregate)));
    let older = older(attr, &event.input.ident, krate);
    let former = (!attr.renamed_from.is_empty()).then(|| {
        let names = &attr.renamed_from;
        quote!(.with_former_names(&[#(#names),*]))
    });
    let public = (attr.public || event.attr.public).then(|| quote!(.with_public()));
    let ident = event.input.ident.to_string();
    let codec = match attr.codec.or(event.attr.codec) {
        Some(Codec::Compact) => quote!(Compact),
        Some(Codec::Json) | None => quote!(Json),
    };
    quote! {
        #krate::event::EventSchema::new(#name, #version, #krate::codec::Codec::#codec)
            #former
            #aggregate
            #public
            .with_declaration(::core::concat!(::core::module_path!(), "::", #ident))
            .with_fields(&__RETELL_FIELDS[#place])
            #older
    }
}

/// Generates the shapes of the upcasters' arguments. The macro knows the functions and not their types, so the compiler finds out which of
/// them have a shape.
fn older(attr: &Attr, owner: &Ident, krate: &TokenStream) -> Option<TokenStream> {
    let shape = quote!(#krate::__private::shape);
    let shapes = attr.upcast.as_ref()?.functions.iter().map(|Upcaster { function, .. }| {
        let path = shadow::without_self(function.to_token_stream(), owner);
        let argument = quote_spanned!(function.span()=> #shape::argument(#path));
        quote! {
            |__shapes: &mut #krate::shape::Shapes| {
                use #shape::{KnownArgument as _, UnknownArgument as _};
                (&#argument).shape(__shapes)
            }
        }
    });
    Some(quote!(.with_older(&[#(#shapes),*])))
}

fn newest(attr: &Attr) -> u32 {
    attr.version.as_ref().map_or(1, |version| version.value)
}

fn schema_of(kinds: &[Kind<'_>]) -> TokenStream {
    let paths = kinds.iter().map(|kind| &kind.path);
    let index = 0..kinds.len();
    quote!(match self { #(#paths { .. } => __RETELL_SCHEMAS[#index],)* })
}

fn encode(krate: &TokenStream) -> TokenStream {
    quote! {
        #krate::event::Event::schema(self).codec.encode(&__RetellRef(self), __payload)
    }
}

/// Generates the match arm of one kind of event. Its versions are the same under each of its stored names.
fn decode(kind: &Kind<'_>, krate: &TokenStream) -> TokenStream {
    let Kind { attr, decode, .. } = kind;
    let names = attr.name.iter().chain(&attr.renamed_from);
    let newest = newest(attr);
    let older = chains(attr).map(|(version, chain)| match chain {
        Chain::One(upcast) => quote! {
            #version => {
                let __event: Self = #upcast;
                ::core::result::Result::Ok(__event)
            }
        },
        Chain::Split(_) => quote! {
            #version => ::core::result::Result::Err(#krate::event::DecodeError::NotOne),
        },
    });
    quote! {
        #(#names)|* => match __stored.schema_version {
            #(#older)*
            #newest => { #decode }
            __found => ::core::result::Result::Err(
                #krate::event::DecodeError::UnknownSchema { found: __found, known: #newest },
            ),
        },
    }
}

/// The calls of the upcasters from one version on.
enum Chain {
    /// They return one event.
    One(TokenStream),
    /// They return all events that the stored one has become.
    Split(TokenStream),
}

/// Generates the calls of the upcasters for each older version. They end with the first function that splits the event.
fn chains(attr: &Attr) -> impl Iterator<Item = (u32, Chain)> {
    let functions = attr.upcast.as_ref().map_or(&[][..], |upcast| &upcast.functions);
    (1u32..).zip(0..functions.len()).map(|(version, first)| {
        let mut calls = quote!(__stored.payload()?);
        for Upcaster { function, splits } in &functions[first..] {
            calls = quote_spanned!(function.span()=> #function(#calls));
            if *splits {
                let all = quote!(<::std::vec::Vec<Self> as ::core::iter::FromIterator<Self>>::from_iter);
                return (version, Chain::Split(quote_spanned!(function.span()=> #all(#calls))));
            }
        }
        (version, Chain::One(calls))
    })
}

/// Generates `Event::decode_all`, if an older version is split.
fn decode_all(kinds: &[Kind<'_>], krate: &TokenStream) -> TokenStream {
    let arms: Vec<_> = kinds
        .iter()
        .flat_map(|kind| {
            let names = kind.attr.name.iter().chain(&kind.attr.renamed_from);
            chains(kind.attr).filter_map(move |(version, chain)| {
                let Chain::Split(split) = chain else { return None };
                let names = names.clone();
                Some(quote! {
                    (#(#names)|*, #version) => ::core::result::Result::Ok(#split),
                })
            })
        })
        .collect();
    if arms.is_empty() {
        return TokenStream::new();
    }
    quote! {
        fn decode_all(
            __stored: #krate::event::StoredEvent<'_>,
        ) -> ::core::result::Result<::std::vec::Vec<Self>, #krate::event::DecodeError> {
            match (__stored.event_type, __stored.schema_version) {
                #(#arms)*
                _ => #krate::event::one_or_none(__stored),
            }
        }
    }
}
