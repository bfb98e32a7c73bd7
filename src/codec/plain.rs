//! Decodes JSON as serde_json does by default, in a program in which another crate has switched on `serde_json/arbitrary_precision`.
//!
//! Cargo features are shared by all crates of a program. With that feature, serde_json passes a number of a flattened field, of an untagged
//! or of an internally tagged enum as a map of text, and the field does not decode. Here such numbers are read as numbers again.

use std::fmt;
use std::sync::LazyLock;

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, VariantAccess, Visitor,
};
use serde::{Deserialize, forward_to_deserialize_any};

/// The name of the only field of the map as which serde_json passes a number with `arbitrary_precision`.
const NUMBER: &str = "$serde_json::private::Number";

/// Whether serde_json passes numbers as maps in this program. Recent releases pass an integer that fits into 64 bits as an integer even then.
static NUMBERS_ARE_MAPS: LazyLock<bool> =
    LazyLock::new(|| serde_json::from_slice::<Probe>(b"0.1").is_ok_and(|probe| probe.0));

struct Probe(bool);

impl<'de> Deserialize<'de> for Probe {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Probing;
        impl<'de> Visitor<'de> for Probing {
            type Value = Probe;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number")
            }

            fn visit_f64<E>(self, _: f64) -> Result<Probe, E> {
                Ok(Probe(false))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Probe, A::Error> {
                while map.next_entry::<String, String>()?.is_some() {}
                Ok(Probe(true))
            }
        }
        deserializer.deserialize_any(Probing)
    }
}

/// Decodes one value that fills `bytes`.
#[inline]
pub(super) fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    if *NUMBERS_ARE_MAPS { from_tree(bytes) } else { serde_json::from_slice(bytes) }
}

/// Decodes through a tree of values. A raw value needs serde_json's own deserializer, which is tried next.
#[cold]
fn from_tree<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    let tree: Tree = serde_json::from_slice(bytes)?;
    T::deserialize(tree).or_else(|error| serde_json::from_slice(bytes).map_err(|_| error))
}

/// A JSON value. A number is kept as text, so that it loses nothing whatever type it is read as.
#[derive(Debug, Clone, PartialEq)]
enum Tree {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    List(Vec<Tree>),
    Object(Vec<(String, Tree)>),
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Planting)
    }
}

struct Planting;

impl<'de> Visitor<'de> for Planting {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Number(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Number(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Number(format!("{value:?}")))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Tree, E> {
        Ok(Tree::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = seq.next_element()? {
            list.push(element);
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut entries = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == NUMBER {
                return Ok(Tree::Number(map.next_value()?));
            }
            entries.push((name, map.next_value()?));
        }
        Ok(Tree::Object(entries))
    }
}

type Result<T, E = serde_json::Error> = std::result::Result<T, E>;

/// Passes a number to `visitor` as serde_json does: as the smallest of `u64`, `i64` and `f64` that holds it.
fn visit_number<'de, V: Visitor<'de>>(number: &str, visitor: V) -> Result<V::Value> {
    if let Ok(number) = number.parse::<u64>() {
        visitor.visit_u64(number)
    } else if let Ok(number) = number.parse::<i64>() {
        visitor.visit_i64(number)
    } else {
        let float = parse(number)?;
        if f64::is_finite(float) {
            visitor.visit_f64(float)
        } else {
            Err(serde_json::Error::custom("number out of range"))
        }
    }
}

fn parse<T: std::str::FromStr>(number: &str) -> Result<T> {
    number.parse().map_err(|_| serde_json::Error::invalid_value(Unexpected::Other(number), &std::any::type_name::<T>()))
}

impl<'de> Deserializer<'de> for Tree {
    type Error = serde_json::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self {
            Self::Null => visitor.visit_unit(),
            Self::Bool(value) => visitor.visit_bool(value),
            Self::Number(number) => visit_number(&number, visitor),
            Self::Text(text) => visitor.visit_string(text),
            Self::List(list) => {
                let mut elements = list.into_iter();
                let value = visitor.visit_seq(Elements(&mut elements))?;
                if elements.len() > 0 { Err(serde_json::Error::custom("trailing elements")) } else { Ok(value) }
            }
            Self::Object(entries) => visitor.visit_map(Entries { entries: entries.into_iter(), value: None }),
        }
    }

    fn deserialize_i128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self {
            Self::Number(number) => visitor.visit_i128(parse(&number)?),
            other => other.deserialize_any(visitor),
        }
    }

