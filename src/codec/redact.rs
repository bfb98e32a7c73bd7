//! Errors of the JSON decoder without the values that they quote.

/// The words after which the decoder quotes a value, and the mark that ends the value.
const QUOTES: [(&str, char); 6] = [
    ("string \"", '"'),
    ("integer `", '`'),
    ("floating point `", '`'),
    ("boolean `", '`'),
    ("character `", '`'),
    ("unknown variant `", '`'),
];

/// Returns the text of a decoder's error, with `..` in place of the values that it quotes from the payload: errors get into logs, and payloads
/// must not.
#[cold]
pub(super) fn redacted(error: &serde_json::Error) -> String {
    let text = error.to_string();
    QUOTES.iter().fold(text, |text, (before, end)| without(&text, before, *end))
}

/// Replaces the value between `before` and the last `end` that follows it before the decoder's own words.
fn without(text: &str, before: &str, end: char) -> String {
    let Some(start) = text.find(before).map(|start| start + before.len()) else { return text.to_owned() };
    let rest = &text[start..];
    // A quoted value may contain the mark itself. The expectation of the decoder comes after the value.
    let value = rest.rfind(", expected ").unwrap_or(rest.len());
    let length = rest[..value].rfind(end).unwrap_or(value);
    format!("{}..{}", &text[..start], &rest[length..])
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize, Debug)]
    enum Kind {
        Paid,
        Free,
    }

    fn error<T: for<'de> Deserialize<'de> + std::fmt::Debug>(json: &str) -> String {
        redacted(&serde_json::from_str::<T>(json).unwrap_err())
    }

    #[test]
    fn quoted_values_are_left_out() {
        assert_eq!(error::<u64>("\"4111\""), "invalid type: string \"..\", expected u64 at line 1 column 6");
        assert!(!error::<u64>(r#""a \"4111, expected b""#).contains("4111"));
        assert_eq!(error::<u64>("-4111"), "invalid value: integer `..`, expected u64 at line 1 column 5");
        assert_eq!(error::<bool>("4111.5"), "invalid type: floating point `..`, expected a boolean at line 1 column 6");
        assert_eq!(error::<u64>("true"), "invalid type: boolean `..`, expected u64 at line 1 column 4");
        let variant = error::<Kind>("\"4111\"");
        assert_eq!(variant, "unknown variant `..`, expected `Paid` or `Free` at line 1 column 6");
    }

    #[test]
    fn places_and_names_stay() {
        #[derive(Deserialize, Debug)]
        #[expect(dead_code, reason = "only decoded")]
        struct Sale {
            cents: u64,
        }
        assert_eq!(error::<Sale>("{}"), "missing field `cents` at line 1 column 2");
        assert_eq!(error::<Sale>("{"), "EOF while parsing an object at line 1 column 1");
    }
}
