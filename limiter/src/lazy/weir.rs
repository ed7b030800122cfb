//! `LazyConfig` of `weir.dev/v1alpha1` to [`Lazy`].
//!
//! Checks everything that the API server would, because files have none.

use std::{collections::BTreeMap, time::Duration};

use crds::lazy_config::{self as api, LazyConfig};

use super::{Callee, Fallback, Lazy, LazyKey, Load, UnknownHosts, callee::Mistake};
use crate::{
    language::nearest,
    policy::{
        is_dns_label,
        problems::{self, Problems},
    },
    problem::Problem,
};

/// The shortest time after which something may be forgotten: it would come and go with every pause of a caller.
pub const SHORTEST_FORGET_AFTER: Duration = Duration::from_secs(10);
/// The longest time that can be said.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Between these a hold is.
const HOLDS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60 * 60));
/// The most entries that a list has.
const MOST: usize = 512;

/// What the object describes, as far as it can be understood, and everything that is wrong with it. Any problem means that the
/// object is not accepted; a configuration beside problems serves explanations only.
#[must_use]
pub fn lazy(object: &LazyConfig) -> (Option<Lazy>, Vec<Problem>) {
    let mut problems = Problems::default();
    let api::LazyConfigSpec {
        workload_selector,
        load,
        fallback,
        always,
        never,
        unknown_hosts,
        forget_after,
        hold,
        prewarm,
    } = &object.spec;
    let key = problems::names(&object.metadata, &mut problems).map(|(namespace, name)| LazyKey { namespace, name });
    let namespace = key.as_ref().map_or("default", |key| key.namespace.as_str());
    // Read every field before giving up, so that all mistakes are reported at once.
    let selector = selector(workload_selector.as_ref(), &mut problems);
    let load = self::load(*load, fallback.as_ref(), namespace, &mut problems);
    let always = callees("spec.always", always, namespace, &mut problems);
    let never = callees("spec.never", never, namespace, &mut problems);
    both(&always, &never, &mut problems);
    let forget_after = self::forget_after(forget_after, &mut problems);
    let hold = self::hold(hold, &mut problems);
    let unknown_hosts = match unknown_hosts {
        api::UnknownHosts::Refuse => UnknownHosts::Refuse,
        api::UnknownHosts::Passthrough => UnknownHosts::Passthrough,
    };
    let listed = |list: BTreeMap<Callee, usize>| {
        let mut list: Vec<_> = list.into_iter().collect();
        list.sort_by_key(|(_, position)| *position);
        list.into_iter().map(|(callee, _)| callee).collect()
    };
    let lazy = || {
        Some(Lazy {
            key: key?,
            generation: object.metadata.generation.unwrap_or(0),
            created: object.metadata.creation_timestamp.as_ref().map(|time| time.0),
            selector: selector?,
            load: load?,
            always: listed(always),
            never: listed(never),
            unknown_hosts,
            forget_after: forget_after?,
            hold: hold?,
            prewarm: *prewarm,
        })
    };
    (lazy(), problems.into_vec())
}

fn selector(
    selector: Option<&api::WorkloadSelector>,
    problems: &mut Problems,
) -> Option<Option<BTreeMap<String, String>>> {
    let Some(api::WorkloadSelector { match_labels }) = selector else { return Some(None) };
    const FIELD: &str = "spec.workloadSelector.matchLabels";
    if match_labels.is_empty() {
        let help = "write at least one label, or leave `workloadSelector` out for every pod of the namespace";
        problems.add(FIELD, "no labels, which would choose every pod", help);
        return None;
    }
    if match_labels.len() > 16 {
        problems.invalid(FIELD, format!("at most 16 labels, found {}", match_labels.len()));
    }
    for (key, value) in match_labels {
        problems::label(FIELD, key, value, problems);
    }
    Some(Some(match_labels.clone()))
}

fn load(load: api::Load, fallback: Option<&api::Fallback>, namespace: &str, problems: &mut Problems) -> Option<Load> {
    let read = fallback.map(|fallback| self::fallback(fallback, namespace, problems));
    match (load, read) {
        (api::Load::OnDemand, None) => Some(Load::OnDemand),
        (api::Load::Declared, None) => Some(Load::Declared),
        (api::Load::Learned, read) => read.unwrap_or_else(|| Some(Fallback::default())).map(Load::Learned),
        (api::Load::OnDemand | api::Load::Declared, Some(_)) => {
            let why = match load {
                api::Load::Declared => "is for what is not listed, and load Declared has nothing else",
                _ => "is for calls that are not held, and load OnDemand holds them",
            };
            let help =
                "set `load: Learned`, or leave `fallback` out; `unknownHosts` is for hosts that nothing is known of";
            problems.add("spec.fallback", format!("a fallback {why}"), help);
            None
        }
    }
}

