//! `impl Event` for a union, and `From` for each member.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Ident, Type};

use super::in_anonymous_const;
use crate::ast::Union;

pub(crate) fn expand(union: &Union<'_>) -> TokenStream {
    let krate = union.attr.krate();
    let ident = &union.input.ident;
    let variants: Vec<_> = union.members.iter().map(|member| &member.variant.ident).collect();
    let events: Vec<_> = union.members.iter().filter_map(|member| member.event).collect();
    let decode = decode(&variants, &events, &krate);
    let conversions = conversions(ident, &variants, &events);
    in_anonymous_const(
        union.input,
        &quote! {
            const __RETELL_MEMBERS: &[#krate::event::EventTypes] =
                &[#(<#events as #krate::event::Event>::TYPES),*];
            const __RETELL_SCHEMAS: [#krate::event::EventSchema; #krate::__private::count(__RETELL_MEMBERS)] =
                #krate::__private::join(__RETELL_MEMBERS);

            const __RETELL_MEMBERS_RETIRED: &[&[&::core::primitive::str]] =
                &[#(<#events as #krate::event::Event>::RETIRED),*];
            const __RETELL_RETIRED: [&::core::primitive::str; #krate::__private::count_retired(__RETELL_MEMBERS_RETIRED)] =
                #krate::__private::join_retired(__RETELL_MEMBERS_RETIRED, &__RETELL_SCHEMAS);

            #[automatically_derived]
            impl #krate::event::Event for #ident {
                const TYPES: #krate::event::EventTypes = #krate::event::EventTypes::Only(&__RETELL_SCHEMAS);
                const RETIRED: &'static [&'static ::core::primitive::str] = &__RETELL_RETIRED;

                fn schema(&self) -> #krate::event::EventSchema {
                    match self {
                        #(Self::#variants(__event) => #krate::event::Event::schema(__event),)*
                    }
                }

                fn encode(
                    &self,
                    __payload: &mut ::std::vec::Vec<u8>,
                ) -> ::core::result::Result<(), #krate::error::BoxError> {
                    match self {
                        #(Self::#variants(__event) => #krate::event::Event::encode(__event, __payload),)*
                    }
                }

                #decode

                fn reads_back(&self) -> bool {
                    match self {
                        #(Self::#variants(__event) => #krate::event::Event::reads_back(__event),)*
                    }
                }
            }

            #conversions
        },
    )
}

/// Decodes an event by the member that holds its stored name.
fn decode(variants: &[&Ident], events: &[&Type], krate: &TokenStream) -> TokenStream {
    quote! {
        fn decode(
            __stored: #krate::event::StoredEvent<'_>,
        ) -> ::core::result::Result<Self, #krate::event::DecodeError> {
            #(
                if <#events as #krate::event::Event>::TYPES.contains(__stored.event_type) {
                    return ::core::result::Result::map(
                        <#events as #krate::event::Event>::decode(__stored),
                        Self::#variants,
                    );
                }
            )*
            ::core::result::Result::Err(if __RETELL_RETIRED.contains(&__stored.event_type) {
                #krate::event::DecodeError::NotOne
            } else {
                #krate::event::DecodeError::UnknownType
            })
        }

        fn decode_all(
            __stored: #krate::event::StoredEvent<'_>,
        ) -> ::core::result::Result<::std::vec::Vec<Self>, #krate::event::DecodeError> {
            #(
                if <#events as #krate::event::Event>::TYPES.contains(__stored.event_type) {
                    let __events = <#events as #krate::event::Event>::decode_all(__stored)?;
                    return ::core::result::Result::Ok(
                        ::core::iter::Iterator::collect(::core::iter::Iterator::map(
                            ::core::iter::IntoIterator::into_iter(__events),
                            Self::#variants,
                        )),
                    );
                }
            )*
            if __RETELL_RETIRED.contains(&__stored.event_type) {
                ::core::result::Result::Ok(::std::vec::Vec::new())
            } else {
                ::core::result::Result::Err(#krate::event::DecodeError::UnknownType)
            }
        }
    }
}

/// Converts each member into the union.
fn conversions(ident: &Ident, variants: &[&Ident], events: &[&Type]) -> TokenStream {
    quote! {
        #(
            #[automatically_derived]
            impl ::core::convert::From<#events> for #ident {
                fn from(__event: #events) -> Self {
                    Self::#variants(__event)
                }
            }
        )*
    }
}
