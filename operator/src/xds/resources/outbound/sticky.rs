//! Users that stay with one of the clusters that a route leads to: by the hash of what tells them apart.

use envoy_types::pb::envoy::config::{
    core::v3::{HeaderValue, HeaderValueOption},
    route::v3::{
        HeaderMatcher, Route, RouteMatch,
        header_matcher::HeaderMatchSpecifier,
        route,
        route_action::{
            HashPolicy,
            hash_policy::{self, PolicySpecifier},
        },
    },
};
use limiter::split::Sticky;

use crate::xds::resources::route::regex_match;
use regex_syntax::escape;

/// Envoy gives each request one that has none.
const REQUEST_ID: &str = "x-request-id";

pub(super) fn policy(sticky: &Sticky) -> HashPolicy {
    let specifier = match sticky {
        Sticky::Header(name) => by_header(name),
        Sticky::Cookie(name) => {
            PolicySpecifier::Cookie(hash_policy::Cookie { name: name.clone(), ..Default::default() })
        }
        Sticky::ClientIp => {
            PolicySpecifier::ConnectionProperties(hash_policy::ConnectionProperties { source_ip: true })
        }
    };
    HashPolicy { policy_specifier: Some(specifier), ..HashPolicy::default() }
}

fn by_header(name: &str) -> PolicySpecifier {
    PolicySpecifier::Header(hash_policy::Header { header_name: name.into(), ..hash_policy::Header::default() })
}

/// What follows the shared part of a route: of the one for users who have the cookie, and of the one for those who have none.
///
/// Envoy gives out cookies of its own when it chooses an endpoint, and not when it chooses a cluster. So who has none is told apart by the
/// identity of the request, which it is given as the cookie: both have the same hash. It lasts as long as the browser's session.
pub(super) fn by_cookie(name: &str, action: route::Action) -> [Route; 2] {
    let has_it = HeaderMatcher {
        name: "cookie".into(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(regex_match(&format!(
            "(.*; *)?{}=\"?[^;\"].*",
            escape(name)
        )))),
        ..HeaderMatcher::default()
    };
    let mut of_new = action.clone();
    if let route::Action::Route(to) = &mut of_new {
        let policy = HashPolicy { policy_specifier: Some(by_header(REQUEST_ID)), ..HashPolicy::default() };
        to.hash_policy = vec![policy];
    }
    let given = HeaderValue {
        key: "set-cookie".into(),
        value: format!("{}=%REQ({REQUEST_ID})%; Path=/; HttpOnly", name.replace('%', "%%")),
        ..HeaderValue::default()
    };
    [
        Route {
            r#match: Some(RouteMatch { headers: vec![has_it], ..RouteMatch::default() }),
            action: Some(action),
            ..Route::default()
        },
        Route {
            action: Some(of_new),
            response_headers_to_add: vec![HeaderValueOption { header: Some(given), ..HeaderValueOption::default() }],
            ..Route::default()
        },
    ]
}
