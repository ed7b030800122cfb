//! Gateway API's `GRPCRoute` (`gateway.networking.k8s.io/v1`): as an HTTPRoute of the paths that gRPC calls have.

use crds::ObjectMeta;
use limiter::{
    policy::{PathMatch, RequestMatch, ValueMatch, weir},
    problem::{Problem, Reason},
};
use regex_syntax::escape;
use serde::Deserialize;

use super::{BackendRef, ParentRef, Parents, Rest, RouteModel, RouteRule, every_request, not_read, problem};

/// The object as it is written.
#[derive(Deserialize)]
pub(crate) struct GrpcRoute {
    metadata: ObjectMeta,
    spec: Spec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    parent_refs: Vec<ParentRef>,
    /// Gateway API: of no meaning where a Service is the parent.
    #[serde(default, rename = "hostnames")]
    _hostnames: Vec<String>,
    #[serde(default)]
    rules: Vec<Rule>,
    #[serde(flatten)]
    rest: Rest,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(rename = "name")]
    _name: Option<String>,
    #[serde(default)]
    matches: Vec<Match>,
    #[serde(default)]
    backend_refs: Vec<BackendRef>,
    #[serde(flatten)]
    rest: Rest,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Match {
    method: Option<MethodMatch>,
    #[serde(default)]
    headers: Vec<HeaderMatch>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MethodMatch {
    #[serde(default, rename = "type")]
    kind: MatchType,
    service: Option<String>,
    method: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderMatch {
    #[serde(default, rename = "type")]
    kind: MatchType,
    name: String,
    value: String,
}

#[derive(Clone, Copy, Default, Deserialize, PartialEq, Eq)]
enum MatchType {
    #[default]
    Exact,
    RegularExpression,
}

impl GrpcRoute {
    /// The model.
    ///
    /// # Errors
    /// Everything that is wrong with it. A route is taken as a whole or not at all.
    pub(crate) fn model(self) -> Result<RouteModel, Vec<Problem>> {
        let mut problems = Vec::new();
        let namespace = self.metadata.namespace.unwrap_or_default();
        not_read(&self.spec.rest, "spec", &[], &mut problems);
        let Parents { gateways, roots } = Parents::of(self.spec.parent_refs, &namespace, &mut problems);
        if !gateways.is_empty() {
            let message = "a GRPCRoute attaches to Services; at Gateways it is not carried out";
            let help = "write an HTTPRoute whose paths are those of the gRPC methods, such as /package.Service/Method";
            problems.push(problem("spec.parentRefs", Reason::NotYetSupported, message, help));
        }
        let mut rules = Vec::new();
        for (position, rule) in self.spec.rules.into_iter().enumerate() {
            rules.extend(rule.model(&namespace, &format!("spec.rules[{position}]"), &mut problems));
        }
        let created = self.metadata.creation_timestamp.map(|time| time.0);
        let generation = self.metadata.generation.unwrap_or(0);
        let model = RouteModel { generation, created, parents: Vec::new(), roots, hostnames: Vec::new(), rules };
        if problems.is_empty() { Ok(model) } else { Err(problems) }
    }
}

impl Rule {
    fn model(self, namespace: &str, field: &str, problems: &mut Vec<Problem>) -> Option<RouteRule> {
        not_read(&self.rest, field, &[], problems);
        let mut matches = Vec::new();
        for (position, one) in self.matches.into_iter().enumerate() {
            matches.push(one.model(&format!("{field}.matches[{position}]"), problems)?);
        }
        if matches.is_empty() {
            matches.push(every_request());
        }
        let mut backends = Vec::new();
        for (position, backend) in self.backend_refs.into_iter().enumerate() {
            backends.push(backend.model(namespace, true, &format!("{field}.backendRefs[{position}]"), problems)?);
        }
        Some(RouteRule { matches, backends })
    }
}

impl Match {
    fn model(self, field: &str, problems: &mut Vec<Problem>) -> Option<RequestMatch> {
        let mut found = every_request();
        if let Some(MethodMatch { kind, service, method }) = self.method {
            let sound = |text: &Option<String>| {
                text.as_ref()
                    .is_none_or(|text| kind != MatchType::RegularExpression || weir::regex_steps(text).is_some())
            };
            if !sound(&service) || !sound(&method) {
                let help = "the syntax is RE2: no look-around, no back-references";
                problems.push(problem(format!("{field}.method"), Reason::Invalid, "it is no regular expression", help));
                return None;
            }
            found.path = Some(match (kind, service, method) {
                (_, None, None) => {
                    let help = "name a service, a method or both, or leave it out";
                    problems.push(problem(format!("{field}.method"), Reason::Invalid, "it names nothing", help));
                    return None;
                }
                (MatchType::Exact, Some(service), Some(method)) => PathMatch::Exact(format!("/{service}/{method}")),
                (MatchType::Exact, Some(service), None) => PathMatch::Prefix(format!("/{service}")),
                (MatchType::Exact, None, Some(method)) => PathMatch::Regex(format!("/[^/]+/{}", escape(&method))),
                (MatchType::RegularExpression, service, method) => {
                    let any = || "[^/]+".to_owned();
                    let (service, method) = (service.unwrap_or_else(any), method.unwrap_or_else(any));
                    PathMatch::Regex(format!("/(?:{service})/(?:{method})"))
                }
            });
        }
        for HeaderMatch { kind, name, value } in self.headers {
            let value = match kind {
                MatchType::Exact => ValueMatch::Exact(value),
                MatchType::RegularExpression if weir::regex_steps(&value).is_some() => ValueMatch::Regex(value),
                MatchType::RegularExpression => {
                    let help = "the syntax is RE2: no look-around, no back-references";
                    let field = format!("{field}.headers[{name}]");
                    problems.push(problem(field, Reason::Invalid, "it is no regular expression", help));
                    return None;
                }
            };
            found.headers.insert(name.to_ascii_lowercase(), value);
        }
        Some(found)
    }
}
