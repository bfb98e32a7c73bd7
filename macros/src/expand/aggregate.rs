//! `impl Aggregate`.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{Data, Fields, LitStr, Type};

use super::{in_anonymous_const, shadow};
use crate::ast::{self, Aggregate};
use crate::attr::{self, Snapshots};
use crate::fingerprint::fingerprint;

/// Default number of events between snapshots; equal to the default of `retell::SnapshotPolicy`, which explains it.
const EVENTS_PER_SNAPSHOT: u32 = 100;

pub(crate) fn expand(aggregate: &Aggregate<'_>) -> TokenStream {
    let krate = aggregate.attr.krate();
    let ident = &aggregate.input.ident;
    let (name, event) = (&aggregate.attr.name, &aggregate.attr.event);
    let policy = policy(aggregate.attr.snapshots.as_ref());
    let (fingerprint, parts) = (fingerprint(aggregate), field_types(aggregate));
    let shadow = shadow(aggregate, &krate);
    let (write, read) = snapshots(aggregate, &krate);
    let claims = claims(aggregate, &krate);
    in_anonymous_const(
        aggregate.input,
        &quote! {
            #shadow

            const _: () = #krate::__private::belong(<#event as #krate::event::Event>::TYPES, #name);

            #[automatically_derived]
            impl #krate::aggregate::Aggregate for #ident {
                const TYPE: &'static str = #name;
                const SNAPSHOTS: #krate::aggregate::SnapshotPolicy = #krate::aggregate::SnapshotPolicy::#policy;

                type Event = #event;

                fn apply(&mut self, __event: #event) {
                    <Self as #krate::aggregate::Apply<#event>>::apply(self, __event)
                }

                #claims

                fn fingerprint() -> u64 {
                    #[allow(unused_imports)]
                    use #krate::__private::Unshaped as _;
                    static FINGERPRINT: ::std::sync::OnceLock<u64> = ::std::sync::OnceLock::new();
                    *FINGERPRINT.get_or_init(|| {
                        #krate::__private::fingerprint(#fingerprint, &[#(#krate::__private::Part::<#parts>::SHAPE),*])
                    })
                }

                fn to_snapshot(
                    &self,
                ) -> ::core::result::Result<::std::vec::Vec<u8>, #krate::error::BoxError> {
                    #write
                }

                fn from_snapshot(
                    __bytes: &[u8],
                ) -> ::core::result::Result<Self, #krate::error::BoxError> {
                    #read
                }
            }
        },
    )
}

/// Generates a stub impl, so that an error in the declaration is not repeated wherever the type is used.
pub(crate) fn stub(aggregate: &Aggregate<'_>) -> TokenStream {
    let krate = aggregate.attr.krate();
    let ident = &aggregate.input.ident;
    let event = aggregate.attr.event.as_ref();
    let event = event.map_or_else(|| quote!(#krate::event::AnyEvent), |event| quote!(#event));
    let (parameters, arguments, _) = aggregate.input.generics.split_for_impl();
    in_anonymous_const(
        aggregate.input,
        &quote! {
            #[automatically_derived]
            impl #parameters #krate::aggregate::Aggregate for #ident #arguments
            where
                #ident #arguments: ::core::default::Default
                    + ::core::clone::Clone
                    + ::core::marker::Send
                    + ::core::marker::Sync
                    + 'static,
            {
                const TYPE: &'static str = "";
                const SNAPSHOTS: #krate::aggregate::SnapshotPolicy = #krate::aggregate::SnapshotPolicy::Never;

                type Event = #event;

                fn apply(&mut self, _: #event) {}

                fn fingerprint() -> u64 {
                    0
                }

                fn to_snapshot(
                    &self,
                ) -> ::core::result::Result<::std::vec::Vec<u8>, #krate::error::BoxError> {
                    ::core::unreachable!()
                }

                fn from_snapshot(_: &[u8]) -> ::core::result::Result<Self, #krate::error::BoxError> {
                    ::core::unreachable!()
                }
            }
        },
    )
}

/// Returns the types of all fields. Only the compiler knows whether they have a shape.
fn field_types<'a>(aggregate: &Aggregate<'a>) -> Vec<&'a Type> {
    match &aggregate.input.data {
        Data::Struct(data) => data.fields.iter().map(|field| &field.ty).collect(),
        Data::Enum(data) => data.variants.iter().flat_map(|each| &each.fields).map(|field| &field.ty).collect(),
        Data::Union(_) => Vec::new(),
    }
}

