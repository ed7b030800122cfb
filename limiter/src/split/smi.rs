//! SMI's `TrafficSplit` and `HTTPRouteGroup`, in any version, to [`Split`] and matches.
//!
//! What the specification leaves open is decided here and in the index, and stands in `docs/smi.md`.

use std::collections::BTreeSet;

use crds::smi::{HttpMatch, HttpRouteGroup, TrafficSplit};
use serde_json::Value;

use super::{Arm, Kind, Split, SplitKey, shares::Bounds};
use crate::{
    language::is_header_name,
    policy::{
        Mode, PathMatch, RequestMatch, ValueMatch, is_dns_label,
        problems::{self, Problems},
        weir::regex,
    },
    problem::Problem,
};

/// The most backends of one split.
const MOST_ARMS: usize = 256;
/// Weights are kept in thousandths.
const MILLI: f64 = 1000.0;
/// The largest weight, in thousandths; larger ones are a mistake.
const LARGEST: f64 = 1e15;

/// What the object describes, as far as it can be understood, and everything that is wrong with it.
#[must_use]
pub fn split(object: &TrafficSplit) -> (Option<Split>, Vec<Problem>) {
    let mut problems = Problems::default();
    let key = problems::names(&object.metadata, &mut problems);
    let namespace = key.as_ref().map_or("default", |(namespace, _)| namespace.as_str());
    let root = service(&object.spec.service, namespace, "spec.service", &mut problems);
    let arms = arms(object, namespace, &mut problems);
    let mut groups = Vec::new();
    for (position, group) in object.spec.matches.iter().enumerate() {
        let field = format!("spec.matches[{position}]");
        if group.kind != "HTTPRouteGroup" {
            let help = "write `kind: HTTPRouteGroup`";
            problems.add(
                format!("{field}.kind"),
                format!("requests are chosen by an HTTPRouteGroup, not by a {}", group.kind),
                help,
            );
        } else if !problems::is_dns_name(&group.name) {
            problems.invalid(format!("{field}.name"), format!("{:?} is no name of an object", group.name));
        } else if !groups.contains(&group.name) {
            groups.push(group.name.clone());
        }
    }
    let split = || {
        let (namespace, name) = key.clone()?;
        Some(Split {
            key: SplitKey { kind: Kind::TrafficSplit, namespace, name },
            generation: object.metadata.generation.unwrap_or(0),
            created: object.metadata.creation_timestamp.as_ref().map(|time| time.0),
            root: root?,
            groups,
            arms: arms?,
            steer: None,
            mode: Mode::Enforce,
            sticky: None,
        })
    };
    (split(), problems.into_vec())
}

/// The name of a Service: as it is, or as cluster DNS has it.
fn service(text: &str, namespace: &str, field: &str, problems: &mut Problems) -> Option<String> {
    let short = text.strip_suffix('.').unwrap_or(text);
    let short = short.strip_suffix(".svc.cluster.local").or_else(|| short.strip_suffix(".svc")).unwrap_or(short);
    let (name, of) = short.split_once('.').unwrap_or((short, namespace));
    if !is_dns_label(name) || !is_dns_label(of) {
        problems.add(field, format!("{text:?} is no name of a Service"), "write the Service's name, for example `web`");
        return None;
    }
    if of != namespace {
        let message = format!("a TrafficSplit is for Services of its own namespace, and {text:?} is of {of:?}");
        problems.add(
            field,
            message,
            "put the TrafficSplit there, or use an HTTPRoute, whose backends may be elsewhere",
        );
        return None;
    }
    Some(name.to_owned())
}

fn arms(object: &TrafficSplit, namespace: &str, problems: &mut Problems) -> Option<Vec<Arm>> {
    const FIELD: &str = "spec.backends";
    let list = &object.spec.backends;
    if list.is_empty() || list.len() > MOST_ARMS {
        problems.invalid(FIELD, format!("expected 1 to {MOST_ARMS} backends, found {}", list.len()));
        return None;
    }
    let mut names = BTreeSet::new();
    let mut read = Vec::new();
    for (position, backend) in list.iter().enumerate() {
        let field = format!("{FIELD}[{position}]");
        let name = service(&backend.service, namespace, &format!("{field}.service"), problems);
        let weight = weight(&backend.weight, &format!("{field}.weight"), problems);
        let Some((name, weight)) = name.zip(weight) else { continue };
        if names.insert(name.clone()) {
            read.push((name, weight));
        } else {
            problems.add(
                format!("{field}.service"),
                format!("{name:?} is named twice"),
                "add the weights up in one entry",
            );
        }
    }
    if read.len() < list.len() {
        return None;
    }
    // 1000 and 500 thousandths are 2 and 1.
    let divisor = read.iter().fold(0, |divisor, (_, weight)| gcd(divisor, *weight)).max(1);
    let arm = |(service, weight): (String, u64)| Arm {
        service,
        port: None,
        weight: weight / divisor,
        bounds: Bounds::default(),
        capacity: None,
    };
    Some(read.into_iter().map(arm).collect())
}

