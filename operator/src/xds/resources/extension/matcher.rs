//! Matches as a predicate over a request's headers: what a route says, for a filter.

use envoy_types::pb::{
    envoy::r#type::matcher::v3::{HttpRequestHeaderMatchInput, HttpRequestQueryParamMatchInput},
    google::protobuf::Any,
    xds::{
        core::v3::TypedExtensionConfig,
        r#type::matcher::v3::{
            RegexMatcher, StringMatcher,
            matcher::matcher_list::{
                Predicate,
                predicate::{MatchType, PredicateList, SinglePredicate, single_predicate::Matcher},
            },
            regex_matcher::{EngineType, GoogleRe2},
            string_matcher::MatchPattern,
        },
    },
};

use ::limiter::policy::{PathMatch, RequestMatch, ValueMatch};

use crate::xds::resources::{any, route};

/// All of `matches` must match. `None`: every request does.
pub(super) fn predicate(matches: &[RequestMatch]) -> Option<Predicate> {
    let mut all = Vec::new();
    for RequestMatch { path, method, headers, query_params } in matches {
        all.extend(path.as_ref().and_then(path_predicate));
        all.extend(method.iter().map(|method| header(":method", MatchPattern::Exact(method.clone()))));
        all.extend(headers.iter().map(|(name, value)| header(name, pattern(value))));
        all.extend(query_params.iter().map(|(name, value)| {
            let input = HttpRequestQueryParamMatchInput { query_param: name.clone() };
            single("query", any(&input), pattern(value))
        }));
    }
    // Envoy refuses a list of one.
    match all.len() {
        0 | 1 => all.pop(),
        _ => Some(Predicate { match_type: Some(MatchType::AndMatcher(PredicateList { predicate: all })) }),
    }
}

/// The header carries the query too. Plain paths go without a regular expression, of which a proxy takes only small ones.
fn path_predicate(path: &PathMatch) -> Option<Predicate> {
    let patterns = match path {
        PathMatch::Exact(path) => {
            vec![MatchPattern::Exact(path.clone()), MatchPattern::Prefix(format!("{path}?"))]
        }
        PathMatch::Prefix(prefix) => match prefix.trim_end_matches('/') {
            "" => return None,
            prefix => vec![
                MatchPattern::Exact(prefix.to_owned()),
                MatchPattern::Prefix(format!("{prefix}/")),
                MatchPattern::Prefix(format!("{prefix}?")),
            ],
        },
        PathMatch::Regex(_) => return Some(header(":path", MatchPattern::SafeRegex(regex(&route::path_regex(path)?)))),
    };
    let predicate = patterns.into_iter().map(|pattern| header(":path", pattern)).collect();
    Some(Predicate { match_type: Some(MatchType::OrMatcher(PredicateList { predicate })) })
}

fn pattern(value: &ValueMatch) -> MatchPattern {
    match value {
        ValueMatch::Exact(text) => MatchPattern::Exact(text.clone()),
        ValueMatch::Regex(text) => MatchPattern::SafeRegex(regex(text)),
    }
}

fn regex(text: &str) -> RegexMatcher {
    RegexMatcher { regex: text.into(), engine_type: Some(EngineType::GoogleRe2(GoogleRe2 {})) }
}

fn header(name: &str, pattern: MatchPattern) -> Predicate {
    single("header", any(&HttpRequestHeaderMatchInput { header_name: name.into() }), pattern)
}

fn single(name: &str, input: Any, pattern: MatchPattern) -> Predicate {
    Predicate {
        match_type: Some(MatchType::SinglePredicate(SinglePredicate {
            input: Some(TypedExtensionConfig { name: name.into(), typed_config: Some(input) }),
            matcher: Some(Matcher::ValueMatch(StringMatcher { ignore_case: false, match_pattern: Some(pattern) })),
        })),
    }
}