/// Generates `Aggregate::claims`, if the attribute names a function.
fn claims(aggregate: &Aggregate<'_>, krate: &TokenStream) -> Option<TokenStream> {
    let (path, event) = (aggregate.attr.claims.as_ref()?, &aggregate.attr.event);
    Some(quote! {
        fn claims(
            __event: &#event,
        ) -> ::core::result::Result<::std::vec::Vec<#krate::claim::Claim>, #krate::id::InvalidName> {
            #path(__event)
        }
    })
}

fn policy(snapshots: Option<&Snapshots>) -> TokenStream {
    match snapshots {
        None => quote!(Every(#EVENTS_PER_SNAPSHOT)),
        Some(Snapshots::Every(events)) => {
            let events = events.value;
            quote!(Every(#events))
        }
        Some(Snapshots::Never) => quote!(Never),
        Some(Snapshots::When(path)) => quote!(When(#path)),
    }
}

fn keeps_snapshots(aggregate: &Aggregate<'_>) -> bool {
    !matches!(aggregate.attr.snapshots, Some(Snapshots::Never))
}

/// Generates the bodies of `to_snapshot` and `from_snapshot`.
fn snapshots(aggregate: &Aggregate<'_>, krate: &TokenStream) -> (TokenStream, TokenStream) {
    if keeps_snapshots(aggregate) {
        let write = quote!(#krate::__private::to_snapshot(&__RetellRef(self)));
        let read = quote! {
            let __RetellOwned(__state) = #krate::__private::from_snapshot(__bytes)?;
            ::core::result::Result::Ok(__state)
        };
        return (write, read);
    }
    let name = aggregate.attr.name.as_ref().map(LitStr::value).unwrap_or_default();
    let message = format!("aggregate `{name}` keeps no snapshots");
    let refuse = quote!(::core::result::Result::Err(::core::convert::Into::into(#message)));
    let read = quote! {
        let _ = __bytes;
        #refuse
    };
    (refuse, read)
}

fn shadow(aggregate: &Aggregate<'_>, krate: &TokenStream) -> TokenStream {
    if !keeps_snapshots(aggregate) {
        return TokenStream::new();
    }
    let ident = &aggregate.input.ident;
    let mut options =
        shadow::options(&aggregate.serde, &["rename_all", "rename_all_fields", "default", "deny_unknown_fields"]);
    options.push(shadow::remote(ident));
    let serde = shadow::serde(krate, &options);
    let name = format_ident!("__RetellShadow");
    let shadow = match &aggregate.input.data {
        Data::Struct(data) => shadow::structure(&name, &data.fields, ident),
        Data::Enum(_) | Data::Union(_) => {
            let variants = ast::variants(aggregate.input).map(|each| variant(each, ident));
            quote!(enum #name { #(#variants),* })
        }
    };
    let (reference, owned) = (shadow::reference(krate, ident), shadow::owned(krate, ident));
    quote! {
        #[derive(#krate::__private::serde::Serialize, #krate::__private::serde::Deserialize)]
        #serde
        #shadow
        #reference
        #owned
    }
}

/// Copies a variant with all its serde attributes; only snapshots use this form.
fn variant(variant: &syn::Variant, owner: &syn::Ident) -> TokenStream {
    let attrs = attr::named(&variant.attrs, "serde");
    let name = &variant.ident;
    let fields = match &variant.fields {
        Fields::Unit => TokenStream::new(),
        fields => shadow::fields(fields, owner),
    };
    quote!(#(#attrs)* #name #fields)
}
