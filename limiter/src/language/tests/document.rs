//! The reference page's own examples.

use super::vocabulary;
use crate::language::{parse_adapt, parse_limit, parse_when};

const PAGE: &str = include_str!("../../../../docs/reference/language.md");

/// The sentences of the page's tables: the first cell of each row after a heading that names the kind of sentence.
fn sentences(heading: &str) -> Vec<&'static str> {
    let section = PAGE.split("\n## ").find(|section| section.starts_with(heading)).expect("the page has this heading");
    section
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|line| line.split_once('`'))
        .map(|(sentence, _)| sentence)
        .collect()
}

#[test]
fn every_example_can_be_read() {
    let (conditions, limits, goals) =
        (sentences("Examples of `when`"), sentences("Examples of `limit`"), sentences("Examples of `adapt`"));
    assert!(conditions.len() > 10 && limits.len() > 5 && goals.len() > 1, "{conditions:?} {limits:?} {goals:?}");
    for text in conditions {
        let text = text.replace("\\|", "|");
        parse_when(&text, &vocabulary()).unwrap_or_else(|error| panic!("{text:?}: {error:?}"));
    }
    for text in limits {
        parse_limit(text).unwrap_or_else(|error| panic!("{text:?}: {error:?}"));
    }
    for text in goals {
        parse_adapt(text, &vocabulary()).unwrap_or_else(|error| panic!("{text:?}: {error:?}"));
    }
}

#[test]
fn every_refused_example_is_refused() {
    for text in sentences("Mistakes") {
        assert!(parse_when(text, &vocabulary()).is_err() && parse_limit(text).is_err(), "{text:?} can be read");
    }
}
