//! Derive macros of `retell`.
use proc_macro::TokenStream;

/// Stub.
#[proc_macro_derive(Event, attributes(event, serde))]
pub fn event(_: TokenStream) -> TokenStream {
    TokenStream::new()
}
/// Stub.
#[proc_macro_derive(EventUnion, attributes(event))]
pub fn event_union(_: TokenStream) -> TokenStream {
    TokenStream::new()
}
/// Stub.
#[proc_macro_derive(Aggregate, attributes(aggregate, serde))]
pub fn aggregate(_: TokenStream) -> TokenStream {
    TokenStream::new()
}
