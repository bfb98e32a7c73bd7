//! Takes the sentences that people read out of a file: comments, documentation, messages, Markdown.

/// A run of prose and the line where it begins.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Paragraph {
    pub(crate) line: usize,
    pub(crate) text: String,
}

/// How a kind of file marks its prose.
#[derive(Clone, Copy)]
enum Form {
    Rust,
    Markdown,
    /// Comments that begin with this marker, and nothing else.
    Comments(&'static str),
}

impl Form {
    fn of(path: &str) -> Option<Self> {
        match path.rsplit('.').next()? {
            "rs" => Some(Self::Rust),
            "md" => Some(Self::Markdown),
            "sql" => Some(Self::Comments("--")),
            "sh" | "toml" | "yaml" => Some(Self::Comments("#")),
            _ => None,
        }
    }

    /// The prose of a line that is nothing but prose.
    fn prose(self, line: &str) -> Option<&str> {
        let line = line.trim();
        match self {
            Self::Rust => line.strip_prefix("//").map(|text| text.trim_start_matches(['/', '!'])),
            Self::Markdown => Some(line),
            Self::Comments(marker) => line.strip_prefix(marker),
        }
        .map(str::trim)
    }
}

/// The paragraphs of a file. Empty for a kind of file without prose.
pub(crate) fn paragraphs(path: &str, content: &str) -> Vec<Paragraph> {
    let Some(form) = Form::of(path) else { return Vec::new() };
    let mut found = Vec::new();
    let mut open: Option<Paragraph> = None;
    let mut fenced = false;
    for (index, line) in content.lines().enumerate() {
        let number = index + 1;
        let prose = form.prose(line);
        if prose.is_some_and(|text| text.starts_with("```")) {
            fenced = !fenced;
            found.extend(open.take());
            continue;
        }
        fenced &= prose.is_some();
        match prose {
            // Code, tables and headings have a grammar of their own.
            Some(text) if !text.is_empty() && !fenced && !text.starts_with(['#', '|']) => {
                let item = list_item(text);
                if item.is_some() {
                    found.extend(open.take());
                }
                let text = item.unwrap_or(text);
                match &mut open {
                    Some(paragraph) => {
                        paragraph.text.push(' ');
                        paragraph.text.push_str(text);
                    }
                    None => open = Some(Paragraph { line: number, text: text.to_owned() }),
                }
            }
            Some(_) => found.extend(open.take()),
            None => {
                found.extend(open.take());
                if let Form::Rust = form {
                    found.extend(within_code(line).into_iter().map(|text| Paragraph { line: number, text }));
                }
            }
        }
    }
    found.extend(open);
    found
}

/// The text of a list item, without its marker.
fn list_item(text: &str) -> Option<&str> {
    let number = text.trim_start_matches(|c: char| c.is_ascii_digit());
    text.strip_prefix("- ")
        .or_else(|| text.strip_prefix("* "))
        .or_else(|| number.strip_prefix(". ").filter(|_| number.len() < text.len()))
}

/// The messages and the trailing comment of a line of code. A string without a space is no sentence.
fn within_code(line: &str) -> Vec<String> {
    let mut texts = Vec::new();
    let mut rest = line;
    while let Some(start) = rest.find(['"', '/']) {
        rest = &rest[start..];
        if let Some(comment) = rest.strip_prefix("// ") {
            texts.push(comment.to_owned());
            break;
        }
        let Some(string) = rest.strip_prefix('"') else {
            rest = &rest[1..];
            continue;
        };
        let mut escaped = false;
        let end = string.find(|c| {
            let closes = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            closes
        });
        let Some(end) = end else { break };
        if string[..end].contains(' ') {
            texts.push(string[..end].to_owned());
        }
        rest = &string[end + 1..];
    }
    texts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(path: &str, content: &str) -> Vec<(usize, String)> {
        paragraphs(path, content).into_iter().map(|found| (found.line, found.text)).collect()
    }

    #[test]
    fn comments_join_across_lines_and_code_stays_out() {
        let code = "/// Reads\n/// a row.\n///\n/// ```\n/// let x = 1;\n/// ```\nfn a() {} // short\n";
        assert_eq!(texts("a.rs", code), [(1, "Reads a row.".to_owned()), (7, "short".to_owned())]);
    }

    #[test]
    fn messages_count_and_plain_strings_do_not() {
        let code = r#"error("cannot \"read\" it", "id");"#;
        assert_eq!(texts("a.rs", code), [(1, r#"cannot \"read\" it"#.to_owned())]);
    }

    #[test]
    fn markdown_has_paragraphs_and_list_items() {
        let text = "# What\n\nOne\ntwo.\n- three\n1. four\n\n| a | b |\n";
        let found = [(3, "One two."), (5, "three"), (6, "four")].map(|(line, text)| (line, text.to_owned()));
        assert_eq!(texts("a.md", text), found);
    }

    #[test]
    fn sql_and_shell_have_comments() {
        assert_eq!(texts("a.sql", "-- A lock.\nSELECT 1;"), [(1, "A lock.".to_owned())]);
        assert_eq!(texts("a.sh", "# Starts it.\nrun"), [(1, "Starts it.".to_owned())]);
    }
}
