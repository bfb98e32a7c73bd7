//! Derive macros of `retell`, which re-exports them.
//!
//! Each derive parses its input (`ast`, `attr`), checks it (`check`) and generates code (`expand`). Parsing and checking collect all
//! errors. Code is generated only from input without errors; otherwise the user gets all errors and a stub of the impl.

mod ast;
mod attr;
mod check;
mod errors;
mod expand;
mod fingerprint;
mod wire;

use proc_macro::TokenStream;
use quote::quote;
use syn::{DeriveInput, parse_macro_input};

use crate::errors::Errors;

/// Implements `retell::Event`: how events are named, encoded and decoded.
///
/// On an enum, each variant is one kind of event. On a struct, the struct is one kind of event:
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
/// /// Version 1 held only the id.
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
/// - The stored name comes first: two or more words of `a-z`, `0-9` and `_`, joined by dots, such as `order.created`. It never changes, even
///   if the Rust name does.
/// - `version = 2`: the schema version of new events. Defaults to 1.
/// - `upcast(from_v1, from_v2)`: functions that convert older versions, oldest first, one per version. `from_v1` takes the type that
///   version 1 decodes into and returns the argument of `from_v2`; the last function returns the event.
/// - `upcast(split(from_v1), from_v2)`: `from_v1` returns all events that a stored event of version 1 has become: a `Vec`, an array, or any
///   other iterator of events, even of none. They are read in this order at the place of the stored event, and share its id: see
///   `Envelope::part_id`. The order must stay the same. Later versions are not split by it.
/// - `renamed_from = "order.made"`, or `renamed_from("order.made", "order.opened")`: the stored names that the event had before. Stored events
///   of these names are read as this event, and new ones are stored under the new name only. Versions count on: version 1 is the same
///   payload under each of the names.
/// - `codec = "json"` or `codec = "compact"`: the codec of new events. Stored events are read with the codec they were written with. A
///   compact payload holds every field, so its fields take no `skip_serializing_if` or `flatten`, and every change needs a new version.
/// - `public`: programs of other teams read the event. A change that they could not follow is then an error of `Registry::check`, as one is
///   that makes stored events unreadable.
///
/// # `#[event(..)]` on an enum
/// - `retired("order.flagged", "order.rated")`: stored names of events that the log may have and that are no longer read. They need no variant:
///   a reader passes over them. An event that is passed over still counts in the version of its aggregate.
///
/// # `#[event(..)]` on an enum, or on a struct
/// - `aggregate = "order"`: the stored name of the only aggregate that has these events. A view, projection, reaction or process that reads
///   them then ignores events of the same name of other aggregates, and no other aggregate can have them.
/// - `codec = ".."`: the codec of all variants that name none. Defaults to `"json"`.
/// - `public`: all variants are public.
/// - `crate = "path::to::retell"`: the path to the library. Defaults to `::retell`.
///
/// # `#[event(..)]` on a field
/// - `opaque`: nothing is known about the field's type, and no check sees a change of it. Any other field has a type with a known wire shape:
///   see `Shape`.
///
/// # Stored form
/// Named fields become an object, several unnamed fields an array, one unnamed field its own value, and no fields an empty object, so that
/// fields with a default can be added later. The stored name is kept next to the payload, not in it.
///
/// The type does not need to implement serde's traits, and its crate does not need serde; the types of its fields do, for
/// which `#[derive(Value)]` is the shortest way. `#[serde(..)]` attributes of fields work as in serde. So do `rename_all` on a variant or a struct, `rename_all_fields` on an enum, `default` on a
/// struct, and `deny_unknown_fields` on each of them. The macro ignores all others (`tag`, `rename` of a variant, `transparent`, ..): they
/// apply only to a serde form that the type derives separately.
#[proc_macro_derive(Event, attributes(event, serde))]
pub fn event(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    let mut errors = Errors::default();
    let event = ast::Event::parse(&input, &mut errors);
    check::event(&event, &mut errors);
    finish(errors, || expand::event::expand(&event), || expand::event::stub(&input, &event.attr))
}

/// Joins the events of several aggregates into one type, for a projection that reads all of them.
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
/// Each variant holds one event type. The event types define the names, versions and codecs, so no variant takes `#[event(..)]`. Two
/// members with a stored name in common do not compile. `#[event(crate = "path::to::retell")]` on the enum sets the path to the library.
#[proc_macro_derive(EventUnion, attributes(event))]
pub fn event_union(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    let mut errors = Errors::default();
    let union = ast::Union::parse(&input, &mut errors);
    check::union(&union, &mut errors);
    finish(errors, || expand::union::expand(&union), || expand::event::stub(&input, &union.attr))
}