    fn deserialize_u128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self {
            Self::Number(number) => visitor.visit_u128(parse(&number)?),
            other => other.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self {
            Self::Null => visitor.visit_none(),
            other => visitor.visit_some(other),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        match self {
            Self::Text(variant) => visitor.visit_enum(variant.into_deserializer()),
            Self::Object(mut entries) if entries.len() == 1 => match entries.pop() {
                Some((variant, content)) => visitor.visit_enum(Variant { variant, content }),
                None => Err(serde_json::Error::custom("an enum is an object with one entry")),
            },
            _ => Err(serde_json::Error::custom("an enum is a text or an object with one entry")),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

struct Elements<'l>(&'l mut std::vec::IntoIter<Tree>);

impl<'de> SeqAccess<'de> for Elements<'_> {
    type Error = serde_json::Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>> {
        self.0.next().map(|element| seed.deserialize(element)).transpose()
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.0.len())
    }
}

struct Entries {
    entries: std::vec::IntoIter<(String, Tree)>,
    value: Option<Tree>,
}

impl<'de> MapAccess<'de> for Entries {
    type Error = serde_json::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>> {
        let Some((name, value)) = self.entries.next() else { return Ok(None) };
        self.value = Some(value);
        seed.deserialize(Name(name)).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value> {
        seed.deserialize(self.value.take().unwrap_or(Tree::Null))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.entries.len())
    }
}

/// The name of an entry, which is also read as a number, a boolean or the variant of an enum.
struct Name(String);

macro_rules! numbers {
    ($($method:ident $visit:ident),* $(,)?) => {
        $(
            fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
                visitor.$visit(parse(&self.0)?)
            }
        )*
    };
}

impl<'de> Deserializer<'de> for Name {
    type Error = serde_json::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_string(self.0)
    }

    numbers! {
        deserialize_bool visit_bool,
        deserialize_i8 visit_i8,
        deserialize_i16 visit_i16,
        deserialize_i32 visit_i32,
        deserialize_i64 visit_i64,
        deserialize_i128 visit_i128,
        deserialize_u8 visit_u8,
        deserialize_u16 visit_u16,
        deserialize_u32 visit_u32,
        deserialize_u64 visit_u64,
        deserialize_u128 visit_u128,
        deserialize_f32 visit_f32,
        deserialize_f64 visit_f64,
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        visitor.visit_enum(self.0.into_deserializer())
    }

    forward_to_deserialize_any! {
        char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

/// A variant with content.
struct Variant {
    variant: String,
    content: Tree,
}

impl<'de> EnumAccess<'de> for Variant {
    type Error = serde_json::Error;
    type Variant = Tree;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Tree)> {
        Ok((seed.deserialize(self.variant.into_deserializer())?, self.content))
    }
}

impl<'de> VariantAccess<'de> for Tree {
    type Error = serde_json::Error;

    fn unit_variant(self) -> Result<()> {
        <()>::deserialize(self)
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value> {
        self.deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value> {
        self.deserialize_any(visitor)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use serde::Serialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Inner {
        count: u64,
        price: f64,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(tag = "kind")]
    enum Tagged {
        One { value: i32 },
        Two(Inner),
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(untagged)]
    enum Untagged {
        Count(u8),
        Text(String),
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Plain {
        Unit,
        Newtype(f32),
        Tuple(u8, i128),
        Struct { deep: Option<Box<Plain>> },
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct All {
        #[serde(flatten)]
        inner: Inner,
        tagged: Vec<Tagged>,
        untagged: (Untagged, Untagged),
        plain: Vec<Plain>,
        wide: u128,
        by_number: BTreeMap<i64, bool>,
        by_flag: HashMap<bool, u8>,
        nothing: Option<u8>,
        any: serde_json::Value,
    }

    #[test]
    fn a_tree_decodes_what_serde_json_writes() {
        let all = All {
            inner: Inner { count: u64::MAX, price: 0.1 + 0.2 },
            tagged: vec![Tagged::One { value: -1 }, Tagged::Two(Inner { count: 1, price: -2.5e300 })],
            untagged: (Untagged::Count(7), Untagged::Text("ü".into())),
            plain: vec![
                Plain::Unit,
                Plain::Newtype(1.5),
                Plain::Tuple(1, i128::MIN),
                Plain::Struct { deep: Some(Box::new(Plain::Unit)) },
            ],
            wide: u128::MAX,
            by_number: [(-3, true)].into(),
            by_flag: [(true, 1)].into(),
            nothing: None,
            any: serde_json::json!({"a": [1, -2, 2.5, null, "x"]}),
        };
        let bytes = serde_json::to_vec(&all).unwrap();
        assert_eq!(from_tree::<All>(&bytes).unwrap(), all);
    }

    #[test]
    fn a_tree_refuses_what_does_not_fit() {
        assert!(from_tree::<u8>(b"256").is_err());
        assert!(from_tree::<(u8, u8)>(b"[1,2,3]").is_err());
        assert!(from_tree::<Inner>(br#"{"count":1}"#).is_err());
        assert!(from_tree::<u8>(b"1 2").is_err());
        assert!(from_tree::<Plain>(br#"{"Unit":null,"Newtype":1}"#).is_err());
    }
}
