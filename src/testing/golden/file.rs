//! The files of golden payloads.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;

use crate::codec::Codec;
use crate::codec::tree::Tree;
use crate::registry::lock::header;
use crate::testing::golden::json::pretty;
use crate::testing::golden::kind::{EXTENSION, Kind};
use crate::testing::golden::reading::{Content, Reading};

const HEAD: &str = "\
# An event as it was stored once, and the event that the program reads it as. The payload never changes.
";

/// Begins the line before the event that a payload is read as.
const READS_AS: &str = "reads as ";

/// The content of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Golden {
    pub(super) kind: Kind,
    pub(super) payload: Vec<u8>,
    /// The event that the payload is read as. `None` if the file does not say it.
    pub(super) reading: Option<Reading>,
}

impl fmt::Display for Golden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, payload, reading } = self;
        let text = std::str::from_utf8(payload).ok().filter(|_| kind.codec == Codec::Json);
        // A line holds the payload exactly, so that it is not changed by a checkout with other line ends.
        let text = text.filter(|text| text.trim() == *text && !text.contains(['\n', '\r']));
        let text = text.filter(|text| Tree::parse(text.as_bytes()).is_some());
        let payload = text.map_or_else(|| hex(payload), str::to_owned);
        writeln!(f, "{HEAD}{kind}\n{payload}")?;
        if let Some(Reading { kind, content }) = reading {
            let content = match content {
                Content::Json(json) => pretty(json),
                Content::Bytes(bytes) => hex(bytes),
            };
            writeln!(f, "{READS_AS}{kind}\n{content}")?;
        }
        Ok(())
    }
}

/// Parses a file.
fn parse(text: &str) -> Result<Golden, String> {
    let lines = text.lines().enumerate().map(|(place, line)| (place + 1, line));
    let mut lines = lines.skip_while(|(_, line)| line.trim().is_empty() || line.starts_with('#'));
    let (place, line) = lines.next().ok_or("the file has no event")?;
    let kind = kind(line).map_err(|problem| format!("line {place}: {problem}"))?;
    let (place, line) = lines.next().ok_or("the file has no payload")?;
    let payload = match unhex(line).map_err(|problem| format!("line {place}: {problem}"))? {
        Some(bytes) => bytes,
        None => line.as_bytes().to_vec(),
    };
    let Some((place, line)) = lines.find(|(_, line)| !line.trim().is_empty()) else {
        return Ok(Golden { kind, payload, reading: None });
    };
    let expected = || format!("line {place}: expected `{READS_AS}[order.placed 1 json]`, and not `{line}`");
    let reads_as = line.strip_prefix(READS_AS).and_then(|line| self::kind(line).ok()).ok_or_else(expected)?;
    let content = lines.map(|(_, line)| line).collect::<Vec<_>>().join("\n");
    let content = match unhex(content.trim_end()) {
        Ok(Some(bytes)) => Content::Bytes(bytes),
        Ok(None) if Tree::parse(content.as_bytes()).is_some() => Content::Json(content),
        _ => return Err(format!("the lines after line {place} are neither JSON nor hexadecimal digits after `hex`")),
    };
    Ok(Golden { kind, payload, reading: Some(Reading { kind: reads_as, content }) })
}

fn kind(line: &str) -> Result<Kind, String> {
    header(line).map(Kind::from)
}

/// Writes bytes as `hex 00ff`.
fn hex(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from_digit(half.into(), 16);
    let digits: String = bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).flatten().collect();
    format!("hex {digits}").trim_end().to_owned()
}

/// Reads the bytes of a line that begins with `hex`. Returns `None` for any other line.
fn unhex(line: &str) -> Result<Option<Vec<u8>>, &'static str> {
    let Some(digits) = line.strip_prefix("hex") else { return Ok(None) };
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let bytes = digits.trim().as_bytes().chunks(2).map(|pair| match pair {
        [high, low] => Some(digit(high)? << 4 | digit(low)?),
        _ => None,
    });
    bytes.collect::<Option<_>>().map(Some).ok_or("expected hexadecimal digits after `hex`")
}