/// Implements `retell::Aggregate`: the stored name, the snapshots, and the call of the `Apply` impl for its events.
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
/// - `event = AccountEvent`: the type of the aggregate's events.
/// - `snapshots = 100`: store a snapshot after this number of events. `snapshots = never`: replay all events on every load. `snapshots =
///   path::to::function`: call a `fn(snapshot: u64, version: u64) -> bool` to decide. Defaults to 100.
/// - `snapshot_version = 2`: raise it if older snapshots must not be read although the declaration stays the same, for example after a
///   change of a field's own type or of the result of `apply`. Defaults to 1.
/// - `claims = path::to::function`: a `fn(&AccountEvent) -> Result<Vec<Claim>, InvalidName>` that returns the unique values an event
///   reserves and releases. Without it, events claim nothing.
/// - `crate = "path::to::retell"`: the path to the library. Defaults to `::retell`.
///
/// # Snapshots
/// The state's type does not need to implement serde's traits; the types of its fields do, unless there are no snapshots. `#[serde(..)]`
/// attributes of fields and variants work as in serde, and so do `rename_all`, `rename_all_fields`, `default` and `deny_unknown_fields` on
/// the type. All others apply only to a serde form that the type derives separately.
///
/// The fingerprint covers the stored name, `snapshot_version`, the kind of type, the names of variants and fields, the field types as
/// written, and the serde attributes. A snapshot with another fingerprint is not read.
#[proc_macro_derive(Aggregate, attributes(aggregate, serde))]
pub fn aggregate(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    let mut errors = Errors::default();
    let aggregate = ast::Aggregate::parse(&input, &mut errors);
    check::aggregate(&aggregate, &mut errors);
    finish(errors, || expand::aggregate::expand(&aggregate), || expand::aggregate::stub(&aggregate))
}

/// Implements `retell::Shape` for a part of an event, with `serde::Serialize` and `serde::Deserialize`.
///
/// ```
/// use retell::{Event, Value};
///
/// #[derive(Debug, PartialEq, Value)]
/// struct Line {
///     sku: String,
///     count: u32,
///     unit: Unit,
/// }
///
/// #[derive(Debug, PartialEq, Value)]
/// #[serde(rename_all = "snake_case")]
/// enum Unit {
///     Piece,
///     Kilogram,
/// }
///
/// #[derive(Event)]
/// #[event("order.placed")]
/// struct Placed {
///     lines: Vec<Line>,
/// }
///
/// let mut payload = Vec::new();
/// Placed { lines: vec![Line { sku: "s-1".into(), count: 2, unit: Unit::Piece }] }.encode(&mut payload)?;
/// assert_eq!(payload, br#"{"lines":[{"sku":"s-1","count":2,"unit":"piece"}]}"#);
/// # Ok::<(), retell::BoxError>(())
/// ```
///
/// The form is that of serde's own derives, and `#[serde(..)]` attributes of the type, its variants and its fields work as there. The crate
/// of the type does not need serde. Since the library knows how the type is written, an event of such parts is not decoded again before it
/// is written, if all their fields allow that.
///
/// # `#[shape(..)]`
/// - `opaque`, above a field: nothing is known about its type. Every type of another crate that has serde's traits can be used in this way,
///   and fields with `#[serde(with = "..")]` need it.
/// - `crate = "path::to::retell"`, above the type: the path to the library. Defaults to `::retell`.
#[proc_macro_derive(Value, attributes(shape, serde))]
pub fn value(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    let mut errors = Errors::default();
    let part = ast::Part::parse(&input, &mut errors);
    check::value(&part, &mut errors);
    finish(errors, || expand::shape::expand_value(&part), || expand::shape::stub(&part, true))
}

/// Implements `retell::Shape` for a type that has serde's derives: it tells the library how the type is written.
///
/// ```
/// use retell::Shape;
/// use retell::shape::Type;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, Shape)]
/// #[serde(tag = "by", rename_all = "lowercase")]
/// enum Payment {
///     Card { number: String },
///     Cash,
/// }
///
/// assert_eq!(Type::of::<Payment>().to_string(), "<by in card: {number: text} | cash>");
/// ```
///
/// It reads the `#[serde(..)]` attributes and takes `Serialize` and `Deserialize` to be derived. For a type of your own, `Value` is
/// shorter; for a type with impls of serde's traits by hand, implement `Shape` by hand. The options of `#[shape(..)]` are those of `Value`.
#[proc_macro_derive(Shape, attributes(shape, serde))]
pub fn shape(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    let mut errors = Errors::default();
    let part = ast::Part::parse(&input, &mut errors);
    check::part(&part, &mut errors);
    finish(errors, || expand::shape::expand(&part), || expand::shape::stub(&part, false))
}

/// Returns the impl, or all errors and a stub of the impl.
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
