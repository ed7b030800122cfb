//! Rust source as tokens: enough to follow paths and modules, with comments and the insides of literals left out.

/// One token and the byte where it begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Token<'a> {
    pub(super) text: &'a str,
    pub(super) at: usize,
}

/// Words, numbers, string literals (quotes included) and punctuation of `source`; `::` is one token, everything else of
/// punctuation is one character. Never fails: what does not parse is punctuation.
pub(super) fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(first) = source[at..].chars().next() {
        let rest = &source[at..];
        let length = if first.is_whitespace() {
            at += first.len_utf8();
            continue;
        } else if rest.starts_with("//") {
            at += rest.find('\n').unwrap_or(rest.len());
            continue;
        } else if rest.starts_with("/*") {
            at += block_comment(rest);
            continue;
        } else if let Some(length) = string(rest) {
            length
        } else if first.is_alphanumeric() || first == '_' {
            rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            character(rest).unwrap_or(first.len_utf8())
        };
        found.push(Token { text: &source[at..at + length], at });
        at += length;
    }
    found
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0_u32, 0);
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// The length of a string literal of any kind (plain, byte, C, raw) at the start of `rest`.
fn string(rest: &str) -> Option<usize> {
    let prefix = rest.find(|c: char| !matches!(c, 'b' | 'c' | 'r')).filter(|length| *length <= 2)?;
    let hashes = rest[prefix..].len() - rest[prefix..].trim_start_matches('#').len();
    let body = rest[prefix + hashes..].strip_prefix('"')?;
    let opened = prefix + hashes + 1;
    if rest[..prefix].contains('r') {
        let end = format!("\"{}", "#".repeat(hashes));
        return Some(body.find(&end).map_or(rest.len(), |at| opened + at + end.len()));
    }
    if hashes > 0 {
        return None;
    }
    let mut escaped = false;
    for (at, c) in body.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(opened + at + 1),
            _ => {}
        }
    }
    Some(rest.len())
}

/// The length of a character literal at the start of `rest`; a lifetime is none.
fn character(rest: &str) -> Option<usize> {
    let body = rest.strip_prefix('\'')?;
    let first = body.chars().next()?;
    if first == '\\' {
        let after = body[1..].chars().next()?.len_utf8();
        return body[1 + after..].find('\'').map(|at| 1 + 1 + after + at + 1);
    }
    body[first.len_utf8()..].starts_with('\'').then_some(first.len_utf8() + 2)
}

#[cfg(test)]
mod tests {
    use super::tokens;

    fn texts(source: &str) -> Vec<&str> {
        tokens(source).into_iter().map(|token| token.text).collect()
    }

    #[test]
    fn leaves_out_comments_and_keeps_literals_whole() {
        assert_eq!(texts("a // b\n /* c /* d */ e */ f::g"), ["a", "f", "::", "g"]);
        assert_eq!(
            texts(r##"x("crate::y", r#"a"b"#, b"\"")"##),
            ["x", "(", "\"crate::y\"", ",", "r#\"a\"b\"#", ",", "b\"\\\"\"", ")"]
        );
    }

    #[test]
    fn tells_characters_from_lifetimes() {
        assert_eq!(texts("'a' 'b '\\'' '\"' '\\u{1F600}'"), ["'a'", "'", "b", "'\\''", "'\"'", "'\\u{1F600}'"]);
    }

    #[test]
    fn survives_what_is_not_rust() {
        for text in ["\"never closed", "/* never closed", "r#\"never", "'", "'\\", "é'ü'", "b", "r#"] {
            tokens(text);
        }
    }
}