fn gcd(mut one: u64, mut other: u64) -> u64 {
    while other > 0 {
        (one, other) = (other, one % other);
    }
    one
}

/// A weight in thousandths: a whole number (v1alpha2 on), or a Kubernetes quantity (v1alpha1).
fn weight(value: &Value, field: &str, problems: &mut Problems) -> Option<u64> {
    const HELP: &str =
        "write a whole number, or a Kubernetes quantity such as `500m`; weights are relative to each other";
    let number = match value {
        Value::Number(number) => number.as_f64().filter(|number| number.fract() == 0.0),
        Value::String(text) => crate::quantity::quantity(text.trim()),
        _ => None,
    };
    let milli = number.map(|number| number * MILLI);
    let Some(milli) = milli.filter(|milli| (0.0..=LARGEST).contains(milli)) else {
        let shown = if value.is_null() { "nothing".to_owned() } else { value.to_string() };
        problems.add(field, format!("expected a whole number or a quantity from 0 to 10^12, found {shown}"), HELP);
        return None;
    };
    if (milli - milli.round()).abs() > 1e-6 * milli.max(1.0) {
        problems.add(field, format!("a weight has thousandths at the most, found {value}"), HELP);
        return None;
    }
    Some(milli.round() as u64)
}

/// Requests that belong to the group: any of these.
///
/// # Errors
/// Everything that is wrong with it.
pub fn matches(object: &HttpRouteGroup) -> Result<Vec<RequestMatch>, Vec<Problem>> {
    let mut problems = Problems::default();
    let (list, field) = match object.spec.matches.is_empty() {
        false => (&object.spec.matches, "spec.matches"),
        true => (&object.matches, "matches"),
    };
    if list.is_empty() {
        problems.add(
            "spec.matches",
            "the group matches nothing",
            "write for example `matches: [{name: all, pathRegex: /}]`",
        );
    }
    if list.len() > 64 {
        problems.invalid(field, format!("at most 64 matches, found {}", list.len()));
    }
    let read: Vec<RequestMatch> = list
        .iter()
        .enumerate()
        .flat_map(|(position, one)| request_matches(one, &format!("{field}[{position}]"), &mut problems))
        .collect();
    let problems = problems.into_vec();
    if problems.is_empty() { Ok(read) } else { Err(problems) }
}

/// One for each method.
fn request_matches(one: &HttpMatch, field: &str, problems: &mut Problems) -> Vec<RequestMatch> {
    let HttpMatch { name: _, path_regex, methods, headers } = one;
    let mut found = RequestMatch::default();
    if let Some(text) = path_regex.as_deref().filter(|text| !text.is_empty()) {
        // SMI anchors it at the beginning alone, and Envoy at both ends.
        let text = text.strip_prefix('^').unwrap_or(text);
        if text.is_empty() || regex(text, &format!("{field}.pathRegex"), problems) {
            found.path = Some(PathMatch::Regex(format!("(?:{text}).*")));
        }
    }
    for (name, value) in headers.iter() {
        let field = format!("{field}.headers[{name}]");
        if !is_header_name(name) {
            problems.add(field, format!("{name:?} is no header's name"), "a name has letters, digits and `-`");
        } else if regex(value, &field, problems) {
            let lower = match name.to_ascii_lowercase().as_str() {
                "host" => ":authority".to_owned(),
                lower => lower.to_owned(),
            };
            if found.headers.insert(lower, ValueMatch::Regex(value.clone())).is_some() {
                problems.add(field, format!("{name:?} is matched twice"), "all headers must match; keep one");
            }
        }
    }
    let known = ["GET", "HEAD", "PUT", "POST", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    for (position, method) in methods.iter().enumerate() {
        if method != "*" && !known.contains(&method.as_str()) {
            let message = format!("{method:?} is no method");
            problems.add(
                format!("{field}.methods[{position}]"),
                message,
                "write GET, POST, … in capitals, or `*` for all",
            );
        }
    }
    if methods.is_empty() || methods.iter().any(|method| method == "*") {
        return vec![found];
    }
    methods.iter().map(|method| RequestMatch { method: Some(method.clone()), ..found.clone() }).collect()
}

#[cfg(test)]
mod tests;