/// Reads the files of the folder. A folder that does not exist has none.
pub(super) fn load(folder: &Path) -> Result<BTreeMap<String, Golden>, String> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(format!("cannot list the files: {error}")),
    };
    let mut files = BTreeMap::new();
    for entry in entries {
        let entry = entry.map_err(|error| format!("cannot list the files: {error}"))?;
        let file = entry.file_name().to_string_lossy().into_owned();
        if file.ends_with(EXTENSION) {
            let text = fs::read_to_string(entry.path()).map_err(|error| format!("cannot read {file}: {error}"))?;
            let golden = parse(&text).map_err(|problem| {
                format!(
                    "{file} is damaged: {problem}. Restore it from version control: it is the only copy of the payload"
                )
            })?;
            files.insert(file, golden);
        }
    }
    Ok(files)
}

/// Writes a file that does not exist yet.
pub(super) fn create(folder: &Path, file: &str, golden: &Golden) -> Result<(), String> {
    let write = || {
        fs::create_dir_all(folder)?;
        File::create_new(folder.join(file))?.write_all(golden.to_string().as_bytes())
    };
    write().map_err(|error| format!("cannot write {file}: {error}. It should be:\n{golden}"))
}

/// Writes a file whose payload stays as it is.
pub(super) fn replace(folder: &Path, file: &str, golden: &Golden) -> Result<(), String> {
    let write = fs::write(folder.join(file), golden.to_string());
    write.map_err(|error| format!("cannot write {file}: {error}. It should be:\n{golden}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden(codec: Codec, payload: &[u8], reading: Option<Content>) -> Golden {
        let kind = Kind { name: "order.placed".into(), version: 3, codec };
        Golden {
            kind: kind.clone(),
            payload: payload.to_vec(),
            reading: reading.map(|content| Reading { kind, content }),
        }
    }

    #[test]
    fn a_payload_is_read_exactly_as_it_was_stored() {
        for payload in [&b"{\"a\":1}"[..], b"[1]", b"", b" 1", b"1\n", b"1\r", b"\xff\x00", b"hexagon", b"{\n}"] {
            for codec in [Codec::Json, Codec::Compact] {
                let golden = golden(codec, payload, None);
                let text = golden.to_string();
                assert_eq!(parse(&text), Ok(golden.clone()), "{text}");
                assert_eq!(parse(&text.replace('\n', "\r\n")), Ok(golden), "{text}");
            }
        }
    }

    #[test]
    fn a_reading_is_json_or_bytes() {
        let json = golden(Codec::Json, b"1", Some(Content::Json("{\"b\":[1,{}],\"a\":null}".into())));
        let text = json.to_string();
        assert!(text.ends_with("{\n  \"a\": null,\n  \"b\": [\n    1,\n    {}\n  ]\n}\n"), "{text}");
        assert_eq!(parse(&text).unwrap().to_string(), text);
        let bytes = golden(Codec::Compact, b"1", Some(Content::Bytes(vec![0, 255])));
        assert!(bytes.to_string().ends_with("reads as [order.placed 3 compact]\nhex 00ff\n"));
        assert_eq!(parse(&bytes.to_string()), Ok(bytes));
    }

    #[test]
    fn a_damaged_file_says_where() {
        for (text, problem) in [
            ("# only this\n", "the file has no event"),
            ("[a.b 1 json]", "the file has no payload"),
            ("<<<<<<< HEAD\n", "line 1: expected a name, a version and a codec"),
            ("[a.b x json]\n1\n", "line 1: expected a name"),
            ("[a.b 1 compact]\nhex 0g\n", "line 2: expected hexadecimal digits"),
            ("[a.b 1 compact]\nhex 000\n", "line 2: expected hexadecimal digits"),
            ("[a.b 1 json]\n1\nreads [a.b 1 json]\n1\n", "line 3: expected `reads as [order.placed 1 json]`"),
            ("[a.b 1 json]\n1\nreads as [a.b 1 json]\n", "the lines after line 3 are neither JSON"),
            ("[a.b 1 json]\n1\nreads as [a.b 1 json]\n1\n>>>>>>> x\n", "the lines after line 3 are neither JSON"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}
