//! Derive macros of `retell`, which re-exports them.
//!
//! Each derive parses (`ast`, `attr`), checks (`check`) and generates (`expand`), one after the other: parsing and checking collect every
//! mistake, and code is generated from flawless input only. Otherwise the user gets all errors and a stub of the impl.

mod ast;
mod attr;
mod check;
mod errors;
mod expand;
mod fingerprint;

use proc_macro::TokenStream;
use quote::quote;
use syn::{DeriveInput, parse_macro_input};

use crate::errors::Errors;

/// Writes `retell::Event`: how events are named, encoded and read back.
///
/// On an enum each variant is one kind of event, on a struct the struct is:
///
/// ```
/// use retell::Event;
///
/// #[derive(Debug, PartialEq, Event)]
/// enum OrderEvent {
///     #[event("order.created", version = 2, upcast(from_v1))]
///     Created {
///         order_id: u64,
///         #[serde(default)]
///         total: u64,
///     },
///     #[event("order.weighed", codec = "compact")]
///     Weighed(u64),
///     #[event("order.closed")]
///     Closed,
/// }
///
/// /// Version 1 held nothing but the id.
/// fn from_v1(order_id: u64) -> OrderEvent {
///     OrderEvent::Created { order_id, total: 0 }
/// }
///
/// #[derive(Event)]
/// #[event("user.registered")]
/// struct UserRegistered {
///     email: String,
/// }
///
/// let mut payload = Vec::new();
/// OrderEvent::Created { order_id: 7, total: 9 }.encode(&mut payload)?;
/// assert_eq!(payload, br#"{"order_id":7,"total":9}"#);
/// # Ok::<(), retell::BoxError>(())
/// ```
///
/// # `#[event(..)]` on a variant, or on a struct
/// - The stored name comes first: words of `a-z`, `0-9` and `_`, joined by dots. It never changes, whatever becomes of the Rust name.
/// - `version = 2`: the schema version that new events are written in. Without it, 1.
/// - `upcast(from_v1, from_v2)`: how older versions are read, oldest first, one function for each. `from_v1` takes whatever version
///   1 decodes into and returns what `from_v2` takes; the last returns the event.
/// - `codec = "json"` or `codec = "compact"`: how new events are written. Stored events are read as they were written. A compact payload
///   holds every field, so that fields take no `skip_serializing_if` or `flatten`, and every change needs a new version.
///
/// # `#[event(..)]` on an enum, or on a struct
/// - `codec = ".."`: for the variants that name none. Without it, `"json"`.
/// - `crate = "path::to::retell"`: where the library is. Without it, `::retell`.
///
/// # What is stored
/// Named fields become an object, several unnamed fields an array, one unnamed field its own value, and no fields an empty
/// object, so that fields with a default can be added later. The stored name stands beside the payload, not in it.
///
/// Neither the type nor its crate needs serde; its fields' types do. `#[serde(..)]` attributes of fields work as they do
/// in serde. So do `rename_all` on a variant or a struct, `rename_all_fields` on an enum, `default` on a struct, and
/// `deny_unknown_fields` on each of them. All others (`tag`, `rename` of a variant, `transparent`, ..) are left to a serde form that the
/// type may derive for itself.
#[proc_macro_derive(Event, attributes(event, serde))]
pub fn event(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    let mut errors = Errors::default();
    let event = ast::Event::parse(&input, &mut errors);
    check::event(&event, &mut errors);
    finish(errors, || expand::event::expand(&event), || expand::event::stub(&input, &event.attr))
}

