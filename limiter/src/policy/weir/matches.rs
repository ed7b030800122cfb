//! Gateway API's matches.

use std::collections::BTreeMap;

use crds::smart_limiter as api;
use regex_syntax::{
    ParserBuilder,
    hir::{Class, Hir, HirKind},
};

use crate::{
    language::is_header_name,
    policy::{PathMatch, Problems, RequestMatch, ValueMatch},
};

/// The matches, when each of them can be understood.
pub(super) fn matches(list: &[api::RequestMatch], field: &str, problems: &mut Problems) -> Option<Vec<RequestMatch>> {
    if list.len() > 16 {
        problems.invalid(field, format!("at most 16 matches, found {}", list.len()));
    }
    let read: Vec<RequestMatch> = list
        .iter()
        .enumerate()
        .filter_map(|(position, entry)| request_match(entry, &format!("{field}[{position}]"), problems))
        .collect();
    (read.len() == list.len()).then_some(read)
}

pub(super) fn request_match(entry: &api::RequestMatch, field: &str, problems: &mut Problems) -> Option<RequestMatch> {
    let api::RequestMatch { path, method, headers, query_params, source_cidrs } = entry;
    if !source_cidrs.is_empty() {
        problems.not_yet(
            format!("{field}.sourceCIDRs"),
            "requests cannot be chosen by the client's address yet",
            "leave `sourceCIDRs` out, or limit `per client ip`",
        );
    }
    let path = match path {
        None => Some(None),
        Some(path) => path_match(path, &format!("{field}.path"), problems).map(Some),
    };
    let headers = values(headers, &format!("{field}.headers"), true, problems);
    let query_params = values(query_params, &format!("{field}.queryParams"), false, problems);
    Some(RequestMatch {
        path: path?,
        method: method.map(|method| method.as_str().to_owned()),
        headers: headers?,
        query_params: query_params?,
    })
}

fn path_match(path: &api::PathMatch, field: &str, problems: &mut Problems) -> Option<PathMatch> {
    let api::PathMatch { kind, value } = path;
    let field = format!("{field}.value");
    if value.len() > 1024 {
        problems.invalid(field, format!("a path has at most 1024 bytes, found {}", value.len()));
        return None;
    }
    if *kind == api::PathMatchType::RegularExpression {
        return regex(value, &field, problems).then(|| PathMatch::Regex(value.clone()));
    }
    if !value.starts_with('/') {
        problems.add(field, format!("a path begins with `/`, found {value:?}"), format!("write `/{value}`"));
        return None;
    }
    if let Some(found) = value.chars().find(|c| matches!(c, '?' | '#') || c.is_whitespace() || c.is_control()) {
        problems.add(
            field,
            format!("a path has no {found:?}"),
            if found == '?' { "use `queryParams` for the query" } else { "write it percent-encoded" },
        );
        return None;
    }
    Some(match kind {
        api::PathMatchType::Exact => PathMatch::Exact(value.clone()),
        api::PathMatchType::PathPrefix | api::PathMatchType::RegularExpression => {
            let trimmed = value.trim_end_matches('/');
            PathMatch::Prefix(if trimmed.is_empty() { "/".to_owned() } else { trimmed.to_owned() })
        }
    })
}

/// Headers are compared without regard to case, query parameters with.
fn values(
    list: &[api::ValueMatch],
    field: &str,
    headers: bool,
    problems: &mut Problems,
) -> Option<BTreeMap<String, ValueMatch>> {
    let mut read = BTreeMap::new();
    let mut sound = list.len() <= 16;
    if !sound {
        problems.invalid(field, format!("at most 16 entries, found {}", list.len()));
    }
    for (position, entry) in list.iter().enumerate() {
        let api::ValueMatch { kind, name, value } = entry;
        let field = format!("{field}[{position}]");
        if headers && !is_header_name(name) {
            problems.add(
                format!("{field}.name"),
                format!("{name:?} is no header's name"),
                "a name has letters, digits and `-`",
            );
            sound = false;
        } else if name.is_empty() || name.len() > 256 {
            problems.invalid(format!("{field}.name"), "a name has from 1 to 256 bytes");
            sound = false;
        }
        if value.is_empty() || value.len() > 4096 {
            problems.invalid(format!("{field}.value"), "a value has from 1 to 4096 bytes");
            sound = false;
        }
        let matched = match kind {
            api::ValueMatchType::Exact => ValueMatch::Exact(value.clone()),
            api::ValueMatchType::RegularExpression => {
                sound &= regex(value, &format!("{field}.value"), problems);
                ValueMatch::Regex(value.clone())
            }
        };
        let name = if headers { name.to_ascii_lowercase() } else { name.clone() };
        if read.insert(name.clone(), matched).is_some() {
            problems.add(
                format!("{field}.name"),
                format!("{name:?} is matched twice"),
                "all entries must match; keep one",
            );
            sound = false;
        }
    }
    sound.then_some(read)
}

