//! Computes a fingerprint of a state's shape, so that a snapshot of another shape is never read.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::ToTokens;
use syn::ext::IdentExt as _;
use syn::{Attribute, Data, Fields, LitStr, Meta, Variant};

use crate::ast::Aggregate;
use crate::attr;

/// Hashes everything in the declaration that decides how the state is stored, with 64-bit FNV-1a.
pub(crate) fn fingerprint(aggregate: &Aggregate<'_>) -> u64 {
    fnv1a(shape(aggregate).as_bytes())
}

fn fnv1a(bytes: &[u8]) -> u64 {
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, fold)
}

/// Describes the shape: one line per name, field and attribute. A change to this text makes every stored snapshot unreadable once.
fn shape(aggregate: &Aggregate<'_>) -> String {
    let Aggregate { input, attr, serde } = aggregate;
    let name = attr.name.as_ref().map(LitStr::value).unwrap_or_default();
    let version = attr.snapshot_version.as_ref().map_or(1, |version| version.value);
    let mut lines = vec![format!("aggregate {name}"), format!("version {version}")];
    lines.extend(serde.iter().map(|meta| line("serde", meta)));
    match &input.data {
        Data::Struct(data) => fields(&mut lines, "struct", &data.fields),
        Data::Enum(data) => data.variants.iter().for_each(|each| variant(&mut lines, each)),
        Data::Union(_) => {}
    }
    lines.join("\n")
}

fn variant(lines: &mut Vec<String>, variant: &Variant) {
    lines.extend(serde_of(&variant.attrs));
    fields(lines, &format!("variant {}", variant.ident.unraw()), &variant.fields);
}

fn fields(lines: &mut Vec<String>, owner: &str, fields: &Fields) {
    let style = match fields {
        Fields::Named(_) => "named",
        Fields::Unnamed(_) => "tuple",
        Fields::Unit => "unit",
    };
    lines.push(format!("{owner} {style}"));
    for field in fields {
        let name = field.ident.as_ref().map(|ident| ident.unraw().to_string()).unwrap_or_default();
        lines.extend(serde_of(&field.attrs));
        lines.push(line(&format!("field {name}"), &field.ty));
    }
}

fn serde_of(attrs: &[Attribute]) -> impl Iterator<Item = String> {
    attr::named(attrs, "serde").map(|attr| match &attr.meta {
        Meta::List(list) => line("serde", &list.tokens),
        other => line("serde", other),
    })
}

fn line(label: &str, tokens: &impl ToTokens) -> String {
    let mut words = Vec::new();
    flatten(tokens.to_token_stream(), &mut words);
    format!("{label}: {}", words.join(" "))
}

/// Appends the tokens to `words` without whitespace, and without the comma that rustfmt adds before `>`.
fn flatten(tokens: TokenStream, words: &mut Vec<String>) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => {
                let (open, close) = delimiters(group.delimiter());
                words.extend(open.map(str::to_owned));
                flatten(group.stream(), words);
                words.extend(close.map(str::to_owned));
            }
            token => {
                let word = token.to_string();
                if word == ">" && words.last().is_some_and(|last| last == ",") {
                    words.pop();
                }
                words.push(word);
            }
        }
    }
}

fn delimiters(delimiter: Delimiter) -> (Option<&'static str>, Option<&'static str>) {
    match delimiter {
        Delimiter::Parenthesis => (Some("("), Some(")")),
        Delimiter::Brace => (Some("{"), Some("}")),
        Delimiter::Bracket => (Some("["), Some("]")),
        Delimiter::None => (None, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::errors::Errors;

    fn shape_of(source: &str) -> String {
        let input = syn::parse_str(source).expect("a declaration");
        shape(&Aggregate::parse(&input, &mut Errors::default()))
    }

    #[test]
    fn fnv1a_matches_published_values() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    /// Golden test: a change of this text makes every user's snapshots unreadable once.
    #[test]
    fn shape_names_all_that_decides_the_stored_form() {
        let shape = shape_of(
            r#"#[aggregate("account", event = E, snapshot_version = 2)]
               #[serde(rename_all = "camelCase")]
               enum Account { #[serde(rename = "o")] Open { r#type: Vec < u8,>, }, Closed, Moved(#[serde(default)] [u8; 2]) }"#,
        );
        assert_eq!(
            shape,
            "aggregate account\nversion 2\nserde: rename_all = \"camelCase\"\n\
             serde: rename = \"o\"\nvariant Open named\nfield type: Vec < u8 >\n\
             variant Closed unit\n\
             variant Moved tuple\nserde: default\nfield : [ u8 ; 2 ]"
        );
    }

    #[test]
    fn rust_name_and_whitespace_do_not_count() {
        let one = shape_of(r#"#[aggregate("a", event = E)] struct One { a: Vec<u8>, b: (u8, u8) }"#);
        let two = shape_of("#[aggregate(\"a\",event=F,)] /// Doc.\npub struct Two{pub a:Vec<\nu8,\n>,b:(u8,u8),}");
        assert_eq!(one, two);
    }
}
