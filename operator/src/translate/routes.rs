//! Which requests take which limits: overlapping matches to a list of routes where the first match wins.
//!
//! Envoy takes the first route that matches and only its limits, but every limit whose match fits must apply. So the list
//! starts with one region, "every request", and each match `m` splits each region `R` that it touches: `R and m`, with the
//! limit, goes directly before `R`. A request that reached `R` before reaches now `R and m` if `m` fits it, else `R`; hence the
//! list stays right at every step. Regions that nothing can match are never made, and a region that lies wholly inside `m` gets
//! the limit without being split, so rules on different paths or methods add one region each.

use limiter::policy::{PathMatch, RequestMatch, ValueMatch};

use crate::intent::{Priority, Route};

/// Most regions of one service.
pub(super) const MOST: usize = 512;

#[derive(Clone)]
struct Region {
    /// All of these hold.
    matches: Vec<RequestMatch>,
    limits: Vec<usize>,
}

#[derive(Clone)]
pub(super) struct Regions(Vec<Region>);

/// What becomes of a region's positions.
#[derive(Default)]
pub(super) struct Taken<'a> {
    pub(super) limits: Vec<usize>,
    pub(super) classes: Vec<String>,
    pub(super) priority: Priority,
    /// Names of the rules, for the route's own.
    pub(super) rules: Vec<&'a str>,
}

impl Regions {
    pub(super) fn new() -> Self {
        Self::within(Vec::new())
    }

    /// Only requests that all of `matches` fit.
    pub(super) fn within(matches: Vec<RequestMatch>) -> Self {
        Self(vec![Region { matches, limits: Vec::new() }])
    }

    /// Adds a limit for requests that any of `matches` fits (all requests when there is none). Returns false, with nothing
    /// changed, when that would make too many regions.
    pub(super) fn add(&mut self, limit: usize, matches: &[RequestMatch]) -> bool {
        self.split(limit, matches, |_| true)
    }

    /// Like [`Self::add`], for those requests only that take the limit `within` already.
    pub(super) fn add_within(&mut self, limit: usize, within: usize, matches: &[RequestMatch]) -> bool {
        self.split(limit, matches, |region| region.limits.contains(&within))
    }

    fn split(&mut self, limit: usize, matches: &[RequestMatch], concerns: impl Fn(&Region) -> bool) -> bool {
        let everything = [RequestMatch::default()];
        let matches = if matches.is_empty() { &everything[..] } else { matches };
        let mut regions = self.0.clone();
        for wanted in matches {
            let mut split = Vec::with_capacity(regions.len());
            for mut region in regions {
                if region.limits.contains(&limit) || !concerns(&region) {
                    split.push(region);
                } else if implies(&region.matches, wanted) {
                    region.limits.push(limit);
                    split.push(region);
                } else if let Some(both) = conjoin(&region.matches, wanted) {
                    // Inside a region that stands before it, it would never be reached.
                    let inside = |earlier: &Region| earlier.matches.iter().all(|part| implies(&both, part));
                    if !split.iter().any(inside) {
                        let limits = region.limits.iter().copied().chain([limit]).collect();
                        split.push(Region { matches: both, limits });
                    }
                    split.push(region);
                } else {
                    split.push(region);
                }
            }
            if split.len() > MOST {
                return false;
            }
            regions = split;
        }
        self.0 = regions;
        true
    }

    /// The routes, with what `resolve` makes of the positions that were added to each region.
    pub(super) fn into_routes<'a>(self, resolve: impl Fn(&[usize]) -> Taken<'a>) -> Vec<Route> {
        let last = self.0.len() - 1;
        let name = |position: usize, rules: &[&str]| {
            if position == last {
                return "every-request".to_owned();
            }
            let rules: String = rules.join("+").chars().take(100).collect();
            format!("{position}:{rules}")
        };
        let routes = self.0.into_iter().enumerate().map(|(position, region)| {
            let Taken { limits, classes, priority, rules } = resolve(&region.limits);
            Route { name: name(position, &rules), matches: region.matches, limits, priority, classes }
        });
        routes.collect()
    }
}