fn fallback(fallback: &api::Fallback, namespace: &str, problems: &mut Problems) -> Option<Fallback> {
    const FIELD: &str = "spec.fallback.service";
    match (fallback.kind, &fallback.service) {
        (api::FallbackType::Passthrough, None) => Some(Fallback::Passthrough),
        (api::FallbackType::Refuse, None) => Some(Fallback::Refuse),
        (api::FallbackType::Service, Some(service)) => {
            let of = service.namespace.as_deref().unwrap_or(namespace);
            let mut named = true;
            for (field, text) in [("name", service.name.as_str()), ("namespace", of)] {
                if !is_dns_label(text) {
                    problems.invalid(format!("{FIELD}.{field}"), format!("{text:?} is no name of an object"));
                    named = false;
                }
            }
            let port = u16::try_from(service.port).ok().filter(|port| *port > 0);
            if port.is_none() {
                let message = format!("expected a port from 1 to 65535, found {}", service.port);
                problems.add(format!("{FIELD}.port"), message, "write the Service's port, for example 80");
            }
            let (namespace, name) = (of.to_owned(), service.name.clone());
            Some(Fallback::Service { namespace, name, port: port.filter(|_| named)? })
        }
        (api::FallbackType::Service, None) => {
            problems.add(
                FIELD,
                "type Service needs the Service",
                "write for example `service: {name: gateway, port: 80}`",
            );
            None
        }
        (kind, Some(_)) => {
            problems.add(FIELD, format!("a Service has no meaning with type {kind:?}"), "set `type: Service`");
            None
        }
    }
}

/// Each entry once, with its place in the list.
fn callees(field: &str, list: &[String], namespace: &str, problems: &mut Problems) -> BTreeMap<Callee, usize> {
    if list.len() > MOST {
        problems.add(
            field,
            format!("at most {MOST} entries, found {}", list.len()),
            "`*.shop` stands for every Service of a namespace, `*` for every Service",
        );
    }
    let mut read = BTreeMap::new();
    for (position, text) in list.iter().enumerate() {
        match Callee::parse(text, namespace) {
            Err(Mistake { message, help }) => problems.add(format!("{field}[{position}]"), message, help),
            Ok(callee) => {
                if let Some(before) = read.get(&callee) {
                    let message = format!("{text:?} is {callee}, which stands in {field}[{before}] already");
                    problems.add(format!("{field}[{position}]"), message, "remove one");
                } else {
                    read.insert(callee, position);
                }
            }
        }
    }
    read
}

/// What is wanted always and never.
fn both(always: &BTreeMap<Callee, usize>, never: &BTreeMap<Callee, usize>, problems: &mut Problems) {
    for (callee, position) in never {
        if let Some(wanted) = always.get(callee) {
            problems.add(
                format!("spec.never[{position}]"),
                format!("{callee} stands in spec.always[{wanted}], too"),
                "remove one; where both have a part in common `never` wins",
            );
        }
    }
}

fn forget_after(text: &str, problems: &mut Problems) -> Option<Option<Duration>> {
    const FIELD: &str = "spec.forgetAfter";
    if text == "Never" {
        return Some(None);
    }
    match duration(text) {
        Some(Duration::ZERO) => Some(None),
        Some(duration) if duration < SHORTEST_FORGET_AFTER => {
            let help = "write `10s` or more; `Never` for never";
            problems.add(FIELD, format!("at least 10s must pass without a call, found {text:?}"), help);
            None
        }
        Some(duration) => Some(Some(duration)),
        None => {
            let typo = nearest(text, ["never"].into_iter()).is_some();
            let help = if typo { "did you mean `Never`?" } else { "write for example `24h`, `90m` or `Never`" };
            problems.add(FIELD, format!("expected a length of time of at most 365d, or `Never`, found {text:?}"), help);
            None
        }
    }
}

fn hold(text: &str, problems: &mut Problems) -> Option<Duration> {
    let help = "write for example `5m`; to hold no call set `load: Learned`";
    let read = duration(text);
    if read.is_none() {
        problems.add("spec.hold", format!("expected a length of time such as `5m`, found {text:?}"), help);
    } else if read.is_some_and(|hold| !(HOLDS.0..=HOLDS.1).contains(&hold)) {
        problems.add("spec.hold", format!("a call is held from 100ms to 1h, found {text:?}"), help);
        return None;
    }
    read
}

/// Reads `24h`, `1h30m`, `0.5s`, `7d`, to a millisecond.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut seconds = 0.0;
    if text.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let letters = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, next) = after.split_at(letters);
        let factor = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        if !number.starts_with(|c: char| c.is_ascii_digit()) || number.ends_with('.') {
            return None;
        }
        seconds += number.parse::<f64>().ok()? * factor;
        rest = next;
    }
    let milliseconds = (seconds * 1000.0).round();
    (milliseconds <= LONGEST.as_secs_f64() * 1000.0).then(|| Duration::from_millis(milliseconds as u64))
}

#[cfg(test)]
mod tests;