/// Joins the events of several aggregates into one type, for a projection that reads them all.
///
/// ```
/// use retell::{Event, EventUnion};
///
/// #[derive(Event)]
/// enum UserEvent {
///     #[event("user.registered")]
///     Registered { email: String },
/// }
///
/// #[derive(Event)]
/// enum OrderEvent {
///     #[event("order.closed")]
///     Closed,
/// }
///
/// #[derive(EventUnion)]
/// enum ShopEvent {
///     User(UserEvent),
///     Order(OrderEvent),
/// }
///
/// assert_eq!(ShopEvent::from(OrderEvent::Closed).schema().name, "order.closed");
/// ```
///
/// Each variant holds one event type. Names, versions and codecs are theirs, so that no variant takes `#[event(..)]`. Two members
/// that share a stored name do not compile. `#[event(crate = "path::to::retell")]` on the enum says where the library is.
#[proc_macro_derive(EventUnion, attributes(event))]
pub fn event_union(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    let mut errors = Errors::default();
    let union = ast::Union::parse(&input, &mut errors);
    check::union(&union, &mut errors);
    finish(errors, || expand::union::expand(&union), || expand::event::stub(&input, &union.attr))
}

/// Writes `retell::Aggregate`: the stored name, snapshots, and the way to the `Apply` of its events.
///
/// ```
/// use retell::{Aggregate, Apply, Event};
///
/// #[derive(Event)]
/// enum AccountEvent {
///     #[event("account.opened")]
///     Opened,
///     #[event("account.deposited")]
///     Deposited { cents: u64 },
/// }
///
/// #[derive(Debug, Default, Clone, Aggregate)]
/// #[aggregate("account", event = AccountEvent)]
/// struct Account {
///     open: bool,
///     cents: u64,
/// }
///
/// impl Apply<AccountEvent> for Account {
///     fn apply(&mut self, event: AccountEvent) {
///         match event {
///             AccountEvent::Opened => self.open = true,
///             AccountEvent::Deposited { cents } => self.cents += cents,
///         }
///     }
/// }
///
/// assert_eq!(Account::TYPE, "account");
/// ```
///
/// # `#[aggregate(..)]`
/// - The stored name comes first: words of `a-z`, `0-9` and `_`, joined by dots. It never changes.
/// - `event = AccountEvent`: the type of its events.
/// - `snapshots = 100`: keep the state whenever so many events came. `snapshots = never`: replay every event at every load.
///   `snapshots = path::to::function`: ask a `fn(snapshot: u64, version: u64) -> bool`. Without it, 100.
/// - `snapshot_version = 2`: raise it when older snapshots must not be read though the declaration stays the same, such as after a change of
///   a field's own type or of what `apply` computes. Without it, 1.
/// - `claims = path::to::function`: which values that only one aggregate may hold an event reserves and releases, by a
///   `fn(&AccountEvent) -> Result<Vec<Claim>, InvalidName>`. Without it, none.
/// - `crate = "path::to::retell"`: where the library is. Without it, `::retell`.
///
/// # Snapshots
/// The state's type needs no serde; its fields' types do, unless there are no snapshots. `#[serde(..)]` attributes of
/// fields and variants work as they do in serde, and so do `rename_all`, `rename_all_fields`, `default` and `deny_unknown_fields` on the
/// type. All others are left to a serde form that the type may derive for itself.
///
/// The fingerprint covers the stored name, `snapshot_version`, the kind of type, the names of variants and fields, the fields' types as
/// they are written, and the serde attributes. A snapshot with another fingerprint is not read.
#[proc_macro_derive(Aggregate, attributes(aggregate, serde))]
pub fn aggregate(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    let mut errors = Errors::default();
    let aggregate = ast::Aggregate::parse(&input, &mut errors);
    check::aggregate(&aggregate, &mut errors);
    finish(errors, || expand::aggregate::expand(&aggregate), || expand::aggregate::stub(&aggregate))
}

/// The impl, or all errors and a stub of it.
fn finish(
    errors: Errors,
    expand: impl FnOnce() -> proc_macro2::TokenStream,
    stub: impl FnOnce() -> proc_macro2::TokenStream,
) -> TokenStream {
    match errors.into_compile_errors() {
        None => expand().into(),
        Some(errors) => {
            let stub = stub();
            quote!(#errors #stub).into()
        }
    }
}