/// Largest program of a regular expression that is sent. The bootstrap that Weir writes lets Envoy take three times as much;
/// the sizes here are estimates.
const MAX_PROGRAM_SIZE: u64 = 10_000;
/// RE2 takes no larger count in `{n,m}`.
const MAX_COUNT: u32 = 1_000;

/// Steps of the program that RE2 makes of the tree, about. A count above [`MAX_COUNT`] has no end.
fn program_size(tree: &Hir) -> u64 {
    match tree.kind() {
        HirKind::Empty => 0,
        HirKind::Look(_) => 1,
        HirKind::Literal(literal) => literal.0.len() as u64,
        HirKind::Class(Class::Bytes(class)) => class.ranges().len() as u64,
        // A range of characters beyond ASCII takes a few ranges of bytes.
        HirKind::Class(Class::Unicode(class)) => 4 * class.ranges().len() as u64,
        HirKind::Capture(capture) => program_size(&capture.sub).saturating_add(2),
        HirKind::Concat(parts) => parts.iter().map(program_size).fold(0, u64::saturating_add),
        HirKind::Alternation(parts) => {
            parts.iter().map(|part| program_size(part).saturating_add(1)).fold(0, u64::saturating_add)
        }
        HirKind::Repetition(repetition) => {
            if repetition.max.unwrap_or(repetition.min) > MAX_COUNT {
                return u64::MAX;
            }
            // `x{3,}` is `xxxx*`.
            let copies = repetition.max.unwrap_or(repetition.min + 1).max(1);
            program_size(&repetition.sub).saturating_add(1).saturating_mul(u64::from(copies))
        }
    }
}

/// Steps of the program that RE2 makes of a regular expression, about (measured: within a fifth). `None`: it is none.
#[must_use]
pub fn regex_steps(text: &str) -> Option<u64> {
    parse(text).ok().map(|tree| program_size(&tree))
}

fn parse(text: &str) -> Result<Hir, Box<regex_syntax::Error>> {
    // `\d` and its like are ASCII, as in RE2; with Unicode only where the text asks for it (`\pL`).
    if let Ok(tree) = ParserBuilder::new().unicode(false).utf8(false).build().parse(text) {
        return Ok(tree);
    }
    regex_syntax::Parser::new().parse(text).map_err(Box::new)
}

/// Whether `text` is a regular expression that Envoy's engine, RE2, can be expected to take. Look-around and
/// back-references are in neither syntax.
pub(crate) fn regex(text: &str, field: &str, problems: &mut Problems) -> bool {
    if text.is_empty() {
        problems.invalid(field, "the regular expression is empty");
        return false;
    }
    match parse(text) {
        Ok(tree) => {
            let size = program_size(&tree);
            if size > MAX_PROGRAM_SIZE {
                problems.add(
                    field,
                    format!("{text:?} is too large for a proxy: more than {MAX_PROGRAM_SIZE} steps, or a count above {MAX_COUNT}"),
                    "count less, as in {1,20}, or match a prefix",
                );
            }
            size <= MAX_PROGRAM_SIZE
        }
        Err(error) => {
            let reason = match &*error {
                regex_syntax::Error::Parse(error) => error.kind().to_string(),
                regex_syntax::Error::Translate(error) => error.kind().to_string(),
                other => other.to_string().lines().last().unwrap_or_default().to_owned(),
            };
            problems.add(
                field,
                format!("{text:?} is no regular expression: {reason}"),
                "the syntax is RE2: no look-around, no back-references",
            );
            false
        }
    }
}