/// Whether every request that `region` fits is one that `wanted` fits; false also when that cannot be told.
fn implies(region: &[RequestMatch], wanted: &RequestMatch) -> bool {
    let path = wanted.path.as_ref().is_none_or(|wanted| {
        region.iter().filter_map(|part| part.path.as_ref()).any(|path| path_implies(path, wanted))
    });
    let method = wanted.method.is_none() || region.iter().any(|part| part.method == wanted.method);
    let headers =
        wanted.headers.iter().all(|(name, value)| region.iter().any(|part| part.headers.get(name) == Some(value)));
    let queries = wanted
        .query_params
        .iter()
        .all(|(name, value)| region.iter().any(|part| part.query_params.get(name) == Some(value)));
    path && method && headers && queries
}

fn path_implies(path: &PathMatch, wanted: &PathMatch) -> bool {
    match (path, wanted) {
        (PathMatch::Exact(path) | PathMatch::Prefix(path), PathMatch::Prefix(prefix)) => under(path, prefix),
        (path, wanted) => path == wanted,
    }
}

/// Whether `path` is `prefix` or lies below it, by path elements.
fn under(path: &str, prefix: &str) -> bool {
    let prefix = prefix.trim_end_matches('/');
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// `region and wanted`; `None` when no request fits both.
fn conjoin(region: &[RequestMatch], wanted: &RequestMatch) -> Option<Vec<RequestMatch>> {
    let mut all = if region.is_empty() { vec![RequestMatch::default()] } else { region.to_vec() };
    // What the first part cannot take in: a second regular expression of the same thing.
    let mut rest = RequestMatch::default();
    let first = &mut all[0];
    match (&first.method, &wanted.method) {
        (Some(have), Some(want)) if have != want => return None,
        (None, Some(want)) => first.method = Some(want.clone()),
        _ => {}
    }
    if let Some(want) = &wanted.path {
        match first.path.take() {
            None => first.path = Some(want.clone()),
            Some(have) if path_implies(&have, want) => first.path = Some(have),
            Some(have) if path_implies(want, &have) => first.path = Some(want.clone()),
            Some(have @ PathMatch::Regex(_)) => {
                // Envoy matches one path by itself and the rest as headers: keep the plain one in front.
                if matches!(want, PathMatch::Regex(_)) {
                    first.path = Some(have);
                    rest.path = Some(want.clone());
                } else {
                    first.path = Some(want.clone());
                    rest.path = Some(have);
                }
            }
            Some(have) => {
                if !matches!(want, PathMatch::Regex(_)) {
                    return None; // two plain paths, neither under the other
                }
                first.path = Some(have);
                rest.path = Some(want.clone());
            }
        }
    }
    let parts = [
        (&mut first.headers, &wanted.headers, &mut rest.headers),
        (&mut first.query_params, &wanted.query_params, &mut rest.query_params),
    ];
    for (have, want, rest) in parts {
        for (name, value) in want {
            match have.get(name) {
                None => drop(have.insert(name.clone(), value.clone())),
                Some(old) if old == value => {}
                Some(ValueMatch::Exact(_)) if matches!(value, ValueMatch::Exact(_)) => return None,
                Some(_) => drop(rest.insert(name.clone(), value.clone())),
            }
        }
    }
    if rest != RequestMatch::default() {
        all.push(rest);
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use limiter::policy::PathMatch::{Exact, Prefix, Regex};

    use super::*;

    fn path(path: PathMatch) -> RequestMatch {
        RequestMatch { path: Some(path), ..RequestMatch::default() }
    }

    fn method(method: &str) -> RequestMatch {
        RequestMatch { method: Some(method.to_owned()), ..RequestMatch::default() }
    }

    fn routes(rules: &[Vec<RequestMatch>]) -> Vec<(Vec<RequestMatch>, Vec<usize>)> {
        let mut regions = Regions::new();
        for (position, matches) in rules.iter().enumerate() {
            assert!(regions.add(position, matches));
        }
        regions.0.into_iter().map(|region| (region.matches, region.limits)).collect()
    }

    #[test]
    fn a_service_wide_rule_needs_no_route_of_its_own() {
        assert_eq!(routes(&[vec![]]), [(vec![], vec![0])]);
    }

    #[test]
    fn overlapping_rules_all_apply() {
        let checkout = path(Prefix("/checkout".to_owned()));
        let both = RequestMatch { method: Some("POST".to_owned()), ..checkout.clone() };
        let found = routes(&[vec![], vec![checkout.clone()], vec![method("POST")]]);
        let wanted = [
            (vec![both], vec![0, 1, 2]),
            (vec![checkout], vec![0, 1]),
            (vec![method("POST")], vec![0, 2]),
            (vec![], vec![0]),
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn paths_that_exclude_each_other_add_one_route_each() {
        let rules: Vec<_> = (0..32).map(|n| vec![path(Prefix(format!("/p{n}")))]).collect();
        assert_eq!(routes(&rules).len(), 33);
    }

    #[test]
    fn a_longer_path_lies_inside_a_shorter_one() {
        let (outer, inner) = (path(Prefix("/a".to_owned())), path(Exact("/a/b".to_owned())));
        for rules in [[vec![outer.clone()], vec![inner.clone()]], [vec![inner.clone()], vec![outer.clone()]]] {
            let found = routes(&rules);
            assert_eq!(found.len(), 3, "{found:?}");
            assert_eq!(found[0].0, vec![inner.clone()]);
            assert_eq!(found[0].1.len(), 2);
            assert_eq!(found[1], (vec![outer.clone()], vec![if rules[0][0] == outer { 0 } else { 1 }]));
        }
        assert!(!under("/ab", "/a") && under("/a", "/a") && under("/a/b", "/a/") && under("/x", "/"));
    }

    #[test]
    fn two_regular_expressions_stand_side_by_side() {
        let (one, two) = (path(Regex("/a.*".to_owned())), path(Regex(".*b".to_owned())));
        let found = routes(&[vec![one.clone()], vec![two.clone()]]);
        assert_eq!(found[0], (vec![one, two], vec![0, 1]));
    }

    #[test]
    fn refuses_more_regions_than_can_be_served() {
        let mut regions = Regions::new();
        let header = |n: usize| RequestMatch {
            headers: [(format!("x-{n}"), ValueMatch::Exact("1".to_owned()))].into(),
            ..RequestMatch::default()
        };
        let added = (0..32).take_while(|n| regions.add(*n, &[header(*n)])).count();
        assert_eq!(added, 9); // 2^9 = 512
        assert_eq!(regions.0.len(), 512);
    }

    /// The specification: a request takes the limits of every rule that fits it, whatever the order of the routes.
    #[test]
    fn every_request_takes_exactly_the_limits_that_fit_it() {
        let fits = |part: &RequestMatch, path: &str, method: &str, tier: Option<&str>| {
            let path_fits = match &part.path {
                None => true,
                Some(Exact(exact)) => path == exact,
                Some(Prefix(prefix)) => under(path, prefix),
                Some(Regex(regex)) => regex == ".*x" && path.ends_with('x'),
            };
            let header_fits = part.headers.values().all(|value| match value {
                ValueMatch::Exact(value) => tier == Some(value),
                ValueMatch::Regex(_) => tier.is_some(),
            });
            path_fits && part.method.as_deref().is_none_or(|want| want == method) && header_fits
        };
        let tier =
            |value: ValueMatch| RequestMatch { headers: [("tier".to_owned(), value)].into(), ..Default::default() };
        let rules = [
            vec![],
            vec![path(Prefix("/a".to_owned())), method("PUT")],
            vec![path(Exact("/a/x".to_owned()))],
            vec![path(Regex(".*x".to_owned()))],
            vec![tier(ValueMatch::Exact("free".to_owned())), tier(ValueMatch::Exact("gold".to_owned()))],
            vec![tier(ValueMatch::Regex(".+".to_owned()))],
            vec![method("POST"), path(Prefix("/".to_owned()))],
        ];
        let routes = routes(&rules);
        for path in ["/", "/a", "/a/x", "/ax", "/b/x"] {
            for method in ["GET", "PUT", "POST"] {
                for tier in [None, Some("free"), Some("gold"), Some("other")] {
                    let route = routes
                        .iter()
                        .find(|(matches, _)| matches.iter().all(|part| fits(part, path, method, tier)))
                        .expect("the last route fits everything");
                    let mut took = route.1.clone();
                    took.sort_unstable();
                    let wanted: Vec<_> = (0..rules.len())
                        .filter(|n| rules[*n].is_empty() || rules[*n].iter().any(|part| fits(part, path, method, tier)))
                        .collect();
                    assert_eq!(took, wanted, "{method} {path} tier {tier:?}");
                }
            }
        }
    }
}
